"""Both decompositions of the bound are equal on average, and on Gaussian data to closed forms."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

import scoresde as sd

KEY = jax.random.key(0)
TWO = sd.GaussianMixture([[-0.6], [0.5]], [0.04, 0.01])
SDES = {
    "learnt": sd.LearntVP(sd.LinearGamma(-6.0, 4.0)),
    "ve": sd.VE(0.05, 10.0),
    "vp": sd.VP(),
}


@pytest.mark.parametrize("name", SDES)
def test_the_two_are_equal_on_average(name):
    """On the same trajectories, so that most of the noise cancels. 5 standard errors."""
    sde = SDES[name]
    x = TWO.sample(KEY, 1000)
    out = sd.hierarchical_bound(KEY, sde, TWO.score(sde), x, 10, 10, t_min=0.05)
    difference = np.asarray(out.by_consistency - out.by_matching).mean(axis=1)
    error = difference.std(ddof=1) / np.sqrt(len(difference))
    assert abs(difference.mean()) < 5.0 * error
    assert error < 0.03 * np.mean(out.by_matching)


@pytest.mark.parametrize("name", SDES)
def test_the_terms_are_those_of_gaussian_data(name):
    """Each matching term is 1/2 expm1(gamma_t - gamma_s) v / (v + e^gamma_t) on average, and with
    the other two terms the bound is the entropy and little more. 5 standard errors."""
    sde, variance, steps = SDES[name], 0.25, 8
    exact = sd.GaussianMixture([[0.0]], [variance])
    x = exact.sample(KEY, 4000)
    out = sd.hierarchical_bound(KEY, sde, exact.score(sde), x, steps, 4, t_min=0.05)

    first = 0.0 if sde.noisy_at_zero else 0.05
    gamma = -np.asarray(sde.log_snr(jnp.linspace(first, 1.0, steps + 1)), np.float64)
    wanted = 0.5 * np.expm1(np.diff(gamma)) * variance / (variance + np.exp(gamma[1:]))
    terms = np.asarray(out.matching).mean(axis=1)
    error = terms.std(axis=0, ddof=1) / np.sqrt(len(terms))
    assert np.all(np.abs(terms.mean(axis=0) - wanted) < 5.0 * error)

    reconstruction = np.asarray(out.reconstruction).mean()
    noise = 0.5 * (np.log(2.0 * np.pi) + gamma[0] + 1.0)
    assert abs(reconstruction - noise) < 5.0 * np.std(out.reconstruction) / np.sqrt(16_000)

    prior = np.asarray(out.consistency_prior).mean(axis=1)
    of_step = np.asarray(out.matching_prior)[:, 0]
    assert prior.mean() > of_step.mean()  # x_{T-1} says more of x_T than x does


def test_variances_favour_one_form_at_a_random_step_and_the_other_along_a_trajectory():
    """One term at a random step: matching, by far. The sum along a trajectory: consistency."""
    sde = SDES["learnt"]
    x = TWO.sample(KEY, 500)
    out = sd.hierarchical_bound(KEY, sde, TWO.score(sde), x, 100, 10)
    of_one = [100**2 * np.var(terms) for terms in (out.consistency, out.matching)]
    of_sum = [np.var(terms.sum(axis=-1)) for terms in (out.consistency, out.matching)]
    assert of_one[1] < 0.1 * of_one[0]
    assert of_sum[0] < 0.8 * of_sum[1]


def test_priors_units_and_precision():
    """The matching prior is the SDE's; units shift the bound by log std; float64 is kept."""
    sde = SDES["learnt"]
    units = sd.Standardization(0.3, 2.0)
    net = sd.MLPConfig(width=8, depth=1).build((1,), rngs=nnx.Rngs(0))
    plain = sd.ScoreModel(sde, net, sd.EDM(0.5))
    x = jax.random.normal(KEY, (5, 1))
    in_units = units.to_data(x)

    ours = sd.hierarchical_bound(KEY, sde, plain, x, 4, 2)
    theirs = sd.hierarchical_bound(
        KEY, sde, dataclasses.replace(plain, standardization=units), in_units, 4, 2
    )
    np.testing.assert_allclose(theirs.by_matching, ours.by_matching + np.log(2.0), rtol=1e-4)
    np.testing.assert_allclose(ours.matching_prior[:, 0], sde.prior_kl(x), rtol=1e-6)

    double = sd.hierarchical_bound(KEY, sde, plain, x, 4, 2, float64=True)
    assert double.by_matching.dtype == double.by_consistency.dtype == np.float64


def test_each_example_has_draws_of_its_own():
    sde = SDES["learnt"]
    x = TWO.sample(KEY, 7)
    whole = sd.hierarchical_bound(KEY, sde, TWO.score(sde), x, 5, 3)
    parts = sd.hierarchical_bound(KEY, sde, TWO.score(sde), x, 5, 3, batch_size=2)
    assert whole.consistency.shape == whole.matching.shape == (7, 3, 5)
    for ours, theirs in zip(jax.tree.leaves(whole), jax.tree.leaves(parts), strict=True):
        np.testing.assert_allclose(ours, theirs, rtol=1e-4, atol=1e-5)


def test_what_has_no_bound_in_steps_is_refused():
    sde = sd.RectifiedFlow()
    with pytest.raises(ValueError, match=r"take sd.variational_bound"):
        sd.hierarchical_bound(KEY, sde, TWO.score(sde), jnp.ones((2, 1)), 5)


def test_a_bound_that_failed_is_named():
    sde = SDES["learnt"]
    exact = TWO.score(sde)
    x = TWO.sample(KEY, 3).at[1].set(50.0)

    def score(x, t):
        return jnp.where(jnp.abs(x) > 20.0, jnp.nan, exact(x, t))

    with pytest.warns(UserWarning, match="reach a number, rows 1: .* larger t_min, or look"):
        out = sd.hierarchical_bound(KEY, sde, score, x, 3, 2)
    np.testing.assert_array_equal(out.success, [True, False, True])
    np.testing.assert_array_equal(np.isnan(out.by_matching).any(axis=1), ~np.asarray(out.success))
