"""Settings of the training loop."""

from __future__ import annotations

import dataclasses
import warnings

import optax

from scoresde import checks
from scoresde.loss import times as time_distributions
from scoresde.loss import weighting as weightings
from scoresde.loss.times import AnyTimes


@dataclasses.dataclass(frozen=True)
class Training:
    """Settings of the training loop.

    Raises:
        ValueError: if a count, rate or fraction is out of range.
    """

    steps: int = 1500
    """Optimiser steps."""
    batch_size: int = 128
    """Examples a step."""
    learning_rate: float = 1e-3
    """Adam's, at its highest."""
    warmup: int = 100
    """Steps over which the learning rate rises from 0."""
    final_rate: float = 1.0
    """Learning rate at the last step over the highest, by a cosine; 1 keeps it constant."""
    clip: float = 1.0
    """Largest norm of a gradient of the loss per data dimension."""
    epsilon: float = 1e-8
    """Adam's, added to the root of its second moment."""
    ema: float = 0.999
    """Decay of the parameters' moving average, after its warm-up."""
    weighting: weightings.Variance | weightings.Likelihood | weightings.EDM = weightings.Variance()
    """Weight of the loss over time."""
    times: AnyTimes = time_distributions.LowDiscrepancy()
    """Where training times are drawn."""
    log_every: int = 25
    """Steps between rows of metrics."""
    validate_every: int = 250
    """Steps between validations, checkpoints and callbacks."""
    max_skipped: int = 10
    """Non-finite steps in a row after which training stops."""
    steps_per_dispatch: int | None = None
    """Steps in one compiled call; None: as many, up to 10, as divide log_every and validate_every, but 1 on CPU for a
    network of your own."""
    accumulate: int = 1
    """Parts of the batch whose gradients are taken one after the other and averaged: less memory, the same step."""

    def __post_init__(self):
        for name in (
            "steps",
            "batch_size",
            "accumulate",
            "log_every",
            "validate_every",
            "max_skipped",
        ):
            checks.count(name, getattr(self, name))
        checks.count("warmup", self.warmup, 0)
        if self.batch_size % self.accumulate:
            raise ValueError(
                f"batch_size = {self.batch_size} does not divide into accumulate = {self.accumulate}."
            )
        if self.steps_per_dispatch is not None:
            checks.count("steps_per_dispatch", self.steps_per_dispatch)
        for name in ("learning_rate", "clip", "epsilon"):
            checks.setting(name, getattr(self, name), "(0, inf)")
        if not callable(self.weighting) or isinstance(self.weighting, type):
            raise ValueError(
                f"weighting is {self.weighting!r}: wanted one such as sd.weightings.Variance()."
            )
        if not hasattr(self.times, "sample") or isinstance(self.times, type):
            raise ValueError(
                f"times is {self.times!r}: wanted a distribution such as sd.times.LowDiscrepancy()."
            )
        if isinstance(self.weighting, weightings.Likelihood) and isinstance(
            self.times, time_distributions.LogSNR
        ):
            warnings.warn(
                "times=time_distributions.LogSNR() draws times by the likelihood weighting: weighting=weightings.Likelihood() counts it "
                "twice. Leave one of them as it is.",
                stacklevel=3,
            )
        checks.setting("final_rate", self.final_rate, "[0, 1]")
        checks.setting("ema", self.ema, "[0, 1)")

    def schedule(self) -> optax.Schedule:
        """Linear warm-up to learning_rate, then a cosine to final_rate of it at the last step."""
        cosine = optax.cosine_decay_schedule(
            self.learning_rate, max(1, self.steps - self.warmup), self.final_rate
        )
        rise = optax.linear_schedule(
            self.learning_rate / (self.warmup + 1), self.learning_rate, max(1, self.warmup)
        )
        return optax.join_schedules([rise, cosine], [self.warmup])

    def optimizer(self) -> optax.GradientTransformation:
        """Adam after clipping (Kingma & Ba 2015)."""
        return optax.chain(
            optax.clip_by_global_norm(self.clip), optax.adam(self.schedule(), eps=self.epsilon)
        )
