"""Whether the noise of a process covers the data, from end to end: what `fit` warns of.

At t = 1 the prior replaces the law of x_1. For a feature with mean m and standard deviation s, of
which x_1 keeps two moments,

    KL(N(alpha m, alpha^2 s^2 + sigma^2) || N(0, prior^2))
        = 1/2 (v - 1 - log v + (alpha m / prior)^2)                                      (Eq. 1)
    v   = (alpha^2 s^2 + sigma^2) / prior^2

At t_min the last denoising replaces x by E[x_0 | x]. A feature that is locally Gaussian with
standard deviation s comes out narrower,

    s^2 / sqrt(s^2 + r^2),   r = sigma / alpha at t_min                                  (Eq. 2)
"""

from __future__ import annotations

import math
from typing import NamedTuple

import jax
import numpy as np

from scoresde import checks
from scoresde.checks import is_concrete
from scoresde.sde.base import SDE, plain_settings
from scoresde.standardization import Standardization, units_of_cond
from scoresde.train.measured import Measured

LARGEST_KL = 0.005
"""Nats per feature: the mean of samples is then off by up to a tenth of a standard deviation."""

USUAL_T_MIN = 1e-3
"""Where samplers stop, unless they are told otherwise."""

LOWEST_TRAINED = 1e-5
"""The lowest time that training draws, unless it is told otherwise."""

MOST_FEATURES = 4096
MOST_EXAMPLES = 1000
MOST_CENTRES = 64
MOST_DIRECTIONS = 256
FEWEST_NEIGHBOURS = 10


def warn_of_coverage(sde: SDE, data: Measured, standardization: Standardization | None) -> None:
    """Warns, once for each end, where the process does not cover the data, with the line to write.

    Nothing is said of an SDE whose settings are not known.
    """
    if not is_concrete(*jax.tree.leaves(sde)):
        return
    sde = plain_settings(sde)
    _warn_of_prior(sde, data, standardization)
    if not data.has_bins:  # integers are resolved to their bins, whose noise is no structure
        _warn_of_fine_scale(sde, data, standardization)
    _warn_of_rounding(data)


# --- At t = 1 ---


def _warn_of_prior(sde: SDE, data: Measured, standardization: Standardization | None) -> None:
    mean, std = _in_model_units(data, standardization)
    kl = _prior_kl(sde, mean, std)
    worst = int(np.argmax(kl))
    if kl.flat[worst] <= LARGEST_KL:
        return

    of_feature = f"{data.mean.flat[worst]:.3g} ± {data.std.flat[worst]:.3g}"
    shortest = (
        f"the data reach beyond the noise: feature {_name(worst, kl.shape)}, {of_feature}, keeps "
        f"{kl.flat[worst]:.2g} nats of {sde}'s prior at t = 1, where {LARGEST_KL:g} may be left. "
        f"Samples would be biased towards it. "
    )
    if standardization is None:
        checks.warn(
            f"{shortest}Write sd.fit(..., standardize=True): the model then works in standard "
            f"units, and its samples and densities are in those of the data."
        )
        return
    reach = float(np.hypot(mean, std).max())
    checks.warn(
        f"{shortest}The standardization does not fit these data: write standardize=True, for a "
        f"model without one of its own, or an SDE whose noise covers {reach:.3g}, such as "
        f"sd.VE(sigma_max={10 * reach:.2g})."
    )


def _prior_kl(sde: SDE, mean: np.ndarray, std: np.ndarray) -> np.ndarray:
    """Returns the KL divergence of every feature (Eq. 1), shaped like its mean."""
    alpha = float(sde.alpha(1.0))
    sigma = float(sde.sigma(1.0))
    prior = float(sde.prior_std())
    v = ((alpha * std) ** 2 + sigma**2) / prior**2
    return 0.5 * (v - 1.0 - np.log(v) + (alpha * mean / prior) ** 2)


