"""What every sampler must satisfy, under every SDE."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from counting import counting
from families import SAMPLERS, begin, each_under_one
from gaussian import gaussian_score

import scoresde as sd
from scoresde.evaluation.distances import sliced_wasserstein
from scoresde.sde.mixture import ring

KEY = jax.random.key(0)
DRAWS = 3000


@pytest.fixture(scope="module")
def exact_distances():
    """Sliced Wasserstein distances between pairs of exact draws: the floor of a perfect sampler."""
    mixture = ring()
    draws = [mixture.sample(jax.random.key(100 + i), DRAWS) for i in range(12)]
    return draws[0], np.array(
        [sliced_wasserstein(a, b) for a, b in zip(draws[::2], draws[1::2], strict=True)]
    )


@pytest.mark.parametrize(("name", "any_sde"), each_under_one(SAMPLERS))
def test_samples_are_the_mixtures(name, any_sde, mixture, exact_distances):
    """Within the floor's mean + 5 standard deviations; shares within 5 standard errors."""
    sampler, (draw, floor) = SAMPLERS[name], exact_distances
    score = mixture.score(any_sde)
    sampler, start = begin(sampler, any_sde, jax.random.key(1), draw.shape)
    out = jax.jit(lambda x: sampler(KEY, any_sde, score, x))(start)
    assert bool(out.success.all())
    assert sliced_wasserstein(out.x, draw) < floor.mean() + 5 * floor.std(ddof=1)
    nearest = jnp.argmin(
        jnp.sum((out.x[:, None] - mixture.means) ** 2 / mixture.covs[:, None], axis=-1), axis=1
    )
    reference = jnp.argmin(
        jnp.sum((draw[:, None] - mixture.means) ** 2 / mixture.covs[:, None], axis=-1), axis=1
    )
    shares, expected = (
        np.bincount(np.asarray(a), minlength=5) / DRAWS for a in (nearest, reference)
    )
    assert np.all(np.abs(shares - expected) < 5 * np.sqrt(2 * expected * (1 - expected) / DRAWS))


# --- Evaluations ---


COUNTED = [
    sd.EulerMaruyama(num_steps=7, denoise=False),
    sd.ProbabilityFlow(denoise=False, variable=sd.variables.InLogSNR(), rtol=1e-7, atol=1e-7),
    sd.Ancestral(6, denoise=False, t_min=0.01, grid=sd.grids.UniformLogSNR()),
    sd.AnnealedLangevin(3, 4, 1e-3),
    sd.AnnealedLangevin(3, 4, 1e-3, denoise=False),
    sd.Heun(5),
    sd.Heun(5, churn=2.0, denoise=False),
    sd.Restart(8, (sd.Interval(0.1, 0.5, 2, 3),)),
    sd.Heun(3, save_path=True),
    sd.UniPC(3, 7),
    sd.UniPC(3, 7, save_path=True),
    sd.DDIM(0.5, 4, denoise=False),
]


def few_steps(sampler):
    """The sampler with few steps, where it counts them."""
    if hasattr(sampler, "num_steps"):
        return dataclasses.replace(sampler, num_steps=5)
    return sampler


@pytest.mark.parametrize("settings", [*COUNTED, *map(few_steps, SAMPLERS.values())], ids=repr)
def test_reported_evaluations_are_the_counted_ones(settings, mixture):
    """Stages accepted and rejected, the first and the last.

    One example, so that a vmapped loop runs exactly its steps.
    """
    sde = sd.VP()
    score, count = counting(mixture.score(sde))
    out = settings(KEY, sde, score, sde.prior_sample(jax.random.key(1), (1, 2)))
    jax.effects_barrier()
    assert int(np.max(out.nfe)) == count[0] > 0


# --- Other starts ---


def test_every_sampler_of_the_library_starts_anywhere():
    assert [name for name, sampler in SAMPLERS.items() if not hasattr(sampler, "start")] == ["own"]


