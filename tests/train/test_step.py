"""One step: accumulated gradients are those of the whole batch, and bad steps change nothing."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
from small_training import KEY, SMALL, data, mlp, weights

import scoresde as sd
from scoresde.train.state import Skeleton, init_state
from scoresde.train.step import make_step


def test_a_batch_in_parts_is_the_same_step(mixture):
    """Gradient, loss and weights are the batch's: parts share its data, labels, times and noise."""
    labels = np.arange(512, dtype=np.int32) % 3
    integers = np.clip(np.round(4.0 * data(mixture) + 8.0), 0, 16).astype(np.int32)
    short = dataclasses.replace(SMALL, steps=5, log_every=5, validate_every=5)

    def train(parts):
        return sd.fit(
            KEY,
            mlp(num_classes=3),
            integers,
            cond=labels,
            prepare=sd.UniformDequantization(17),
            training=dataclasses.replace(short, accumulate=parts),
            progress=False,
        )

    one = train(1)
    four = train(4)
    for a, b in zip(weights(one.model), weights(four.model), strict=True):
        np.testing.assert_allclose(a, b, rtol=2e-4, atol=2e-6)
    for name in ("loss", "grad_norm"):
        np.testing.assert_allclose(one.history[0][name], four.history[0][name], rtol=1e-4)

    untrained = weights(mlp(num_classes=3))
    assert np.abs(weights(one.model)[0] - untrained[0]).max() > 1e-4


def test_parts_draw_dropout_each_for_itself():
    """The loss of the same rows depends on the number of parts, and else on the key alone.

    With one mask for both of two equal halves, their mean would be the loss of one half.
    """
    model = mlp(dropout=0.5)
    for kernel in (model.net.output.kernel, model.net.blocks[0].dense2.kernel):
        kernel[...] = jax.random.normal(jax.random.key(1), kernel.shape)  # they start at zero
    skeleton, params, constants = Skeleton.split(model)
    batch = (jnp.ones((8, 2)), None)

    first_losses = set()
    for parts in (1, 2, 4):
        training = sd.Training(batch_size=8, accumulate=parts)
        step = jax.jit(make_step(skeleton, training, sd.objectives.DenoisingScoreMatching(), None))
        state = init_state(params, constants, training.transformation())

        losses = []
        for seed in (0, 0, 1):
            _, metrics = step(state, jax.random.key(seed), batch)
            losses.append(float(metrics["loss"]))
        assert losses[0] == losses[1] != losses[2]
        first_losses.add(losses[0])
    assert len(first_losses) == 3


def test_bad_batches_are_skipped_and_counted(mixture):
    """Every row is finite, although `prepare` makes some batches overflow: they change nothing."""

    def prepare(key, x):
        return jnp.where(jax.random.bernoulli(key, 0.3), jnp.inf, 1.0) * x

    fit = sd.fit(
        KEY, mlp(), data(mixture), prepare=prepare, training=SMALL, validation=0.0, progress=False
    )
    skipped = fit.history[-1]["skipped"]
    assert 3 <= skipped <= 22  # 40 draws at 0.3: mean 12, standard deviation 2.9
    assert all(np.all(np.isfinite(w)) for w in weights(fit.model))
    assert all(np.isfinite(row["loss"]) for row in fit.history)


def test_a_bad_step_changes_nothing_but_counters():
    """Parameters, moments and EMA are the same to the bit after a batch that is not finite."""
    training = sd.Training(batch_size=8)
    skeleton, params, constants = Skeleton.split(mlp())
    step = jax.jit(make_step(skeleton, training, sd.objectives.DenoisingScoreMatching(), None))

    good = (jax.random.normal(KEY, (8, 2)), None)
    state, _ = step(init_state(params, constants, training.transformation()), KEY, good)
    after, metrics = step(state, KEY, (jnp.full((8, 2), jnp.nan), None))

    counters = ("step", "skipped", "skipped_in_a_row")
    assert [int(state[name]) for name in counters] == [1, 0, 0]
    assert [int(after[name]) for name in counters] == [2, 1, 1]
    assert int(metrics["skipped_in_a_row"]) == 1
    for name in ("params", "opt_state", "ema"):
        jax.tree.map(np.testing.assert_array_equal, after[name], state[name])

    recovered, _ = step(after, KEY, good)
    assert [int(recovered[name]) for name in counters] == [3, 1, 0]
