"""Autoguidance: a good model pushed away from a worse version of itself.

    s_w(x, t) = s_bad(x, t) + w (s_good(x, t) - s_bad(x, t))        (Eq. 1)

and the same for denoisers. w = 1 is the good model. Karras et al. 2024 (arXiv:2406.02507), with a
smaller network or an earlier checkpoint as the worse one. With an unconditional model in its place
this is classifier-free guidance by two networks.
"""

from __future__ import annotations

from typing import Any

from jax import Array
from jaxtyping import Float

from scoresde.guidance.wrapped import (
    Weight,
    check_alike,
    check_rows,
    evaluate,
    held_interval,
    held_weight,
    mixed,
    offered,
    weight_at,
)
from scoresde.sde.base import SDE, times_of
from scoresde.sde.pure_noise import denoises_noise
from scoresde.types import Cond, ScoreFn, Time, pytree_dataclass


@pytree_dataclass()
class Autoguidance:
    """A model guided by a worse one (Eq. 1): `sd.load(run, step=500)` is an earlier checkpoint.

    Both are called with the condition that arrives, unless one holds its own: `sd.conditioned(bad,
    None)` is `bad` without any. At a weight other than 1 the reverse SDE and the probability flow
    sample different laws, as with classifier-free guidance.

    Raises:
        ValueError: if the two models are of data in different units, or a weight or an interval is
            out of range.
    """

    good: ScoreFn
    """The score to improve."""
    bad: ScoreFn
    """A worse version of it."""
    weight: Weight = 1.0
    """w: a number, one per example (batch,), or a function of log SNR."""
    interval: Any = None
    """(low, high) of sigma / alpha: outside it the weight is 1."""
    process: SDE | None = None
    """The SDE, where the models do not hold it and the weight depends on time."""

    def __post_init__(self):
        check_alike("good and bad", self.good, self.bad)
        object.__setattr__(self, "weight", held_weight(self.weight, "weight"))
        interval = held_interval(self.interval, self.sde, self.weight)
        object.__setattr__(self, "interval", interval)

    def __call__(
        self, x: Float[Array, " batch *data"], t: Time, cond: Cond = None
    ) -> Float[Array, " batch *data"]:
        """Returns the guided score (Eq. 1)."""
        return self._guided(self.good, self.bad, x, t, cond)

    @property
    def denoise(self) -> Any:
        """(x, t, cond) ↦ the guided denoiser (Eq. 1), where both models offer one."""
        good = offered(self.good, "denoise")
        bad = offered(self.bad, "denoise")
        return lambda x, t, cond=None: self._guided(good, bad, x, t, cond)

    def _guided(self, good: Any, bad: Any, x: Array, t: Time, cond: Cond) -> Array:
        t = times_of(t, x)
        weight = weight_at(self.weight, self.interval, self.sde, x, t)
        better = evaluate(good, self.good, x, t, cond)
        worse = evaluate(bad, self.bad, x, t, cond)
        return mixed(weight, better, worse)

    @property
    def takes_cond(self) -> bool:
        """Whether a condition that arrives is passed to one of the models."""
        return any(getattr(score, "takes_cond", True) for score in (self.good, self.bad))

    def check_cond(self, cond: Cond, batch: int) -> None:
        """Refuses a condition that one of the models does not take, or that both hold already, and
        weights of another batch.

        Raises:
            ValueError: if it does not fit.
        """
        if cond is not None and not self.takes_cond:
            raise ValueError(
                "cond was passed, but both models hold their conditions already: leave it out, or "
                "pass the models without."
            )
        check_rows(self.weight, batch, "weight")
        for score in (self.good, self.bad):
            check = getattr(score, "check_cond", None)
            if check is not None:
                check(cond if getattr(score, "takes_cond", True) else None, batch)

    @property
    def denoises_noise(self) -> bool:
        """Whether both denoisers are finite at t = 1 (sde/pure_noise.py)."""
        return denoises_noise(self.good) and denoises_noise(self.bad)

    @property
    def sde(self) -> Any:
        """The SDE of the models; None where it is not known."""
        return self.process if self.process is not None else getattr(self.good, "sde", None)

    @property
    def standardization(self) -> Any:
        """The units of the models' data."""
        return getattr(self.good, "standardization", None)
