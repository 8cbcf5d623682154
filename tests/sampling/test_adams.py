"""The weights of the exponential Adams method, against SciPy's quadrature and a closed form."""

import jax.numpy as jnp
import numpy as np
import papers
import pytest

from scoresde.sampling.adams import adams_weights, midpoint_weights

LAMBDA = np.array([-4.0, -2.5, -2.0, 0.5, 0.52, 3.0])  # steps from 0.02 to 2.5


@pytest.mark.parametrize("eta", [0.0, 0.5, 1.0])
@pytest.mark.parametrize("order", [1, 2, 3])
def test_weights_integrate_the_polynomial_through_the_last_denoised_states(order, eta, x64):
    """The first steps have as many nodes as there are."""
    rate = jnp.full(5, 1.0 + eta)
    weights = adams_weights(jnp.asarray(LAMBDA[:-1]), jnp.asarray(LAMBDA[1:]), rate, order)
    for i in range(5):
        nodes = LAMBDA[max(0, i + 1 - order) : i + 1][::-1]
        want = papers.adams_by_quadrature(LAMBDA[i], LAMBDA[i + 1], 1.0 + eta, nodes)
        padded = [*want, *[0.0] * (order - len(want))]
        np.testing.assert_allclose(weights[i], padded, rtol=1e-9, atol=1e-11)


def test_a_new_node_comes_before_the_others(x64):
    """As in a corrector, where the denoised state at the step's end is known."""
    start = jnp.asarray(LAMBDA[:-1])
    end = jnp.asarray(LAMBDA[1:])
    weights = adams_weights(start, end, jnp.ones(5), 2, new=end)
    for i in range(1, 5):
        nodes = [LAMBDA[i + 1], LAMBDA[i], LAMBDA[i - 1]]
        want = papers.adams_by_quadrature(LAMBDA[i], LAMBDA[i + 1], 1.0, nodes)
        np.testing.assert_allclose(weights[i], want, rtol=1e-9, atol=1e-11)


def test_midpoint_weights_sum_to_the_integral_of_one(x64):
    """A constant denoised state is integrated exactly, whatever the ratio of the steps."""
    start = jnp.asarray(LAMBDA[:-1])
    end = jnp.asarray(LAMBDA[1:])
    weights = midpoint_weights(start, end, jnp.full(5, 2.0), 2)
    np.testing.assert_allclose(weights.sum(axis=1), -np.expm1(-2.0 * (end - start)), rtol=1e-12)
