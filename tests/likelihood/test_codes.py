"""Codes: there and back, the exact map on Gaussian data, and what lies between two."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from gaussian import gaussian_score

import scoresde as sd

KEY = jax.random.key(0)


def test_decode_brings_back_what_was_encoded(long_sde, mixture):
    """From a float32 process: within 1e-5 in the way that the docstring gives, by default 3e-3."""
    sde = long_sde
    x0 = mixture.sample(KEY, 20)
    score = mixture.score(sde)
    for finer, within in (({"float64": True, "rtol": 1e-9, "atol": 1e-9}, 1e-5), ({}, 3e-3)):
        code = sd.encode(sde, score, x0, **finer)
        back = sd.decode(sde, score, code.x, **finer)
        assert bool(code.success.all())
        assert back.x.dtype == (jnp.float64 if finer else jnp.float32)
        np.testing.assert_allclose(back.x, x0, atol=within)


@pytest.mark.usefixtures("unchecked")
def test_a_network_brings_back_what_was_encoded():
    """One of random weights, which float32 alone does not find again."""
    net = sd.MLPConfig(width=32, depth=2).build((6,), rngs=nnx.Rngs(0))
    net.output.kernel[...] = 0.3 * jax.random.normal(KEY, net.output.kernel.shape)
    sde = sd.VE()
    finer = {"rtol": 1e-9, "atol": 1e-9}
    model = sd.ScoreModel(sde, net, sd.EDM(0.6))
    x0 = jax.random.uniform(KEY, (4, 6), minval=-1.0)
    back = sd.decode(
        sde, model, sd.encode(sde, model, x0, float64=True, **finer).x, float64=True, **finer
    )
    np.testing.assert_allclose(back.x, x0, atol=1e-5)


def test_the_code_is_the_exact_one_on_gaussian_data(long_sde, x64):
    """x_1 = alpha_1 m + (x_t - alpha_t m) sqrt(total(1) / total(t)): the code, and the latent."""
    m = 0.7
    v = 0.25
    t_min = 1e-3
    score = gaussian_score(long_sde, 0.7, 0.25)
    x0 = m + 0.5 * jax.random.normal(KEY, (6, 2))
    alpha = long_sde.alpha(jnp.asarray([t_min, 1.0]))
    sigma2 = long_sde.variance(jnp.asarray([t_min, 1.0]))
    total = alpha**2 * v + sigma2
    want = alpha[1] * m + (x0 - alpha[0] * m) * jnp.sqrt(total[1] / total[0])
    code = sd.encode(long_sde, score, x0, t_min=t_min, rtol=1e-9, atol=1e-9, batch_size=4)
    np.testing.assert_allclose(code.x, want, atol=1e-6 * float(long_sde.prior_std()))
    likelihood = sd.log_likelihood(KEY, long_sde, score, x0, t_min=t_min, rtol=1e-9, atol=1e-9)
    np.testing.assert_allclose(likelihood.latent, code.x, atol=1e-6 * float(long_sde.prior_std()))
    warm = sd.decode(
        long_sde,
        score,
        0.5 * code.x,
        t_min=t_min,
        rtol=1e-9,
        atol=1e-9,
        batch_size=4,
        temperature=2.0,
    )
    np.testing.assert_allclose(warm.x, x0, atol=1e-6 * float(long_sde.prior_std()))
    assert np.mean(code.nfe) < 1.2 * np.mean(likelihood.nfe)


@pytest.mark.usefixtures("unchecked")
def test_interpolation_keeps_the_length_and_turns_evenly():
    a = jnp.asarray([[3.0, 0.0], [1.0, 1.0]])
    b = jnp.asarray([[0.0, 3.0], [1.0, 1.0]])
    way = sd.interpolate(a, b, 7)
    assert way.shape == (2, 7, 2)
    np.testing.assert_allclose(jnp.linalg.norm(way[0], axis=1), 3.0, rtol=1e-5)
    np.testing.assert_allclose(
        jnp.arctan2(way[0, :, 1], way[0, :, 0]), np.linspace(0, np.pi / 2, 7), atol=1e-5
    )
    np.testing.assert_allclose(way[1], 1.0, rtol=1e-6)  # a point and itself
    with pytest.raises(ValueError, match="of one shape"):
        sd.interpolate(a, b[:1], 3)
    with pytest.raises(ValueError, match="num"):
        sd.interpolate(a, b, 1)
    with pytest.raises(ValueError, match="row 1: a and b point in opposite directions"):
        sd.interpolate(a, b.at[1].set(-2.0), 3)


def test_conditions_and_failures_stay_with_their_examples(mixture):
    sde = sd.VP()
    exact = mixture.score(sd.VP())

    def score(x, t, cond):
        return jnp.where(cond[:, None] > 0, jnp.nan, exact(x, t))

    x0 = mixture.sample(KEY, 5)
    bad = jnp.zeros(5).at[3].set(1.0)
    with pytest.warns(
        UserWarning, match=r"1 of 5 flows did not reach their end, rows 3: .* a larger max_steps"
    ):
        code = sd.encode(sde, score, x0, bad)
    with pytest.warns(UserWarning, match=r"5 of 5 flows"):
        assert not bool(sd.encode(sde, exact, x0, max_steps=5).success.any())
    np.testing.assert_array_equal(code.success, bad == 0)
    assert bool(jnp.isnan(code.x[3]).all())
    with pytest.raises(ValueError, match="infinite log SNR"):
        sd.encode(sde, exact, x0, t_min=0.0)


@pytest.mark.usefixtures("unchecked")
def test_codes_are_real_numbers():
    with pytest.raises(TypeError, match="x1 has dtype int32"):
        sd.decode(sd.VP(), lambda x, t: -x, jnp.ones((2, 3), jnp.int32))
