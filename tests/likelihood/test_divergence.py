"""Divergences against the known trace of a matrix: unbiased or exact, with honest errors."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from gaussian import end_marginal, mixture_in

import scoresde as sd

KEY = jax.random.key(0)


D = 12


def linear(matrix, batch):
    """Products with a known Jacobian, of the field x ↦ matrix x at x = 1."""
    return lambda v: (jnp.ones((batch, D)) @ matrix.T, v @ matrix.T)


def matrix_of(kind):
    rng = np.random.default_rng(0)
    if kind == "general":
        return jnp.asarray(rng.normal(size=(D, D)))
    low = rng.normal(size=(D, 2))
    return jnp.asarray(low @ rng.normal(size=(2, D)))  # of rank 2


def draws(divergence, matrix, n=4000):
    """n independent estimates and their reported errors."""

    @jax.jit
    def estimate(keys):
        probes = divergence.probes(keys, jnp.ones((n, D)))
        _, terms = divergence.terms(linear(matrix, n), probes)
        return divergence.combine(terms)

    return (np.asarray(a) for a in estimate(jax.random.split(KEY, n)))


@pytest.mark.parametrize("kind", ["general", "of rank 2"])
@pytest.mark.parametrize(
    "divergence",
    [
        sd.Hutchinson(3),
        sd.Hutchinson(3, sd.divergences.Gaussian()),
        sd.divergences.HutchPlusPlus(1, 3),
        sd.divergences.HutchPlusPlus(3, 2),
    ],
    ids=repr,
)
def test_estimates_are_unbiased_and_know_their_error(divergence, kind, x64):
    """The mean of 4000 draws is within 5 standard errors of the trace.

    The reported variance is that of the draws within 15 %.
    """
    matrix = matrix_of(kind)
    value, stderr = draws(divergence, matrix)
    exact = float(jnp.trace(matrix))
    assert abs(value.mean() - exact) < 5 * value.std(ddof=1) / np.sqrt(len(value)) + 1e-9
    assert np.mean(stderr**2) == pytest.approx(value.var(ddof=1), rel=0.15, abs=1e-20)


def test_what_the_basis_captures_is_exact(x64):
    """A basis of rank 3 captures a Jacobian of rank 2 whole, and a full basis any Jacobian.

    No error is left, where Hutchinson's is large.
    """
    low = matrix_of("of rank 2")
    value, _ = draws(sd.divergences.HutchPlusPlus(3, 1), low, n=50)
    np.testing.assert_allclose(value, jnp.trace(low), rtol=1e-9)
    assert draws(sd.Hutchinson(4), low, n=50).__next__().std() > 1.0
    value, _ = draws(sd.divergences.HutchPlusPlus(D, 1), matrix_of("general"), n=20)
    np.testing.assert_allclose(value, jnp.trace(matrix_of("general")), rtol=1e-9)


def test_exact_is_exact_in_blocks_and_whole(x64):
    for size in (1, 5, 256):
        value, stderr = draws(sd.ExactDivergence(size), matrix_of("general"), n=1)
        np.testing.assert_allclose(value, jnp.trace(matrix_of("general")), rtol=1e-12)
        assert stderr == 0.0


def test_signs_beat_normals_and_have_their_closed_form_variance(x64):
    """Var[v^T A v] = 2 |S|_F^2 for normals, less 2 Σ S_ii^2 for signs, with S = (A + A^T) / 2.

    Over 4000 draws, to 10 %.
    """
    a = np.asarray(matrix_of("general"))
    s = 0.5 * (a + a.T)
    for distribution, want in (
        (sd.divergences.Gaussian(), 2 * np.sum(s**2)),
        (sd.divergences.Rademacher(), 2 * (np.sum(s**2) - np.sum(np.diag(s) ** 2))),
    ):
        value, _ = draws(sd.Hutchinson(1, distribution), jnp.asarray(a))
        assert value.var(ddof=1) == pytest.approx(want, rel=0.1)


def test_bad_settings_are_refused(unchecked):
    for call in (
        lambda: sd.divergences.HutchPlusPlus(0),
        lambda: sd.divergences.HutchPlusPlus(1, 0),
        lambda: sd.ExactDivergence(0),
        lambda: sd.divergences.HutchPlusPlus(D + 1).probes(KEY[None], jnp.ones((1, D))),
    ):
        with pytest.raises(ValueError, match=r"rank|num_probes|block_size"):
            call()


# --- In likelihoods ---


@pytest.mark.parametrize(
    ("sde", "divergence", "dof"),
    [
        (sd.VP(), sd.Hutchinson(16), 15),
        (sd.VE(), sd.Hutchinson(16, sd.divergences.Gaussian()), 15),
        (sd.SubVP(), sd.divergences.HutchPlusPlus(4, 8), 7),
    ],
    ids=["vp-Rademacher", "ve-Gaussian", "subvp-Hutch++"],
)
def test_estimates_agree_with_the_trace_within_their_error(sde, divergence, dof):
    """16-D, 64 examples: each within 5 of its own standard errors, the mean within 4."""
    mixture = mixture_in(16)
    score = mixture.score(sde)
    x = mixture.sample(KEY, 64)
    out = sd.log_likelihood(
        jax.random.key(1),
        sde,
        score,
        x,
        divergence=divergence,
        prior_log_prob=end_marginal(mixture, sde),
    )
    difference = np.asarray(out.log_prob - mixture.log_prob(sde, x, 1e-5))
    stderr = np.asarray(out.stderr)
    assert abs(difference.mean()) < 4 * np.sqrt(np.mean(stderr**2) / len(x)) + 1e-3
    # The mean z^2 of 64 values with Student's t of n degrees of freedom is n/(n-2), its standard
    # deviation about 0.22.
    assert 0.4 < np.mean((difference / stderr) ** 2) * (dof - 2) / dof < 2.1


def test_exact_divergence_in_blocks():
    """5 dimensions in blocks of 3, the last one padded."""
    sde = sd.VP()
    mixture = sd.GaussianMixture(jnp.eye(5), jnp.full(5, 0.1))
    x = mixture.sample(KEY, 3)
    out = sd.log_likelihood(
        KEY,
        sde,
        mixture.score(sde),
        x,
        divergence=sd.ExactDivergence(block_size=3),
        prior_log_prob=end_marginal(mixture, sde),
    )
    np.testing.assert_allclose(out.log_prob, mixture.log_prob(sde, x, 1e-5), atol=5e-3)


@pytest.mark.parametrize(("tol", "bits"), [(1e-3, 0.03), (1e-4, 2e-3)])
@pytest.mark.parametrize(
    ("divergence", "dim"),
    [(sd.Hutchinson(), 36), (sd.ExactDivergence(), 144)],
    ids=["probed", "exact"],
)
def test_the_tolerance_holds_for_the_integral_of_the_divergence(divergence, dim, tol, bits):
    """N(0, .49 I), whose divergence any probe has exactly.

    With the divergence as one entry of a mean the density was off by .5 bits/dim in 36-D, and so
    was a sum of D terms with a tolerance each.
    """
    data = sd.GaussianMixture(jnp.zeros((1, dim)), jnp.asarray([0.49]))
    sde = sd.VP()
    x = data.sample(KEY, 8)
    out = sd.log_likelihood(
        KEY,
        sde,
        data.score(sde),
        x,
        divergence=divergence,
        rtol=tol,
        atol=tol,
        prior_log_prob=end_marginal(data, sde),
    )
    error = (out.log_prob - data.log_prob(sde, x, 1e-5)) / (dim * np.log(2.0))
    assert float(jnp.abs(error).max()) < bits


def test_the_same_key_for_dequantization_and_probes_does_no_harm(x64):
    """Probes that shared bits with the data's noise would bias the estimate, here of u^T (J u)."""
    sde = sd.VP()
    n = 2000
    x = sd.UniformDequantization(2)(KEY, jnp.zeros((n, 8), int))
    weight = jnp.asarray(
        np.random.default_rng(0).normal(size=(8, 8))
    )  # v^T W v has mean tr W, and much spread
    score = lambda x, t: -x + 0.1 * x @ weight.T  # noqa: E731
    exact = sd.log_likelihood(
        KEY, sde, score, x, divergence=sd.ExactDivergence(), rtol=1e-4, atol=1e-4
    )
    probed = sd.log_likelihood(KEY, sde, score, x, rtol=1e-4, atol=1e-4)
    difference = np.asarray(probed.log_prob - exact.log_prob)
    assert abs(difference.mean()) < 4 * difference.std() / np.sqrt(n)


@pytest.mark.parametrize("divergence", ["exact", sd.ExactDivergence])
def test_what_is_no_divergence_is_refused(divergence, unchecked):
    with pytest.raises(TypeError, match=r"wanted sd.Hutchinson\(num_probes=4\)"):
        sd.log_likelihood(KEY, sd.VP(), lambda x, t: x, jnp.ones((2, 2)), divergence=divergence)
