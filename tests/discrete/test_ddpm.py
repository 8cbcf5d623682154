"""DDPM's tables and step are the papers', and lead back to an SDE."""

import math
import re
import warnings

import jax
import jax.numpy as jnp
import numpy as np
import papers
import pytest
from categorical import Categorical, hump

import scoresde as sd
from scoresde.sde.vp import TabulatedVP

# --- Tables ---


def test_ddpms_tables_are_the_papers():
    ddpm = sd.DDPM.from_sde(sd.VP(), 1000)
    np.testing.assert_allclose(ddpm.betas, papers.linear_betas(1000), rtol=1e-6)
    np.testing.assert_allclose(ddpm.betas, sd.DDPM.linear().betas, rtol=1e-6)
    assert ddpm.betas.dtype == np.float64
    betas = ddpm.betas.astype(np.longdouble)
    alphas_bar, _ = papers.ddpm_alphas_bar(betas)
    np.testing.assert_allclose(ddpm.alphas_bar, alphas_bar, rtol=1e-12)
    np.testing.assert_allclose(ddpm.marginal_variances, 1 - alphas_bar, rtol=1e-12)
    want = papers.ddpm_posterior_variances(betas)
    np.testing.assert_allclose(ddpm.posterior_variances, want, rtol=1e-11, atol=0)
    assert ddpm.posterior_variances[0] == 0.0
    with pytest.raises(ValueError, match="read-only"):
        ddpm.betas[0] = 1.0


def test_the_cosine_table_keeps_its_cap():
    """alphas_bar halfway is the published cosine, and only the last betas are cut."""
    ddpm = sd.DDPM.cosine(1000)
    np.testing.assert_allclose(ddpm.alphas_bar[499], papers.cosine_alpha_bar(0.5), rtol=1e-9)
    assert ddpm.betas[-1] == 0.999
    assert ddpm.betas[-2] < 0.999


# --- Its step ---


