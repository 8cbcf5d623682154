"""`GridSampler`: what every sampler on a fixed grid of times shares, one scan over its steps.

    t_0 = start > t_1 > … > t_N = t_min                                  (Eq. 1)
    x_{i+1} = step(x_i, t_i, t_{i+1}; coefficients(t_i, t_{i+1}))        (Eq. 2)
    x = E[x_0 | x_N] at t_N, with `denoise`                              (Eq. 3)

A sampler gives `coefficients` and `step`, and, where they are not the default, its times and the
number of evaluations of a step. It declares num_steps itself: a field here would come first, so
that DDIM(0.5) would set it instead of eta.
"""

from __future__ import annotations

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array
from jaxtyping import Float, PyTree

from scoresde import checks
from scoresde.keys import fold_in_examples
from scoresde.precision import full_precision
from scoresde.sampling.base import Sample, check_times, finish, path_of, sampler_inputs
from scoresde.sampling.linear_step import linear_step
from scoresde.sampling.on_grid import Times, check_grid, grid_times, on_grid
from scoresde.sampling.time_grid import AnyGrid, GivenTimes, Uniform
from scoresde.sde.base import SDE
from scoresde.sde.pure_noise import check_coefficients
from scoresde.types import Cond, Key, ScoreFn


@dataclasses.dataclass(frozen=True, kw_only=True)
class GridSampler:
    """The settings of every fixed-grid sampler beside num_steps, by keyword, and its scan.

    Raises:
        ValueError: if num_steps < 1, or not 0 <= t_min < start <= 1.
        TypeError: if a subclass declares no num_steps, or the grid is not one.
    """

    t_min: float | None = 1e-3
    """Where to stop: on real data the score blows up as t → 0. None means the lowest of the SDE's
    own num_steps levels, 1 / num_steps, or 0 for VE."""
    start: float = 1.0
    """The time of x1: 1 for draws of the prior, less for data noised part-way."""
    grid: AnyGrid = Uniform()
    """Where the steps lie."""
    denoise: bool = True
    """Whether to end with one denoising, E[x_0 | x] at t_min (Eq. 3)."""
    save_path: bool = False
    """Whether to keep every state and its E[x_0 | x]: memory grows with num_steps, and each state
    takes one more evaluation."""

    def __post_init__(self):
        if not hasattr(self, "num_steps"):
            raise TypeError(
                f"{type(self).__name__} has no num_steps: declare it in the class, e.g. "
                "num_steps: int = 100."
            )
        checks.count("num_steps", self._num_steps, at_most=checks.MOST_STEPS)
        check_times(0.0 if self.t_min is None else self.t_min, self.start)
        check_grid(self.grid)

    # --- What a sampler gives ---

    @property
    def evaluations(self) -> int:
        """Evaluations of the score in one step."""
        return 1

    def check_start(self, sde: SDE, score: ScoreFn) -> None:
        """Refuses to begin where the SDE or the score is not finite (sde/pure_noise.py).

        Raises:
            ValueError: if the SDE ends in pure noise, and sampling begins there.
        """
        check_coefficients(sde, type(self).__name__, self.start)

    def times(self, sde: SDE) -> Times:
        """Returns the times of the states, falling from start (Eq. 1); num_steps + 1 by default."""
        end = self.end_time(sde)
        return grid_times(self.grid, sde, self._num_steps, end, self.start)

    def coefficients(self, sde: SDE, t: Array, t_next: Array) -> PyTree[Array]:
        """Returns what depends on the grid alone, for all steps at once: leaves (steps, ...), or
        one number for all steps.

        It is computed in float64 on the host where the SDE's settings are known.
        """
        raise NotImplementedError(
            f"{type(self).__name__} must define coefficients(self, sde, t, t_next)."
        )

    def initial_state(self, x1: Array) -> Any:
        """Returns what the steps carry: x1, or (x1, memory) for a multistep method."""
        return x1

    # Takes one step (Eq. 2): (sde, score, keys, state, t, t_next, coefficients of this step) →
    # state. score(x, t) and score.denoise(x, t) are bound to their condition, keys are one per
    # example and step, t and t_next are (batch,). The default is linear in x, score and noise.
    step = linear_step

    # --- The scan ---

    def __call__(
        self,
        key: Key,
        sde: SDE,
        score: ScoreFn,
        x1: Float[Array, " batch *data"],
        cond: Cond = None,
    ) -> Sample:
        """Integrates x1 at t = start down to t_min.

        key: one, or one per example. cond: leaves (batch, ...).

        Raises:
            ValueError: if x1 has no batch axis, or a key or condition does not match it; if the
                grid does not fit the SDE.
        """
        inputs = sampler_inputs(key, sde, score, x1, cond)
        self.check_start(sde, score)
        keys, x1, score, dtype, _, _ = inputs
        batch = x1.shape[0]

        times = self.times(sde)
        rows = self.rows(sde, times, x1.dtype)

        def body(state, inputs):
            i, t, t_next, row = inputs
            step_keys = fold_in_examples(keys, i)
            t = jnp.full(batch, t)
            t_next = jnp.full(batch, t_next)
            new = self.step(sde, score, step_keys, state, t, t_next, row)
            checks.same_shapes(new, state, f"{type(self).__name__}.step")
            return new, (states(new) if self.save_path else None)

        with full_precision():
            steps = jnp.arange(len(times) - 1)
            state, saved = jax.lax.scan(body, self.initial_state(x1), (steps, *rows))
            x, path = self.end(score, states(state), jnp.asarray(times, x1.dtype), x1, saved)

        more = len(times) if self.save_path else int(self.denoise)
        nfe = (len(times) - 1) * self.evaluations + more
        return finish(x, jnp.ones(batch, bool), nfe, path, dtype, score)

    def rows(self, sde: SDE, times: Times, dtype: Any) -> tuple[Array, Array, PyTree[Array]]:
        """Returns t_i, t_{i+1} and the coefficients of every step, leaves (steps, ...)."""
        table = on_grid(type(self).coefficients, (self,), sde, times[:-1], times[1:])
        table = jax.tree.map(lambda a: _one_per_step(a, len(times) - 1), table)
        return jax.tree.map(lambda a: jnp.asarray(a, dtype), (times[:-1], times[1:], table))

    def end(self, score: Any, x: Array, times: Array, x1: Array, saved: Array | None) -> Any:
        """Returns the last state, denoised if so set (Eq. 3), and the path if it is kept."""
        if saved is not None:
            path, denoised = path_of(score, times, jnp.concatenate([x1[None], saved]))
            return denoised if self.denoise else x, path
        if self.denoise:
            x = score.denoise(x, jnp.full(x.shape[:1], times[-1]))
        return x, None

    # --- Times ---

    @property
    def _num_steps(self) -> int:
        return getattr(self, "num_steps")  # noqa: B009 (a field of the subclass)

    def lowest_time(self, sde: SDE) -> float:
        """Returns t_min, or the time of the lowest of the SDE's own num_steps levels."""
        return float(sde.level_times(self._num_steps)[0]) if self.t_min is None else self.t_min

    def end_time(self, sde: SDE) -> float:
        """Returns `lowest_time`.

        Raises:
            ValueError: if it does not lie below start.
        """
        end = self.lowest_time(sde)
        if not end < self.start:
            raise ValueError(
                f"t_min = None with num_steps = {self._num_steps} ends at the lowest of that many "
                f"levels, t = {end:g}, which is not below start = {self.start:g}: write more "
                f"num_steps, or a t_min, e.g. t_min=1e-3."
            )
        return end


