"""The variational bound: above the exact density, and tight for the exact score on average."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from gaussian import gaussian_score

import scoresde as sd
from scoresde.sde.mixture import ring

KEY = jax.random.key(0)


@pytest.fixture(scope="module")
def data():
    return ring().sample(jax.random.key(1), 400)


def test_it_is_tight_for_the_exact_score_on_average(any_sde, data):
    """The mean over data of bound - (-log p_0) is zero within 5 standard errors.

    What remains is the truncation at t_min = 1e-4.
    """
    mixture = ring()
    out = sd.variational_bound(
        KEY, any_sde, mixture.score(any_sde), data, num_times=200, t_min=1e-4
    )
    gap = np.asarray(out.nll + mixture.log_prob(any_sde, data, 0.0))
    # The prior replaces p_1, at the cost of KL(p_1 || prior): below 1e-3 for VP, and for VE
    # |x|^2 / 2 sigma_max^2 of the data.
    assert abs(gap.mean()) < 5 * gap.std(ddof=1) / np.sqrt(len(gap)) + 5e-3
    np.testing.assert_allclose(out.nll, out.prior + out.diffusion + out.reconstruction, rtol=1e-5)


@pytest.mark.parametrize("wrong", [lambda s: 0.7 * s, lambda s: s + 0.5], ids=["scaled", "shifted"])
def test_it_is_above_the_exact_one_for_wrong_scores(any_sde, data, wrong):
    """No model reaches less than the data's entropy, so a wrong score's bound lies above it."""
    mixture = ring()
    exact = mixture.score(any_sde)
    out = sd.variational_bound(
        KEY, any_sde, lambda x, t: wrong(exact(x, t)), data, num_times=100, t_min=1e-4
    )
    gap = np.asarray(out.nll + mixture.log_prob(any_sde, data, 0.0))
    assert gap.mean() > 5 * gap.std(ddof=1) / np.sqrt(len(gap))


def test_it_is_above_the_models_own_density_at_every_point():
    """A Gaussian model of data that lie elsewhere: -log p is known, and the bound is above it
    everywhere.
    """
    sde = sd.VP()
    variance = 0.3
    x = jnp.linspace(-3.0, 3.0, 40)[:, None]
    out = sd.variational_bound(
        KEY, sde, gaussian_score(sde, 0.0, variance), x, num_times=400, t_min=1e-3
    )
    exact = 0.5 * (x[:, 0] ** 2 / variance + np.log(2 * np.pi * variance))
    assert np.all(np.asarray(out.nll) > np.asarray(exact - 5 * out.stderr - 5e-3))


def test_each_term_is_its_closed_form_on_gaussian_data(any_sde, x64):
    """N(0, v) data in one dimension, exact score: every expectation is an integral that NumPy can
    do.
    """
    v = 0.25
    t_min = 1e-3
    x0 = jnp.full((2000, 1), 0.6)
    out = sd.variational_bound(
        KEY, any_sde, gaussian_score(any_sde, 0.0, v), x0, num_times=60, t_min=t_min
    )
    first, last = (float(any_sde.log_snr(jnp.asarray(t))) for t in (t_min, 1.0))
    grid = np.linspace(first, max(last, -40.0), 4001)  # e^-40 of the integral lies beyond
    t = np.array(any_sde.time_from_log_snr(jnp.asarray(grid)))
    t[[0, -1]] = t_min, 1.0
    alpha = np.asarray(any_sde.alpha(t))
    sigma = np.asarray(any_sde.sigma(t))
    total = alpha**2 * v + sigma**2
    # sigma s + noise = -sigma (alpha x0 + sigma z) / total + z
    mean_square = (sigma * alpha * 0.6 / total) ** 2 + (1 - sigma**2 / total) ** 2
    diffusion = 0.5 * np.trapezoid(mean_square, -grid)
    a = alpha[0]
    s = sigma[0]
    # x0 - D = x0 - alpha v (alpha x0 + sigma z) / total
    error = (0.6 * (1 - a * a * v / total[0])) ** 2 + (a * v * s / total[0]) ** 2
    reconstruction = 0.5 * (error / (s / a) ** 2 + np.log(2 * np.pi * (s / a) ** 2))
    prior_std = float(any_sde.prior_std())
    ratio = (sigma[-1] / prior_std) ** 2
    prior = 0.5 * ((alpha[-1] * 0.6 / prior_std) ** 2 + ratio - 1 - np.log(ratio))
    np.testing.assert_allclose(out.prior, prior, atol=1e-9)
    for value, want in ((out.diffusion, diffusion), (out.reconstruction, reconstruction)):
        value = np.asarray(value)
        assert abs(value.mean() - want) < 5 * value.std(ddof=1) / np.sqrt(len(value))
    assert np.mean(out.stderr) > 0.9 * np.std(
        np.asarray(out.nll), ddof=1
    )  # strata: rather too large


def test_examples_are_independent_of_chunks_and_take_their_conditions(mixture):
    sde = sd.VP()

    def score(x, t, cond):
        return mixture.score(sde)(x - cond, t)

    x = mixture.sample(KEY, 7)
    cond = jnp.arange(14.0).reshape(7, 2)
    whole = sd.variational_bound(KEY, sde, score, x, cond, num_times=5)
    parts = sd.variational_bound(KEY, sde, score, x, cond, num_times=5, batch_size=3)
    np.testing.assert_allclose(parts.nll, whole.nll, rtol=1e-4)
    few = sd.variational_bound(KEY, sde, score, x[:4], cond[:4], num_times=5)
    np.testing.assert_allclose(few.nll, whole.nll[:4], rtol=1e-4)


@pytest.mark.usefixtures("unchecked")
@pytest.mark.parametrize(
    ("options", "message"),
    [({"num_times": 1}, "num_times"), ({"t_min": 0.0}, "t_min"), ({"t_min": 1.0}, "t_min")],
)
def test_bad_settings_are_refused(options, message):
    with pytest.raises(ValueError, match=message):
        sd.variational_bound(KEY, sd.VP(), lambda x, t: -x, jnp.ones((2, 2)), **options)


def test_float64_on_request(data):
    """The same draws of time and noise are not made in both; the mean bounds agree."""
    sde = sd.VP()
    score = ring().score(sde)
    wide = sd.variational_bound(KEY, sde, score, data, t_min=1e-3, float64=True)
    narrow = sd.variational_bound(KEY, sde, score, data, t_min=1e-3)
    assert wide.nll.dtype == jnp.float64
    difference = np.asarray(wide.nll) - np.asarray(narrow.nll)
    error = float(jnp.sqrt(jnp.sum(wide.stderr**2 + narrow.stderr**2))) / len(difference)
    assert abs(difference.mean()) < 5 * error


def test_a_bound_that_failed_is_named(data):
    exact = ring().score(sd.VP())
    x0 = data[:3].at[1].set(50.0)

    def score(x, t):
        return jnp.where(jnp.abs(x) > 20.0, jnp.nan, exact(x, t))

    with pytest.warns(UserWarning, match="reach a number, rows 1: .* larger t_min, or look"):
        out = sd.variational_bound(KEY, sd.VP(), score, x0, num_times=20)
    np.testing.assert_array_equal(out.success, [True, False, True])
