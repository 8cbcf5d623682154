"""Objectives: what `fit` minimises, as one value per example that its loop averages.

    denoising score matching   w(t) |sigma score(x_t, t) + noise|^2 / D                  (Eq. 1)
    output matching            |net(x_t, t) - target(x_0, noise, t)|^2 / D               (Eq. 2)
    cross-entropy              -log p(y | x_t),   x_t = alpha x_0 + sigma noise          (Eq. 3)

D is the number of data dimensions, so that losses of different data are alike. Eq. 1 and 2 train a
score (dsm.py): Eq. 2 is Eq. 1 with a weight that depends on the parameterisation, computed where
nothing cancels. With `sd.Flow()` under `sd.RectifiedFlow()` it is conditional flow matching,

    |net(x_t, t) - (noise - x_0)|^2 / D

(Lipman et al. 2023, arXiv:2210.02747, Eq. 9), with `sd.EDM` the loss of Karras et al. 2022. Eq. 3
trains the classifier of noisy examples that guides one (Dhariwal & Nichol 2021, arXiv:2105.05233,
Sec. 4).
"""

from __future__ import annotations

import dataclasses
from typing import Any, Protocol, runtime_checkable

import jax
import jax.numpy as jnp
from jax import Array

from scoresde.keys import normal_like
from scoresde.loss import weighting as weightings
from scoresde.loss.dsm import dsm_loss
from scoresde.types import Cond, data_dim, right_pad, sum_data


@runtime_checkable
class Objective(Protocol):
    """(keys, model, x0, t, cond) → one value per example, whose mean training minimises.

    keys: one per example. model: as given to `fit`, with the parameters of the step. x0: data in
    the model's units. t: one time per example.
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


AnyObjective = Usual | OutputMatching
"""The objectives that settings files and the command line choose from."""
