"""Is every framework's network a score, whose weights are arguments of the compiled program?"""

import equinox as eqx
import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

import scoresde as sd

KEY = jax.random.key(0)


# --- One linear map x W, as every framework writes it: the same samples, the same likelihood ---


WEIGHT = 0.3 * np.array([[1.0, 0.4], [-0.2, 0.5]], np.float32)


class NNXNet(nnx.Module):
    def __init__(self):
        self.weight = nnx.Param(jnp.asarray(WEIGHT))

    def __call__(self, x, t):
        return -x @ self.weight[...]


class LinenNet(nn.Module):
    @nn.compact
    def __call__(self, x, t):
        return -x @ self.param("weight", lambda key: jnp.asarray(WEIGHT))


class EquinoxNet(eqx.Module):
    weight: jax.Array
    activation: object = jax.nn.relu  # a leaf that is not an array

    def __call__(self, x, t):
        return -x @ self.weight


class Unhashable:
    __hash__ = None

    def __call__(self, x, t):
        return -x @ WEIGHT


def networks():
    linen = LinenNet()
    return {
        "nnx": NNXNet(),
        "linen": linen.bind(linen.init(KEY, jnp.ones((1, 2)), jnp.ones(1))),
        "equinox": EquinoxNet(jnp.asarray(WEIGHT)),
        "function": lambda x, t: -x @ WEIGHT,
        "unhashable": Unhashable(),
    }


def REFERENCE(x, t):
    return -x @ WEIGHT


@pytest.mark.parametrize("name", ["nnx", "linen", "equinox", "function", "unhashable"])
def test_every_frameworks_network_is_a_score(name):
    net = networks()[name]
    sde = sd.VP()
    x = jax.random.normal(KEY, (4, 2))
    np.testing.assert_allclose(net(x, jnp.ones(4)), -x @ WEIGHT, rtol=1e-6)
    reference = sd.sample(KEY, sd.EulerMaruyama(10), sde, REFERENCE, (4, 2))
    for score in (net, sd.ScoreModel(sde, net, sd.Score())):
        out = sd.sample(KEY, sd.EulerMaruyama(10), sde, score, (4, 2), batch_size=3)
        np.testing.assert_allclose(out.x, reference.x, rtol=1e-4, atol=1e-5)
    likelihood = sd.log_likelihood(KEY, sde, net, x)  # as of a model of it, in other tests
    np.testing.assert_allclose(
        likelihood.log_prob, sd.log_likelihood(KEY, sde, REFERENCE, x).log_prob, rtol=1e-3
    )


# --- Weights are arguments ---


def test_weights_are_arguments_not_constants():
    """New weights in the same structure reuse the compiled program and change the result."""
    traces = [0]

    class Net(eqx.Module):
        weight: jax.Array

        def __call__(self, x, t):
            traces[0] += 1
            return -x * self.weight

    sde = sd.VP()
    outs = [
        sd.sample(KEY, sd.EulerMaruyama(5), sde, Net(jnp.asarray(w)), (3, 2)).x for w in (1.0, 2.0)
    ]
    once = traces[0]
    sd.sample(KEY, sd.EulerMaruyama(5), sde, Net(jnp.asarray(3.0)), (3, 2))
    assert traces[0] == once
    assert float(jnp.abs(outs[0] - outs[1]).max()) > 1e-3


def test_bound_linen_modules_compile_once():
    linen = networks()["linen"]
    _, variables = linen.unbind()
    traces = [0]

    class Counting(nn.Module):
        @nn.compact
        def __call__(self, x, t):
            traces[0] += 1
            return -x @ self.param("weight", lambda key: jnp.asarray(WEIGHT))

    counts = []
    for _ in range(3):
        sd.sample(KEY, sd.EulerMaruyama(5), sd.VP(), Counting().bind(variables), (3, 2))
        counts.append(traces[0])
    assert counts[0] == counts[2] > 0


def test_bound_methods_of_pytrees_follow_their_weights():
    """A method's object is an argument too, not a constant of the first call."""
    net = NNXNet()
    first = sd.sample(KEY, sd.EulerMaruyama(5), sd.VP(), net.__call__, (3, 2)).x
    net.weight[...] = 2.0 * net.weight[...]
    second = sd.sample(KEY, sd.EulerMaruyama(5), sd.VP(), net.__call__, (3, 2)).x
    np.testing.assert_allclose(
        second, sd.sample(KEY, sd.EulerMaruyama(5), sd.VP(), net, (3, 2)).x, rtol=1e-6
    )
    assert float(jnp.abs(first - second).max()) > 1e-3


def test_a_function_that_captures_a_module_is_warned_about():
    net = NNXNet()
    with pytest.warns(UserWarning, match="captures the NNX module 'net'"):
        sd.sample(KEY, sd.EulerMaruyama(5), sd.VP(), lambda x, t: net(x, t), (3, 2))


def test_a_linen_modules_own_denoiser_is_used():
    class Denoiser(nn.Module):
        def __call__(self, x, t):
            return -x

        def denoise(self, x, t):
            return jnp.full_like(x, 7.0)

    bound = Denoiser().bind({})
    assert float(sd.sample(KEY, sd.EulerMaruyama(5), sd.VP(), bound, (1, 2)).x[0, 0]) == 7.0
