"""Both dequantisations, against numerical integration in one dimension."""

import itertools
import math
import warnings

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from scipy import integrate

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


def test_uniform_dequantization_bounds_the_entropy():
    """A density that is constant on each bin gives exactly the discrete bits.

    Any other gives more on average.
    """
    levels = 4
    p = np.array([0.4, 0.3, 0.2, 0.1])
    dequantize = sd.UniformDequantization(levels)
    k = jnp.asarray(np.random.default_rng(0).choice(levels, p=p, size=(20_000, 1)))
    x = dequantize(KEY, k)
    assert float(x.min()) >= -1.0
    assert float(x.max()) < 1.0
    np.testing.assert_array_equal(jnp.floor((x + 1.0) / 2.0 * levels).astype(int), k)

    own = p[np.asarray(k[:, 0])]
    step_density = np.log(own * levels / 2.0)
    bits = sd.bits_per_dim(jnp.asarray(step_density), 1, levels=levels)
    np.testing.assert_allclose(bits, -np.log2(own), rtol=1e-5)

    # Within a bin the noise is uniform, so E log q <= log of the bin's mass, here by integration.
    def q(x):
        return np.exp(-0.5 * x**2 / 0.3) / np.sqrt(2 * np.pi * 0.3)

    for i in range(levels):
        mass = integrate.quad(q, -1 + 2 * i / levels, -1 + 2 * (i + 1) / levels)[0]
        log_q = np.log(q(np.asarray(x[np.asarray(k[:, 0]) == i, 0])))
        bound = np.mean(log_q) + np.log(2 / levels)
        assert bound <= np.log(mass) + 5 * np.std(log_q) / np.sqrt(len(log_q))


def test_dequantization_depends_on_key_and_example_alone():
    dequantize = sd.UniformDequantization(17)
    k = jnp.arange(12).reshape(4, 3) % 17
    np.testing.assert_array_equal(dequantize(KEY, k)[:2], dequantize(KEY, k[:2]))


def test_unused_levels_are_reported(unchecked):
    """17 levels taken for 256: a warning for one batch, an error where all the data are known."""
    k = np.random.default_rng(0).integers(0, 17, (40, 16))
    with pytest.warns(UserWarning, match=r"k holds 0 … 16 of 256 levels: .* write levels=17"):
        sd.UniformDequantization()(KEY, jnp.asarray(k))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        full = jnp.asarray(k * 15 + 15, jnp.uint8)  # the highest is 255, and one more would be 0
        sd.UniformDequantization()(KEY, full)

    net = sd.MLPConfig(width=8, depth=1).build((16,), rngs=nnx.Rngs(0))
    model = sd.ScoreModel(sd.VP(), net, sd.EDM())
    for levels, message in (
        (256, r"data holds 0 … 16, few of the 256 levels .* write levels=17"),
        (16, "wanted whole numbers 0 … 15"),
    ):
        prepare = sd.UniformDequantization(levels)
        with pytest.raises(ValueError, match=message):
            sd.fit(KEY, model, k, validation=0, prepare=prepare, progress=False)
