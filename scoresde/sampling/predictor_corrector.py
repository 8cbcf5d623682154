"""Predictor-corrector sampling: a step of a solver, then Langevin steps towards the new p_t, or the other way round."""

from __future__ import annotations

import dataclasses

import jax.numpy as jnp
from jax import Array
from jaxtyping import Float

from scoresde.keys import fold_in_examples, normal_like
from scoresde.sampling import correctors, predictors
from scoresde.sampling.base import Sample
from scoresde.sampling.grid_sampler import GridSettings, integrate
from scoresde.sampling.predictors import AnyPredictor, Predictor
from scoresde.sde.base import SDE
from scoresde.types import Cond, Key, ScoreFn, call_score


@dataclasses.dataclass(frozen=True)
class PredictorCorrector(GridSettings):
    """Predictor-corrector sampling (Song et al. 2021, arXiv:2011.13456, Alg. 1), on any SDE and grid.

    At each step: correct at t_i, then predict t_{i+1} (the order of the original's code), or predict first and correct
    at t_{i+1} (that of its Alg. 1). Evaluations: num_steps × (1 for a predictor + the corrector's steps), one more with
    `denoise`.

    Raises:
        ValueError: if num_steps < 1 not 0 <= t_min < start <= 1, or nothing would move x.
        TypeError: if predictor or corrector is none.
    """

    predictor: AnyPredictor = predictors.ReverseDiffusion()
    """The solver's step."""
    corrector: correctors.Langevin | correctors.Identity = correctors.Langevin()
    """What pulls x back to p_t."""
    num_steps: int = 1000
    """Steps from start to t_min."""
    corrector_first: bool = True
    """Correct at t_i before predicting, rather than at t_{i+1} after it, as without a predictor in any case."""

    def __post_init__(self):
        super().__post_init__()
        if isinstance(self.predictor, type) or not isinstance(self.predictor, Predictor):
            raise TypeError(
                f"predictor is {self.predictor!r}: wanted one such as sd.predictors.ReverseDiffusion()."
            )
        if isinstance(self.corrector, type) or not hasattr(self.corrector, "evaluations"):
            raise TypeError(
                f"corrector is {self.corrector!r}: wanted one such as sd.correctors.Langevin()."
            )
        if isinstance(self.predictor, predictors.Identity) and isinstance(
            self.corrector, correctors.Identity
        ):
            raise ValueError(
                "neither predictor nor corrector: nothing would move x. Give one of them."
            )

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

        def coefficients(t, t_next):
            signal = jnp.exp(
                2.0 * (sde.log_alpha(t) - sde.log_alpha(t_next))
            )  # a, of the Langevin step
            return signal, self.predictor.coefficients(sde, t, t_next)

        def step(score, keys, x, t, t_next, row):
            signal, predictor = row
            key_correct, key_predict = (fold_in_examples(keys, i) for i in range(2))
            if first:
                x = self.corrector(key_correct, sde, score, x, t, cond, signal)
            x = _predict(predictor, key_predict, score, x, t, cond)
            if not first:
                x = self.corrector(key_correct, sde, score, x, t_next, cond, signal)
            return x

        predicts = not isinstance(self.predictor, predictors.Identity)
        first = (
            self.corrector_first and predicts
        )  # without a predictor, only t_{i+1} leads to t_min
        evaluations = predicts + self.corrector.evaluations
        return integrate(self, key, sde, score, x1, cond, coefficients, step, evaluations)


def _predict(row: tuple, keys: Key, score: ScoreFn, x: Array, t: Array, cond: Cond) -> Array:
    keep, pull, spread = row
    moved = x if keep is None else keep * x
    if pull is not None:
        moved = moved + pull * call_score(score, x, t, cond)
    return moved if spread is None else moved + spread * normal_like(keys, x)
