"""Predictors: one step t → t_next < t of a solver, linear in the state, the score and the noise.

    Euler-Maruyama       x + [f x - g^2 score] dt + g sqrt(-dt) z        (Eq. 1)
    reverse diffusion    x - f_i + G_i^2 score + G_i z                   (Eq. 2)
    probability flow     x - f_i + 1/2 G_i^2 score                       (Eq. 3)

The forward step x_t = x_s + f_i + G_i z is the SDE's exact transition, so

    f_i = (alpha_t / alpha_s - 1) x,   G_i^2 = sigma_t^2 - (alpha_t / alpha_s)^2 sigma_s^2

That is DDPM's step for VP and NCSN's for VE, valid for steps of any length, and for sub-VP too.
Song et al. 2021 (arXiv:2011.13456), App. D.3 and E.
"""

from __future__ import annotations

import dataclasses
from typing import Protocol, runtime_checkable

from jax import Array

from scoresde.sampling.euler_maruyama import euler_maruyama_step
from scoresde.sampling.linear_step import LinearStep
from scoresde.sde.base import SDE


@runtime_checkable
class Predictor(Protocol):
    """A `LinearStep` from t to t_next, whose coefficients are functions of the grid alone."""

    def coefficients(self, sde: SDE, t: Array, t_next: Array) -> LinearStep: ...


@dataclasses.dataclass(frozen=True)
class EulerMaruyama:
    """One step of Euler-Maruyama (Eq. 1)."""

    def coefficients(self, sde: SDE, t: Array, t_next: Array) -> LinearStep:
        return euler_maruyama_step(sde, t, t_next)


@dataclasses.dataclass(frozen=True)
class ReverseDiffusion:
    """The reverse of the SDE's own discretisation (Eq. 2)."""

    def coefficients(self, sde: SDE, t: Array, t_next: Array) -> LinearStep:
        coefficient, std = sde.transition(t_next, t)
        return LinearStep(x_coef=2.0 - coefficient, score_coef=std**2, noise_std=std)


@dataclasses.dataclass(frozen=True)
class ProbabilityFlow:
    """The reverse diffusion step of the probability flow (Eq. 3)."""

    def coefficients(self, sde: SDE, t: Array, t_next: Array) -> LinearStep:
        coefficient, std = sde.transition(t_next, t)
        return LinearStep(x_coef=2.0 - coefficient, score_coef=0.5 * std**2, noise_std=None)


@dataclasses.dataclass(frozen=True)
class Identity:
    """Leaves x as it is, so that the corrector alone follows p_t down (annealed Langevin
    dynamics)."""

    def coefficients(self, sde: SDE, t: Array, t_next: Array) -> LinearStep:
        return LinearStep(x_coef=None, score_coef=None, noise_std=None)


AnyPredictor = ReverseDiffusion | EulerMaruyama | ProbabilityFlow | Identity
"""The predictors that settings choose from."""
