"""Classifier-free guidance: a conditional model pushed away from itself without the condition.

    s_w(x, t | y) = s(x, t) + w (s(x, t | y) - s(x, t)) = w s(x, t | y) + (1 - w) s(x, t)   (Eq. 1)

and the same for noise and denoisers, which are linear in the score. Here w = 1 is the plain
conditional model and w = 0 the unconditional one; papers that write (1 + w) s(x, t | y) - w s(x, t)
mean w + 1. Ho & Salimans 2022 (arXiv:2207.12598); with an interval, Kynkäänniemi et al. 2024
(arXiv:2404.07724).

What w ≠ 1 samples is not p(x)^{1-w} p(x|y)^w in general: Eq. 1 is the score of p_t(x)^{1-w}
p_t(x|y)^w at each t, and these are not the noised laws of one density. For two Gaussians of equal
variance the samples have that density all the same; otherwise they do not, and the reverse SDE and
the probability flow reach different laws.
"""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array
from jaxtyping import Float

from scoresde.checks import is_concrete
from scoresde.guidance.wrapped import (
    Weight,
    check_rows,
    held_interval,
    held_weight,
    mixed,
    offered,
    weight_at,
)
from scoresde.parallel.held import held, repeat_held, rows_for
from scoresde.sde.base import SDE, times_of
from scoresde.sde.pure_noise import denoises_noise
from scoresde.types import Cond, ScoreFn, Time, pytree_dataclass


@pytree_dataclass()
class ClassifierFreeGuidance:
    """A conditional model guided by itself without the condition (Eq. 1): a ScoreFn that is called
    with the condition, and evaluates the model once, on a batch of twice the size.

    At a weight other than 1 the reverse SDE and the probability flow sample different laws, neither
    of which is p(x)^{1-w} p(x|y)^w in general: `log_likelihood` is then that of the flow's samples.

    Raises:
        ValueError: if the model has no condition, or was never trained without it, or a weight or
            an interval is out of range.
    """

    model: ScoreFn
    """The score, called with a condition: an `sd.ScoreModel` trained with `drop_cond`, or any."""
    weight: Weight = 1.0
    """w: a number, one per example (batch,), or a function of log SNR."""
    interval: Any = None
    """(low, high) of sigma / alpha: outside it the weight is 1. None: everywhere inside."""
    null: Any = None
    """The condition that means none, one row or one per example; None: the network's own."""
    process: SDE | None = None
    """The SDE, where the model does not hold it and the weight depends on time."""

    def __post_init__(self):
        _check_model(self.model, self.null)
        fields = {
            "weight": held_weight(self.weight, "weight"),
            "interval": held_interval(self.interval, self.sde, self.weight),
            "null": held(self.null, "null"),
        }
        for name, value in fields.items():
            object.__setattr__(self, name, value)

    def __call__(
        self, x: Float[Array, " batch *data"], t: Time, cond: Cond = None
    ) -> Float[Array, " batch *data"]:
        """Returns the guided score (Eq. 1).

        Raises:
            ValueError: if there is no condition.
        """
        return self._guided(lambda model: model, x, t, cond)

    @property
    def denoise(self) -> Any:
        """(x, t, cond) ↦ the guided denoiser (Eq. 1), where the model offers one."""
        offered(self.model, "denoise")
        return lambda x, t, cond=None: self._guided(lambda model: model.denoise, x, t, cond)

    def _guided(self, function_of: Any, x: Array, t: Time, cond: Cond) -> Array:
        """Returns Eq. 1 for the model itself, or for another of its functions."""
        self.check_cond(cond, len(x))
        t = times_of(t, x)

        # Row 2i has the condition of example i and row 2i + 1 none, so a device keeps its examples.
        x_twice, t_twice = _twice((x, t))
        function = function_of(repeat_held(self.model, 2))
        both = function(x_twice, t_twice, self._with_and_without(cond, len(x)))
        both = both.reshape(len(x), 2, *both.shape[1:])

        weight = weight_at(self.weight, self.interval, self.sde, x, t)
        return mixed(weight, both[:, 0], both[:, 1])

    def _with_and_without(self, cond: Cond, batch: int) -> Cond:
        """Returns the conditions of a batch of twice the size: given, none, given, none, …"""
        if self.null is None:
            dropped = jnp.tile(jnp.asarray([False, True]), batch)
            return offered(self.model, "drop_cond")(_twice(cond), dropped)

        def interleaved(given: Array, none: Array) -> Array:
            pair = jnp.stack([jnp.asarray(given), none.astype(jnp.asarray(given).dtype)], axis=1)
            return pair.reshape(2 * batch, *pair.shape[2:])

        return jax.tree.map(interleaved, cond, rows_for(self.null, batch, "null"))

    def check_cond(self, cond: Cond, batch: int) -> None:
        """Refuses calls without a condition, conditions that the model does not take, and rows of
        another batch.

        Raises:
            ValueError: if there is none, or one does not fit.
        """
        if cond is None:
            raise ValueError(
                "classifier-free guidance needs a condition: pass cond=..., one row per example, "
                "or sd.conditioned(guided, label) in its place."
            )
        check = getattr(self.model, "check_cond", None)
        if check is not None:
            check(cond, batch)
        check_rows(self.weight, batch, "weight")
        if self.null is not None:
            null = rows_for(self.null, batch, "null")
            _check_null(null, cond)
            if check is not None:
                check(null, batch)

    @property
    def denoises_noise(self) -> bool:
        """Whether the denoiser is finite at t = 1 (sde/pure_noise.py)."""
        return denoises_noise(self.model)

    @property
    def sde(self) -> Any:
        """The SDE of the model; None where it is not known."""
        return self.process if self.process is not None else getattr(self.model, "sde", None)

    @property
    def standardization(self) -> Any:
        """The units of the model's data."""
        return getattr(self.model, "standardization", None)


