"""The loss against closed forms on Gaussian data, its weightings against one law, time distributions against SciPy."""

import warnings

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from gaussian import gaussian_score
from scipy import integrate, stats

import scoresde as sd

KEY = jax.random.key(0)
N, D, V = 40_000, 3, 0.25


def exact_loss(sde, t, v):
    """E |sigma s + noise|^2 for the exact score of N(0, v I): D alpha^2 v / (alpha^2 v + sigma^2)."""
    return D * sde.alpha(t) ** 2 * v / (sde.alpha(t) ** 2 * v + sde.variance(t))


@pytest.mark.parametrize(
    ("weighting", "factor"),
    [
        (sd.weightings.Variance(), lambda sde, t: 1.0),
        (sd.weightings.Likelihood(), lambda sde, t: sde.diffusion(t) ** 2 / sde.variance(t)),
        # Karras et al. 2022: (n^2 + sigma_d^2) / (n sigma_d)^2 on the denoiser's error, n = sigma/alpha.
        (
            sd.weightings.EDM(0.6),
            lambda sde, t: (lambda n: (n**2 + 0.36) / 0.36)(sde.sigma(t) / sde.alpha(t)),
        ),
    ],
    ids=["variance", "likelihood", "edm"],
)
def test_loss_of_the_exact_score_is_the_posterior_variance(any_sde, weighting, factor):
    x0 = np.sqrt(V) * jax.random.normal(KEY, (N, D))
    for t in (0.05, 0.5, 0.95):
        loss = sd.dsm_loss(
            jax.random.key(1),
            any_sde,
            gaussian_score(any_sde, 0.0, V),
            x0,
            jnp.full(N, t),
            weighting,
        )
        assert loss.shape == (N,)
        want = float(factor(any_sde, t) * exact_loss(any_sde, t, V))
        assert abs(float(loss.mean()) - want) < 5 * float(loss.std()) / np.sqrt(N)


def test_excess_loss_is_the_score_error(any_sde):
    """For a wrong score the loss exceeds the minimum by sigma^2 E|s - s*|^2: here s is off by a constant vector c."""
    x0, t, c = np.sqrt(V) * jax.random.normal(KEY, (N, D)), jnp.full(N, 0.4), 0.3
    exact = gaussian_score(any_sde, 0.0, V)
    right = sd.dsm_loss(jax.random.key(1), any_sde, exact, x0, t)
    sigma = float(any_sde.sigma(0.4))
    wrong = sd.dsm_loss(jax.random.key(1), any_sde, lambda x, t: exact(x, t) + c / sigma, x0, t)
    difference = np.asarray(wrong - right)
    assert abs(difference.mean() - D * c**2) < 5 * difference.std() / np.sqrt(N)


def test_likelihood_weighting_is_uniform_log_snr_with_the_plain_loss(sde):
    """One law: (1/2) ∫ g^2 |s - s*|^2 dt = (1/2) ∫ |eps error|^2 d gamma, by quadrature on the closed-form loss."""
    with jax.enable_x64(True):
        t_min = 1e-3
        plain = lambda t: float(exact_loss(sde, t, V))  # noqa: E731
        weight = lambda t: float(sd.weightings.Likelihood()(sde, jnp.asarray([t]))[0])  # noqa: E731
        in_time = integrate.quad(lambda t: weight(t) * plain(t), t_min, 1.0, limit=200)[0]
        ends = [-float(sde.log_snr(t)) for t in (t_min, 1.0)]
        in_log_snr = integrate.quad(
            lambda g: plain(float(sde.time_from_log_snr(-g))), *ends, limit=200
        )[0]
    assert in_time == pytest.approx(in_log_snr, rel=1e-6)


def test_noise_of_example_i_depends_on_key_and_i_alone(sde, mixture):
    x0, t = mixture.sample(KEY, 6), jnp.linspace(0.1, 0.9, 6)
    score = mixture.score(sde)
    whole = sd.dsm_loss(KEY, sde, score, x0, t)
    np.testing.assert_allclose(sd.dsm_loss(KEY, sde, score, x0[:4], t[:4]), whole[:4], rtol=1e-5)


def test_conditions_reach_the_score():
    sde, x0, label = sd.VP(), jnp.zeros((3, 2)), jnp.asarray([0.0, 1.0, 2.0])
    seen = []
    score = lambda x, t, cond: (seen.append(cond), x)[1]  # noqa: E731
    sd.dsm_loss(KEY, sde, score, x0, jnp.full(3, 0.5), cond=label)
    np.testing.assert_array_equal(seen[0], label)


# --- Times ---


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
        mean = jax.jit(lambda k, times=times: exact_loss(sde, times.sample(k, sde, 64), V).mean())
        spread.append(np.std([mean(jax.random.key(i)) for i in range(100)]))
    assert spread[1] < 0.2 * spread[0]
    assert bool(
        jnp.isfinite(
            sd.dsm_loss(KEY, sde, score, x0, sd.times.LowDiscrepancy().sample(KEY, sde, 64)).mean()
        )
    )


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


def loss(x0, t, score=lambda x, t: x, **options):
    return sd.dsm_loss(KEY, sd.VP(), score, x0, t, **options)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: loss(jnp.ones((4, 2)), jnp.asarray(0.5)), "jnp.full"),
        (lambda: loss(jnp.ones((4, 2)), jnp.full(4, 2.0)), r"\[0, 1\]"),
        (lambda: loss(jnp.ones((4, 2)), jnp.zeros(4)), "t holds 0"),
        (lambda: loss(jnp.ones((4, 2)), jnp.full(4, 0.5), cond=jnp.ones(3)), "cond"),
        (lambda: loss(jnp.ones((4, 2)), jnp.full(4, 0.5), lambda x, t: x[0]), "score returned"),
        (lambda: sd.times.Uniform(t_min=0.0), "t_min"),
        (lambda: sd.times.LogNormalSigma(std=0.0), "std"),
    ],
)
def test_bad_input_is_refused_with_the_reason(call, message, unchecked):
    with pytest.raises(ValueError, match=message):
        call()


def test_the_likelihood_weighting_is_not_counted_twice():
    """By the times and the weighting: 1e4 times the loss for VP, all of it next to t_min."""
    with pytest.warns(UserWarning, match="counts it twice"):
        sd.Training(times=sd.times.LogSNR(), weighting=sd.weightings.Likelihood())
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        sd.Training(times=sd.times.LogSNR())
        sd.Training(weighting=sd.weightings.Likelihood())