@pytest.mark.parametrize(
    "name",
    [
        pytest.param(name, marks=[pytest.mark.slow] if i % 2 else [])
        for i, name in enumerate(SAMPLERS)
        if name != "own"
    ],
)
def test_data_noised_part_way_come_back_as_data(name, mixture, exact_distances):
    """x0 noised to t = 0.3 and sampled from there: draws of the mixture, near x0."""
    sde, (draw, floor) = sd.VP(), exact_distances
    x0 = mixture.sample(jax.random.key(200), DRAWS)
    sampler = dataclasses.replace(SAMPLERS[name], start=0.3)
    out = sd.sample(jax.random.key(0), sampler, sde, mixture.score(sde), (DRAWS, 2), x0=x0)
    assert sliced_wasserstein(out.x, draw) < floor.mean() + 5 * floor.std(ddof=1)
    moved = float(jnp.mean(jnp.sum((out.x - x0) ** 2, axis=1)))
    spread = float(jnp.mean(jnp.sum((x0 - x0.mean(axis=0)) ** 2, axis=1)))
    assert 0.1 * spread < moved < 1.8 * spread  # 2: as far as two independent draws


# --- Paths ---


@pytest.mark.parametrize(
    "settings",
    [
        sd.EulerMaruyama(5),
        sd.Heun(5),
        pytest.param(sd.UniPC(2, 5), marks=pytest.mark.slow),
        pytest.param(sd.Restart(8, (sd.Interval(0.1, 0.5, 2, 1),)), marks=pytest.mark.slow),
        sd.ProbabilityFlow(rtol=1e-3, atol=1e-3, path_points=4),
        pytest.param(sd.Ancestral(5), marks=pytest.mark.slow),
    ],
    ids=lambda s: type(s).__name__,
)
def test_a_path_holds_what_each_state_lets_expect(settings, mixture):
    """The path holds E[x_0 | x] of every state, and the sample is its last.

    Without a path the sample is the same.
    """
    sde = sd.VP()
    score = mixture.score(sd.VP())
    x1 = sde.prior_sample(jax.random.key(1), (3, 2))
    out = dataclasses.replace(settings, save_path=True)(KEY, sde, score, x1)
    for i in range(out.path.t.shape[1]):
        want = sd.denoise(sde, score, out.path.x[:, i], out.path.t[:, i])
        np.testing.assert_allclose(out.path.denoised[:, i], want, rtol=1e-3, atol=1e-3)
    np.testing.assert_array_equal(out.x, out.path.denoised[:, -1])
    np.testing.assert_allclose(settings(KEY, sde, score, x1).x, out.x, atol=1e-3)


def test_path_holds_every_state_and_is_off_by_default(mixture):
    sde = sd.VP()
    score = mixture.score(sd.VP())
    x1 = sde.prior_sample(jax.random.key(1), (3, 2))
    assert sd.EulerMaruyama(5)(jax.random.key(0), sde, score, x1).path is None
    out = sd.EulerMaruyama(5, save_path=True, denoise=False)(jax.random.key(0), sde, score, x1)
    assert out.path.x.shape == (3, 6, 2)
    np.testing.assert_array_equal(out.path.x[:, 0], x1)
    np.testing.assert_array_equal(out.path.x[:, -1], out.x)
    np.testing.assert_allclose(out.path.t[0], np.linspace(1.0, 1e-3, 6), rtol=1e-6)
    flow = sd.ProbabilityFlow(save_path=True, path_points=11, denoise=False)(
        jax.random.key(0), sde, score, x1
    )
    np.testing.assert_allclose(flow.path.x[:, 0], x1, atol=1e-5)
    np.testing.assert_allclose(flow.path.x[:, -1], flow.x, atol=1e-4)
    halfway = sd.ProbabilityFlow(t_min=float(flow.path.t[0, 5]), denoise=False)(
        jax.random.key(0), sde, score, x1
    )
    np.testing.assert_allclose(
        flow.path.x[:, 5], halfway.x, atol=2e-3
    )  # dense output is of a lower order


