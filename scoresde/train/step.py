"""One training step and one validation pass: pure functions of a plain state."""

from __future__ import annotations

import dataclasses
import warnings
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import optax
from jax import Array
from jaxtyping import Float, PyTree

from scoresde.loss import (
    AnyTimes,
    EDMWeighting,
    LikelihoodWeighting,
    LogSNRTime,
    LowDiscrepancyTime,
    VarianceWeighting,
    dsm_loss,
)
from scoresde.score import ScoreModel
from scoresde.train.ema import ema_decay, ema_update
from scoresde.train.state import Skeleton, State
from scoresde.types import Cond, check_count, check_setting, data_dim, example_keys

Prepare = Callable[[Array, Array], Array]
"""(key, x) → x: what is drawn anew for every batch, e.g. dequantisation; runs inside the compiled step."""


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
    weighting: VarianceWeighting | LikelihoodWeighting | EDMWeighting = VarianceWeighting()
    """Weight of the loss over time."""
    times: AnyTimes = LowDiscrepancyTime()
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
            check_count(name, getattr(self, name))
        check_count("warmup", self.warmup, 0)
        if self.batch_size % self.accumulate:
            raise ValueError(
                f"batch_size = {self.batch_size} does not divide into accumulate = {self.accumulate}."
            )
        if self.steps_per_dispatch is not None:
            check_count("steps_per_dispatch", self.steps_per_dispatch)
        for name in ("learning_rate", "clip", "epsilon"):
            check_setting(name, getattr(self, name), 0.0, inclusive=False)
        if not callable(self.weighting) or isinstance(self.weighting, type):
            raise ValueError(
                f"weighting is {self.weighting!r}: wanted one such as sd.VarianceWeighting()."
            )
        if not hasattr(self.times, "sample") or isinstance(self.times, type):
            raise ValueError(
                f"times is {self.times!r}: wanted a distribution such as sd.LowDiscrepancyTime()."
            )
        if isinstance(self.weighting, LikelihoodWeighting) and isinstance(self.times, LogSNRTime):
            warnings.warn(
                "times=LogSNRTime() draws times by the likelihood weighting: weighting=LikelihoodWeighting() counts it "
                "twice. Leave one of them as it is.",
                stacklevel=3,
            )
        check_setting("final_rate", self.final_rate, 0.0, 1.0 + 1e-12)
        check_setting("ema", self.ema, 0.0, 1.0)

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


def make_step(
    skeleton: Skeleton, training: Training, prepare: Prepare | None
) -> Callable[..., Any]:
    """(state, key, (x, cond)) → (state, metrics). Everything random in step n comes from fold_in(key, n).

    A step whose loss or gradient is not finite leaves parameters, optimiser and EMA as they were and is counted.
    """
    optimizer = training.optimizer()

    def loss_fn(params, constants, key_net, keys_noise, x, t, cond):
        sde, net = skeleton.model.sde, skeleton.training_net(params, constants, key_net)
        losses = dsm_loss(
            keys_noise,
            sde,
            ScoreModel(sde, net, skeleton.model.parameterization),
            x,
            t,
            training.weighting,
            cond,
        )
        return jnp.mean(losses) / data_dim(x)

    def loss_and_gradient(params, constants, key, x, cond):
        key_prepare, key_time, key_noise, key_net = jax.random.split(key, 4)
        x = x if prepare is None else prepare(key_prepare, x)
        t = training.times.sample(key_time, skeleton.model.sde, x.shape[0])
        gradient = jax.value_and_grad(loss_fn)
        if training.accumulate == 1:
            return gradient(params, constants, key_net, key_noise, x, t, cond)
        # Data, times and noise are the whole batch's, so its parts give its gradient; dropout is each part's own.
        rows = (example_keys(key_noise, x.shape[0]), x, t, cond)
        parts = jax.tree.map(lambda a: _parts(a, training.accumulate), rows)
        keys_net = jax.random.split(key_net, training.accumulate)

        def add(total, part):
            value = gradient(params, constants, part[0], *part[1])
            return jax.tree.map(lambda a, b: a + b / training.accumulate, total, value), None

        start = jax.tree.map(jnp.zeros_like, (jnp.zeros((), x.dtype), params))
        return jax.lax.scan(add, start, (keys_net, parts))[0]

    def step(state: State, key: Array, batch: tuple[Array, Cond]) -> tuple[State, dict[str, Array]]:
        loss, grads = loss_and_gradient(
            state["params"], state["constants"], jax.random.fold_in(key, state["step"]), *batch
        )
        norm = optax.tree.norm(grads)
        updates, opt_state = optimizer.update(grads, state["opt_state"], state["params"])
        params = optax.apply_updates(state["params"], updates)
        updated = {
            "params": params,
            "opt_state": opt_state,
            "ema": ema_update(state["ema"], params, ema_decay(training.ema, state["step"])),
        }
        good = jnp.isfinite(loss) & jnp.isfinite(norm)
        kept = jax.tree.map(
            lambda new, old: jnp.where(good, new, old), updated, {k: state[k] for k in updated}
        )
        bad = jnp.where(good, 0, 1).astype(jnp.int32)
        state = (
            state
            | kept
            | {
                "step": state["step"] + 1,
                "skipped": state["skipped"] + bad,
                "skipped_in_a_row": bad * (state["skipped_in_a_row"] + 1),
            }
        )
        return state, {
            "loss": loss,
            "grad_norm": norm,
            "skipped_in_a_row": state["skipped_in_a_row"],
        }

    return step


def _parts(rows: Array, count: int) -> Array:
    """(batch, ...) → (count, batch / count, ...), every count-th row a part: each device keeps its own rows."""
    return rows.reshape(-1, count, *rows.shape[1:]).swapaxes(0, 1)


def make_validation(
    skeleton: Skeleton, training: Training, prepare: Prepare | None
) -> Callable[..., Array]:
    """(ema, constants, key, x, cond, weight) → weighted sum of losses per data dimension, without dropout."""

    def validate(
        params: PyTree,
        constants: PyTree,
        key: Array,
        x: Array,
        cond: Cond,
        weight: Float[Array, " batch"],
    ) -> Array:
        key_prepare, key_time, key_noise = jax.random.split(key, 3)
        x = x if prepare is None else prepare(key_prepare, x)
        model = skeleton.score_model(params, constants)
        t = training.times.sample(key_time, model.sde, x.shape[0])
        losses = dsm_loss(key_noise, model.sde, model, x, t, training.weighting, cond)
        return jnp.sum(weight * losses) / data_dim(x)

    return validate
