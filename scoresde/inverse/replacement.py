"""Replacement: what is measured is put in place at every step, noised as the state is.

    P = L⁺ L                the part of a state that A measures, in the model's units        (Eq. 1)
    known(t, z) = L⁺ (α y + σ L z),   z ~ N(0, I)                                            (Eq. 2)
    x ← (I - P) x + known(t, z)       at t = start, and after every update                   (Eq. 3)
    x ← (I - P) x + L⁺ y              at the end: no noise is left in it                     (Eq. 4)

Song et al. 2021 (arXiv:2011.13456), App. I.2: inpainting, where P = diag(mask), and colourisation,
where P is the mean of the channels. What is not known is only told of y through the score, which
sees both parts side by side: it is not drawn from p(x | y), and knows less of y than it could.

    x ← c x + s z           from the end of `jump` steps back up to their start              (Eq. 5)

and down again, `resamplings` times in all: RePaint (Lugmayr et al. 2022, arXiv:2201.09865, Alg. 1)
brings the two parts into harmony so.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array
from jaxtyping import Float

from scoresde import checks
from scoresde.inverse.around import Between, Move, SamplerAround, Step, with_states
from scoresde.inverse.linear_operator import LinearOperator
from scoresde.inverse.measurement import Measurement
from scoresde.keys import fold_in_examples, normal_like
from scoresde.sampling.grid_sampler import GridSampler, states
from scoresde.sampling.on_grid import Times, on_grid
from scoresde.sde.base import SDE
from scoresde.types import pytree_dataclass, right_pad


class Jump(NamedTuple):
    """The exact noise that leads from the end of some steps back up to their start (Eq. 5)."""

    x_coef: Array
    noise_std: Array


@pytree_dataclass("sampler", "resamplings", "jump")
class Replacement(SamplerAround):
    """A sampler whose states agree with y at every step (Eq. 1 to 5), around any sampler on a grid.

    y is taken to be free of noise. Evaluations: those of the inner sampler, `resamplings` times.

    Raises:
        TypeError: if the sampler is not one on a grid, or y is not of floating-point numbers.
        ValueError: if resamplings or jump is not a whole number, y has no batch axis, the operator
            is a blur, or a sampler that remembers its steps is to take them again.
    """

    sampler: GridSampler
    """The sampler whose steps are taken, such as sd.PredictorCorrector(num_steps=500)."""
    operator: LinearOperator
    """A, linear: a Mask for inpainting, Gray for colourisation, Downsample, or a Projection."""
    y: Any
    """The measurement: (1, *measured) for all examples, or one per example."""
    resamplings: int = 1
    """How often each step is taken: r of RePaint."""
    jump: int = 1
    """Steps that are taken again together: j of RePaint."""

    def __post_init__(self):
        super().__post_init__()
        checks.count("resamplings", self.resamplings, at_most=checks.MOST_STEPS)
        checks.count("jump", self.jump)
        if self.operator.ill_posed:
            raise ValueError(
                f"{type(self.operator).__name__} cannot be put in place: its pseudo-inverse "
                f"magnifies noise and rounding without bound. Write sd.inverse.MMPS(score, sde, "
                f"operator, y, noise_std)."
            )
        if self.resamplings > 1 and remembers(self.sampler):
            raise ValueError(
                f"resamplings = {self.resamplings}: {type(self.sampler).__name__} remembers its "
                f"earlier steps, which noise makes useless: take a sampler of single steps, e.g. "
                f"sd.DDIM(num_steps=100, eta=1.0), sd.Ancestral() or sd.EulerMaruyama()."
            )

    def plan(self, sde: SDE, times: Times) -> tuple[np.ndarray, Any]:
        """Returns every block of `jump` steps as often as it is resampled, with Eq. 5 between."""
        order = []
        begins, ends = [], []  # of the noise before each step; equal where there is none
        for begin in range(0, len(times) - 1, self.jump):
            end = min(begin + self.jump, len(times) - 1)
            for i in range(self.resamplings):
                order += range(begin, end)
                begins += [begin] * (end - begin)
                ends += [begin if i == 0 else end] + [begin] * (end - begin - 1)

        if self.resamplings == 1:
            return np.array(order), None
        return np.array(order), Jump(*on_grid(_upwards, (), sde, times[ends], times[begins]))

    def between(self, sde: SDE, score: Any, keys: Array, measurement: Measurement) -> Between:
        """Returns what puts the measurement in place between the steps."""
        return _InPlace(sde, score, keys, measurement)


def _upwards(sde: SDE, low: Array, high: Array) -> tuple[Array, Array]:
    """Returns c and s of Eq. 5."""
    return sde.transition(low, high)


def remembers(sampler: GridSampler) -> bool:
    """Whether the steps of a sampler carry more than x."""
    return len(jax.tree.leaves(sampler.initial_state(jnp.zeros((1, 1))))) > 1


@dataclasses.dataclass(frozen=True)
class _InPlace(Between):
    """Puts the measurement in place, with noise that is drawn again at every step."""

    sde: SDE
    score: Any
    keys: Array
    measurement: Measurement

    def begin(self, x1: Array, t: Array) -> Array:
        return self._known(0).noised(x1, t)

    def advance(self, state: Any, step: Step, move: Move) -> Any:
        """Returns the state after a step. Every evaluation in it sees the known part too, noised to
        the time of the evaluation."""
        known = self._known(step.number)
        if step.again is not None:
            keys = fold_in_examples(known.keys, 1)
            x = states(state)
            x = step.again.x_coef * x + step.again.noise_std * normal_like(keys, x)  # Eq. 5
            state = with_states(state, known.noised(x, step.t))

        state = move(known, state)
        x = self._known(step.number + 1).noised(states(state), step.t_next)
        return with_states(state, x)

    def last(self, number: int) -> Any:
        return self._known(number)

    def finish(self, x: Array) -> Array:
        return self._known(0).clean(x)

    def _known(self, number: Any) -> KnownScore:
        keys = fold_in_examples(self.keys, number)
        return KnownScore(self.sde, self.score, self.measurement, keys)


@dataclasses.dataclass(frozen=True)
class KnownScore:
    """A score that sees the known part of every state in place, with the noise of these keys."""

    sde: SDE
    score: Any
    measurement: Measurement
    keys: Array

    def __call__(self, x: Array, t: Array) -> Array:
        """Returns the score at x with its known part."""
        return self.score(self.noised(x, t), t)

    def denoise(self, x: Array, t: Array) -> Array:
        """Returns E[x_0 | x] at x with its known part, and y itself in place."""
        return self.clean(self.score.denoise(self.noised(x, t), t))

    def noised(self, x: Float[Array, " batch *data"], t: Array) -> Array:
        """Returns x with its known part at time t (Eq. 2 and 3)."""
        noise = self.measurement.linear_part(normal_like(self.keys, x))

        def known(y: Array) -> Array:
            return right_pad(self.sde.alpha(t), y) * y + right_pad(self.sde.sigma(t), y) * noise

        return self._with(x, known)

    def clean(self, x: Float[Array, " batch *data"]) -> Array:
        """Returns x with y itself in place (Eq. 4)."""
        return self._with(x, lambda y: y)

    def _with(self, x: Array, known: Callable[[Array], Array]) -> Array:
        """Returns (I - P) x + L⁺ known(y); in this order entries that a mask knows are y to the
        bit."""
        measurement = self.measurement
        shape = x.shape[1:]
        y = measurement.residual(measurement(jnp.zeros_like(x)))
        unknown = x - measurement.pseudo_inverse(measurement.linear_part(x), shape)
        return unknown + measurement.pseudo_inverse(known(y), shape)
