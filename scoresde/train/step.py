"""One training step and one validation pass, as pure functions of a plain state.

Step n = 0, 1, … draws a batch x_0 of b examples, takes the mean of the objective, and updates the
parameters theta:

    L(theta) = 1 / b  sum_i l_i(theta)                      (1)  l_i: the objective of example i
    g        = grad L(theta)
    g       <- g min(1, clip / |g|)                         (2)  |g|: norm over all parameters
    theta   <- theta + update_k(g, theta)                   (3)  Adam, or another: optimizers.py
    ema     <- ema + (1 - d_n) (theta - ema)                (4)  see ema.py

with k the number of good steps so far. A step is bad if L or |g|, before clipping, is not finite.
A bad step changes nothing but counters:

    (theta, the optimiser's state with k, ema) <- the new if L and |g| are finite, else the old  (5)

The objective of a score is the denoising loss per data dimension, that of a classifier the
cross-entropy (loss/objectives.py). Each example loses its condition with probability `drop_cond`.

The variational bound trains the schedule of the SDE too. Then theta has two parts, network and
schedule, each with its own clipping and optimiser state (Eq. 2 and 3).

Everything random in step n comes from fold_in(key, n), so a resumed run draws the same numbers.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import optax
from jax import Array
from jaxtyping import Float, Int, PyTree

from scoresde import checks
from scoresde.keys import example_keys
from scoresde.loss.objectives import Objective
from scoresde.parallel.sharded_state import collecting_again
from scoresde.train.ema import ema_decay, ema_update
from scoresde.train.settings import Training
from scoresde.train.state import Skeleton, TrainState
from scoresde.train.what_trains import check_unchanged, variable_values
from scoresde.types import Cond

Prepare = Callable[[Array, Array], Array]
"""(key, x) → x: random preparation of a batch, such as dequantisation, inside the compiled step."""

Collect = Callable[[PyTree], PyTree]
"""Parameters that are sharded over devices → the same whole (parallel/sharded_state.py)."""

Metrics = dict[str, Array]
"""What one step reports: the loss and the norm of the gradient, and the bad steps in a row."""


def make_step(
    skeleton: Skeleton,
    training: Training,
    objective: Objective,
    prepare: Prepare | None,
    collect: Collect | None = None,
) -> Callable[[TrainState, Array, tuple[Array, Cond]], tuple[TrainState, Metrics]]:
    """Returns the function (state, key, (x, cond)) → (state, metrics) that takes one step.

    x: (batch, *data), as the source holds it; `key` is the same at every step. collect: what makes
    whole parameters of sharded ones; None if all are replicated.
    """
    loss_and_gradient = _make_loss_and_gradient(skeleton, training, objective, prepare, collect)
    optimizer = optax.with_extra_args_support(skeleton.optimizer(training))

    def step(
        state: TrainState, key: Array, batch: tuple[Array, Cond]
    ) -> tuple[TrainState, Metrics]:
        n = state["step"]
        x, cond = batch
        loss, grads = loss_and_gradient(
            state["params"], state["constants"], jax.random.fold_in(key, n), x, cond
        )
        norm = optax.tree.norm(grads)

        # optax multiplies its integer counts by floats, which strict promotion refuses.
        with jax.numpy_dtype_promotion("standard"):
            updates, opt_state = optimizer.update(
                grads, state["opt_state"], state["params"], value=loss
            )
        params = optax.apply_updates(state["params"], updates)  # Eqs. 2 and 3
        ema = ema_update(state["ema"], params, ema_decay(training.ema, n))  # Eq. 4

        updated = {"params": params, "opt_state": opt_state, "ema": ema}
        finite = jnp.isfinite(loss) & jnp.isfinite(norm)
        state = _accept_if(finite, updated, state)  # Eq. 5

        metrics = {
            "loss": loss,
            "grad_norm": norm,
            "skipped_in_a_row": state["skipped_in_a_row"],
        }
        return state, metrics

    return step


def make_validation(
    skeleton: Skeleton,
    objective: Objective,
    prepare: Prepare | None,
    collect: Collect | None = None,
) -> Callable[..., Array]:
    """Returns the function (params, constants, key, rows, x, t, cond, weight) → Σ weight_i l_i.

    The network runs in evaluation mode, without dropout. rows: the examples' numbers in the
    held-out set; the noise of example i depends on (key, i) alone. A weight of 0 masks the rows
    that fill up the last batch. collect: as in `make_step`.
    """

    def validate(
        params: PyTree,
        constants: PyTree,
        key: Array,
        rows: Int[Array, " batch"],
        x: Array,
        t: Float[Array, " batch"],
        cond: Cond,
        weight: Float[Array, " batch"],
    ) -> Array:
        key_prepare, key_noise = jax.random.split(key)
        if prepare is not None:
            x = prepare(jax.random.fold_in(key_prepare, rows[0]), x)

        params = params if collect is None else collect(params)
        model = skeleton.in_evaluation(params, constants)
        keys_noise = jax.vmap(lambda i: jax.random.fold_in(key_noise, i))(rows)
        losses = _losses(objective, keys_noise, model, x, t, cond)
        return jnp.sum(weight.astype(losses.dtype) * losses)

    return validate


def _make_loss_and_gradient(
    skeleton: Skeleton,
    training: Training,
    objective: Objective,
    prepare: Prepare | None,
    collect: Collect | None,
) -> Callable[[PyTree, PyTree, Array, Array, Cond], tuple[Array, PyTree]]:
    """Returns (params, constants, key, x, cond) → (L, grad L) of Eq. 1."""

    def loss(params, constants, key_net, keys_noise, x, t, cond):
        model = skeleton.in_training(params, constants, key_net)
        return jnp.mean(_losses(objective, keys_noise, model, x, t, cond))  # Eq. 1

    gradient = jax.value_and_grad(loss if collect is None else collecting_again(loss, collect))

    def loss_and_gradient(params, constants, key, x, cond):
        key_prepare, key_time, key_noise, key_net = jax.random.split(key, 4)
        if prepare is not None:
            x = prepare(key_prepare, x)
        t = training.times.sample(key_time, skeleton.sde(params), x.shape[0])
        if training.drop_cond > 0.0 and cond is not None:
            cond = _dropped(jax.random.fold_in(key, 4), skeleton.model, cond, training.drop_cond)

        if training.accumulate == 1:
            return gradient(params, constants, key_net, key_noise, x, t, cond)

        # Data, times and noise are drawn for the whole batch, so that its parts add up to its
        # gradient. Only dropout is drawn for each part separately.
        rows = (example_keys(key_noise, x.shape[0]), x, t, cond)
        keys_net = jax.random.split(key_net, training.accumulate)
        return _mean_over_parts(gradient, params, constants, keys_net, rows)

    return loss_and_gradient


def _losses(
    objective: Objective, keys: Array, model: Any, x: Array, t: Array, cond: Cond
) -> Float[Array, " batch"]:
    """Returns the objective of each example, and refuses what it must not do.

    Raises:
        TypeError: if the network changes its variables when it is called.
        ValueError: if the objective does not return one value per example.
    """
    before = variable_values(model.net)
    losses = objective(example_keys(keys, x.shape[0]), model, x, t, cond)
    check_unchanged(model.net, before)
    checks.one_per_example(losses, x, "objective")
    return losses


def _dropped(key: Array, model: Any, cond: Cond, probability: float) -> Cond:
    """Returns the conditions of a batch, each dropped with this probability."""
    batch = jax.tree.leaves(cond)[0].shape[0]
    keys = example_keys(key, batch)
    dropped = jax.vmap(lambda key: jax.random.bernoulli(key, probability))(keys)
    return model.drop_cond(cond, dropped)


def _mean_over_parts(
    gradient: Callable[..., tuple[Array, PyTree]],
    params: PyTree,
    constants: PyTree,
    keys_net: Array,
    rows: tuple[Array, Array, Array, Cond],
) -> tuple[Array, PyTree]:
    """Returns the mean of (loss, gradient) over parts of the batch, computed one after another.

    rows: (keys of the noise, x, t, cond), each with the batch axis first; one part per key of
    `keys_net`.
    """
    count = len(keys_net)
    parts = jax.tree.map(lambda a: _parts(a, count), rows)

    def add(total, part):
        key_net, part_rows = part
        value = gradient(params, constants, key_net, *part_rows)
        return jax.tree.map(lambda a, b: a + b / count, total, value), None

    first = jax.tree.map(lambda a: a[0], (keys_net, parts))
    shapes = jax.eval_shape(lambda key, rows: gradient(params, constants, key, *rows), *first)
    zeros = jax.tree.map(lambda shape: jnp.zeros(shape.shape, shape.dtype), shapes)
    total, _ = jax.lax.scan(add, zeros, (keys_net, parts))
    return total


def _parts(rows: Array, count: int) -> Array:
    """Reshapes (batch, ...) to (count, batch / count, ...); part i holds rows i, i + count, ….

    Consecutive rows go to different parts, so every device keeps the rows that it already has.
    """
    return rows.reshape(-1, count, *rows.shape[1:]).swapaxes(0, 1)


def _accept_if(finite: Array, updated: TrainState, state: TrainState) -> TrainState:
    """Returns the next state: with the updated entries if `finite`, else the old ones (Eq. 5)."""
    old = {name: state[name] for name in updated}
    kept = jax.tree.map(lambda new, old: jnp.where(finite, new, old), updated, old)

    bad = jnp.where(finite, 0, 1).astype(jnp.int32)
    counts = {
        "step": state["step"] + 1,
        "skipped": state["skipped"] + bad,
        "skipped_in_a_row": bad * (state["skipped_in_a_row"] + 1),
    }
    return state | kept | counts
