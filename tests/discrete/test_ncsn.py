"""NCSN's scales and step are the papers', and lead back to an SDE."""

import jax.numpy as jnp
import numpy as np
import papers
import pytest

import scoresde as sd


def test_ncsns_scales_are_geometric():
    ncsn = sd.NCSN.from_sde(sd.VE(sigma_min=0.01, sigma_max=50.0), 232)
    np.testing.assert_allclose(ncsn.sigmas, np.geomspace(0.01, 50.0, 232), rtol=1e-6)
    np.testing.assert_allclose(ncsn.sigmas, sd.NCSN.geometric(232, 0.01, 50.0).sigmas, rtol=1e-6)
    np.testing.assert_allclose(np.cumsum(ncsn.variances), ncsn.sigmas**2, rtol=1e-12)
    published = sd.NCSN.geometric().sigmas  # Song & Ermon 2019
    assert (len(published), published[0], published[-1]) == (10, 0.01, 1.0)


def some_indices(chain):
    return np.array([0, chain.num_steps // 2, chain.num_steps - 1])


def test_ncsns_step_is_the_papers(x64):
    """At the first, the middle and the last index."""
    rng = np.random.default_rng(2)
    ncsn = sd.NCSN.from_sde(sd.VE(), 40)
    x, score = rng.normal(size=(2, 4, 3))
    for i in some_indices(ncsn):
        noise = jnp.asarray(-ncsn.sigmas[i] * score)
        mean, std = ncsn.ancestral(jnp.asarray(x), noise, int(i))
        want_mean, want_std = papers.ncsn_step(x, score, ncsn.sigmas, i)
        np.testing.assert_allclose(mean, want_mean, rtol=1e-12)
        np.testing.assert_allclose(std, want_std, rtol=1e-12)


def test_ncsn_leads_back_to_its_sde():
    back = sd.NCSN.from_sde(sd.VE(0.02, 30.0), 50).to_sde()
    assert (float(back.sigma_min), float(back.sigma_max)) == pytest.approx((0.02, 30.0), rel=1e-6)
    with pytest.raises(ValueError, match="not geometric"):
        sd.NCSN(np.array([0.1, 0.2, 0.3])).to_sde()
    s = np.linspace(0.0, 1.0, 1000)  # up to 12 % off, by second differences below 1e-6
    with pytest.raises(ValueError, match="not geometric"):
        sd.NCSN(np.geomspace(0.01, 50.0, 1000) * np.exp(0.48 * s * (1.0 - s))).to_sde()
