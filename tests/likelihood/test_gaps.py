"""What a likelihood leaves out: exact for the mixture, and bounds of the right sign and size."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from gaussian import gaussian_score

import scoresde as sd
from scoresde.sde.mixture import ring

KEY = jax.random.key(0)


@pytest.mark.parametrize("any_sde", [sd.VP(), sd.VE()], ids=["vp", "ve"])
def test_with_the_law_known_the_gaps_close_exactly(any_sde, x64):
    """log_prob - prior - truncation is log p_0, in nats, to the solver's tolerance."""
    mixture = ring()
    x0 = mixture.sample(KEY, 12)
    t_min = 1e-3
    out = sd.log_likelihood(
        KEY,
        any_sde,
        mixture.score(any_sde),
        x0,
        divergence=sd.ExactDivergence(),
        rtol=1e-9,
        atol=1e-9,
        t_min=t_min,
    )
    found = sd.gaps(
        KEY, any_sde, mixture.score(any_sde), x0, out, log_prob=partial(mixture.log_prob, any_sde)
    )
    assert found.exact
    want = mixture.log_prob(any_sde, x0, 0.0)
    np.testing.assert_allclose(out.log_prob - found.prior - found.truncation, want, atol=1e-6)
    assert float(jnp.abs(found.truncation).max()) > 1e-5  # not nothing


def test_a_prior_of_ones_own_is_not_guessed_at(mixture):
    x = mixture.sample(KEY, 2)
    end = partial(mixture.log_prob, sd.VP(), t=1.0)
    out = sd.log_likelihood(KEY, sd.VP(), mixture.score(sd.VP()), x, prior_log_prob=end)
    with pytest.raises(ValueError, match="prior_log_prob="):
        sd.gaps(KEY, sd.VP(), mixture.score(sd.VP()), x, out)


def test_the_prior_is_bounded_by_what_x1_still_knows(any_sde):
    """On Gaussian data, KL(p_1 || pi) is below the mean of `prior_kl`; both are known."""
    m = 0.7
    v = 0.25
    n = 4000
    x0 = m + np.sqrt(v) * jax.random.normal(KEY, (n, 1))
    bound = any_sde.prior_kl(x0)
    a, s, p = (float(f) for f in (any_sde.alpha(1.0), any_sde.sigma(1.0), any_sde.prior_std()))
    total = a**2 * v + s**2
    kl = 0.5 * ((a * m) ** 2 / p**2 + total / p**2 - 1 - np.log(total / p**2))
    want = 0.5 * (a**2 * (m**2 + v) / p**2 + s**2 / p**2 - 1 - np.log(s**2 / p**2))
    assert float(bound.mean()) == pytest.approx(want, rel=5 * np.sqrt(2 / n) * 1.5, abs=1e-6)
    assert kl <= want + 1e-9


@pytest.mark.parametrize("any_sde", [sd.SubVP(), sd.VE()], ids=["subvp", "ve"])
def test_the_truncation_bound_is_below_log_p0_and_near_it(any_sde):
    """With an exact score, log_prob - truncation lies a little below log p_0 on average.

    On Gaussian data the last step has variance (sigma / alpha)^2, where the posterior has
    v sigma^2 / (alpha^2 v + sigma^2), nearly the same: they differ by less than 0.1 nats.
    """
    m = 0.3
    v = 0.25
    n = 2000
    t_min = 1e-3
    x0 = m + np.sqrt(v) * jax.random.normal(jax.random.key(1), (n, 2))
    score = gaussian_score(any_sde, m, v)
    out = sd.log_likelihood(KEY, any_sde, score, x0, divergence=sd.ExactDivergence(), t_min=t_min)
    found = sd.gaps(jax.random.key(2), any_sde, score, x0, out)
    assert not found.exact
    exact = np.asarray(-0.5 * jnp.sum((x0 - m) ** 2, axis=1) / v - np.log(2 * np.pi * v))
    gap = exact - np.asarray(out.log_prob - found.truncation)
    error = gap.std(ddof=1) / np.sqrt(n)
    prior = float(any_sde.prior_kl(x0).mean())
    assert -prior == pytest.approx(float(found.prior.mean()), rel=1e-5) and prior > 0
    assert gap.mean() > -4 * error - 2e-3
    assert gap.mean() < 0.1 + prior + 4 * error


def test_half_precision_data_have_the_gaps_of_the_same_numbers(mixture):
    """The noise at t_min is below bfloat16's spacing, so a draw of x_t must be wider."""
    sde = sd.VP()
    score = mixture.score(sde)
    narrow = mixture.sample(KEY, 200).astype(jnp.bfloat16)
    found = []
    for x0 in (narrow, narrow.astype(jnp.float32)):
        likelihood = sd.log_likelihood(KEY, sde, score, x0)
        found.append(sd.gaps(jax.random.key(1), sde, score, x0, likelihood))
    assert found[0].truncation.dtype == jnp.float32
    np.testing.assert_allclose(found[0].truncation, found[1].truncation, atol=1e-3)
    np.testing.assert_allclose(found[0].prior, found[1].prior, rtol=1e-5)


def test_chunks_have_the_gaps_of_the_whole(mixture):
    sde = sd.VP()
    x0 = mixture.sample(KEY, 5)
    score = mixture.score(sde)
    likelihood = sd.log_likelihood(KEY, sde, score, x0)
    whole = sd.gaps(jax.random.key(1), sde, score, x0, likelihood)
    cut = sd.gaps(jax.random.key(1), sde, score, x0, likelihood, batch_size=2)
    np.testing.assert_allclose(cut.truncation, whole.truncation, atol=1e-3)


def test_the_likelihood_must_be_that_of_x0(mixture, unchecked):
    x0 = mixture.sample(KEY, 3)
    score = mixture.score(sd.VP())
    likelihood = sd.log_likelihood(KEY, sd.VP(), score, x0, rtol=1e-2, atol=1e-2)
    with pytest.raises(ValueError, match="pass the x0 that it was computed for"):
        sd.gaps(KEY, sd.VP(), score, x0[:1], likelihood)
    with pytest.raises(ValueError, match="scalar"):
        sd.gaps(KEY, sd.VP(), score, jnp.asarray(1.0), likelihood)
