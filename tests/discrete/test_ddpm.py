"""DDPM's tables and step are the papers', and lead back to an SDE."""

import re

import jax
import jax.numpy as jnp
import numpy as np
import papers
import pytest

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
    assert isinstance(sd.DDPM.linear(100, 0.02, 1e-4).to_sde(), TabulatedVP)


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
