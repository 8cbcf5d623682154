"""The loss against closed forms on Gaussian data."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from gaussian import exact_loss, gaussian_score

import scoresde as sd

KEY = jax.random.key(0)


N = 40_000
D = 3
V = 0.25


@pytest.mark.parametrize(
    ("weighting", "factor"),
    [
        (sd.weightings.Variance(), lambda sde, t: 1.0),
        (sd.weightings.Likelihood(), lambda sde, t: sde.diffusion(t) ** 2 / sde.variance(t)),
        # Karras et al. 2022: (n^2 + sigma_d^2) / (n sigma_d)^2 on the denoiser's error, where
        # n = sigma / alpha.
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
        want = float(factor(any_sde, t) * exact_loss(D, any_sde, t, V))
        assert abs(float(loss.mean()) - want) < 5 * float(loss.std()) / np.sqrt(N)


def test_excess_loss_is_the_score_error(any_sde):
    """A wrong score costs sigma^2 E|s - s*|^2 more; here s is off by a constant."""
    x0 = np.sqrt(V) * jax.random.normal(KEY, (N, D))
    t = jnp.full(N, 0.4)
    c = 0.3
    exact = gaussian_score(any_sde, 0.0, V)
    right = sd.dsm_loss(jax.random.key(1), any_sde, exact, x0, t)
    sigma = float(any_sde.sigma(0.4))
    wrong = sd.dsm_loss(jax.random.key(1), any_sde, lambda x, t: exact(x, t) + c / sigma, x0, t)
    difference = np.asarray(wrong - right)
    assert abs(difference.mean() - D * c**2) < 5 * difference.std() / np.sqrt(N)


def test_noise_of_example_i_depends_on_key_and_i_alone(sde, mixture):
    x0 = mixture.sample(KEY, 6)
    t = jnp.linspace(0.1, 0.9, 6)
    score = mixture.score(sde)
    whole = sd.dsm_loss(KEY, sde, score, x0, t)
    np.testing.assert_allclose(sd.dsm_loss(KEY, sde, score, x0[:4], t[:4]), whole[:4], rtol=1e-5)


def test_conditions_reach_the_score():
    sde = sd.VP()
    x0 = jnp.zeros((3, 2))
    label = jnp.asarray([0.0, 1.0, 2.0])
    seen = []
    score = lambda x, t, cond: (seen.append(cond), x)[1]  # noqa: E731
    sd.dsm_loss(KEY, sde, score, x0, jnp.full(3, 0.5), cond=label)
    np.testing.assert_array_equal(seen[0], label)


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
        (
            lambda: loss(jnp.ones((4, 2)), jnp.full(4, 0.5), weighting=lambda sde, t: t[:, None]),
            r"weighting returned shape \(4, 1\)",
        ),
        (lambda: sd.times.Uniform(t_min=0.0), "t_min"),
        (lambda: sd.times.LogNormalSigma(std=0.0), "std"),
    ],
)
def test_bad_input_is_refused_with_the_reason(call, message, unchecked):
    with pytest.raises(ValueError, match=message):
        call()
