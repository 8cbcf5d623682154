"""The cosine schedule, EDM's process and rectified flow: their papers' formulas, and their ends."""

import jax
import jax.numpy as jnp
import numpy as np
import papers
import pytest

import scoresde as sd
from scoresde.sde.base import SDE

PATHS = {
    "cosine": (sd.Cosine(), papers.cosine),
    "edm": (sd.EDMProcess(), papers.edm),
    "rectified": (sd.RectifiedFlow(), papers.rectified_flow),
}
TIMES = np.concatenate(
    [np.geomspace(1e-4, 1e-2, 9), np.linspace(0.02, 0.98, 25), 1 - np.geomspace(1e-2, 1e-3, 5)]
)


@pytest.fixture(params=PATHS.values(), ids=PATHS.keys())
def path(request):
    return request.param


@pytest.fixture(params=[sd.Cosine(), sd.RectifiedFlow()], ids=["cosine", "rectified"])
def ends_in_noise(request):
    return request.param


def test_scales_drift_and_diffusion_are_the_published_ones_in_float32(path):
    """Within 1e-5 relative of float64, as for VP, from t = 1e-4 to 0.999."""
    sde, formula = path
    t32 = jnp.asarray(TIMES, jnp.float32)
    alpha, sigma, f, g2 = formula(np.asarray(t32, np.float64))
    np.testing.assert_allclose(sde.alpha(t32), alpha, rtol=1e-5)
    np.testing.assert_allclose(sde.sigma(t32), sigma, rtol=1e-5)
    np.testing.assert_allclose(sde.variance(t32), sigma**2, rtol=1e-5)
    np.testing.assert_allclose(sde.drift_rate(t32), f, rtol=1e-5)
    np.testing.assert_allclose(sde.diffusion(t32), np.sqrt(g2), rtol=1e-5)
    np.testing.assert_allclose(sde.log_snr(t32), 2 * np.log(alpha / sigma), rtol=1e-5, atol=1e-5)


def test_derived_coefficients_equal_the_closed_forms(path):
    """The base class differentiates log_alpha and variance; the overrides are algebra."""
    sde, _ = path
    t = jnp.asarray(TIMES, jnp.float32)
    np.testing.assert_allclose(SDE.drift_rate(sde, t), sde.drift_rate(t), rtol=2e-5)
    np.testing.assert_allclose(SDE.squared_diffusion(sde, t), sde.squared_diffusion(t), rtol=3e-5)
    np.testing.assert_allclose(SDE.rotation(sde, t), sde.rotation(t), rtol=2e-5)
    np.testing.assert_allclose(
        sde.rotation(t), sde.squared_diffusion(t) * sde.alpha(t) / (2 * sde.sigma(t)), rtol=2e-5
    )


def test_edm_steps_are_the_karras_grid():
    """Equal steps of t under EDMProcess are the levels of sd.grids.Karras under VE."""
    sde = sd.EDMProcess()
    levels = sde.sigma(np.linspace(1.0, 0.0, 18))
    grid = sd.grids.Karras()(sd.VE(0.002, 80.0), 17, 0.0)
    np.testing.assert_allclose(levels, sd.VE(0.002, 80.0).sigma(grid), rtol=1e-5)


def test_sigmas_in_the_wrong_order_are_refused():
    with pytest.raises(ValueError, match=r"Write EDMProcess\(sigma_min=0.002, sigma_max=80.0\)"):
        sd.EDMProcess(sigma_min=80.0, sigma_max=0.002)
    with pytest.raises(ValueError, match="rho"):
        sd.EDMProcess(rho=0.0)


def test_at_one_there_is_noise_alone(ends_in_noise):
    """alpha(1) = 0 exactly, so the prior N(0, I) is the law of x_1 whatever the data."""
    sde = ends_in_noise
    assert float(sde.alpha(1.0)) == 0.0
    assert float(sde.sigma(1.0)) == pytest.approx(1.0, abs=1e-7)
    assert float(sde.log_snr(1.0)) == -np.inf
    x0 = jnp.full((2, 3), 100.0)
    np.testing.assert_allclose(sde.prior_kl(x0), 0.0, atol=1e-6)
    coefficient, std = sde.transition(0.5, 1.0)
    assert float(coefficient) == 0.0
    assert float(std) == pytest.approx(1.0, abs=1e-7)
    assert float(sde.time_from_log_snr(-jnp.inf)) == 1.0
    assert float(sde.time_from_log_snr(jnp.inf)) == 0.0


