"""The perceptron; what it shares with the U-Net is asked in test_unet.py."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

import scoresde as sd


def test_an_mlp_reads_any_shape_as_a_vector():
    """The same weights on (2, 3, 1) and on the vector of its six entries."""
    config = sd.MLPConfig(width=8, depth=1)
    image = config.build((2, 3, 1), rngs=nnx.Rngs(0))
    vector = config.build((6,), rngs=nnx.Rngs(0))
    for net in (image, vector):
        net.output.kernel[...] = jnp.ones_like(net.output.kernel) * jnp.arange(6.0)

    x = jax.random.normal(jax.random.key(0), (4, 2, 3, 1))
    t = jnp.full(4, 0.3)
    np.testing.assert_allclose(image(x, t).reshape(4, 6), vector(x.reshape(4, 6), t), rtol=1e-6)

    with pytest.raises(ValueError, match=r"build\(\(3, 2, 1\)"):
        image(x.reshape(4, 3, 2, 1), t)
