"""A sampler around another one on a grid: its steps, with something done before and after each.

    x_{j+1} = after(step(before(x_j), t_j, t_{j+1}))       for j along a plan of steps       (Eq. 1)

A plan is the grid's steps in their order, or some of them again after noise leads back up.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array
from jaxtyping import Float

from scoresde import checks
from scoresde.inverse.linear_operator import LinearOperator, check_operator
from scoresde.inverse.measurement import Measurement, held_measurement
from scoresde.keys import fold_in_examples, split_examples
from scoresde.parallel.held import rows_for
from scoresde.precision import full_precision
from scoresde.sampling.base import Sample, finish, sampler_inputs
from scoresde.sampling.grid_sampler import GridSampler, states
from scoresde.sampling.on_grid import Times
from scoresde.sde.base import SDE
from scoresde.standardization import units_of
from scoresde.types import Cond, Key, ScoreFn, ShownShort


class Step(NamedTuple):
    """One step of a plan."""

    number: Array
    """j, its place in the plan."""
    time: Array
    next_time: Array
    coefficients: Any
    """Those of the inner sampler."""
    again: Any
    """What leads back up to t before it; None where no step does."""
    batch: int

    @property
    def t(self) -> Array:
        """The time before the step, (batch,)."""
        return jnp.full(self.batch, self.time)

    @property
    def t_next(self) -> Array:
        """The time after it, (batch,)."""
        return jnp.full(self.batch, self.next_time)


Move = Callable[[Any, Any], Any]
"""(score, state) → the state after the inner sampler's step."""


class Between:
    """What happens between the steps of the inner sampler: nothing, unless overridden."""

    def begin(self, x1: Array, t: Array) -> Array:
        """Returns the first state."""
        return x1

    def advance(self, state: Any, step: Step, move: Move) -> Any:
        """Returns the state after a step."""
        raise NotImplementedError(f"{type(self).__name__} must define advance.")

    def last(self, number: int) -> Any:
        """Returns the score whose `denoise` ends sampling, and shows E[x_0 | x] on a path."""
        raise NotImplementedError(f"{type(self).__name__} must define last.")

    def finish(self, x: Array) -> Array:
        """Returns the sample, in the model's units."""
        return x


class SamplerAround(ShownShort):
    """What samplers around another one share: the loop (Eq. 1).

    A new one is a pytree dataclass with the fields sampler, operator and y that defines `between`.
    It gives samples like any sampler: sd.sample(key, sampler, sde, score, shape).
    """

    sampler: GridSampler
    operator: LinearOperator
    y: Any

    needs_linear = True
    """Whether the method wants a linear operator."""

    def __post_init__(self):
        wanted = (
            f"one on a grid, such as sd.DDIM(num_steps=100), between whose steps "
            f"{type(self).__name__} works. Any sampler takes a posterior score, such as "
            f"sd.inverse.MMPS(score, sde, operator, y, noise_std)."
        )
        checks.instance("sampler", self.sampler, GridSampler, wanted)
        check_operator(self.operator)
        object.__setattr__(self, "y", held_measurement(self.y))

    @property
    def start(self) -> float:
        """The time of x1, the inner sampler's."""
        return self.sampler.start

    def between(self, sde: SDE, score: Any, keys: Array, measurement: Measurement) -> Between:
        """Returns what happens between the steps; score: a function of (x, t); keys: one per
        example, for its own draws."""
        raise NotImplementedError(f"{type(self).__name__} must define between.")

    def plan(self, sde: SDE, times: Times) -> tuple[np.ndarray, Any]:
        """Returns the steps of the grid in the order in which they are taken, and for each what
        leads back up before it; None for nowhere."""
        return np.arange(len(times) - 1), None

    @property
    def more_evaluations(self) -> int:
        """Evaluations of a step beside those of the inner sampler."""
        return 0

    # --- The loop ---

    def __call__(
        self,
        key: Key,
        sde: SDE,
        score: ScoreFn,
        x1: Float[Array, " batch *data"],
        cond: Cond = None,
    ) -> Sample:
        """Integrates x1 at the inner sampler's start down to its t_min.

        Raises:
            ValueError: as the inner sampler; if y is not of the shape of A(x), or there is another
                number of measurements than of examples.
        """
        inner = self.sampler
        inputs = sampler_inputs(key, sde, score, x1, cond)
        inner.check_start(sde, score)
        keys, x1, score, dtype, _, _ = inputs
        rows_for(self.y, len(x1), "y")
        self.operator.check_rows(len(x1))
        if self.needs_linear:
            self.operator.check_linear(x1)
        else:
            self.operator.check_differentiable(x1)

        times = inner.times(sde)
        order, again = self.plan(sde, times)
        t, t_next, coefficients = jax.tree.map(lambda a: a[order], inner.rows(sde, times, x1.dtype))
        again = jax.tree.map(lambda a: jnp.asarray(a, x1.dtype), again)

        step_keys, own_keys = split_examples(keys)
        measurement = Measurement(self.operator, self.y, units_of(score))
        between = self.between(sde, score, own_keys, measurement)

        def body(state: Any, inputs: Any) -> Any:
            step = Step(*inputs, batch=len(x1))
            now = fold_in_examples(step_keys, step.number)

            def move(score: Any, state: Any) -> Any:
                return inner.step(sde, score, now, state, step.t, step.t_next, step.coefficients)

            new = between.advance(state, step, move)
            return new, (states(new) if inner.save_path else None)

        with full_precision():
            first = between.begin(x1, jnp.full(len(x1), t[0]))
            rows = (jnp.arange(len(order)), t, t_next, coefficients, again)
            state, saved = jax.lax.scan(body, inner.initial_state(first), rows)

            reached = jnp.concatenate([t[:1], t_next])
            last = between.last(len(order))
            x, path = inner.end(last, states(state), reached, first, saved)
            x = between.finish(x)

        more = len(reached) if inner.save_path else int(inner.denoise)
        nfe = len(order) * (inner.evaluations + self.more_evaluations) + more
        return finish(x, jnp.ones(len(x1), bool), nfe, path, dtype, score)


def with_states(state: Any, x: Array) -> Any:
    """Returns what the steps of the inner sampler carry, with x in place of its own."""
    return (x, *state[1:]) if isinstance(state, tuple) else x
