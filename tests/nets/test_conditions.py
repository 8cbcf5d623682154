"""Labels and vectors condition every network, each example its own, and "none" is apart."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

import scoresde as sd
from scoresde.nets.conditions import Conditions

SMALL = {"channels": 4, "num_blocks": 1, "multipliers": (1,)}
NETS = {
    "mlp": (sd.MLPConfig(width=16, depth=1), (3,)),
    "unet": (sd.UNetConfig(**SMALL, attention_levels=(), num_heads=1), (4, 1)),
    "ncsnpp": (sd.NCSNppConfig(**SMALL, attention=(), scale_by_sigma=False), (4, 4, 1)),
    "dit": (sd.DiTConfig(width=8, depth=1, num_heads=2), (4, 4, 1)),
}
BOTH = {"digit": np.array([0, 2, 1, 0]), "mask": np.ones((4, 2), np.float32)}


def perturbed(net):
    """The network with all of its weights moved, because its last layers start at zero."""
    rngs = np.random.default_rng(0)
    params = nnx.state(net, nnx.Param)
    nnx.update(net, jax.tree.map(lambda a: a + 0.2 * rngs.normal(size=a.shape), params))
    return net


@pytest.mark.parametrize("name", NETS)
def test_a_pytree_of_labels_and_vectors_conditions_every_network(name):
    config, shape = NETS[name]
    net = dataclasses.replace(config, num_classes=3, cond_dim=2)
    net = perturbed(net.build(shape, rngs=nnx.Rngs(0)))
    call = nnx.jit(lambda net, *arguments: net(*arguments))
    x = jnp.ones((4, *shape))
    t = jnp.full(4, 0.5)

    out = np.asarray(call(net, x, t, BOTH))
    np.testing.assert_allclose(out[0], out[3], rtol=1e-5, atol=1e-6)  # the same condition
    assert np.abs(out[0] - out[1]).max() > 1e-4  # another label
    other = BOTH | {"mask": BOTH["mask"] * np.array([[1.0], [1.0], [1.0], [-1.0]], np.float32)}
    changed = np.abs(np.asarray(call(net, x, t, other)) - out).reshape(4, -1).max(axis=1)
    assert changed[3] > 1e-4  # another vector
    assert changed[:3].max() < 1e-6

    # Without a condition, whatever its values: as if none had arrived.
    dropped = net.drop_cond(other, jnp.asarray([True, False, False, True]))
    without = np.asarray(call(net, x, t, dropped))
    none = np.asarray(call(net, x, t))
    np.testing.assert_allclose(without[[0, 3]], none[[0, 3]], rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(without[[1, 2]], out[[1, 2]], rtol=1e-5, atol=1e-6)
    assert np.abs(without[0] - out[0]).max() > 1e-4


def test_several_labels_have_a_table_each():
    config = sd.MLPConfig(width=16, depth=1, num_classes=(3, 2))
    net = perturbed(config.build((3,), rngs=nnx.Rngs(0)))
    x = jnp.ones((2, 3))
    t = jnp.full(2, 0.5)
    one = net(x, t, {"a": jnp.asarray([0, 1]), "b": jnp.asarray([1, 1])})
    two = net(x, t, {"a": jnp.asarray([0, 1]), "b": jnp.asarray([0, 1])})
    assert np.abs(one[0] - two[0]).max() > 1e-4
    np.testing.assert_allclose(one[1], two[1], rtol=1e-6)
    dropped = net.drop_cond({"a": jnp.asarray([0, 1]), "b": jnp.asarray([1, 1])}, jnp.ones(2, bool))
    np.testing.assert_array_equal(dropped["a"], [3, 3])
    np.testing.assert_array_equal(dropped["b"], [2, 2])


def test_the_embedding_is_the_printed_equation():
    """c = table[label] + V2 silu(V1 y + b1) + b2 (Eq. 1) is added to the embedding of the time."""
    config = sd.MLPConfig(width=8, depth=1, num_classes=2, cond_dim=3)
    time = perturbed(config.build((2,), rngs=nnx.Rngs(1))).time
    t = jnp.asarray([0.1, 0.7])
    label = jnp.asarray([1, 0])
    y = jnp.asarray(np.random.default_rng(0).normal(size=(2, 3)), jnp.float32)

    bare = time(t, None) - time.label.embedding[2] - time.vector.null[...]
    first, second = time.vector.dense1, time.vector.dense2
    hidden = jax.nn.silu(y @ first.kernel[...] + first.bias[...])
    exact = bare + time.label.embedding[...][label] + hidden @ second.kernel[...] + second.bias[...]
    np.testing.assert_allclose(time(t, (label, y)), exact, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize(
    ("conditions", "cond", "message"),
    [
        (Conditions((3,)), np.zeros(4), "wanted one integer label per example"),
        (Conditions((3,)), np.zeros((4, 3)), r"jnp.argmax\(cond, axis=-1\)"),
        (Conditions((3, 2)), np.zeros(4, int), r"wanted 2 labels, integers \(4,\) each"),
        (Conditions(cond_dim=2), np.zeros((4, 3), np.float32), "with cond_dim=3"),
        (Conditions(cond_dim=2), np.zeros((4, 2), int), r"cond.astype\(jnp.float32\)"),
        (Conditions(cond_dim=2), np.zeros((3, 2), np.float32), r"float32 \(3, 2\)"),
        (Conditions(), np.zeros(4, int), "unconditional network"),
        (Conditions((3,)), np.array([0, 1, 2, 4]), "cond holds 0 … 4: wanted labels 0 … 2"),
    ],
)
def test_conditions_that_do_not_fit_are_refused(conditions, cond, message):
    with pytest.raises(ValueError, match=message):
        conditions.check(cond, 4)


def test_the_label_after_the_last_means_none_but_not_in_training():
    Conditions((3,)).check(np.array([0, 3]), 2)
    with pytest.raises(ValueError, match="wanted labels 0 … 2"):
        Conditions((3,)).check(np.array([0, 3]), 2, none=False)


@pytest.mark.parametrize("change", [{"num_classes": 0}, {"num_classes": (3, 0)}, {"cond_dim": 0}])
def test_sizes_out_of_range_are_refused(change):
    with pytest.raises(ValueError, match="wanted a whole number"):
        sd.MLPConfig(**change)
