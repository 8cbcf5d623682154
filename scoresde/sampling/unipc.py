"""UniPC."""

from __future__ import annotations

import dataclasses

from jax import Array
from jaxtyping import Float

from scoresde.sampling.base import Sample
from scoresde.sampling.exponential import Exponential, LogSNRSettings, shared
from scoresde.sde.base import SDE
from scoresde.types import Cond, Key, ScoreFn


@dataclasses.dataclass(frozen=True)
class UniPC(LogSNRSettings):
    """UniPC (Zhao et al. 2023, arXiv:2302.04867): `Exponential` of this order for the ODE, with corrector.

    Order p + 1. The weights are the integrals: the paper's, whose B(h) cancels wherever it solves for all of them (its
    code rounds one to 1/2 at p = 1 and 2). Evaluations: num_steps, one more with `denoise`.

    Raises:
        ValueError: as `Exponential`.
    """

    order: int = 2
    """p, of the predictor: 1, 2 or 3."""
    num_steps: int = 20
    """Steps from start to t_min, an evaluation each."""

    def __post_init__(self):
        super().__post_init__()
        _ = self.solver

    @property
    def solver(self) -> Exponential:
        """The exponential integrator that this is."""
        return Exponential(order=self.order, corrector=True, **shared(self))

    def __call__(
        self,
        key: Key,
        sde: SDE,
        score: ScoreFn,
        x1: Float[Array, " batch *data"],
        cond: Cond = None,
    ) -> Sample:
        """Integrate x1 at t = start down to t_min; the key is not used. cond: leaves (batch, ...).

        Raises:
            ValueError: if x1 has no batch axis, or a condition does not match it.
        """
        return self.solver(key, sde, score, x1, cond)
