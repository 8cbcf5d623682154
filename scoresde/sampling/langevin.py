"""Langevin dynamics on a fixed score."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable

import jax
import jax.numpy as jnp
from jax import Array
from jaxtyping import Float

from scoresde import checks
from scoresde.keys import example_keys, fold_in_examples, normal_like
from scoresde.precision import full_precision
from scoresde.sampling.base import Path, Sample, finish, widen
from scoresde.types import Cond, Key, Scalar, call_score, right_pad


def langevin_step(x: Array, score: Array, noise: Array, step_size: Scalar) -> Array:
    """x + eps score + sqrt(2 eps) noise, eps = step_size: one number, or one per example."""
    eps = right_pad(jnp.asarray(step_size, x.dtype), x)
    return x + eps * score + jnp.sqrt(2.0 * eps) * noise


@dataclasses.dataclass(frozen=True)
class Langevin:
    """Unadjusted Langevin dynamics on one density, given its score (Roberts & Tweedie 1996):

        x ← x + eps score(x) + sqrt(2 eps) z

    Its stationary law is the density's as eps → 0; on a Gaussian of variance v its variance is v / (1 - eps / 2v).

    Raises:
        ValueError: if num_steps < 1 or step_size is not positive.
    """

    num_steps: int = 1000
    """Steps, an evaluation each."""
    step_size: float = 1e-3
    """eps, in squared units of x."""
    save_path: bool = False
    """Keep every state; the path's t counts 0 … 1 from first to last."""

    def __post_init__(self):
        checks.count("num_steps", self.num_steps)
        checks.setting("step_size", self.step_size, "(0, inf)")

    def __call__(
        self,
        key: Key,
        score: Callable[..., Array],
        x: Float[Array, " batch *data"],
        cond: Cond = None,
    ) -> Sample:
        """From x; score: x or (x, cond) → gradient of log density, e.g. `lambda x: exact(x, 0.3)`. key: one, or one
        per example.

        Raises:
            ValueError: if x has no batch axis, or a key or condition does not match it.
        """
        checks.batch(x)
        checks.condition(cond, x.shape[0])
        x, keys, given = jnp.asarray(x), example_keys(key, x.shape[0]), x.dtype
        x, fixed = widen(x, lambda x, t, *cond: score(x, *cond))
        start, t = x, jnp.zeros(x.shape[:1], x.dtype)

        def body(x, i):
            noise = normal_like(fold_in_examples(keys, i), x)
            x = langevin_step(x, call_score(fixed, x, t, cond), noise, self.step_size)
            return x, (x if self.save_path else None)

        with full_precision():
            x, states = jax.lax.scan(body, x, jnp.arange(self.num_steps))
        path = None
        if states is not None:
            clock = jnp.broadcast_to(
                jnp.linspace(0.0, 1.0, self.num_steps + 1), (x.shape[0], self.num_steps + 1)
            )
            path = Path(clock, jnp.moveaxis(jnp.concatenate([start[None], states]), 0, 1))
        return finish(x, jnp.ones(x.shape[:1], bool), self.num_steps, path, given)
