"""Objectives: what `fit` minimises, as one value per example that its loop averages.

    denoising score matching   w(t) |sigma score(x_t, t) + noise|^2 / D                  (Eq. 1)
    output matching            |net(x_t, t) - target(x_0, noise, t)|^2 / D               (Eq. 2)
    cross-entropy              -log p(y | x_t),   x_t = alpha x_0 + sigma noise          (Eq. 3)
    variational bound          (prior + diffusion + reconstruction) / D, bound_terms.py  (Eq. 4)

D is the number of data dimensions, so that losses of different data are alike. Eq. 1 and 2 train a
score (dsm.py): Eq. 2 is Eq. 1 with a weight that depends on the parameterisation, computed where
nothing cancels. With `sd.Flow()` under `sd.RectifiedFlow()` it is conditional flow matching,

    |net(x_t, t) - (noise - x_0)|^2 / D

(Lipman et al. 2023, arXiv:2210.02747, Eq. 9), with `sd.EDM` the loss of Karras et al. 2022. Eq. 3
trains the classifier of noisy examples that guides one (Dhariwal & Nichol 2021, arXiv:2105.05233,
Sec. 4).

Eq. 4 trains a score and, with it, the schedule of its SDE (schedule_gradient.py).
"""

from __future__ import annotations

import dataclasses
from typing import Any, Protocol, runtime_checkable

import jax
import jax.numpy as jnp
from jax import Array

from scoresde import checks
from scoresde.data.pixel_range import PixelRange
from scoresde.keys import normal_like, split_examples
from scoresde.loss import bound_terms, schedule_gradient
from scoresde.loss import weighting as weightings
from scoresde.loss.dsm import dsm_loss
from scoresde.sde.base import SDE
from scoresde.sde.bound_score import bind
from scoresde.types import Cond, data_dim, right_pad, sum_data


@runtime_checkable
class Objective(Protocol):
    """(keys, model, x0, t, cond) → one value per example, whose mean training minimises.

    keys: one per example. model: as given to `fit`, with the parameters of the step. x0: data in
    the model's units. t: one time per example. An objective that trains the schedule of the SDE too
    has `trains_schedule = True`.
    """

    def __call__(self, keys: Array, model: Any, x0: Array, t: Array, cond: Cond) -> Array: ...


@dataclasses.dataclass(frozen=True)
class Usual:
    """Stands for what a model is usually trained by: a score by denoising score matching with
    `Training(weighting=...)` (Eq. 1), a classifier by its cross-entropy (Eq. 3)."""


@dataclasses.dataclass(frozen=True)
class DenoisingScoreMatching:
    """The denoising loss of a score per data dimension (Eq. 1)."""

    weighting: weightings.AnyWeighting = weightings.Variance()
    """Weight of the loss over time."""

    def __call__(self, keys: Array, model: Any, x0: Array, t: Array, cond: Cond) -> Array:
        return dsm_loss(keys, model.sde, model, x0, t, self.weighting, cond) / data_dim(x0)


@dataclasses.dataclass(frozen=True)
class OutputMatching:
    """The squared error of the network's own output per data dimension (Eq. 2), for an
    `sd.ScoreModel`: flow matching with `sd.Flow()`."""

    def __call__(self, keys: Array, model: Any, x0: Array, t: Array, cond: Cond) -> Array:
        t = jnp.asarray(t, x0.dtype)
        noise = normal_like(keys, x0)
        mean, std = model.sde.marginal_prob(x0, t)
        output = model.output(mean + right_pad(std, x0) * noise, t, cond)
        target = model.parameterization.prediction(model.sde, x0, noise, t)
        return sum_data((output - target) ** 2) / data_dim(x0)  # Eq. 2


@dataclasses.dataclass(frozen=True)
class CrossEntropy:
    """The negative log-probability of each example's label at its noise level, in nats (Eq. 3)."""

    def __call__(self, keys: Array, model: Any, x0: Array, t: Array, cond: Cond) -> Array:
        t = jnp.asarray(t, x0.dtype)
        noise = normal_like(keys, x0)
        mean, std = model.sde.marginal_prob(x0, t)
        log_probs = model(mean + right_pad(std, x0) * noise, t)
        (label,) = jax.tree.leaves(cond)
        return -jnp.take_along_axis(log_probs, label[:, None], axis=-1)[:, 0]  # Eq. 3


@dataclasses.dataclass(frozen=True)
class VariationalBound:
    """The variational bound in nats per data dimension (Eq. 4), which trains a score and the
    schedule of an `sd.LearntVP`; times must be uniform in t.

    For a model of standardised data it is the bound in standard units.

    Raises:
        ValueError: if levels < 2 or low >= high with levels given, or num_steps < 1.
    """

    levels: int | None = None
    """The number of values of a pixel, where x_0 is prepared from integers; None for a density."""
    low: float = -1.0
    """The lower end of the range of the data."""
    high: float = 1.0
    """The upper end of the range of the data."""
    num_steps: int | None = None
    """T, the number of steps; None for continuous time."""

    def __post_init__(self):
        if self.levels is not None:
            PixelRange(self.levels, self.low, self.high)  # refuses what is no range
        if self.num_steps is not None:
            checks.count("num_steps", self.num_steps, at_most=checks.MOST_STEPS)

    trains_schedule = True

    def __call__(self, keys: Array, model: Any, x0: Array, t: Array, cond: Cond) -> Array:
        t = jnp.asarray(t, x0.dtype)
        keys_noise, keys_end = split_examples(keys)

        if self.num_steps is None:
            with_gradients = schedule_gradient.at_times(model.sde, t)
            sde = with_gradients.sde
            weight = bound_terms.continuous_weight(sde, t)
        else:
            with_gradients = None
            sde = model.sde
            i = jnp.maximum(jnp.ceil(t * self.num_steps), 1.0)
            t = i / self.num_steps
            before = (i - 1.0) / self.num_steps
            weight = self.num_steps * bound_terms.step_weight(sde, before, t)

        score = bind(sde, dataclasses.replace(model, sde=sde), cond)
        diffusion = weight * bound_terms.noise_error(keys_noise, sde, score, x0, t)
        reconstruction = self._reconstruction(keys_end, model.sde, x0, jnp.zeros_like(t))
        bound = (model.sde.prior_kl(x0) + diffusion + reconstruction) / data_dim(x0)  # Eq. 4
        return bound if with_gradients is None else with_gradients.of(bound)

    def _reconstruction(self, keys: Array, sde: SDE, x0: Array, t: Array) -> Array:
        if self.levels is None:
            return bound_terms.gaussian_reconstruction(sde, data_dim(x0), t)
        pixels = PixelRange(self.levels, self.low, self.high)
        position = (x0 - self.low) / pixels.bin_width - 0.5
        return bound_terms.reconstruction(keys, sde, position, pixels.bin_width, self.levels, t)


def trains_schedule(objective: Any, sde: SDE) -> bool:
    """Returns whether training by this objective changes the SDE."""
    return getattr(objective, "trains_schedule", False) and bool(sde.parameters())


AnyObjective = Usual | OutputMatching | VariationalBound
"""The objectives that settings files and the command line choose from."""
