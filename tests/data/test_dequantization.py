"""Both dequantisations, against numerical integration in one dimension."""

import itertools
import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import scoresde as sd

KEY = jax.random.key(0)
SDE = sd.VP()
T_MIN = 0.0055  # sigma is 0.03 there: for 16 levels on [-1, 1], tau = 2


def both(levels):
    return {
        "uniform": sd.UniformDequantization(levels=levels),
        "truncated normal": sd.TruncatedNormalDequantization(SDE, T_MIN, levels),
    }


@pytest.mark.parametrize(
    ("kind", "levels"), [*itertools.product(["uniform", "truncated normal"], [8, 16, 256])]
)
def test_draws_fill_the_bins_as_the_density_says(kind, levels, x64):
    """log_prob integrates to one over the bin, and the entropy is its integral.

    20 000 draws have its mean and spread.
    """
    dequantize = both(levels)[kind]
    k = 3
    scale = float(SDE.alpha(T_MIN)) if kind == "truncated normal" else 1.0
    ends = scale * (-1.0 + 2.0 * k / levels), scale * (-1.0 + 2.0 * (k + 1) / levels)
    centre = 0.5 * sum(ends)
    half = 0.5 * (ends[1] - ends[0])

    # The density, integrated over the bin.
    grid = np.linspace(-half, half, 4001)
    log_density = dequantize.log_prob(jnp.asarray(centre + grid)[:, None], jnp.full((4001, 1), k))
    values = np.exp(np.asarray(log_density))
    entropy = np.trapezoid(-values * np.log(values), grid)
    assert np.trapezoid(values, grid) == pytest.approx(1.0, abs=1e-5)
    assert entropy == pytest.approx(float(dequantize.entropy), abs=1e-5)

    # The draws.
    z = np.asarray(dequantize(KEY, jnp.full((20_000, 1), k)))[:, 0] - centre
    spread = math.sqrt(np.trapezoid(values * grid**2, grid))
    assert np.abs(z).max() <= half * (1.0 + 1e-6)
    assert abs(z.mean()) < 5 * spread / math.sqrt(20_000)
    assert abs(z.std() / spread - 1.0) < 5 / math.sqrt(2 * 20_000)

    outside = dequantize.log_prob(jnp.full((1, 1), centre + 3.0 * half), jnp.full((1, 1), k))
    assert kind == "uniform" or float(outside[0]) == -math.inf


@pytest.mark.parametrize("kind", ["uniform", "truncated normal"])
def test_known_integers_are_dequantised_inside_jit(kind):
    dequantize = both(16)[kind]
    k = jnp.arange(16)[:, None]
    draw = jax.jit(lambda key: dequantize(key, k))
    np.testing.assert_allclose(draw(KEY), dequantize(KEY, k), rtol=1e-5)

    above = k + 1
    with pytest.raises(ValueError, match="0 … 15"):
        jax.jit(lambda key: dequantize(key, above))(KEY)
