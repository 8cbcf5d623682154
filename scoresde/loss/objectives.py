"""Objectives: what `fit` minimises, as one value per example that its loop averages.

    denoising score matching   w(t) |sigma score(x_t, t) + noise|^2 / D                  (Eq. 1)
    cross-entropy              -log p(y | x_t),   x_t = alpha x_0 + sigma noise          (Eq. 2)

D is the number of data dimensions, so that losses of different data are alike. Eq. 1 trains a score
(dsm.py), Eq. 2 the classifier of noisy examples that guides one (Dhariwal & Nichol 2021,
arXiv:2105.05233, Sec. 4).
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
from scoresde.types import Cond, data_dim, right_pad


@runtime_checkable
class Objective(Protocol):
    """(keys, model, x0, t, cond) → one value per example, whose mean training minimises.

    keys: one per example. model: as given to `fit`, with the parameters of the step. x0: data in
    the model's units. t: one time per example.
    """

    def __call__(self, keys: Array, model: Any, x0: Array, t: Array, cond: Cond) -> Array: ...


@dataclasses.dataclass(frozen=True)
class DenoisingScoreMatching:
    """The denoising loss of a score per data dimension (Eq. 1)."""

    weighting: weightings.AnyWeighting = weightings.Variance()
    """Weight of the loss over time."""

    def __call__(self, keys: Array, model: Any, x0: Array, t: Array, cond: Cond) -> Array:
        return dsm_loss(keys, model.sde, model, x0, t, self.weighting, cond) / data_dim(x0)


@dataclasses.dataclass(frozen=True)
class CrossEntropy:
    """The negative log-probability of each example's label at its noise level, in nats (Eq. 2)."""

    def __call__(self, keys: Array, model: Any, x0: Array, t: Array, cond: Cond) -> Array:
        t = jnp.asarray(t, x0.dtype)
        noise = normal_like(keys, x0)
        mean, std = model.sde.marginal_prob(x0, t)
        log_probs = model(mean + right_pad(std, x0) * noise, t)
        (label,) = jax.tree.leaves(cond)
        return -jnp.take_along_axis(log_probs, label[:, None], axis=-1)[:, 0]  # Eq. 2
