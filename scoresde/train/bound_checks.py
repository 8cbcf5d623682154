"""What training by the variational bound asks of the SDE, the network and the data."""

from __future__ import annotations

from typing import Any

import jax.numpy as jnp
import numpy as np

from scoresde.checks import is_concrete
from scoresde.data.dequantization import UniformDequantization
from scoresde.data.pixel_range import PixelRange
from scoresde.data.prepare import BinCentres
from scoresde.loss.objectives import VariationalBound
from scoresde.score.model import ScoreModel
from scoresde.sde.learnt_vp import LearntVP
from scoresde.sde.schedule import LinearGamma

BY_LOG_SNR = "sd.EDM(), or sd.Noise(sd.labels.LogSNR())"


def check_is_score(objective: Any, model: Any) -> None:
    """Refuses an objective of scores for another model.

    Raises:
        TypeError: with the model's kind.
    """
    if not isinstance(model, ScoreModel):
        raise TypeError(
            f"objective = {objective} is that of an sd.ScoreModel, and the model is a "
            f"{type(model).__name__}: leave Training(objective=...) at its default."
        )


def check_bound(
    objective: VariationalBound, model: Any, prepare: Any, x: np.ndarray | None = None
) -> None:
    """Refuses what the bound does not hold for.

    prepare: what makes real numbers of the data, without augmentation. x: some of the data, as it
    makes them.

    Raises:
        TypeError: if the model is not a score.
        ValueError: if the SDE has no noise at t = 0, the network is told the time rather than
            log SNR while its schedule trains, or levels and data do not fit each other.
    """
    check_is_score(objective, model)
    if not model.sde.noisy_at_zero:
        raise ValueError(
            f"{model.sde} has no noise at t = 0, where the bound begins: write "
            f"sd.LearntVP(sd.LinearGamma(-13.3, 5.0)), or train for likelihood by "
            f"sd.Training(times=sd.times.LogSNR())."
        )
    if model.sde.parameters():
        _check_label(model)
    _check_levels(objective, model, prepare)
    if objective.levels is not None and x is not None:
        _check_in_bins(objective, x)


def _check_label(model: ScoreModel) -> None:
    """Refuses a network that sees the time: what it sees must follow the noise when the schedule
    moves."""
    if not isinstance(model.sde, LearntVP):
        return
    ends = model.sde.gamma(np.array([0.0, 1.0]))
    if not is_concrete(ends):
        return
    low, high = np.asarray(ends).tolist()
    gamma = jnp.linspace(low, high, 5)
    x = jnp.ones((5, 1))

    def label(schedule: LinearGamma) -> np.ndarray:
        inputs = model.parameterization.inputs
        return np.asarray(inputs(LearntVP(schedule), x, schedule.inverse(gamma))[1])

    if not np.allclose(label(LinearGamma(low, high)), label(LinearGamma(low - 1.0, high + 2.0))):
        raise ValueError(
            f"{model.parameterization} tells the network the time, whose noise changes while the "
            f"schedule trains: write {BY_LOG_SNR}, which tell it log SNR."
        )


def _check_levels(objective: VariationalBound, model: ScoreModel, prepare: Any) -> None:
    """Refuses levels that are not those of the data."""
    if objective.levels is None:
        if isinstance(prepare, BinCentres):
            raise ValueError(
                f"prepare = {prepare} puts the data at the centres of bins, whose density has no "
                f"bound: write {_line(prepare)}."
            )
        return

    wanted = (objective.levels, objective.low, objective.high)
    known = isinstance(prepare, BinCentres | UniformDequantization)
    if known and (prepare.levels, prepare.low, prepare.high) != wanted:
        raise ValueError(
            f"objective = {objective} and prepare = {prepare} differ in levels or range: write "
            f"{_line(prepare)}."
        )
    if prepare is None or (isinstance(prepare, PixelRange) and not known):
        raise ValueError(
            f"objective = {objective} bounds the probability of integers, and prepare = {prepare} "
            f"does not put them into bins: write prepare=sd.data.prepare.BinCentres"
            f"{wanted}, or leave out levels."
        )
    if model.standardization is not None:
        raise ValueError(
            f"objective = {objective} has bins in the data's own units, and the model is one of "
            f"standardised data: leave out standardize."
        )


def _check_in_bins(objective: VariationalBound, x: np.ndarray) -> None:
    """Refuses data beyond the range of the bins, by more than rounding."""
    assert objective.levels is not None
    slack = 1e-5 * (objective.high - objective.low)
    if x.min() < objective.low - slack or x.max() > objective.high + slack:
        raise ValueError(
            f"the data reach from {x.min():g} to {x.max():g}, and the bins of {objective} do not: "
            f"write prepare=sd.data.prepare.BinCentres"
            f"{(objective.levels, objective.low, objective.high)}, which puts integers into them."
        )


def _line(prepare: PixelRange) -> str:
    others = (
        "" if (prepare.low, prepare.high) == (-1.0, 1.0) else f", {prepare.low}, {prepare.high}"
    )
    return f"sd.objectives.VariationalBound({prepare.levels}{others})"