def some_indices(chain):
    return np.array([0, chain.num_steps // 2, chain.num_steps - 1])


def test_ddpms_step_is_the_papers(x64):
    """At the first, the middle and the last index."""
    rng = np.random.default_rng(1)
    ddpm = sd.DDPM.from_sde(sd.VP(), 300)
    x, noise = rng.normal(size=(2, 4, 3))
    alphas_bar, _ = papers.ddpm_alphas_bar(ddpm.betas)
    posterior = papers.ddpm_posterior_variances(ddpm.betas)
    for i in some_indices(ddpm):
        for variance, want in (("beta", ddpm.betas[i] * (i > 0)), ("posterior", posterior[i])):
            mean, std = ddpm.ancestral(jnp.asarray(x), jnp.asarray(noise), int(i), variance)
            np.testing.assert_allclose(mean, papers.ddpm_mean(x, noise, ddpm.betas, i), atol=1e-12)
            np.testing.assert_allclose(std, np.sqrt(want), atol=1e-12)

        # The same mean is the posterior's at the estimate of x_0 (Ho et al. 2020, Eq. 9 to 11).
        bar = alphas_bar[i]
        x0 = (x - np.sqrt(1 - bar) * noise) / np.sqrt(bar)
        np.testing.assert_allclose(
            mean, ddpm.posterior(jnp.asarray(x), jnp.asarray(x0), int(i))[0], atol=1e-9
        )


# --- Its SDE ---


@pytest.mark.parametrize("exact", [False, True])
def test_ddpm_leads_back_to_its_sde(exact):
    """The limit has the SDE's settings.

    The exact one has the chain's marginals at (i + 1) / N, its transitions, and the way back to t.
    """
    sde = sd.VP(beta_min=0.2, beta_max=15.0)
    ddpm = sd.DDPM.from_sde(sde, 100, exact=exact)
    if not exact:
        back = ddpm.to_sde()
        assert isinstance(back, sd.VP)
        assert (float(back.beta_min), float(back.beta_max)) == pytest.approx((0.2, 15.0), rel=1e-6)
    with jax.enable_x64(True):
        back = ddpm.to_sde(exact=True)
        assert isinstance(back, TabulatedVP)
        t = jnp.asarray(back.level_times(100))
        alpha, variance, (c, std), same = jax.jit(
            lambda t: (
                back.alpha(t),
                back.variance(t),
                back.transition(t[:-1], t[1:]),
                back.time_from_log_snr(back.log_snr(t)),
            )
        )(t)
        np.testing.assert_allclose(alpha, ddpm.signal, rtol=1e-12)
        np.testing.assert_allclose(variance, ddpm.marginal_variances, rtol=1e-12)
        if exact:
            integral = t * (0.2 + 0.5 * t * (15.0 - 0.2))
            np.testing.assert_allclose(alpha, np.exp(-0.5 * integral), rtol=1e-12)
            np.testing.assert_allclose(ddpm.betas[1:], -np.expm1(-np.diff(integral)), rtol=1e-12)
        np.testing.assert_allclose(c, np.sqrt(ddpm.alphas[1:]), rtol=1e-12)
        np.testing.assert_allclose(std, np.sqrt(ddpm.betas[1:]), rtol=1e-11)
        np.testing.assert_allclose(same, t, rtol=1e-9)


def test_stored_and_falling_tables_lead_to_an_sde():
    """A linear table rounded to float32 is VP still; no VP has rates that fall."""
    back = sd.DDPM(sd.DDPM.linear().betas.astype(np.float32)).to_sde()
    assert (float(back.beta_min), float(back.beta_max)) == pytest.approx((0.1, 20.0), rel=1e-6)
    table = sd.DDPM.linear(100, 0.02, 1e-4).to_sde()
    assert isinstance(table, TabulatedVP)
    assert str(table) == "TabulatedVP of 100 steps"  # in messages, without a hundred numbers

    names = []
    jax.jit(lambda traced: names.append(str(traced)))(table)
    assert names == [str(table)]


def slopes(errors):
    """log2 of successive ratios: 1 for first order when the steps double."""
    return np.log2(np.array(errors[:-1]) / errors[1:])


def test_discrete_marginals_tend_to_the_sdes():
    """max_i |alphas_bar_i - alpha(t_i)^2| halves as the steps double."""
    errors = []
    for n in (200, 400, 800, 1600):
        ddpm = sd.DDPM.from_sde(sd.VP(), n)
        with jax.enable_x64(True):
            alpha = np.asarray(sd.VP().alpha(jnp.asarray(np.arange(1, n + 1) / n)))
        errors.append(np.max(np.abs(ddpm.alphas_bar - alpha**2)))
    np.testing.assert_allclose(slopes(errors), 1.0, atol=0.1)


def test_a_table_without_terminal_signal_is_told_what_helps():
    """Lin et al. 2024 (arXiv:2305.08891), Alg. 1: sqrt(alphas_bar) shifted to end at 0."""
    betas = np.linspace(0.00085**0.5, 0.012**0.5, 1000) ** 2
    signal = np.sqrt(np.cumprod(1.0 - betas))
    signal = (signal - signal[-1]) * signal[0] / (signal[0] - signal[-1])
    betas = 1.0 - np.concatenate([signal[:1], signal[1:] / signal[:-1]]) ** 2
    assert betas[-1] == 1.0

    with pytest.raises(ValueError, match="terminal SNR of zero") as caught:
        sd.DDPM(betas)
    line = re.search(r"DDPM\(np\..*0\.999\)\)", str(caught.value))[0]
    chain = eval(line, {"DDPM": sd.DDPM, "np": np, "betas": betas})
    np.testing.assert_array_equal(chain.betas[:-1], betas[:-1])


# --- Schedules with noise at t = 0, and the bound ---


@pytest.mark.parametrize("num_steps", [2, 10, 300])
def test_a_learnt_schedule_keeps_its_marginals(num_steps):
    """The first step of the chain adds the noise of t = 0."""
    sde = sd.LearntVP(sd.MonotoneGamma(-8.0, 5.0, hidden=8))
    ddpm = sd.DDPM.from_sde(sde, num_steps)
    times = np.arange(num_steps) / (num_steps - 1)
    with jax.enable_x64(True):
        np.testing.assert_allclose(ddpm.alphas_bar, np.asarray(sde.alpha(times)) ** 2, rtol=1e-12)


@pytest.mark.parametrize("variance", ["posterior", "beta"])
def test_the_terms_of_the_bound_are_divergences_of_the_chain(variance, x64):
    """Each L_i is the KL divergence of `posterior` from `ancestral`, and L_0 an integral."""
    ddpm = sd.DDPM.linear(6, 0.02, 0.4)
    k = np.array([[0, 3], [4, 2]])
    x0 = -1.0 + 2.0 * (k + 0.5) / 5
    keys = jax.vmap(lambda i: jax.random.fold_in(jax.random.key(0), i))(jnp.arange(2))

    def network(x, i):
        return 0.3 * x + 0.1 * i[:, None]

    out = ddpm.bound(jax.random.key(0), network, k, 5, variance)

    def state(i):
        noise = [jax.random.normal(jax.random.fold_in(key, i), (2,)) for key in keys]
        mean, std = ddpm.marginal(jnp.asarray(x0), i)
        return mean + std[:, None] * jnp.stack(noise)

    for i in range(1, 6):
        x = state(i)
        mean, std = ddpm.posterior(x, jnp.asarray(x0), i)
        other, other_std = ddpm.ancestral(x, network(x, jnp.full(2, i)), i, variance)
        ratio = (std / other_std) ** 2
        squares = jnp.sum((mean - other) ** 2, axis=1) / other_std**2
        kl = 0.5 * (squares + 2.0 * (ratio - 1.0 - jnp.log(ratio)))
        np.testing.assert_allclose(out.steps[i - 1], kl, rtol=1e-9)

    # L_0: the Gaussian of variance beta_0 around the estimate of x0, between the edges of bins.
    x = state(0)
    mean, _ = ddpm.ancestral(x, network(x, jnp.zeros(2, int)), 0)
    edges = np.array([-np.inf, -0.6, -0.2, 0.2, 0.6, np.inf])
    cdf = np.vectorize(lambda z: 0.5 * (1.0 + math.erf(z / math.sqrt(2.0))))
    std = math.sqrt(ddpm.betas[0])
    upper, lower = (cdf((edges[k + j] - np.asarray(mean)) / std) for j in (1, 0))
    np.testing.assert_allclose(out.decoder, -np.sum(np.log(upper - lower), axis=1), rtol=1e-9)

    mean, std = ddpm.marginal(jnp.asarray(x0), 5)
    kl = 0.5 * jnp.sum(mean**2 + std[:, None] ** 2 - 1.0 - 2.0 * jnp.log(std)[:, None], axis=1)
    np.testing.assert_allclose(out.prior, kl, rtol=1e-9)
    np.testing.assert_allclose(out.nll, out.prior + out.steps.sum(axis=0) + out.decoder)


def test_the_bound_is_that_of_the_sde_in_steps(unchecked):
    """Prior and steps are those of `sd.elbo`, 5 standard errors; the decoder's tails are finite."""
    sde = sd.LearntVP(sd.LinearGamma(-7.0, 6.0))
    law = Categorical(hump(), sde)
    k = law.sample(0, 2000)
    ddpm = sd.DDPM.from_sde(sde, 51)
    network = ddpm.noise(sde, law.mixture().score(sde))
    ours = ddpm.bound(jax.random.key(0), network, k, 17)
    theirs = sd.elbo(jax.random.key(1), law, k, 17, num_steps=50, num_draws=50)
    np.testing.assert_allclose(ours.prior, theirs.prior, rtol=1e-3)
    difference = np.asarray(ours.steps.sum(axis=0) - theirs.diffusion)
    assert abs(difference.mean()) < 5.0 * difference.std(ddof=1) / math.sqrt(2000)
    assert ours.nll.mean() > law.entropy

    far = ddpm.bound(jax.random.key(0), lambda x, i: 100.0 * jnp.ones_like(x), k[:4], 17)
    assert np.all(np.isfinite(far.decoder))
    with pytest.raises(ValueError, match="variance is 'fixed'"):
        ddpm.bound(jax.random.key(0), network, k, 17, "fixed")
    with pytest.raises(ValueError, match="wanted whole numbers 0 … 15"):
        ddpm.bound(jax.random.key(0), network, k, 16)


def test_a_bound_that_failed_is_named(unchecked):
    """Where the network returns NaN for one example at one level."""
    ddpm = sd.DDPM.linear(4, 0.1, 0.4)
    k = np.array([[0, 3], [4, 2], [1, 1]])

    def network(x, i):
        wrong = (i[:, None] == 2) & (jnp.arange(3)[:, None] == 1)
        return jnp.where(wrong, jnp.nan, x)

    message = "1 of 3 bounds did not reach a number, rows 1: .* Look for NaN in the network."
    with pytest.warns(UserWarning, match=message):
        out = ddpm.bound(jax.random.key(0), network, k, 5)
    np.testing.assert_array_equal(out.success, [True, False, True])
    np.testing.assert_array_equal(np.isnan(out.nll), ~np.asarray(out.success))

    with warnings.catch_warnings(action="error"):
        jax.eval_shape(lambda key: ddpm.bound(key, network, k, 5), jax.random.key(0))
