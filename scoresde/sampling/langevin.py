"""Langevin dynamics on one fixed density, given its score.

    x ← x + eps score(x) + sqrt(2 eps) z        (Eq. 1)

Roberts & Tweedie 1996. Its stationary law is the density's as eps → 0; on a Gaussian of variance v
its variance is v / (1 - eps / 2v).
"""

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
from scoresde.sampling.base import Sample, SamplePath, finish
from scoresde.types import Cond, Key, Scalar, right_pad, wider


def langevin_step(x: Array, score: Array, noise: Array, step_size: Scalar) -> Array:
    """Takes one step (Eq. 1); step_size is eps, one number or one per example."""
    eps = right_pad(jnp.asarray(step_size, x.dtype), x)
    return x + eps * score + jnp.sqrt(2.0 * eps) * noise


@dataclasses.dataclass(frozen=True)
class Langevin:
    """Unadjusted Langevin dynamics (Eq. 1).

    Raises:
        ValueError: if num_steps < 1 or step_size is not positive.
    """

    num_steps: int = 1000
    """Steps, with one evaluation each."""
    step_size: float = 1e-3
    """eps, in squared units of x."""
    save_path: bool = False
    """Whether to keep every state; the path's t counts 0 … 1 from first to last."""

    def __post_init__(self):
        checks.count("num_steps", self.num_steps, at_most=checks.MOST_STEPS)
        checks.setting("step_size", self.step_size, "(0, inf)")

    def __call__(
        self,
        key: Key,
        score: Callable[..., Array],
        x: Float[Array, " batch *data"],
        cond: Cond = None,
    ) -> Sample:
        """Runs the dynamics from x.

        score: x or (x, cond) → gradient of the log density, e.g. `lambda x: exact(x, 0.3)`. key:
        one, or one per example.

        Raises:
            ValueError: if x has no batch axis, a key or condition does not match it, or the score
                returned another shape.
        """
        checks.batch(x)
        checks.condition(cond, x.shape[0])
        keys = example_keys(key, x.shape[0])
        dtype = x.dtype
        start = jnp.asarray(x, wider(dtype, jnp.float32))

        def gradient(x):
            seen = x.astype(dtype)
            value = score(seen) if cond is None else score(seen, cond)
            checks.same_shape(value, x, "the score")
            return value.astype(x.dtype)

        def body(x, i):
            noise = normal_like(fold_in_examples(keys, i), x)
            x = langevin_step(x, gradient(x), noise, self.step_size)
            return x, (x if self.save_path else None)

        with full_precision():
            end, states = jax.lax.scan(body, start, jnp.arange(self.num_steps))

        path = None
        if states is not None:
            clock = jnp.linspace(0.0, 1.0, self.num_steps + 1)
            clock = jnp.broadcast_to(clock[None], (start.shape[0], self.num_steps + 1))
            path = SamplePath(clock, jnp.moveaxis(jnp.concatenate([start[None], states]), 0, 1))
        return finish(end, jnp.ones(end.shape[:1], bool), self.num_steps, path, dtype, score)
