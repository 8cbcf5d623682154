"""A score with its condition bound: inside every solver and loss it is a function of (x, t) alone.

E[x_0 | x_t = x] = (x + sigma^2 score(x, t)) / alpha        (Eq. 1; Tweedie's formula, Efron 2011)
"""

from __future__ import annotations

from typing import Any

from jax import Array
from jaxtyping import Float

from scoresde import checks
from scoresde.standardization import units_of
from scoresde.types import Cond, ScoreFn, pytree_dataclass, right_pad


@pytree_dataclass("dtype")
class BoundScore:
    """(x, t) ↦ score(x, t, cond) in the precision of x, with its denoiser.

    It calls score(x, t) where there is no condition, and checks what comes back: a score of another
    shape than x would broadcast silently.
    """

    sde: Any
    score: ScoreFn
    cond: Cond = None
    dtype: Any = None
    """What the score's x is cast to; None: its own. Solvers carry float32 states for bfloat16
    scores."""

    def __call__(
        self, x: Float[Array, " batch *data"], t: Float[Array, " batch"]
    ) -> Float[Array, " batch *data"]:
        """Returns the score at x, which must have the shape of x.

        Raises:
            ValueError: if the score returned another shape.
        """
        value = self.score(*self._arguments(x, t))
        checks.same_shape(value, x, "the score")
        return value.astype(x.dtype)

    def denoise(
        self, x: Float[Array, " batch *data"], t: Float[Array, " batch"]
    ) -> Float[Array, " batch *data"]:
        """Returns E[x_0 | x_t = x]: the score's own `denoise` where it offers one, else Eq. 1.

        Raises:
            ValueError: if the score or its `denoise` returned another shape.
        """
        offered = getattr(self.score, "denoise", None)
        if offered is None:
            alpha = right_pad(self.sde.alpha(t), x)
            variance = right_pad(self.sde.variance(t), x)
            return (x + variance * self(x, t)) / alpha  # Eq. 1

        value = offered(*self._arguments(x, t))
        checks.same_shape(value, x, "the score's denoise")
        return value.astype(x.dtype)

    def data_and_noise(
        self, x: Float[Array, " batch *data"], t: Float[Array, " batch"]
    ) -> tuple[Float[Array, " batch *data"], Float[Array, " batch *data"]]:
        """Returns E[x_0 | x_t = x] and E[noise | x_t = x] from one evaluation: as the score offers
        them, or one from the other by x = alpha x_0 + sigma noise.

        Raises:
            ValueError: if the score returned another shape.
        """
        offered = getattr(self.score, "data_and_noise", None)
        if offered is not None:
            x0, noise = offered(*self._arguments(x, t))
            checks.same_shape(x0, x, "the score's data_and_noise")
            return x0.astype(x.dtype), noise.astype(x.dtype)

        alpha = right_pad(self.sde.alpha(t), x)
        sigma = right_pad(self.sde.sigma(t), x)
        if getattr(self.score, "denoise", None) is not None:
            x0 = self.denoise(x, t)
            return x0, (x - alpha * x0) / sigma
        noise = -sigma * self(x, t)
        return (x - sigma * noise) / alpha, noise

    @property
    def standardization(self) -> Any:
        """The score's own standardization (standardization.py), if it has one."""
        return getattr(self.score, "standardization", None)

    @property
    def data_units(self) -> Any:
        """The units of the score's data (standardization.py)."""
        return units_of(self.score)

    def _arguments(self, x: Array, t: Array) -> tuple[Any, ...]:
        x = x if self.dtype is None else x.astype(self.dtype)
        return (x, t) if self.cond is None else (x, t, self.cond)


def bind(sde: Any, score: ScoreFn, cond: Cond = None, dtype: Any = None) -> Any:
    """Returns the score as a function of (x, t) with `denoise`.

    A `ScoreModel` without a condition is one already, and is returned as it is.
    """
    if cond is None and dtype is None and getattr(score, "is_bound", False):
        return score
    return BoundScore(sde, score, cond, dtype)
