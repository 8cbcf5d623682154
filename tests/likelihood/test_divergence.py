"""Divergences against the trace of a matrix that is known: unbiased, exact where they should be, errors honest."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import scoresde as sd

KEY = jax.random.key(0)
D = 12


def linear(matrix):
    """Products with a known Jacobian, of the field x ↦ matrix x at x = 1."""
    return lambda v: (matrix @ jnp.ones(D), v @ matrix.T)


def matrix_of(kind):
    rng = np.random.default_rng(0)
    if kind == "general":
        return jnp.asarray(rng.normal(size=(D, D)))
    low = rng.normal(size=(D, 2))
    return jnp.asarray(low @ rng.normal(size=(2, D)))  # of rank 2


def draws(divergence, matrix, n=4000):
    """n independent estimates and their reported errors."""

    def one(key):
        probes = divergence.probes(key, jnp.ones(D))
        _, terms = divergence.terms(linear(matrix), probes)
        return divergence.combine(terms)

    return (np.asarray(a) for a in jax.jit(jax.vmap(one))(jax.random.split(KEY, n)))


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
    """Mean over 4000 draws within 5 standard errors of the trace; reported variance that of the draws within 15 %."""
    matrix = matrix_of(kind)
    value, stderr = draws(divergence, matrix)
    exact = float(jnp.trace(matrix))
    assert abs(value.mean() - exact) < 5 * value.std(ddof=1) / np.sqrt(len(value)) + 1e-9
    assert np.mean(stderr**2) == pytest.approx(value.var(ddof=1), rel=0.15, abs=1e-20)


def test_what_the_basis_captures_is_exact(x64):
    """Rank 3 holds a Jacobian of rank 2 whole: no error is left, where Hutchinson's is large; so does a full basis."""
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
    """Var[v^T A v] = 2 |S|_F^2 for normals, less 2 Σ S_ii^2 for signs, S = (A + A^T) / 2; over 4000 draws, 10 %."""
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
        lambda: sd.divergences.HutchPlusPlus(D + 1).probes(KEY, jnp.ones(D)),
    ):
        with pytest.raises(ValueError, match=r"rank|num_probes|block_size"):
            call()
