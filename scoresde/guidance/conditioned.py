"""A score with its condition: s(x, t) = score(x, t, cond)."""

from __future__ import annotations

from typing import Any

from jax import Array
from jaxtyping import Float

from scoresde.guidance.wrapped import offered
from scoresde.parallel.held import held, num_rows, rows_for
from scoresde.sde.pure_noise import denoises_noise
from scoresde.types import Cond, ScoreFn, Time, pytree_dataclass


def conditioned(score: ScoreFn, cond: Any) -> Conditioned:
    """Returns (x, t) ↦ score(x, t, cond): for samplers, likelihoods, and as a part of guidance.

    cond: one condition for all examples, or one per example, with the batch as its leading axis. A
    single label is a number; a single vector has a leading axis of 1, `y[None]`. None leaves the
    condition out, whatever arrives.

    Raises:
        ValueError: if the network does not take the condition, or None was never trained.
    """
    cond = held(cond, "cond")
    batch = num_rows(cond)
    check = getattr(score, "check_cond", None)
    if check is not None:
        check(None if cond is None else rows_for(cond, batch, "cond"), batch)
    return Conditioned(score, cond)


@pytree_dataclass()
class Conditioned:
    """What `conditioned` returns: a score that holds its condition."""

    score: ScoreFn
    cond: Any
    """Leaves (1, ...), or one row per example, marked (parallel/held.py)."""

    takes_cond = False

    def __call__(
        self, x: Float[Array, " batch *data"], t: Time, cond: Cond = None
    ) -> Float[Array, " batch *data"]:
        """Returns the score given the condition that it holds.

        Raises:
            ValueError: if another condition arrives, or it holds those of another batch.
        """
        return self._call(self.score, x, t, cond)

    @property
    def denoise(self) -> Any:
        """(x, t) ↦ E[x_0 | x_t = x], where the score offers it."""
        denoise = offered(self.score, "denoise")
        return lambda x, t, cond=None: self._call(denoise, x, t, cond)

    @property
    def data_and_noise(self) -> Any:
        """(x, t) ↦ E[x_0 | x_t = x] and E[noise | x_t = x], where the score offers them."""
        both = offered(self.score, "data_and_noise")
        return lambda x, t, cond=None: self._call(both, x, t, cond)

    def check_cond(self, cond: Cond, batch: int) -> None:
        """Refuses another condition, and one that holds rows for another batch.

        Raises:
            ValueError: if there is one.
        """
        if cond is not None:
            raise ValueError(
                "cond was passed to a score that holds its condition already, by "
                "sd.conditioned(score, cond): leave one of them out."
            )
        if self.cond is not None:
            rows_for(self.cond, batch, "cond")

    def _call(self, function: Any, x: Array, t: Time, cond: Cond) -> Array:
        self.check_cond(cond, len(x))
        if self.cond is None:
            return function(x, t)
        return function(x, t, rows_for(self.cond, len(x), "cond"))

    @property
    def denoises_noise(self) -> bool:
        """Whether the denoiser is finite at t = 1 (sde/pure_noise.py)."""
        return denoises_noise(self.score)

    @property
    def sde(self) -> Any:
        """The SDE of the score; None where it does not say."""
        return getattr(self.score, "sde", None)

    @property
    def standardization(self) -> Any:
        """The units of the score's data; None where they are the model's."""
        return getattr(self.score, "standardization", None)
