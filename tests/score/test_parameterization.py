"""Parameterisations against their definitions, and every framework's network as a score."""

import itertools

import equinox as eqx
import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from families import PARAMETERIZATIONS
from flax import nnx

import scoresde as sd

KINDS = list(PARAMETERIZATIONS.values())
KEY = jax.random.key(0)


def definitions(sde, x0, noise, t):
    """What each network should output for (x0, noise), from the papers, in float64."""
    a, s = sde.alpha(t)[:, None], sde.sigma(t)[:, None]
    x, d = a * x0 + s * noise, 0.7
    norm = jnp.sqrt((a * d) ** 2 + s**2)
    edm = (x0 - a * d**2 / norm**2 * x) / (s * d / norm)  # Karras et al. 2022, Eq. 7, solved for F
    return x, [-noise / s, noise, x0, a * noise - s * x0, edm, noise - x0]


@pytest.mark.parametrize(("source", "target"), list(itertools.product(range(6), range(6))))
def test_all_pairs_convert(source, target, any_sde, x64):
    t = jnp.asarray([0.02, 0.2, 0.5, 0.8, 0.98])
    x0, noise = jax.random.normal(KEY, (2, 5, 3))
    x, outputs = definitions(any_sde, x0, noise, t)
    ours = sd.convert(outputs[source], x, t, any_sde, KINDS[source], KINDS[target])
    np.testing.assert_allclose(ours, outputs[target], rtol=1e-7, atol=1e-9)


@pytest.mark.parametrize("kind", KINDS, ids=repr)
def test_a_perfect_network_makes_the_exact_score_model(kind, any_sde, mixture):
    """Whatever it predicts, a network that predicts it exactly gives the mixture's score and denoiser."""
    exact = mixture.score(any_sde)
    x, t = mixture.sample(KEY, 40), jnp.linspace(0.05, 0.95, 40)

    def net(scaled, label):
        x0 = exact.denoise(x, t)
        noise = -any_sde.sigma(t)[:, None] * exact(x, t)
        seen, time = kind.inputs(any_sde, x, t)
        np.testing.assert_array_equal(
            (scaled, label[:, None] + 0 * scaled), (seen, time[:, None] + 0 * seen)
        )
        return kind.prediction(any_sde, x0, noise, t)

    model = sd.ScoreModel(any_sde, net, kind)
    np.testing.assert_allclose(model(x, t), exact(x, t), rtol=2e-3, atol=2e-3)
    np.testing.assert_allclose(model.denoise(x, t), exact.denoise(x, t), rtol=2e-3, atol=2e-3)


def test_edm_inputs_have_unit_variance(any_sde):
    """Data of standard deviation 0.7: the network sees variance 1 at every t; its label is log(sigma/alpha)/4."""
    x0, noise = jax.random.normal(KEY, (2, 20_000, 1))
    for t in (1e-3, 0.3, 0.9):
        times = jnp.full(20_000, t)
        mean, std = any_sde.marginal_prob(0.7 * x0, times)
        seen, label = sd.EDM(0.7).inputs(any_sde, mean + std[:, None] * noise, times)
        assert abs(float(seen.var()) - 1.0) < 5 * np.sqrt(2 / 20_000)
        assert float(label[0]) == pytest.approx(
            float(jnp.log(any_sde.sigma(t) / any_sde.alpha(t))) / 4, rel=1e-4
        )


@pytest.mark.parametrize("sde", [sd.VP(), sd.VE()], ids=["vp", "ve"])
def test_a_network_with_an_integer_table_reads_every_level(sde):
    """Index is an integer on levels exactly, in float32 and compiled, so a cast hits the row; in between a fraction."""
    for n in (100, 232, 300, 1000):
        table = jnp.asarray(np.random.default_rng(n).permutation(n), jnp.float32)
        net = lambda x, label, table=table: table[label.astype(int)][:, None] + 0.0 * x  # noqa: E731
        model = sd.ScoreModel(sde, net, sd.Noise(label=sd.labels.Index(n)))
        t = jnp.asarray(sde.level_times(n), jnp.float32)
        _, noise = jax.jit(model.data_and_noise)(jnp.zeros((n, 1)), t)
        np.testing.assert_array_equal(noise[:, 0], table)
    down = jax.jit(lambda t: sd.labels.Index(1000, descending=True)(sde, t))
    np.testing.assert_array_equal(down(t), np.arange(1000)[::-1])
    np.testing.assert_allclose(down(t[:3] + 2.5e-4), [998.75, 997.75, 996.75], atol=1e-3)
    slope = jax.jit(jax.vmap(jax.grad(lambda t: sd.labels.Index(1000)(sde, t))))(
        t[jnp.asarray([10, 500])]
    )
    np.testing.assert_allclose(slope, 1000 if sde == sd.VP() else 999, rtol=1e-6)


def test_score_model_is_a_pytree():
    model = sd.ScoreModel(
        sd.VP(), sd.MLPConfig(width=8, depth=1).build((2,), rngs=nnx.Rngs(0)), sd.EDM()
    )
    doubled = jax.tree.map(lambda a: a, model)
    assert doubled.parameterization == sd.EDM()
    x = jnp.ones((3, 2))
    np.testing.assert_array_equal(jax.jit(lambda m: m(x, 0.5))(model), doubled(x, 0.5))


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


@pytest.mark.parametrize("name", ["nnx", "linen", "equinox", "function", "unhashable"])
def test_every_frameworks_network_is_a_score(name):
    net, sde = networks()[name], sd.VP()
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


def REFERENCE(x, t):
    return -x @ WEIGHT


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


def test_wrong_shapes_are_refused(unchecked):
    with pytest.raises(ValueError, match="the score returned shape"):
        sd.ScoreModel(sd.VP(), lambda x, t: x[:, :1], sd.Noise())(jnp.ones((3, 2)), 0.5)
    with pytest.raises(ValueError, match="one time, or one per example"):
        sd.ScoreModel(sd.VP(), lambda x, t: x, sd.Noise())(jnp.ones((3, 2)), jnp.ones((3, 1)))
    with pytest.raises(ValueError, match="value has shape"):
        sd.convert(jnp.ones((3, 1)), jnp.ones((3, 2)), 0.5, sd.VP(), sd.Noise(), sd.Data())
    with pytest.raises(ValueError, match="two levels at least"):
        sd.labels.Index(1)
    with pytest.raises(ValueError, match="sigma_data"):
        sd.EDM(sigma_data=0.0)


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


def test_fresh_networks_with_dropout_serve_as_scores():
    net = sd.MLPConfig(width=8, dropout=0.5).build((2,), rngs=nnx.Rngs(0))
    out = sd.sample(KEY, sd.EulerMaruyama(5), sd.VP(), sd.ScoreModel(sd.VP(), net), (3, 2))
    assert bool(out.success.all())