# --- The flow ---


@pytest.mark.parametrize("offers", ["both", "denoise", "score"])
def test_the_flow_is_that_of_the_score(offers, ends_in_noise, mixture):
    """dx/dt = f x - g²/2 s where both are finite, whatever the score offers."""
    sde = ends_in_noise
    exact = mixture.score(sde)
    x = mixture.sample(jax.random.key(0), 32)
    t = jnp.linspace(0.02, 0.97, 32)

    class Offers:
        def __call__(self, x, t):
            return exact(x, t)

    score = Offers()
    if offers != "score":
        score.denoise = exact.denoise
    if offers == "both":
        score.data_and_noise = exact.data_and_noise

    f = sde.drift_rate(t)[:, None]
    g2 = sde.squared_diffusion(t)[:, None]
    expected = f * x - 0.5 * g2 * exact(x, t)
    np.testing.assert_allclose(sde.probability_flow(score)(x, t), expected, rtol=1e-3, atol=2e-3)


def test_the_flow_at_one_is_its_limit(ends_in_noise, mixture, x64):
    """At t = 1 the field is finite, and what it is a little below."""
    sde = ends_in_noise
    field = sde.probability_flow(mixture.score(sde))
    x = mixture.sample(jax.random.key(0), 8)
    at_one = field(x, 1.0)
    np.testing.assert_allclose(at_one, field(x, 1.0 - 1e-7), rtol=1e-5, atol=1e-5)
    if isinstance(sde, sd.RectifiedFlow):  # x - E[x_0]: nothing is known of x_0
        np.testing.assert_allclose(at_one, x - mixture.mean(), rtol=1e-5)


def test_rectified_flow_is_the_expected_straight_velocity(mixture):
    """dx/dt = E[noise - x_0 | x_t] (Lipman et al. 2023), by the mixture's own moments."""
    sde = sd.RectifiedFlow()
    exact = mixture.score(sde)
    x = mixture.sample(jax.random.key(0), 16)
    t = jnp.linspace(0.05, 1.0, 16)
    x0 = exact.denoise(x, t)
    velocity = (x - x0) / t[:, None]
    np.testing.assert_allclose(sde.probability_flow(exact)(x, t), velocity, rtol=2e-4, atol=2e-4)


# --- What cannot begin at t = 1 ---


def test_what_needs_f_or_g_says_where_to_begin(ends_in_noise, mixture):
    sde = ends_in_noise
    score = mixture.score(sde)
    key = jax.random.key(0)
    shape = (2000, 2)
    with pytest.raises(ValueError, match="Heun needs f and g, which are infinite at t = 1"):
        sd.sample(key, sd.Heun(num_steps=5), sde, score, shape)

    # The line that it advises, with as many steps as give the mixture's moments.
    sampler = sd.EulerMaruyama(num_steps=400, start=0.999)
    x1 = sde.sigma(0.999) * sde.prior_sample(key, shape)
    x = sd.sample(key, sampler, sde, score, shape, x1=x1).x
    error = np.sqrt(np.diag(mixture.cov()) / shape[0])
    assert np.all(np.abs(x.mean(0) - mixture.mean()) < 5 * error)


def test_a_score_alone_knows_nothing_at_one(ends_in_noise, mixture):
    sde = ends_in_noise
    exact = mixture.score(sde)
    key = jax.random.key(0)

    def score(x, t):
        return exact(x, t)

    for call in (
        lambda: sd.sample(key, sd.DDIM(num_steps=5), sde, score, (4, 2)),
        lambda: sd.sample(key, sd.ProbabilityFlow(), sde, score, (4, 2)),
        lambda: sd.log_likelihood(key, sde, score, jnp.zeros((4, 2))),
        lambda: sd.encode(sde, score, jnp.zeros((4, 2))),
    ):
        with pytest.raises(ValueError, match="function has no `denoise`"):
            call()
    sampler = sd.DDIM(num_steps=20, start=0.999)
    x1 = sde.sigma(0.999) * sde.prior_sample(key, (4, 2))
    ours = sd.sample(key, sampler, sde, score, (4, 2), x1=x1)
    theirs = sd.sample(key, sampler, sde, exact, (4, 2), x1=x1)
    np.testing.assert_allclose(ours.x, theirs.x, rtol=1e-3, atol=1e-3)


