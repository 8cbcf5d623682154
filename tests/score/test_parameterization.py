"""Does each parameterisation agree with its definition, and convert to every other?"""

import jax
import jax.numpy as jnp
import numpy as np
import papers
import pytest
from families import PARAMETERIZATIONS

import scoresde as sd

KINDS = list(PARAMETERIZATIONS.values())


KEY = jax.random.key(0)


def definitions(sde, x0, noise, t):
    """The noisy state, and what each network should output for (x0, noise), in float64."""
    alpha = sde.alpha(t)[:, None]
    sigma = sde.sigma(t)[:, None]
    h = 1e-5
    rates = [((f(t + h) - f(t - h)) / (2 * h))[:, None] for f in (sde.alpha, sde.sigma)]
    x, outputs = papers.predictions(alpha, sigma, x0, noise, data_std=0.7, rates=rates)
    return x, [outputs[name] for name in PARAMETERIZATIONS]


@pytest.mark.parametrize("source", range(len(KINDS)))
def test_all_pairs_convert(source, any_sde, x64):
    t = jnp.asarray([0.02, 0.2, 0.5, 0.8, 0.98])
    x0, noise = jax.random.normal(KEY, (2, 5, 3))
    x, outputs = definitions(any_sde, x0, noise, t)
    for target, expected in zip(KINDS, outputs, strict=True):
        ours = sd.convert(outputs[source], x, t, any_sde, KINDS[source], target)
        np.testing.assert_allclose(ours, expected, rtol=1e-6, atol=1e-8)


@pytest.mark.parametrize("kind", KINDS, ids=repr)
def test_a_perfect_network_makes_the_exact_score_model(kind, any_sde, mixture):
    """A network that predicts its target exactly gives the mixture's score and denoiser."""
    exact = mixture.score(any_sde)
    x = mixture.sample(KEY, 40)
    t = jnp.linspace(0.05, 0.95, 40)

    def net(scaled, label):
        x0 = exact.denoise(x, t)
        noise = -any_sde.sigma(t)[:, None] * exact(x, t)
        seen, time = kind.inputs(any_sde, x, t)
        np.testing.assert_array_equal(
            (scaled, label[:, None] + 0 * scaled), (seen, time[:, None] + 0 * seen)
        )
        return kind.prediction(any_sde, x0, noise, t)

    model = sd.ScoreModel(any_sde, net, kind)
    sigma = any_sde.sigma(t)[:, None]  # float32 knows sigma s, where s itself is large
    np.testing.assert_allclose(sigma * model(x, t), sigma * exact(x, t), rtol=2e-3, atol=2e-3)
    np.testing.assert_allclose(model.denoise(x, t), exact.denoise(x, t), rtol=2e-3, atol=2e-3)


def test_edm_inputs_have_unit_variance(any_sde):
    """For data of standard deviation 0.7 the network sees variance 1 at every t.

    Its label is log(sigma / alpha) / 4.
    """
    x0, noise = jax.random.normal(KEY, (2, 20_000, 1))
    for t in (1e-3, 0.3, 0.9):
        times = jnp.full(20_000, t)
        mean, std = any_sde.marginal_prob(0.7 * x0, times)
        seen, label = sd.EDM(0.7).inputs(any_sde, mean + std[:, None] * noise, times)
        assert abs(float(seen.var()) - 1.0) < 5 * np.sqrt(2 / 20_000)
        assert float(label[0]) == pytest.approx(
            float(jnp.log(any_sde.sigma(t) / any_sde.alpha(t))) / 4, rel=1e-4
        )