def _in_model_units(
    data: Measured, standardization: Standardization | None
) -> tuple[np.ndarray, np.ndarray]:
    """Returns the moments of every entry in the model's units."""
    if standardization is None:
        return data.mean, data.std
    std = np.asarray(standardization.std)
    return (data.mean - np.asarray(standardization.mean)) / std, data.std / std


# --- At t_min ---


class Finest(NamedTuple):
    """The finest scale of the data, in the model's units."""

    std: float
    """Its local standard deviation."""
    name: str
    """The feature, or the direction, that has it."""
    overall: float = math.inf
    """The standard deviation of the feature as a whole; infinite for a direction, which standard
    units do not widen."""


def _warn_of_fine_scale(sde: SDE, data: Measured, standardization: Standardization | None) -> None:
    noise = float(sde.sigma(USUAL_T_MIN) / sde.alpha(USUAL_T_MIN))
    x = data.x if standardization is None else standardization.to_model(data.x)
    finest = finest_scale(x, noise)
    if finest is None:
        return

    shrunk = finest.std**2 / math.hypot(finest.std, noise)  # Eq. 2
    message = (
        f"the data are finer than the noise at which samplers stop: {finest.name} has a local "
        f"standard deviation of {finest.std:.2g}, and sigma / alpha is {noise:.2g} at "
        f"t_min = {USUAL_T_MIN:g}, so the last denoising shrinks it to {shrunk:.2g}. "
    )
    if standardization is None and finest.std / finest.overall >= noise:
        checks.warn(f"{message}Write sd.fit(..., standardize=True).")
        return
    checks.warn(message + _finer_steps(sde, finest.std))


def _finer_steps(sde: SDE, std: float) -> str:
    """Returns what to write for samples that keep this scale: 95 % of it at r = s / 3 (Eq. 2)."""
    wanted = std / 3.0
    lowest = 0.0 if not sde.noisy_at_zero else float(sde.sigma(0.0) / sde.alpha(0.0))
    if lowest > wanted:
        return (
            f"{sde} never has less noise than {lowest:.2g}: write a smaller one, such as "
            f"sd.VE(sigma_min={wanted:.1g})."
        )
    t_min = float(sde.time_from_log_snr(-2.0 * math.log(wanted)))
    line = f"Give samplers t_min={t_min:.1g}, and those of a grid grid=sd.grids.UniformLogSNR()"
    if t_min >= LOWEST_TRAINED:
        return f"{line}."
    times = f"sd.times.LowDiscrepancy(t_min={t_min:.1g})"
    return f"{line}; train to there: sd.Training(times={times})."


def finest_scale(x: np.ndarray, noise: float) -> Finest | None:
    """Returns the feature of x (n, *data) whose values vary on the finest scale, if that is below
    the noise; for vectors also the direction.

    The scale is the standard deviation of those values within 3 noise of one: of a smooth density
    it is 3 / sqrt(3) noise, of narrow modes their width. Features that take the same values again
    and again are exact, and have none.
    """
    rows = np.linspace(0, len(x) - 1, min(len(x), MOST_EXAMPLES)).astype(int)
    columns = x[rows].reshape(len(rows), -1)
    features = np.unique(np.linspace(0, columns.shape[1] - 1, MOST_FEATURES).astype(int))

    found = []
    for i in features:
        scale = _local_std(columns[:, i], noise)
        if scale is not None:
            overall = float(columns[:, i].std())
            found.append(Finest(scale, f"feature {_name(int(i), x.shape[1:])}", overall))
    if not found and x.ndim == 2:
        found = _finest_directions(columns, noise)
    return min(found, default=None)


