"""DPM-Solver++, multistep (Lu et al. 2022, arXiv:2211.01095): `Exponential` without corrector."""

from __future__ import annotations

import dataclasses

from jax import Array

from scoresde.sampling.exponential import (
    ExponentialSampler,
    Weights,
    check_exponential,
    is_noisy,
)


@dataclasses.dataclass(frozen=True)
class DPMSolverPP(ExponentialSampler):
    """DPM-Solver++ of order 1, 2 or 3, for the ODE or the SDE.

    Order 2 with weights "midpoint" is the official 2M, and its SDE form with eta = 1. Order 3 is
    the integral itself; the official 3M halves the quadratic term and is of order 2. Evaluations:
    num_steps, and one more with `denoise`.

    Raises:
        ValueError: as `Exponential`.
    """

    order: int = 2
    """1, 2 or 3."""
    num_steps: int = 20
    """Steps from start to t_min, with one evaluation each."""
    eta: float = 0.0
    """0 for DPM-Solver++, 1 for SDE-DPM-Solver++."""
    weights: Weights = "exact"
    """Weights of order 2: the integrals, or their midpoint rule."""

    def __post_init__(self):
        super().__post_init__()
        check_exponential(self.order, self.eta, self.weights)

    @property
    def _order(self) -> int:
        return self.order

    @property
    def _weights(self) -> Weights:
        return self.weights

    @property
    def _is_noisy(self) -> bool:
        return is_noisy(self.eta)

    def _eta(self, h: Array) -> Array | float:
        return self.eta
