"""Predictors: one step of a solver that is linear in the state, the score and the noise."""

from __future__ import annotations

import dataclasses
from typing import Protocol, runtime_checkable

from jax import Array

from scoresde.sampling.euler_maruyama import euler_maruyama_step
from scoresde.sde.base import SDE


@runtime_checkable
class Predictor(Protocol):
    """A step t → t_next < t that is linear in what it is given: x ← keep x + pull score(x, t) + spread z.

    `coefficients` returns (keep, pull, spread), functions of the grid alone; None stands for a zero.
    """

    def coefficients(self, sde: SDE, t: Array, t_next: Array) -> tuple[Array | None, ...]: ...


@dataclasses.dataclass(frozen=True)
class EulerMaruyama:
    """x + [f x - g^2 score] dt + g sqrt(-dt) z."""

    def coefficients(self, sde: SDE, t: Array, t_next: Array) -> tuple[Array | None, ...]:
        return euler_maruyama_step(sde, t, t_next)


@dataclasses.dataclass(frozen=True)
class ReverseDiffusion:
    """x - f_i + G_i^2 score + G_i z (Song et al. 2021, arXiv:2011.13456, App. E).

    The forward step x_t = x_s + f_i + G_i z is the SDE's exact transition, so f_i = (alpha_t / alpha_s - 1) x and G_i
    its standard deviation: DDPM's step for VP, NCSN's for VE, and valid for steps of any length, sub-VP's too.
    """

    def coefficients(self, sde: SDE, t: Array, t_next: Array) -> tuple[Array | None, ...]:
        coefficient, std = sde.transition(t_next, t)
        return 2.0 - coefficient, std**2, std


@dataclasses.dataclass(frozen=True)
class ProbabilityFlow:
    """x - f_i + 1/2 G_i^2 score: the reverse diffusion step of the probability flow (Song et al. 2021, App. D.3)."""

    def coefficients(self, sde: SDE, t: Array, t_next: Array) -> tuple[Array | None, ...]:
        coefficient, std = sde.transition(t_next, t)
        return 2.0 - coefficient, 0.5 * std**2, None


@dataclasses.dataclass(frozen=True)
class Identity:
    """Leaves x as it is: the corrector alone, at each t_{i+1}, follows p_t down (annealed Langevin dynamics)."""

    def coefficients(self, sde: SDE, t: Array, t_next: Array) -> tuple[Array | None, ...]:
        return None, None, None


AnyPredictor = ReverseDiffusion | EulerMaruyama | ProbabilityFlow | Identity
