"""The gradient of a schedule against finite differences of exact expectations on Gaussian data."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

import scoresde as sd
from scoresde.sde.schedule import initial_weights

VARIANCE = 0.3
ROWS, BATCHES = 2000, 60
BOUND = sd.objectives.VariationalBound()
EXACT = sd.GaussianMixture([[0.0]], [VARIANCE])


def schedule():
    """Not linear, so that neither gradient is 0."""
    weights = initial_weights(4)
    weights["w"] = weights["w"] / 4.0
    weights["c"] = np.array([3.0, 0.5, 1.0, 2.0])
    return sd.MonotoneGamma(-5.0, 3.0, learn_ends=True, hidden=4, weights=weights)


@dataclasses.dataclass(frozen=True)
class Optimal:
    """The optimal denoiser of Gaussian data under an SDE: a network that knows gamma."""

    sde: sd.SDE

    def data_and_noise(self, x, t):
        alpha, sigma = self.sde.alpha(t)[:, None], self.sde.sigma(t)[:, None]
        total = alpha**2 * VARIANCE + sigma**2
        return alpha * VARIANCE / total * x, sigma / total * x

    is_bound = True

    def __call__(self, x, t):
        return -self.data_and_noise(x, t)[1] / self.sde.sigma(t)[:, None]


def drawn_gradient(parameters):
    """The objective's gradient over batches, and its standard error."""
    sde = sd.LearntVP(schedule())

    def loss(parameters, key):
        key_x, key_t, key_noise = jax.random.split(key, 3)
        x = jnp.sqrt(VARIANCE) * jax.random.normal(key_x, (ROWS, 1))
        t = jax.random.uniform(key_t, (ROWS,))
        model = Optimal(sde.with_parameters(parameters))
        return jnp.mean(BOUND(jax.random.split(key_noise, ROWS), model, x, t, None))

    def gradient(key):
        return jax.grad(loss)(parameters, key)

    draws = jax.lax.map(gradient, jax.random.split(jax.random.key(0), BATCHES))
    mean = jax.tree.map(lambda a: a.mean(axis=0), draws)
    return mean, jax.tree.map(lambda a: a.std(axis=0, ddof=1) / np.sqrt(BATCHES), draws)


def moments(parameters):
    """E[l] and Var[l] of one draw, by quadrature over t. With the optimal denoiser noise -
    noise_hat is normal with variance r = v / (v + e^gamma), so its square has moments r, 3 r^2."""
    sde = sd.LearntVP(schedule()).with_parameters(parameters)
    nodes, weights = np.polynomial.legendre.leggauss(200)
    t = jnp.asarray((nodes + 1.0) / 2.0)
    weights = jnp.asarray(weights / 2.0)
    r = VARIANCE / (VARIANCE + jnp.exp(sde.gamma(t)))
    half_slope = 0.5 * jax.vmap(jax.grad(lambda t: sde.gamma(t)))(t)
    first = jnp.sum(weights * half_slope * r)
    second = jnp.sum(weights * half_slope**2 * 3.0 * r**2)

    # Prior and reconstruction, in closed form.
    low, high = sde.gamma(0.0), sde.gamma(1.0)
    noise = jax.nn.sigmoid(high)
    prior = 0.5 * ((1.0 - noise) * VARIANCE + noise - jnp.log(noise) - 1.0)
    reconstruction = 0.5 * (1.0 + jnp.log(2.0 * jnp.pi) + low)
    return prior + first + reconstruction, second - first**2


@pytest.mark.parametrize("part", ["ends", "shape"])
def test_it_is_that_of_the_exact_expectation(part, x64, unchecked):
    """The ends follow E[l], the shape Var[l]: differences of integrals, 5 standard errors."""
    parameters = sd.LearntVP(schedule()).parameters()
    gradient, error = drawn_gradient(parameters)
    index = 0 if part == "ends" else 1

    for name, values in parameters[part].items():
        ours, errors = np.atleast_1d(gradient[part][name]), np.atleast_1d(error[part][name])
        for i in range(values.size):
            step = 1e-5 * np.eye(values.size)[i].reshape(values.shape)

            def moved(sign, name=name, values=values, step=step):
                own = parameters[part] | {name: values + sign * step}
                return float(moments(parameters | {part: own})[index])

            exact = (moved(1.0) - moved(-1.0)) / 2e-5
            assert abs(ours[i] - exact) < 5.0 * errors[i]
    largest = max(float(np.max(np.abs(a))) for a in jax.tree.leaves(gradient[part]))
    least = min(float(np.max(np.abs(e))) for e in jax.tree.leaves(error[part]))
    assert largest > 10.0 * least  # the comparison tells gradients from 0


def test_values_and_the_networks_gradient_are_those_without_a_shape():
    """Only the gradient of the shape differs from that of the mean of the bound."""
    net = sd.MLPConfig(width=8, depth=1).build((2,), rngs=nnx.Rngs(0))
    linear = sd.LinearGamma(-5.0, 3.0, learn_ends=True)
    weights = initial_weights(4)
    weights["c"] = np.zeros(4)
    flat = sd.MonotoneGamma(-5.0, 3.0, learn_ends=True, hidden=4, weights=weights)
    keys = jax.random.split(jax.random.key(0), 16)
    x = jax.random.normal(jax.random.key(1), (16, 2))
    t = jax.random.uniform(jax.random.key(2), (16,))
    graph, params, rest = nnx.split(net, nnx.Param, ...)

    def loss(params, ends, schedule):
        parameters = schedule.parameters() | {"ends": ends}
        sde = sd.LearntVP(schedule.with_parameters(parameters))
        model = sd.ScoreModel(sde, nnx.merge(graph, params, rest), sd.EDM(0.5))
        return jnp.mean(BOUND(keys, model, x, t, None))

    ends = linear.parameters()["ends"]
    found = [jax.value_and_grad(loss, (0, 1))(params, ends, one) for one in (linear, flat)]
    for ours, theirs in zip(*map(jax.tree.leaves, found), strict=True):
        np.testing.assert_allclose(ours, theirs, rtol=2e-4, atol=1e-6)


def test_in_steps_everything_descends_on_the_bound(x64):
    """The gradient of the shape is that of the mean, by a finite difference."""
    bound = sd.objectives.VariationalBound(num_steps=7)
    sde = sd.LearntVP(schedule())
    keys = jax.random.split(jax.random.key(0), 64)
    t = jnp.linspace(0.01, 1.0, 64)
    x = jax.random.normal(jax.random.key(1), (64, 1))

    def loss(c):
        parameters = sde.parameters()
        shape = parameters["shape"] | {"c": c}
        model = Optimal(sde.with_parameters(parameters | {"shape": shape}))
        return jnp.mean(bound(keys, model, x, t, None))

    c = jnp.asarray([3.0, 0.5, 1.0, 2.0])
    step = jnp.asarray([0.0, 1e-5, 0.0, 0.0])
    difference = (loss(c + step) - loss(c - step)) / 2e-5
    np.testing.assert_allclose(jax.grad(loss)(c)[1], difference, rtol=1e-5)
