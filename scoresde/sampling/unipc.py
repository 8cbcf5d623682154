"""UniPC (Zhao et al. 2023, arXiv:2302.04867): `Exponential` for the ODE, with corrector."""

from __future__ import annotations

import dataclasses

from scoresde.sampling.exponential import ExponentialSampler, check_exponential


@dataclasses.dataclass(frozen=True)
class UniPC(ExponentialSampler):
    """UniPC, whose order of convergence is one above that of its predictor.

    The weights are the integrals: the paper's, whose B(h) cancels wherever it solves for all of
    them (its code rounds one to 1/2 at p = 1 and 2). Evaluations: num_steps, and one more with
    `denoise`.

    Raises:
        ValueError: as `Exponential`.
    """

    order: int = 2
    """Order p of the predictor: 1, 2 or 3."""
    num_steps: int = 20
    """Steps from start to t_min, with one evaluation each."""

    def __post_init__(self):
        super().__post_init__()
        check_exponential(self.order, 0.0, corrector=True)

    @property
    def _order(self) -> int:
        return self.order

    @property
    def _corrects(self) -> bool:
        return True