def _one_per_step(coefficient: Any, num_steps: int) -> Any:
    """Returns a coefficient with its axis of steps, where it is one number for all of them."""
    return coefficient if np.ndim(coefficient) else jnp.full(num_steps, coefficient)


def states(state: Any) -> Array:
    """Returns x of what the steps carry."""
    return state[0] if isinstance(state, tuple) else state


# --- Times of samplers that work at noise levels, or in log SNR ---


def level_times(sampler: GridSampler, sde: SDE) -> Times:
    """Returns num_steps times, falling from start to the lowest: the levels of a discretisation, by
    default the SDE's own.

    Raises:
        ValueError: if a given grid holds another number of times.
    """
    num_steps = sampler._num_steps
    if isinstance(sampler.grid, GivenTimes) and len(sampler.grid.times) != num_steps:
        raise ValueError(
            f"the grid holds {len(sampler.grid.times)} times and the sampler has {num_steps} "
            f"levels, one time each: write num_steps={len(sampler.grid.times)}."
        )
    if num_steps == 1:
        return np.array([sampler.start])
    return grid_times(sampler.grid, sde, num_steps - 1, sampler.end_time(sde), sampler.start)


def check_levels(sampler: GridSampler) -> None:
    """Checks that a single level has no t_min: it is the level of x1 itself, at `start`.

    Raises:
        ValueError: if it has.
    """
    if sampler._num_steps == 1 and sampler.t_min is not None:
        raise ValueError(
            f"num_steps is 1: the one level is start = {sampler.start:g}, and t_min = "
            f"{sampler.t_min:g} would be another. Write num_steps=2, or leave t_min out."
        )


def check_log_snr(sampler: GridSampler, sde: SDE) -> None:
    """Checks that log SNR is finite at t_min, for samplers that step in it.

    Raises:
        ValueError: if it is not.
    """
    if sampler.lowest_time(sde) == 0.0 and not sde.noisy_at_zero:
        raise ValueError(
            f"t_min = 0 has infinite log SNR under {sde}: write t_min=1e-3; the step from there to "
            f"the data is `denoise`."
        )
