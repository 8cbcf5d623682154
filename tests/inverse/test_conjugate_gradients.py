"""Conjugate gradients of a batch against dense solves."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from scoresde.inverse.conjugate_gradients import conjugate_gradients

RNG = np.random.default_rng(0)
ROOT = RNG.normal(size=(3, 5, 5))
S = jnp.asarray(ROOT @ ROOT.transpose(0, 2, 1) + 0.3 * np.eye(5), jnp.float32)
B = jnp.asarray(RNG.normal(size=(3, 5)), jnp.float32)


def product(v):
    return jnp.einsum("bij,bj->bi", S, v, precision="highest")


EXACT = jnp.linalg.solve(S, B[..., None])[..., 0]


def test_it_solves_in_as_many_iterations_as_there_are_eigenvalues():
    np.testing.assert_allclose(
        conjugate_gradients(product, B, 10, 1e-7), EXACT, rtol=2e-3, atol=1e-4
    )
    few = conjugate_gradients(product, B, 2, 0.0)
    assert np.max(np.abs(few - EXACT)) > 1e-2


def test_a_perfect_preconditioner_takes_one_iteration():
    inverse = jnp.linalg.inv(S)
    found = conjugate_gradients(
        product, B, 1, 0.0, lambda v: jnp.einsum("bij,bj->bi", inverse, v, precision="highest")
    )
    np.testing.assert_allclose(found, EXACT, rtol=2e-3, atol=1e-4)


def test_an_example_does_not_depend_on_its_neighbours():
    """Row 0 converges at once, or is 0: the others go on; row 1 alone is as in the batch."""
    b = B.at[0].set(0.0)
    together = conjugate_gradients(product, b, 20, 1e-5)
    np.testing.assert_array_equal(together[0], 0.0)

    def of_one(v):
        return jnp.einsum("ij,bj->bi", S[1], v, precision="highest")

    alone = conjugate_gradients(of_one, b[1:2], 20, 1e-5)
    np.testing.assert_allclose(together[1], alone[0], rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("rows", [[0], [0, 1, 2]])
def test_where_b_is_nan_so_is_the_solution(rows):
    """Also where it is in every row: 0 would look like an answer."""
    found = np.asarray(conjugate_gradients(product, B.at[np.array(rows), 1].set(np.nan), 20, 1e-6))
    assert np.isnan(found[rows]).any(axis=1).all()
    others = [i for i in range(3) if i not in rows]
    np.testing.assert_allclose(found[others], EXACT[np.array(others, int)], rtol=2e-3, atol=1e-4)


@pytest.mark.parametrize("eigenvalue", [-2.0, 0.0, 0.001])
def test_it_stops_at_a_curvature_that_s_cannot_have(eigenvalue):
    """S = noise I + V, V no covariance in one direction: what it found before is kept."""
    diagonal = jnp.array([[4.0, 1.0, eigenvalue]])
    found = conjugate_gradients(
        lambda v: diagonal * v, jnp.ones((1, 3)), 50, 0.0, least=jnp.array([0.5])
    )
    assert np.max(np.abs(found)) <= 2.0 + 1e-6  # |b| / least, of each entry

    # Directions that S has are solved, up to rounding of the least eigenvalue itself.
    diagonal = jnp.array([[4.0, 1.0, 0.5]])
    found = conjugate_gradients(
        lambda v: diagonal * v, jnp.ones((1, 3)), 50, 1e-6, least=jnp.array([0.5])
    )
    np.testing.assert_allclose(found, 1.0 / diagonal, rtol=1e-5)


def test_its_derivative_is_that_of_the_solution():
    def total(b, scale):
        found = conjugate_gradients(lambda v: scale * product(v), b, 20, 1e-7)
        return jnp.sum(jnp.sin(found))

    def dense(b, scale):
        return jnp.sum(jnp.sin(jnp.linalg.solve(scale * S, b[..., None])[..., 0]))

    for found, exact in zip(
        jax.grad(total, (0, 1))(B, 1.5), jax.grad(dense, (0, 1))(B, 1.5), strict=True
    ):
        np.testing.assert_allclose(found, exact, rtol=2e-3, atol=2e-4)
