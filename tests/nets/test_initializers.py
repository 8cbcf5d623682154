"""How weights start: our initialisers draw from the laws of Flax's."""

import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from scoresde.nets.initializers import fan_average, lecun_normal


@pytest.mark.parametrize("shape", [(3, 3, 128, 64), (1000, 50), (3, 7)])
def test_lecun_normal_is_that_of_flax(shape):
    ours = lecun_normal(jax.random.key(0), shape)
    theirs = nnx.initializers.lecun_normal()(jax.random.key(0), shape)
    assert ours.shape == theirs.shape and ours.dtype == theirs.dtype

    grid = np.linspace(-2.2, 2.2, 12) / math.sqrt(math.prod(shape[:-1]))
    below = [
        np.searchsorted(np.sort(np.ravel(draws)), grid) / ours.size for draws in (ours, theirs)
    ]
    five_standard_errors = 2.5 / math.sqrt(ours.size)  # of a difference at a half
    np.testing.assert_allclose(*below, atol=five_standard_errors)

    assert len(np.unique(ours)) > 0.9 * ours.size


@pytest.mark.parametrize("shape", [(3, 3, 128, 64), (512, 50)])
def test_weights_start_uniform_by_the_mean_of_the_fans(shape):
    """The law of `variance_scaling(scale, "fan_avg", "uniform")`: its limit and its moments."""
    fans = math.prod(shape[:-2]) * (shape[-2] + shape[-1])
    for scale in (1.0, 1e-10):
        z = np.ravel(fan_average(scale)(jax.random.key(0), shape)) / math.sqrt(6.0 * scale / fans)
        assert 0.999 < np.abs(z).max() <= 1.0 + 1e-6
        assert abs(z.mean()) < 5 / math.sqrt(3 * z.size)
        assert abs(z.std() - 1 / math.sqrt(3)) < 5 / math.sqrt(z.size)
        assert len(np.unique(z)) > 0.9 * z.size

    flax = jax.nn.initializers.variance_scaling(1.0, "fan_avg", "uniform")
    theirs = flax(jax.random.key(1), shape)
    assert float(jnp.abs(theirs).max()) == pytest.approx(math.sqrt(6.0 / fans), rel=1e-3)