@pytest.mark.parametrize("kind", [sd.Noise(), sd.Score()], ids=repr)
def test_networks_whose_output_says_nothing_at_one_are_named(kind, ends_in_noise):
    model = sd.ScoreModel(ends_in_noise, lambda x, t: x, kind)
    for score in (model, sd.conditioned(lambda x, t, c: x, 0)):
        with pytest.raises(ValueError, match=r"sd.Flow\(\), sd.Velocity\(\), sd.EDM\(\)"):
            sd.sample(jax.random.key(0), sd.DDIM(num_steps=2), ends_in_noise, score, (4, 2))


@pytest.mark.parametrize("kind", [sd.Flow(), sd.Velocity(), sd.Data()], ids=repr)
def test_networks_whose_output_says_it_begin_at_one(kind, ends_in_noise, mixture):
    """A perfect network of each kind draws what the exact denoiser draws."""
    sde = ends_in_noise
    exact = mixture.score(sde)

    def net(x, t):
        return kind.prediction(sde, *exact.data_and_noise(x, t), t)

    model = sd.ScoreModel(sde, net, kind)
    sampler = sd.UniPC(num_steps=20)
    ours = sd.sample(jax.random.key(0), sampler, sde, model, (64, 2))
    theirs = sd.sample(jax.random.key(0), sampler, sde, exact, (64, 2))
    np.testing.assert_allclose(ours.x, theirs.x, rtol=5e-3, atol=5e-3)


def test_edm_begins_at_one_and_trains_there(ends_in_noise):
    """Its label is finite, at most 10 / 8, and so are its loss and samples."""
    sde = ends_in_noise
    _, label = sd.EDM(0.5).inputs(sde, jnp.ones((3, 2)), jnp.asarray([0.1, 0.5, 1.0]))
    np.testing.assert_allclose(label[:2], -0.125 * sde.log_snr(jnp.asarray([0.1, 0.5])), rtol=1e-6)
    assert float(label[2]) == 1.25
    model = sd.ScoreModel(sde, lambda x, label: 0.5 * x, sd.EDM(0.5))
    loss = sd.dsm_loss(jax.random.key(0), sde, model, jnp.ones((2, 2)), jnp.ones(2))
    assert np.all(np.isfinite(loss))
    out = sd.sample(jax.random.key(0), sd.ProbabilityFlow(), sde, model, (4, 2))
    assert out.success.all()


def test_a_sampler_is_differentiable_in_the_offset(mixture, x64):
    """Against a finite difference, through grid, coefficients and steps."""
    score = mixture.score(sd.Cosine())

    def spread(offset):
        x = sd.UniPC(num_steps=5)(jax.random.key(0), sd.Cosine(offset), score, jnp.ones((2, 2))).x
        return jnp.sum(x**2)

    slope = jax.grad(spread)(0.01)
    difference = (spread(0.01 + 1e-5) - spread(0.01 - 1e-5)) / 2e-5
    np.testing.assert_allclose(slope, difference, rtol=1e-4)


def test_the_chain_of_a_process_that_ends_in_noise_is_another(ends_in_noise):
    with pytest.raises(ValueError, match=r"write sd.DDPM.cosine\(10\)|discretises VP"):
        sd.DDPM.from_sde(ends_in_noise, 10)
    assert sd.DDPM.cosine(10).betas[-1] == 0.999


def test_a_classifier_guides_below_one(mixture):
    """Its gradient over alpha has no limit at t = 1, so guidance begins below."""
    sde = sd.RectifiedFlow()
    guided = sd.ClassifierGuidance(mixture.score(sde), sd.MixtureClassifier(sde, mixture), 2)
    with pytest.raises(ValueError, match="ClassifierGuidance has no `denoise`"):
        sd.sample(jax.random.key(0), sd.DDIM(num_steps=5), sde, guided, (4, 2))


def test_variables_that_cannot_reach_one_say_so(mixture):
    sde = sd.RectifiedFlow()
    sampler = sd.ProbabilityFlow(variable=sd.variables.InLogSNR())
    with pytest.raises(ValueError, match="infinite log SNR at t = 1"):
        sd.sample(jax.random.key(0), sampler, sde, mixture.score(sde), (4, 2))
