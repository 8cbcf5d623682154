"""Attention against its formula, in the precision of its inputs."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

import scoresde as sd
from scoresde.nets.layers import dot_product_attention

KEY = jax.random.key(0)


def formula(query, key, value):
    """softmax(q k^T / sqrt(d)) v in NumPy, one example and one head at a time."""
    out = np.empty(query.shape)
    for i in range(query.shape[0]):
        for head in range(query.shape[2]):
            q, k, v = (np.asarray(a, np.float64)[i, :, head] for a in (query, key, value))
            weights = np.exp(q @ k.T / np.sqrt(q.shape[-1]))
            out[i, :, head] = weights / weights.sum(axis=-1, keepdims=True) @ v
    return out


@pytest.mark.parametrize(
    ("dtype", "tolerance"), [(jnp.float64, 1e-14), (jnp.float32, 1e-6), (jnp.bfloat16, 2e-2)]
)
def test_attention_has_the_precision_of_its_inputs(dtype, tolerance, x64):
    key_query, key_key, key_value = jax.random.split(KEY, 3)
    query = jax.random.normal(key_query, (2, 5, 3, 8), dtype)
    key = jax.random.normal(key_key, (2, 7, 3, 8), dtype)
    value = jax.random.normal(key_value, (2, 7, 3, 8), dtype)
    out = dot_product_attention(query, key, value)
    assert out.dtype == dtype
    np.testing.assert_allclose(
        np.asarray(out, np.float64), formula(query, key, value), atol=tolerance
    )


@pytest.mark.parametrize(
    "config",
    [
        sd.UNetConfig(channels=8, multipliers=(1,), num_blocks=1, attention_levels=(0,)),
        sd.NCSNppConfig(channels=8, multipliers=(1,), num_blocks=1, attention=(8,)),
        sd.DiTConfig(width=16, depth=1, num_heads=2),
    ],
    ids=["unet", "ncsnpp", "dit"],
)
def test_networks_with_attention_are_smooth_in_float64(config, x64):
    """Central differences at a distance of 1e-6 are the derivative within 1e-6 of its size.

    A float32 step anywhere is noise of 1e-7 in the output, and of 0.1 in such a difference.
    """
    net = config.build((8, 8, 1), rngs=nnx.Rngs(0))
    state = nnx.state(net, nnx.Param)
    leaves, tree = jax.tree.flatten(state)
    keys = jax.random.split(KEY, len(leaves))
    perturbed = [
        a + 0.1 * jax.random.normal(k, a.shape, a.dtype) for k, a in zip(keys, leaves, strict=True)
    ]
    nnx.update(net, jax.tree.unflatten(tree, perturbed))

    x = jax.random.normal(KEY, (1, 8, 8, 1), jnp.float64)
    t = jnp.full(1, 0.5)
    direction = jax.random.normal(jax.random.key(1), x.shape, jnp.float64)
    output = jax.jit(lambda x: net(x, t))
    value, slope = jax.jvp(output, (x,), (direction,))
    assert value.dtype == jnp.float64

    step = 1e-6
    difference = (output(x + step * direction) - output(x - step * direction)) / (2.0 * step)
    np.testing.assert_allclose(difference, slope, atol=1e-6 * float(jnp.abs(slope).max()))
