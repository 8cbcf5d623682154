"""Output matching is the loss of the papers, and the denoising loss where that is finite."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

import scoresde as sd
from scoresde.keys import normal_like

KEY = jax.random.key(0)
X0 = jax.random.normal(jax.random.key(1), (64, 3))
T = jnp.linspace(0.02, 1.0, 64)


def loss_of(sde, kind, t=T):
    net = sd.MLPConfig(width=16).build((3,), rngs=nnx.Rngs(0))
    model = sd.ScoreModel(sde, net, kind)
    keys = jax.random.split(KEY, 64)
    return model, keys, sd.objectives.OutputMatching()(keys, model, X0, t, None)


def test_flow_on_rectified_flow_is_conditional_flow_matching():
    """|net(x_t, t) - (noise - x_0)|² / D (Lipman et al. 2023, Eq. 9), to rounding, t = 1 too."""
    model, keys, ours = loss_of(sd.RectifiedFlow(), sd.Flow())
    noise = normal_like(keys, X0)
    t = T[:, None]
    error = model.net((1 - t) * X0 + t * noise, T) - (noise - X0)
    np.testing.assert_allclose(ours, jnp.mean(error**2, axis=1), rtol=1e-5)


def test_edm_is_that_of_karras():
    """|F - (x_0 - c_skip x) / c_out|²: with sigma_data = 0.5, Karras et al. 2022, Eq. 8."""
    sde = sd.EDMProcess()
    model, keys, ours = loss_of(sde, sd.EDM(0.5))
    noise = normal_like(keys, X0)
    sigma = sde.sigma(T)[:, None]
    x = X0 + sigma * noise
    norm = jnp.sqrt(sigma**2 + 0.25)
    output = model.net(x / norm, jnp.log(sigma[:, 0]) / 4)
    target = (X0 - 0.25 / norm**2 * x) / (0.5 * sigma / norm)
    np.testing.assert_allclose(ours, jnp.mean((output - target) ** 2, axis=1), rtol=2e-3)


@pytest.mark.parametrize("kind", [sd.Noise(), sd.Flow(), sd.Velocity()], ids=repr)
def test_it_is_the_denoising_loss_with_a_weight(kind, any_sde):
    """The ratio to |sigma score + noise|² is what the parameterisation's slope in noise says."""
    t = jnp.linspace(0.1, 0.9, 64)
    model, keys, ours = loss_of(any_sde, kind, t)
    plain = sd.dsm_loss(keys, any_sde, model, X0, t) / 3
    x0, noise = jnp.zeros((64, 1)), jnp.ones((64, 1))
    # At one x, noise moves by 1 and x_0 by -sigma / alpha.
    ratio = -(any_sde.sigma(t) / any_sde.alpha(t))[:, None]
    slope = kind.prediction(any_sde, x0 + ratio, noise, t)
    np.testing.assert_allclose(ours, plain * slope[:, 0] ** 2, rtol=2e-5)


def test_flow_matching_trains(mixture):
    """A small network by flow matching: its samples have the data's moments."""
    x = mixture.sample(jax.random.key(2), 4096)
    net = sd.MLPConfig(width=64).build((2,), rngs=nnx.Rngs(0))
    model = sd.ScoreModel(sd.RectifiedFlow(), net, sd.Flow())
    training = sd.Training(
        steps=600,
        batch_size=256,
        learning_rate=3e-3,
        final_rate=0.05,
        validate_every=600,
        objective=sd.objectives.OutputMatching(),
    )
    fit = sd.fit(KEY, model, np.asarray(x), training=training, progress=False)
    draws = sd.sample(KEY, sd.UniPC(num_steps=20), model.sde, fit.model, (4000, 2)).x
    assert np.all(np.abs(draws.mean(0) - mixture.mean()) < 0.15)
    np.testing.assert_allclose(np.cov(draws.T), mixture.cov(), atol=0.2)


def test_a_weighting_beside_an_objective_is_refused():
    with pytest.raises(ValueError, match="leave one of them at its default"):
        sd.Training(weighting=sd.weightings.EDM(), objective=sd.objectives.OutputMatching())


def test_a_classifier_has_no_output_to_match():
    net = sd.nets.MLPClassifierConfig(num_classes=2, width=8).build((3,), rngs=nnx.Rngs(0))
    training = sd.Training(steps=1, objective=sd.objectives.OutputMatching())
    labels = np.arange(64) % 2
    with pytest.raises(TypeError, match="leave Training"):
        sd.fit(
            KEY,
            sd.ClassifierModel(sd.VP(), net),
            np.asarray(X0),
            cond=labels,
            training=training,
            progress=False,
        )
