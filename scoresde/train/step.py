"""One training step and one validation pass: pure functions of a plain state."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import optax
from jax import Array
from jaxtyping import Float, PyTree

from scoresde.keys import example_keys
from scoresde.loss.dsm import dsm_loss
from scoresde.score.model import ScoreModel
from scoresde.train.ema import ema_decay, ema_update
from scoresde.train.settings import Training
from scoresde.train.state import Skeleton, State
from scoresde.types import Cond, data_dim

Prepare = Callable[[Array, Array], Array]
"""(key, x) → x: what is drawn anew for every batch, e.g. dequantisation; runs inside the compiled step."""


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