def _twice(rows: Any) -> Any:
    """Returns rows 0, 0, 1, 1, … of every array."""
    return jax.tree.map(lambda a: jnp.repeat(jnp.asarray(a), 2, axis=0), rows)


def _check_null(null: Any, cond: Any) -> None:
    """Refuses a null that is not a value of the condition."""

    def fits(none: Any, given: Any) -> bool:
        own, other = jnp.result_type(none), jnp.result_type(given)
        if none.shape[1:] != jnp.shape(given)[1:]:
            return False
        if jnp.issubdtype(other, jnp.inexact):
            return True
        if not jnp.issubdtype(own, jnp.integer):
            return own == other
        limits = jnp.iinfo(other)
        return not is_concrete(none) or bool(np.all((none >= limits.min) & (none <= limits.max)))

    same = jax.tree.structure(null) == jax.tree.structure(cond)
    if not same or not all(jax.tree.leaves(jax.tree.map(fits, null, cond))):
        raise ValueError(
            f"null holds {_described(null)} and the condition {_described(cond)}: wanted the same "
            f"structure, and leaves that its leaves can hold."
        )


def _described(cond: Any) -> str:
    paths = jax.tree_util.tree_leaves_with_path(cond)
    keys = [(jax.tree_util.keystr(path), leaf) for path, leaf in paths]
    return ", ".join(f"{key} {jnp.result_type(a)} {jnp.shape(a)}".strip() for key, a in keys)


def _check_model(model: Any, null: Any) -> None:
    """Refuses models that cannot do with and without a condition."""
    conditions = getattr(model, "conditions", None)
    if conditions is not None and not conditions:
        raise ValueError(
            "the network is unconditional, so it has nothing to be guided by: build it with "
            "num_classes=... for labels or cond_dim=... for vectors, and train it with "
            "sd.Training(drop_cond=0.1)."
        )
    if not getattr(model, "takes_cond", True):
        raise ValueError(
            "the model holds its condition already: guide first, and condition then, "
            "sd.conditioned(sd.ClassifierFreeGuidance(model, weight), cond)."
        )
    if null is not None:
        return
    if getattr(model, "null_is_trained", None) is False:
        raise ValueError(
            "the model was never trained without its condition: train it with "
            "sd.Training(drop_cond=0.1), or guide it by another model, "
            "sd.Autoguidance(model, sd.conditioned(unconditional, None), weight)."
        )
    if getattr(getattr(model, "net", model), "drop_cond", None) is None:
        raise ValueError(
            f"{type(model).__name__} does not say which condition means none: write null=..., for "
            f"labels 0 … K - 1 usually null=K."
        )
