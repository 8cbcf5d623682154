"""Settings of training.

The learning rate of update k = 0, 1, … rises linearly during warm-up, then follows a cosine:

    rate_k = learning_rate (1 + k) / (1 + warmup)                  for k < warmup     (1)
    rate_k = learning_rate (r + (1 - r) (1 + cos(pi u)) / 2)       from then on       (2)

with u = (k - warmup) / (steps - warmup), at most 1, and r = final_rate.
"""

from __future__ import annotations

import dataclasses
from typing import Any

import numpy as np
import optax

from scoresde import checks
from scoresde.loss import times as time_distributions
from scoresde.loss import weighting as weightings
from scoresde.loss.objectives import AnyObjective, Usual, VariationalBound
from scoresde.loss.times import AnyTimes
from scoresde.train.optimizers import Adam, AdamW, AnyOptimizer

OF_ADAM = ("learning_rate", "warmup", "final_rate", "epsilon")
"""Settings of the optimisers `Adam` and `AdamW`: an optax transformation brings its own."""


@dataclasses.dataclass(frozen=True)
class Training:
    """Settings of the training loop.

    Raises:
        ValueError: if a count, rate or fraction is out of range.
    """

    steps: int = 1500
    """Optimiser steps."""

    batch_size: int = 128
    """Examples per step."""

    learning_rate: float = 1e-3
    """Learning rate at its highest."""

    warmup: int = 100
    """Steps over which the learning rate rises (Eq. 1)."""

    schedule_rate: float = 1.0
    """Learning rate of the parameters of a noise schedule, over that of the network."""

    final_rate: float = 1.0
    """Learning rate at the last step over the highest one, r in Eq. 2; 1 keeps it constant."""

    clip: float = 1.0
    """Largest norm of a gradient of the loss per data dimension."""

    epsilon: float = 1e-8
    """Added to the root of the second moment by Adam and AdamW."""

    optimizer: AnyOptimizer = Adam()
    """Adam, AdamW, or, in Python, any optax transformation, which brings its own learning rate."""

    ema: float = 0.999
    """Decay of the parameters' moving average, after its warm-up."""

    weighting: weightings.AnyWeighting = weightings.Variance()
    """Weight of the denoising loss over time."""

    objective: AnyObjective = Usual()
    """What is minimised."""

    times: AnyTimes = time_distributions.LowDiscrepancy()
    """Distribution from which training times are drawn."""

    drop_cond: float = 0.0
    """Probability of training an example without its condition, so that the network can be guided:
    0.1 to 0.2 is usual (Ho & Salimans 2022)."""

    log_every: int = 25
    """Steps between rows of metrics."""

    validate_every: int = 250
    """Steps between validations, checkpoints and callbacks."""

    max_skipped: int = 10
    """Non-finite steps in a row after which training stops."""

    steps_per_dispatch: int | None = None
    """Steps in one compiled call. None takes as many, up to 10, as divide both log_every and
    validate_every, but 1 for a custom network on CPU."""

    accumulate: int = 1
    """Parts of the batch whose gradients are computed in turn and averaged: the same step in less
    memory."""

    shard_above: int | None = None
    """Numbers from which on an array of parameters is sharded over all devices, with its average
    and the optimiser's state, such as 65536; None replicates all of them."""

    def __post_init__(self):
        checks.count("steps", self.steps)
        checks.count("batch_size", self.batch_size)
        checks.count("accumulate", self.accumulate)
        checks.count("log_every", self.log_every)
        checks.count("validate_every", self.validate_every)
        checks.count("max_skipped", self.max_skipped)
        checks.count("warmup", self.warmup, 0)
        if self.steps_per_dispatch is not None:
            checks.count("steps_per_dispatch", self.steps_per_dispatch)
        if self.shard_above is not None:
            checks.count("shard_above", self.shard_above)

        checks.setting("learning_rate", self.learning_rate, "(0, inf)")
        checks.setting("clip", self.clip, "(0, inf)")
        checks.setting("epsilon", self.epsilon, "(0, inf)")
        checks.setting("schedule_rate", self.schedule_rate, "(0, inf)")
        checks.setting("final_rate", self.final_rate, "[0, 1]")
        checks.setting("ema", self.ema, "[0, 1)")
        checks.setting("drop_cond", self.drop_cond, "[0, 1)")

        if self.batch_size % self.accumulate:
            raise ValueError(
                f"batch_size = {self.batch_size} does not divide into accumulate = "
                f"{self.accumulate} equal parts: make it a multiple of {self.accumulate}."
            )
        self._check_optimizer()
        self._check_weighting_and_times()

    def _check_optimizer(self) -> None:
        """Refuses what is no optimiser, and settings that an optax transformation would ignore."""
        if isinstance(self.optimizer, Adam | AdamW):
            return
        if hasattr(self.optimizer, "gradient_transformation"):
            raise ValueError(
                f"optimizer is a {type(self.optimizer).__name__}: write "
                f"optimizer.gradient_transformation()."
            )
        if not isinstance(self.optimizer, optax.GradientTransformation):
            raise ValueError(
                f"optimizer is {self.optimizer!r}: wanted sd.optimizers.Adam(), "
                f"sd.optimizers.AdamW() or an optax transformation such as optax.lion(1e-4)."
            )

        defaults = {field.name: field.default for field in dataclasses.fields(self)}
        ignored = [name for name in OF_ADAM if getattr(self, name) != defaults[name]]
        if ignored:
            given = ", ".join(f"{name} = {getattr(self, name)}" for name in ignored)
            raise ValueError(
                f"{given}: an optax transformation brings its own, so that this would have no "
                f"effect. Leave it at its default, and write a schedule into the transformation, "
                f"such as optax.lion(optax.cosine_decay_schedule(1e-4, {self.steps}))."
            )

    def _check_weighting_and_times(self) -> None:
        """Refuses what is not a weighting or a distribution of times; warns if both weigh."""
        if not callable(self.weighting) or isinstance(self.weighting, type):
            raise ValueError(
                f"weighting is {self.weighting!r}: wanted a weighting such as "
                f"sd.weightings.Variance()."
            )
        if not hasattr(self.times, "sample") or isinstance(self.times, type):
            raise ValueError(
                f"times is {self.times!r}: wanted a distribution such as sd.times.LowDiscrepancy()."
            )

        if isinstance(self.objective, type):
            raise ValueError(
                f"objective is {self.objective!r}: wanted an objective such as "
                f"sd.objectives.VariationalBound(levels)."
            )
        if self.objective != Usual() and self.weighting != weightings.Variance():
            raise ValueError(
                f"weighting = {self.weighting} weighs the denoising loss, and objective = "
                f"{self.objective} is minimised instead: leave one of them at its default."
            )
        if isinstance(self.objective, VariationalBound):
            check_uniform(self.times)
        by_likelihood = isinstance(self.weighting, weightings.Likelihood)
        if by_likelihood and isinstance(self.times, time_distributions.LogSNR):
            checks.warn(
                "times=sd.times.LogSNR() draws times in proportion to the likelihood weighting, so "
                "weighting=sd.weightings.Likelihood() counts it twice. Leave one of them at its "
                "default."
            )

    def schedule(self) -> optax.Schedule:
        """Returns the learning rate as a function of the update (Eqs. 1 and 2)."""
        rise = optax.linear_schedule(
            init_value=self.learning_rate / (self.warmup + 1),
            end_value=self.learning_rate,
            transition_steps=max(1, self.warmup),
        )
        cosine = optax.cosine_decay_schedule(
            init_value=self.learning_rate,
            decay_steps=max(1, self.steps - self.warmup),
            alpha=self.final_rate,
        )
        return optax.join_schedules([rise, cosine], [self.warmup])

    def rate(self, update: int) -> float | None:
        """Returns the learning rate of an update; None if an optax transformation decides it."""
        if isinstance(self.optimizer, Adam | AdamW):
            return float(np.asarray(self.schedule()(update)))
        return None

    def transformation(self, of_schedule: bool = False) -> optax.GradientTransformationExtraArgs:
        """Returns the optimiser, after clipping by the norm of all its gradients together.

        of_schedule: whether it is that of a noise schedule, which has `schedule_rate` and no decay
        of weights: its parameters are no weights.
        """
        optimizer = self.optimizer
        if of_schedule and isinstance(optimizer, AdamW):
            optimizer = dataclasses.replace(optimizer, weight_decay=0.0)
        if isinstance(optimizer, Adam | AdamW):
            optimizer = optimizer.transformation(self.schedule(), self.epsilon)
        optimizer = optax.chain(optax.clip_by_global_norm(self.clip), optimizer)
        if of_schedule:
            optimizer = optax.chain(optimizer, optax.scale(self.schedule_rate))
        return optax.with_extra_args_support(optimizer)


LATEST_START = 1e-2
"""The largest t_min of times by which the bound is trained: what lies below it is left out."""


def check_uniform(times: Any) -> None:
    """Refuses times other than uniform on (nearly) all of [0, 1].

    Raises:
        ValueError: for another distribution.
    """
    uniform = time_distributions.Uniform | time_distributions.LowDiscrepancy
    if not isinstance(times, uniform) or times.t_min > LATEST_START:
        raise ValueError(
            f"times = {times}: the bound weighs times that are uniform in t on [0, 1], and the "
            f"schedule decides how much noise they have. Write times=sd.times.LowDiscrepancy()."
        )
