"""DPM-Solver++."""

from __future__ import annotations

import dataclasses

from jax import Array
from jaxtyping import Float

from scoresde.sampling.base import Sample
from scoresde.sampling.exponential import Exponential, LogSNRSettings, Weights, shared
from scoresde.sde.base import SDE
from scoresde.types import Cond, Key, ScoreFn


@dataclasses.dataclass(frozen=True)
class DPMSolverPP(LogSNRSettings):
    """DPM-Solver++ (Lu et al. 2022, arXiv:2211.01095), multistep: `Exponential` of this order, without corrector.

    order 2, weights "midpoint": the official 2M, and its SDE form with eta = 1. order 3 is the integral itself: the
    official 3M halves the quadratic term and is of order 2. Evaluations: num_steps, one more with `denoise`.

    Raises:
        ValueError: as `Exponential`.
    """

    order: int = 2
    """1, 2 or 3."""
    num_steps: int = 20
    """Steps from start to t_min, an evaluation each."""
    eta: float = 0.0
    """0: DPM-Solver++. 1: SDE-DPM-Solver++."""
    weights: Weights = "exact"
    """Of order 2: the integrals, or their midpoint rule."""

    def __post_init__(self):
        super().__post_init__()
        _ = self.solver

    @property
    def solver(self) -> Exponential:
        """The exponential integrator that this is."""
        return Exponential(order=self.order, eta=self.eta, weights=self.weights, **shared(self))

    def __call__(
        self,
        key: Key,
        sde: SDE,
        score: ScoreFn,
        x1: Float[Array, " batch *data"],
        cond: Cond = None,
    ) -> Sample:
        """Integrate x1 at t = start down to t_min. key: one, or one per example; cond: leaves (batch, ...).

        Raises:
            ValueError: if x1 has no batch axis, or a key or condition does not match it.
        """
        return self.solver(key, sde, score, x1, cond)
