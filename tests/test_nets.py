"""Networks: any size, zero at the start, conditions that matter, dropout only in training."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

import scoresde as sd

SMALL = sd.UNetConfig(channels=8, num_blocks=1)


def perturbed(net):
    """The same network with every weight moved a little, so that its zero-initialised paths are open."""
    graph, params, rest = nnx.split(net, nnx.Param, ...)
    leaves, tree = jax.tree.flatten(params)
    rng = np.random.default_rng(1)
    moved = [p + jnp.asarray(0.1 * rng.normal(size=p.shape), p.dtype) for p in leaves]
    return nnx.merge(graph, jax.tree.unflatten(tree, moved), rest)


call = jax.jit(lambda net, x, t, *cond: net(x, t, *cond))


@pytest.mark.parametrize("shape", [(8, 8, 1), (9, 5, 3), (1, 6, 2)])
def test_images_of_any_size_odd_and_not_square(shape):
    net = sd.UNetConfig(channels=4, multipliers=(1, 1, 2), num_blocks=1).build(shape, rngs=nnx.Rngs(0))
    x, t = jax.random.normal(jax.random.key(0), (2, *shape)), jnp.asarray([0.1, 0.9])
    net.eval()
    np.testing.assert_array_equal(call(net, x, t), jnp.zeros((2, *shape)))  # output starts at zero
    # Every output pixel depends on every input pixel, the last odd row and column included.
    slopes = jax.jit(jax.grad(lambda x, net: net(x, t)[0, -1, -1, 0]))(x, perturbed(net))
    assert slopes.shape == x.shape
    assert float(jnp.abs(slopes[0]).min(axis=-1).min()) > 0.0
    assert float(jnp.abs(slopes[1]).max()) == 0.0  # and no example on another


@pytest.mark.parametrize(("config", "shape"), [(SMALL, (6, 6, 1)), (sd.MLPConfig(width=16), (3,))], ids=["unet", "mlp"])
def test_time_and_dropout(config, shape):
    config = dataclasses.replace(config, dropout=0.5)
    net = perturbed(config.build(shape, rngs=nnx.Rngs(0)))
    x = jax.random.normal(jax.random.key(0), (2, *shape))
    net.eval()
    early, late = call(net, x, jnp.full(2, 0.1)), call(net, x, jnp.full(2, 0.9))
    assert float(jnp.abs(early - late).max()) > 1e-3
    np.testing.assert_array_equal(call(net, x, jnp.full(2, 0.1)), early)
    net.train()
    drawn = []
    for seed in (1, 2):
        nnx.reseed(net, default=jax.random.key(seed))
        drawn.append(call(net, x, jnp.full(2, 0.1)))
    assert float(jnp.abs(drawn[0] - drawn[1]).max()) > 1e-3


@pytest.mark.parametrize(("config", "shape"), [(SMALL, (6, 6, 1)), (sd.MLPConfig(width=16), (3,))], ids=["unet", "mlp"])
def test_labels_act_on_their_own_example(config, shape, unchecked):
    net = perturbed(dataclasses.replace(config, num_classes=3).build(shape, rngs=nnx.Rngs(0)))
    net.eval()
    x, t = jnp.ones((3, *shape)), jnp.full(3, 0.5)
    out = call(net, x, t, jnp.asarray([0, 1, 0]))
    np.testing.assert_allclose(out[0], out[2], rtol=1e-5, atol=1e-6)
    assert float(jnp.abs(out[0] - out[1]).max()) > 1e-4
    assert float(jnp.abs(call(net, x, t)[0] - out[0]).max()) > 1e-4  # no label is its own embedding
    with pytest.raises(ValueError, match="integer label per example"):
        net(x, t, jnp.ones((3, 3)))  # checked before anything is computed
    plain = config.build(shape, rngs=nnx.Rngs(0))
    with pytest.raises(ValueError, match="num_classes"):
        plain(x, t, jnp.asarray([0, 1, 0]))


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: sd.UNetConfig().build((8, 8), rngs=nnx.Rngs(0)), "height, width, channels"),
        (lambda: sd.MLPConfig().build((8, 8), rngs=nnx.Rngs(0)), "takes vectors"),
        (lambda: sd.UNetConfig(channels=10), "multiple of 4"),
        (lambda: sd.UNetConfig(attention_levels=(2,)), "levels are 0"),
        (lambda: sd.UNetConfig(dropout=1.0), "dropout"),
        (lambda: sd.UNetConfig(num_heads=3), "do not divide"),
        (lambda: sd.MLPConfig(depth=0), "depth"),
    ],
)
def test_bad_settings_are_refused_with_the_reason(call, message, unchecked):
    with pytest.raises(ValueError, match=message):
        call()
