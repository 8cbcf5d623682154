"""Networks: any size, zero at the start, conditions that matter, dropout only in training."""

import dataclasses
import math
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

import scoresde as sd
from scoresde.nets.unet import with_fourier_features

SMALL = sd.UNetConfig(channels=4, multipliers=(1,), num_blocks=1, attention_levels=())
TWO_LEVELS = dataclasses.replace(SMALL, multipliers=(1, 2))

# Compiles in a third of the time.
jit = partial(jax.jit, compiler_options={"xla_backend_optimization_level": 0})
call = jit(lambda net, x, t, *cond: net(x, t, *cond))


def perturbed(net):
    """The same network with every weight moved a little, so that no path is zero."""
    graph, params, rest = nnx.split(net, nnx.Param, ...)
    leaves, tree = jax.tree.flatten(params)
    rng = np.random.default_rng(1)
    moved = [jnp.asarray(np.asarray(p) + 0.1 * rng.normal(size=p.shape), p.dtype) for p in leaves]
    return nnx.merge(graph, jax.tree.unflatten(tree, moved), rest)


@pytest.mark.parametrize("shape", [(7, 2), (9, 5, 1), (3, 2, 5, 1)])
def test_signals_images_and_volumes_of_any_size(shape):
    levels = (1, 1, 2) if shape == (9, 5, 1) else (1, 1)
    net = dataclasses.replace(TWO_LEVELS, multipliers=levels).build(shape, rngs=nnx.Rngs(0))
    x, t = jax.random.normal(jax.random.key(0), (2, *shape)), jnp.asarray([0.1, 0.9])

    @jit
    def last_entry(net):
        def of_first(x):
            out = net(x, t)
            return out[0].ravel()[-1], out

        return jax.grad(of_first, has_aux=True)(x)

    # The output starts at zero.
    np.testing.assert_array_equal(last_entry(net)[1], jnp.zeros((2, *shape)))

    # Every output entry depends on every input entry, the last one of an odd size included.
    slopes, out = last_entry(perturbed(net))
    assert slopes.shape == out.shape == x.shape
    assert float(jnp.abs(slopes[0]).min()) > 0.0
    assert float(jnp.abs(slopes[1]).max()) == 0.0  # and no example on another


def test_a_signal_is_an_image_of_height_one_and_a_volume_of_depth_one():
    signal = perturbed(TWO_LEVELS.build((5, 1), rngs=nnx.Rngs(0)))
    graph, params, rest = nnx.split(signal, nnx.Param, ...)
    x, t = jax.random.normal(jax.random.key(0), (2, 5, 1)), jnp.asarray([0.1, 0.9])
    expected = call(signal, x, t)
    assert float(jnp.abs(expected).max()) > 0.1

    def in_middle(p, like):
        """Around a size of one all is padding, so only the middle row of a kernel is seen."""
        whole = np.zeros(like.shape, like.dtype)
        whole[(1,) * (like.ndim - p.ndim)] = p
        return jnp.asarray(whole)

    for ones in ((1,), (1, 1)):
        graph, there, rest = nnx.split(
            TWO_LEVELS.build((*ones, 5, 1), rngs=nnx.Rngs(0)), nnx.Param, ...
        )
        net = nnx.merge(graph, jax.tree.map(in_middle, params, there), rest)
        out = call(net, x.reshape(2, *ones, 5, 1), t)
        np.testing.assert_allclose(out.reshape(expected.shape), expected, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(
    ("config", "shape"),
    [(SMALL, (4, 4, 1)), (sd.MLPConfig(width=128, depth=1), (3,))],
    ids=["unet", "mlp"],
)
def test_weights_start_as_their_initialisers_say(config, shape):
    config = dataclasses.replace(
        config, num_classes=9, **({"channels": 32} if config is SMALL else {})
    )
    build = lambda seed: config.build(shape, rngs=nnx.Rngs(seed))  # noqa: E731
    params = [nnx.to_pure_dict(nnx.state(build(seed), nnx.Param)) for seed in (0, 0, 1)]
    jax.tree.map(np.testing.assert_array_equal, *params[:2])
    seen = set()
    for (path, leaf), other in zip(
        jax.tree_util.tree_leaves_with_path(params[0]), jax.tree.leaves(params[2]), strict=True
    ):
        names = [entry.key for entry in path]
        last_of_its_branch = {"output", "conv2"} | ({"dense2"} if "blocks" in names else set())
        kind = "zero" if names[-2] in last_of_its_branch and names[-1] == "kernel" else names[-1]
        seen.add(kind)
        if kind in ("zero", "bias", "scale"):
            np.testing.assert_array_equal(leaf, float(kind == "scale"))
            continue
        assert float(jnp.abs(leaf - other).max()) > 0.0  # drawn from the key
        fan_in = leaf.shape[-1] if kind == "embedding" else math.prod(leaf.shape[:-1])

        # Standard normal; that of kernels is cut at two of its standard deviations.
        z = np.asarray(leaf) * math.sqrt(fan_in)
        assert abs(z.mean()) < 5.0 / math.sqrt(z.size)
        assert abs(z.std() - 1.0) < 5.0 / math.sqrt(2.0 * z.size)
        assert kind == "embedding" or np.abs(z).max() < 2.0 / 0.8796
    assert seen == {"zero", "bias", "scale", "kernel", "embedding"}


@pytest.mark.parametrize(
    ("config", "shape"), [(SMALL, (2, 3, 1)), (sd.MLPConfig(width=16), (3,))], ids=["unet", "mlp"]
)
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


@pytest.mark.parametrize(
    ("config", "shape"), [(SMALL, (2, 3, 1)), (sd.MLPConfig(width=16), (3,))], ids=["unet", "mlp"]
)
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
        (lambda: sd.UNetConfig().build((8,), rngs=nnx.Rngs(0)), "height, width, channels"),
        (lambda: sd.UNetConfig().build((2, 2, 2, 2, 1), rngs=nnx.Rngs(0)), "signals"),
        (
            lambda: SMALL.build((4, 1), rngs=nnx.Rngs(0))(jnp.ones((2, 4, 4, 1)), jnp.ones(2)),
            r"build\(\(4, 4, 1\)",
        ),
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


def test_fourier_features_are_further_channels():
    """sin and cos of 2^n pi x: a change of one bin in 16, small in x, is large in them."""
    x = jnp.asarray(np.linspace(-1.0, 1.0, 10).reshape(1, 5, 2))
    seen = with_fourier_features(x, (0, 3))
    assert seen.shape == (1, 5, 10)
    np.testing.assert_allclose(seen[..., :2], x)
    np.testing.assert_allclose(seen[..., 2:4], np.sin(np.pi * x), atol=1e-6)
    np.testing.assert_allclose(seen[..., 8:], np.cos(8.0 * np.pi * x), atol=1e-5)
    assert with_fourier_features(x, ()) is x

    net = sd.UNetConfig(channels=8, num_blocks=1, fourier_features=(2, 3))
    net = net.build((5, 2), rngs=nnx.Rngs(0))
    assert net(x, jnp.ones(1)).shape == x.shape
    assert net.input.kernel.shape[-2] == 10
