"""Predictor-corrector sampling: a step of a solver, and Langevin steps towards p_t before or after
it.

Song et al. 2021 (arXiv:2011.13456), Alg. 1. The predictors are in predictors.py, the Langevin
corrector in correctors.py.
"""

from __future__ import annotations

import dataclasses
from typing import Any

import jax.numpy as jnp
from jax import Array

from scoresde.keys import fold_in_examples
from scoresde.sampling import correctors, predictors
from scoresde.sampling.grid_sampler import GridSampler
from scoresde.sampling.linear_step import LinearStep, linear_step
from scoresde.sde.base import SDE


@dataclasses.dataclass(frozen=True)
class PredictorCorrector(GridSampler):
    """Predictor-corrector sampling, on any SDE and grid.

    Each step corrects at t_i and then predicts t_{i+1} (the order of the original's code), or
    predicts first and corrects at t_{i+1} (that of its Alg. 1). Evaluations: num_steps × (1 for a
    predictor, and the corrector's steps), and one more with `denoise`.

    Raises:
        ValueError: if num_steps < 1, not 0 <= t_min < start <= 1, or nothing would move x.
        TypeError: if predictor or corrector is not one.
    """

    predictor: predictors.AnyPredictor = predictors.ReverseDiffusion()
    """The solver's step."""
    corrector: correctors.AnyCorrector = correctors.Langevin()
    """What pulls x back to p_t."""
    num_steps: int = 1000
    """Steps from start to t_min."""
    corrector_first: bool = True
    """Whether to correct at t_i before predicting, rather than at t_{i+1} after it. Without a
    predictor the corrector always works at t_{i+1}."""

    def __post_init__(self):
        super().__post_init__()
        if isinstance(self.predictor, type) or not isinstance(self.predictor, predictors.Predictor):
            raise TypeError(
                f"predictor is {self.predictor!r}: wanted one such as "
                "sd.predictors.ReverseDiffusion()."
            )
        if isinstance(self.corrector, type) or not hasattr(self.corrector, "evaluations"):
            raise TypeError(
                f"corrector is {self.corrector!r}: wanted one such as sd.correctors.Langevin()."
            )
        if not self._predicts and isinstance(self.corrector, correctors.Identity):
            raise ValueError(
                "predictor and corrector are both Identity(), so nothing would move x. Give one of "
                "them, e.g. predictor=sd.predictors.ReverseDiffusion()."
            )

    @property
    def _predicts(self) -> bool:
        return not isinstance(self.predictor, predictors.Identity)

    @property
    def evaluations(self) -> int:
        return int(self._predicts) + self.corrector.evaluations

    def coefficients(self, sde: SDE, t: Array, t_next: Array) -> tuple[Array, LinearStep]:
        """Returns a = (alpha_t / alpha_{t_next})^2 of the Langevin step, and the predictor's
        step."""
        a = jnp.exp(2.0 * (sde.log_alpha(t) - sde.log_alpha(t_next)))
        return a, self.predictor.coefficients(sde, t, t_next)

    def step(
        self,
        sde: SDE,
        score: Any,
        keys: Array,
        x: Array,
        t: Array,
        t_next: Array,
        coefficients: Any,
    ) -> Array:
        """Corrects and predicts, or predicts and corrects."""
        a, predictor_step = coefficients
        correction_keys = fold_in_examples(keys, 0)
        prediction_keys = fold_in_examples(keys, 1)

        if self.corrector_first and self._predicts:
            x = self.corrector.correct(correction_keys, sde, score, x, t, a)
            return linear_step(self, sde, score, prediction_keys, x, t, t_next, predictor_step)

        x = linear_step(self, sde, score, prediction_keys, x, t, t_next, predictor_step)
        return self.corrector.correct(correction_keys, sde, score, x, t_next, a)