def _finest_directions(x: np.ndarray, noise: float) -> list[Finest]:
    """Returns the principal directions in which vectors are finer than the noise as a whole.

    Below a hundredth of it they lie in a plane, and what is across it does not matter.
    """
    count, dim = x.shape
    if count < 2 * dim or dim > MOST_DIRECTIONS:
        return []
    repeats = [1.0 - len(np.unique(column)) / count for column in x.T]
    if np.median(repeats) > 0.5:  # numbers on a grid, which have no fine scale
        return []

    _, stds, directions = np.linalg.svd(x - x.mean(axis=0), full_matrices=False)
    found = []
    for std, direction in zip(stds / math.sqrt(count), directions, strict=True):
        if 0.01 * noise < std < noise:
            axis = ", ".join(f"{weight:.2g}" for weight in direction[:8])
            more = ", …" if dim > 8 else ""
            found.append(Finest(float(std), f"the direction ({axis}{more})"))
    return found


def _local_std(values: np.ndarray, noise: float) -> float | None:
    """Returns the local standard deviation of numbers if it is below the noise, else None.

    It is the lower quartile over the numbers, so that a fine mode shows which holds more than a
    quarter of them. Windows of few different numbers, or of numbers that repeat, say nothing.
    """
    values = np.sort(values)
    values = values - values[len(values) // 2]  # so that sums of squares keep their digits
    sums = np.concatenate([[0.0], np.cumsum(values)])
    squares = np.concatenate([[0.0], np.cumsum(values**2)])
    different = np.concatenate([[0], np.cumsum(np.diff(values, prepend=-np.inf) > 0.0)])

    centres = values[np.linspace(0, len(values) - 1, min(len(values), MOST_CENTRES)).astype(int)]
    first = np.searchsorted(values, centres - 3.0 * noise, side="left")
    last = np.searchsorted(values, centres + 3.0 * noise, side="right")
    count = last - first
    mean = (sums[last] - sums[first]) / count
    variance = np.maximum((squares[last] - squares[first]) / count - mean**2, 0.0)

    distinct = different[last] - different[first]
    says = (distinct >= FEWEST_NEIGHBOURS) & (distinct > 0.5 * count)
    scale = float(np.quantile(np.where(says, np.sqrt(variance), np.inf), 0.25, method="lower"))
    return scale if scale < noise else None


def _name(index: int, shape: tuple[int, ...]) -> str:
    """Returns the place of an entry in an example: 3, or (2, 0, 1)."""
    place = [int(i) for i in np.unravel_index(index, shape)]
    return str(place[0]) if len(place) == 1 else str(tuple(place))


# --- float32 ---


def _warn_of_rounding(data: Measured) -> None:
    """Warns where float32 has too few digits for the units of data or conditions."""
    worst = _worst_rounding(data.mean, data.std)
    if worst is not None:
        mean, std = data.mean.flat[worst], data.std.flat[worst]
        checks.warn(
            f"feature {_name(worst, data.mean.shape)}, {mean:.9g} ± {std:.3g}, varies by a few of "
            f"float32's last digits, which is how samples come: subtract {mean:.6g} before fit, "
            f"and add it in float64."
        )

    for own in filter(None, units_of_cond(data.cond) or ()):  # labels have none
        worst = _worst_rounding(np.asarray(own.mean), np.asarray(own.std))
        if worst is not None:
            mean, std = own.mean[worst], own.std[worst]
            checks.warn(
                f"number {worst} of a condition, {mean:.9g} ± {std:.3g}, varies by a few of "
                f"float32's last digits, which is how the network sees it: subtract {mean:.6g} "
                f"from it in float64, in training and whenever it is passed."
            )


def _worst_rounding(mean: np.ndarray, std: np.ndarray) -> int | None:
    """Returns the place of the entry that varies least beside float32's digits, if by few."""
    spacing = np.spacing(np.abs(mean).astype(np.float32)).astype(np.float64)
    ratio = np.where(std > 0.0, spacing / np.where(std > 0.0, std, 1.0), 0.0)
    worst = int(np.argmax(ratio))
    return worst if ratio.flat[worst] > 0.05 else None
