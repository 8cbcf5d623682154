"""Distributions of training times, against SciPy and their closed forms."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from gaussian import exact_loss, gaussian_score
from scipy import stats

import scoresde as sd
from scoresde.sde.base import SDE

KEY = jax.random.key(0)


N = 40_000
D = 3
V = 0.25


# --- Uniform ---


@pytest.mark.parametrize("times", [sd.times.Uniform(1e-3), sd.times.LowDiscrepancy(1e-3)], ids=repr)
def test_uniform_times_are_uniform(times):
    draws = np.concatenate([times.sample(jax.random.key(i), sd.VP(), 64) for i in range(100)])
    assert draws.min() >= 1e-3
    assert draws.max() <= 1.0
    assert stats.kstest((draws - 1e-3) / (1 - 1e-3), "uniform").pvalue > 1e-3


def test_low_discrepancy_puts_one_time_in_each_nth():
    t = np.asarray(sd.times.LowDiscrepancy(1e-5).sample(KEY, sd.VP(), 50))
    np.testing.assert_array_equal(
        np.sort(((t - 1e-5) / (1 - 1e-5) * 50 - 1e-4).astype(int)), np.arange(50)
    )


def test_low_discrepancy_lowers_the_variance_of_the_mean_loss():
    sde = sd.VP()
    x0 = np.sqrt(V) * jax.random.normal(KEY, (64, D))
    score = gaussian_score(sde, 0.0, V)
    spread = []
    for times in (sd.times.Uniform(), sd.times.LowDiscrepancy()):
        mean = jax.jit(
            lambda k, times=times: exact_loss(D, sde, times.sample(k, sde, 64), V).mean()
        )
        spread.append(np.std([mean(jax.random.key(i)) for i in range(100)]))
    assert spread[1] < 0.2 * spread[0]
    assert bool(
        jnp.isfinite(
            sd.dsm_loss(KEY, sde, score, x0, sd.times.LowDiscrepancy().sample(KEY, sde, 64)).mean()
        )
    )


# --- In the noise level ---


def test_log_normal_times_have_log_normal_noise_levels(any_sde):
    """log(sigma / alpha) against SciPy's truncated normal between what the SDE spans."""
    times = sd.times.LogNormalSigma(mean=-1.2, std=1.2, t_min=1e-3)
    t = times.sample(KEY, any_sde, 5000)
    level = np.asarray(jnp.log(any_sde.sigma(t) / any_sde.alpha(t)), np.float64)
    low, high = (
        float(jnp.log(any_sde.sigma(s) / any_sde.alpha(s)) + 1.2) / 1.2 for s in (1e-3, 1.0)
    )
    assert stats.kstest(level, stats.truncnorm(low, high, loc=-1.2, scale=1.2).cdf).pvalue > 1e-3
    assert float(t.min()) >= 1e-3
    assert float(t.max()) <= 1.0


def test_log_snr_times_are_uniform_in_log_snr(any_sde):
    times = sd.times.LogSNR(1e-3).sample(KEY, any_sde, 1000)
    low, high = even_log_snr(any_sde, np.array([1.0, 1e-3]))
    u = np.sort((even_log_snr(any_sde, times) - low) / (high - low))
    np.testing.assert_allclose(u, (np.arange(1000) + 0.5) / 1000, atol=2e-3)


def even_log_snr(sde, t):
    """log SNR, or where it has no end log(1 + e^(log SNR + 10)), which goes over to e^(...)."""
    log_snr = np.asarray(sde.log_snr(jnp.asarray(t)), np.float64)
    return np.log1p(np.exp(log_snr + 10.0)) if sde.ends_in_noise else log_snr


@pytest.mark.parametrize(
    ("sde", "mass"), [(sd.VP(), 23.8645), (sd.SubVP(), 37.6789), (sd.VE(), 17.0342)]
)
def test_total_masses_are_those_of_reference(sde: SDE, mass, x64):
    times = sd.times.LogSNR(1e-5)
    assert float(times.total_mass(sde)) == pytest.approx(mass, abs=1e-4)
    grid = np.exp(np.linspace(np.log(1e-5), 0.0, 200_001))
    weight = np.asarray(sde.squared_diffusion(grid) / sde.variance(grid))
    assert np.trapezoid(weight * grid, np.log(grid)) == pytest.approx(mass, rel=1e-5)


def test_importance_sampled_and_uniform_time_estimate_one_loss(any_sde, mixture):
    """∫ g^2 |s - grad log q|^2 dt over [1e-2, 1], estimated in both ways, within 4 standard errors.

    Importance sampling varies less.
    """
    n = 20_000
    t_min = 1e-2
    score = mixture.score(any_sde)
    x0 = mixture.sample(jax.random.key(1), n)
    estimates = []
    for times, weighting, factor in (
        (
            sd.times.LogSNR(t_min),
            sd.weightings.Variance(),
            float(sd.times.LogSNR(t_min).total_mass(any_sde)),
        ),
        (sd.times.Uniform(t_min), sd.weightings.Likelihood(), 1.0 - t_min),
    ):
        t = jax.random.permutation(jax.random.key(2), times.sample(jax.random.key(3), any_sde, n))
        loss = factor * np.asarray(sd.dsm_loss(jax.random.key(4), any_sde, score, x0, t, weighting))
        estimates.append((loss.mean(), loss.std(ddof=1) / np.sqrt(n)))
    (a, ea), (b, eb) = estimates
    assert abs(a - b) < 4 * np.hypot(ea, eb)
    assert ea < 1.05 * eb


# --- Mixtures and levels ---


def test_a_mixture_of_times_has_its_shares():
    times = sd.times.Mixture(sd.times.Uniform(0.9), sd.times.Uniform(1e-5), share=0.25)
    t = np.asarray(times.sample(KEY, sd.VP(), 20_000))
    want = 0.25 + 0.75 * 0.1
    assert abs(np.mean(t > 0.9) - want) < 5 * np.sqrt(want * (1 - want) / 20_000)
    with pytest.raises(ValueError, match="share"):
        sd.times.Mixture(share=1.5)


def test_level_times_are_drawn_evenly():
    """Every level as often as any other, within 5 standard errors; nothing in between."""
    for sde, levels in ((sd.VP(), np.arange(1, 11) / 10), (sd.VE(), np.arange(10) / 9)):
        t = np.asarray(sd.times.Levels(10).sample(KEY, sde, 20_000))
        values, counts = np.unique(t, return_counts=True)
        np.testing.assert_allclose(values, levels, atol=1e-6)
        assert np.all(np.abs(counts - 2000) < 5 * np.sqrt(2000 * 0.9))