# --- Keys, precision, denoisers ---


def test_one_key_or_one_per_example(mixture):
    sde = sd.VP()
    score = mixture.score(sd.VP())
    sampler = sd.EulerMaruyama(num_steps=20)
    x1 = sde.prior_sample(jax.random.key(1), (4, 2))
    keys = jax.vmap(lambda i: jax.random.fold_in(jax.random.key(0), i))(jnp.arange(4))
    one = sampler(jax.random.key(0), sde, score, x1)
    np.testing.assert_array_equal(sampler(keys, sde, score, x1).x, one.x)
    raw = sampler(jax.random.PRNGKey(0), sde, score, x1)
    np.testing.assert_array_equal(raw.x, one.x)
    with pytest.raises(ValueError, match="one key, or one per example"):
        sampler(keys[:3], sde, score, x1)


@pytest.mark.parametrize(
    "sampler",
    [
        sd.EulerMaruyama(1000),
        pytest.param(sd.AdaptiveSDE(0.05, 0.05), marks=pytest.mark.slow),
        pytest.param(sd.ProbabilityFlow(rtol=1e-3, atol=1e-3), marks=pytest.mark.slow),
        sd.UniPC(2, 50),
    ],
    ids=lambda s: type(s).__name__,
)
def test_half_precision_has_the_law_of_full(sampler):
    """x1 and the score in bfloat16, states and coefficients in float32: the law of N(.7, .25)."""
    sde = sd.VP()
    exact = gaussian_score(sd.VP(), 0.7, 0.25)
    n = 4000
    given = []

    def score(x, t):
        given.append(x.dtype)
        return exact(x, t).astype(x.dtype)

    x1 = jax.random.normal(KEY, (n, 1), jnp.bfloat16)
    out = jax.jit(lambda x: sampler(KEY, sde, score, x))(x1)
    assert out.x.dtype == jnp.bfloat16
    assert set(given) == {jnp.dtype(jnp.bfloat16)}
    assert bool(out.success.all())
    x = np.asarray(out.x, np.float64)
    assert abs(x.mean() - 0.7) < 5 * np.sqrt(0.25 / n) + 0.002
    assert abs(x.var() / 0.25 - 1.0) < 5 * np.sqrt(2.0 / n)


def test_denoise_is_used_where_offered(mixture):
    sde = sd.VP()
    exact = mixture.score(sde)

    class Offers:
        def __call__(self, x, t):
            return exact(x, t)

        def denoise(self, x, t):
            return jnp.full_like(x, 42.0)

    offers = Offers()
    assert (
        float(sd.sample(jax.random.key(0), sd.EulerMaruyama(5), sde, offers, (2, 2)).x[0, 0])
        == 42.0
    )
    x = mixture.sample(jax.random.key(0), 4)
    t = jnp.full(4, 0.3)
    tweedie = (x + sde.sigma(t)[:, None] ** 2 * exact(x, t)) / sde.alpha(t)[:, None]
    np.testing.assert_allclose(sd.denoise(sde, lambda x, t: exact(x, t), x, t), tweedie, rtol=1e-6)


@pytest.mark.usefixtures("unchecked")
def test_an_offered_denoiser_keeps_shape_and_dtype(mixture, x64):
    sde = sd.VP()

    class Offers:
        def __call__(self, x, t):
            return -x

        def denoise(self, x, t):
            return x[:, 0]

    with pytest.raises(ValueError, match="the score's denoise returned shape"):
        sd.DDIM(0.0, 2)(KEY, sde, Offers(), jnp.ones((2, 3)))
    out = sd.DDIM(1.0, 3)(KEY, sde, mixture.score(sde), jnp.ones((2, 2), jnp.float32))
    assert out.x.dtype == jnp.float32
