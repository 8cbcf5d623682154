"""The transformer: a block against NumPy, patches and back, its start, training, its refusals."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

import scoresde as sd
from scoresde.nets.dit import image, patches, positions

TINY = sd.DiTConfig(width=16, depth=2, num_heads=2)
SHAPE = (4, 6, 1)


def perturbed(net, size=0.1):
    """The same network with every weight moved, so that its gates are open."""
    graph, params, rest = nnx.split(net, nnx.Param, ...)
    leaves, tree = jax.tree.flatten(params)
    rng = np.random.default_rng(1)
    moved = [jnp.asarray(np.asarray(p) + size * rng.normal(size=p.shape), p.dtype) for p in leaves]
    return nnx.merge(graph, jax.tree.unflatten(tree, moved), rest)


def test_patches_are_squares_in_reading_order():
    x = jnp.arange(2 * 4 * 6 * 3.0).reshape(2, 4, 6, 3)
    tokens = patches(x, 2)
    assert tokens.shape == (2, 6, 12)
    np.testing.assert_array_equal(tokens[1, 4].reshape(2, 2, 3), x[1, 2:4, 2:4])
    np.testing.assert_array_equal(image(tokens, 2, (4, 6, 3)), x)


def test_positions_tell_every_place():
    """All have the same norm, and the product of two depends on their distance alone."""
    where = positions(3, 5, 16).reshape(3, 5, 16)
    np.testing.assert_allclose(np.sum(where**2, axis=-1), 8.0)
    products = np.einsum("ijc,klc->ijkl", where, where)
    np.testing.assert_allclose(products[0, 1, 1, 3], products[1, 2, 2, 4])
    assert products.reshape(15, 15)[~np.eye(15, dtype=bool)].max() < 7.999


def test_it_starts_at_zero_with_every_block_the_identity():
    net = TINY.build(SHAPE, rngs=nnx.Rngs(0))
    h = jax.random.normal(jax.random.key(0), (2, 6, 16))
    e = jnp.ones((2, 16))
    np.testing.assert_array_equal(net.blocks[0](h, e), h)
    assert float(jnp.abs(perturbed(net).blocks[0](h, e) - h).max()) > 0.01

    x = jax.random.normal(jax.random.key(1), (2, *SHAPE))
    np.testing.assert_array_equal(jax.jit(lambda n: n(x, jnp.ones(2)))(net), 0.0)


def test_a_block_is_what_the_paper_draws(x64):
    """adaLN-Zero of Peebles & Xie 2023, Fig. 3, written out in NumPy, one head at a time."""
    block = perturbed(TINY.build(SHAPE, rngs=nnx.Rngs(0)), 0.3).blocks[1]
    rng = np.random.default_rng(0)
    h = rng.normal(size=(1, 6, 16))
    e = rng.normal(size=(1, 16))
    params = nnx.to_pure_dict(nnx.state(block, nnx.Param))
    p = jax.tree.map(lambda a: np.asarray(a, np.float64), params)

    def dense(name, a):
        return a @ p[name]["kernel"] + p[name]["bias"]

    def norm(a):
        return (a - a.mean(-1, keepdims=True)) / np.sqrt(a.var(-1, keepdims=True) + 1e-6)

    b1, s1, g1, b2, s2, g2 = np.split(dense("modulation", e), 6, axis=-1)

    # Attention, one head at a time
    qkv = dense("qkv", (1 + s1) * norm(h[0]) + b1)
    heads = []
    for i in range(2):
        q, k, v = (qkv[:, 16 * j + 8 * i : 16 * j + 8 * i + 8] for j in range(3))
        weights = np.exp(q @ k.T / np.sqrt(8.0))
        heads.append(weights / weights.sum(-1, keepdims=True) @ v)
    a = h[0] + g1 * dense("attended", np.concatenate(heads, -1))

    # The perceptron
    inner = dense("dense1", (1 + s2) * norm(a) + b2)
    gelu = 0.5 * inner * (1 + np.tanh(np.sqrt(2 / np.pi) * (inner + 0.044715 * inner**3)))
    expected = a + g2 * dense("dense2", gelu)

    out = block(jnp.asarray(h), jnp.asarray(e))[0]
    np.testing.assert_allclose(out, expected, rtol=1e-12, atol=1e-12)


@pytest.mark.slow
def test_a_trained_one_knows_more_than_its_start(tmp_path):
    """Images are one of two constants, and a network at its start has loss 1, that of the noise."""
    labels = np.arange(256, dtype=np.int32) % 2
    constants = np.where(labels, 0.5, -0.5)[:, None, None, None]
    data = constants * np.ones((1, 4, 4, 1), np.float32)
    net = dataclasses.replace(TINY, dropout=0.1, num_classes=2).build((4, 4, 1), rngs=nnx.Rngs(0))
    training = sd.Training(
        steps=150, batch_size=64, learning_rate=3e-3, validate_every=150, log_every=50
    )
    model = sd.ScoreModel(sd.VP(), net, sd.Noise())
    fit = sd.fit(
        jax.random.key(0),
        model,
        data,
        cond=labels,
        training=training,
        run=tmp_path / "run",
        progress=False,
    )
    assert fit.history[-1]["valid_loss"] < 0.5

    # The run's folder brings the network back.
    loaded = sd.load(tmp_path / "run")
    assert loaded.net.config == net.config
    x = jax.random.normal(jax.random.key(1), (2, 4, 4, 1))
    classes = jnp.asarray([0, 1])
    score = jax.jit(lambda m: m(x, 0.5, classes))
    np.testing.assert_allclose(score(loaded), score(fit.model), rtol=1e-5, atol=1e-6)

    # Each class has its own mean.
    means = jnp.mean(fit.model.denoise(jnp.zeros((2, 4, 4, 1)), 0.9, classes), axis=(1, 2, 3))
    assert float(means[0]) < 0.0 < float(means[1])


def test_remat_and_bfloat16():
    x = jax.random.normal(jax.random.key(0), (2, *SHAPE))
    t = jnp.asarray([0.2, 0.9])
    nets = [
        perturbed(dataclasses.replace(TINY, **change).build(SHAPE, rngs=nnx.Rngs(0)))
        for change in ({}, {"remat": True}, {"dtype": "bfloat16"})
    ]

    slope = jax.jit(lambda n: jax.grad(lambda x: jnp.sum(n(x, t) ** 2))(x))
    plain, remat, coarse = (slope(net) for net in nets)
    scale = float(jnp.abs(plain).max())

    np.testing.assert_allclose(remat, plain, atol=1e-5 * scale)
    assert 1e-4 < float(jnp.abs(coarse - plain).max()) / scale < 0.1
    assert coarse.dtype == jnp.float32
    params = jax.tree.leaves(nnx.state(nets[2], nnx.Param))
    assert {leaf.dtype for leaf in params} == {jnp.dtype(jnp.float32)}


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: sd.DiTConfig().build((7, 8, 1), rngs=nnx.Rngs(0)), "multiples of patch = 2"),
        (lambda: sd.DiTConfig().build((8, 1), rngs=nnx.Rngs(0)), "takes images"),
        (lambda: sd.DiTConfig(width=20, num_heads=3), "divides into num_heads = 3"),
        (lambda: sd.DiTConfig(dtype="half"), "dtype = 'half'"),
        (
            lambda: TINY.build(SHAPE, rngs=nnx.Rngs(0))(jnp.ones((1, 6, 4, 1)), jnp.ones(1)),
            r"build\(\(6, 4, 1\)",
        ),
    ],
)
def test_bad_settings_are_refused_with_the_reason(call, message, unchecked):
    with pytest.raises(ValueError, match=message):
        call()
