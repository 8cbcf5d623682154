"""Samplers around another one: what is known stays, and what is hidden never enters."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from families import SAMPLERS, begin, each_under_one
from posteriors import gaussian

import scoresde as sd
from scoresde import inverse
from scoresde.sampling.grid_sampler import GridSampler

KEY = jax.random.key(0)
DIM = 4
GAUSSIAN = gaussian(DIM)
MASK = np.array([[1, 0, 1, 0]])
Y = jnp.array([[0.5, jnp.nan, -1.0, 7.0]])
VP = sd.VP()
SCORE = GAUSSIAN.score(VP)
GRID_SAMPLERS = {name: s for name, s in SAMPLERS.items() if isinstance(s, GridSampler)}
IMAGES = sd.GaussianMixture(np.zeros((1, 48)), (0.5 * np.eye(48) + 0.5)[None])


def as_images(score):
    """A score of vectors of 48, of images (4, 4, 3)."""
    return lambda x, t: score(x.reshape(len(x), 48), t).reshape(x.shape)


@pytest.mark.parametrize(("name", "long_sde"), each_under_one(GRID_SAMPLERS))
def test_known_entries_are_y_to_the_bit(name, long_sde):
    """Under every grid sampler, in chunks; the sampler's own draws do not move them."""
    sampler, x1 = begin(GRID_SAMPLERS[name], long_sde, KEY, (5, DIM))
    around = inverse.Replacement(sampler, inverse.Mask(MASK), Y)
    out = sd.sample(KEY, around, long_sde, GAUSSIAN.score(long_sde), x1.shape, x1=x1, batch_size=2)
    assert bool(jnp.all(out.success))
    np.testing.assert_array_equal(out.x[:, [0, 2]], np.tile([0.5, -1.0], (5, 1)))
    assert np.all(np.std(np.asarray(out.x[:, [1, 3]]), axis=0) > 0.1)


@pytest.mark.parametrize("denoise", [True, False])
def test_what_is_hidden_never_enters(denoise):
    """Other values under the mask leave the samples bit-equal, for every method."""
    sampler = sd.Ancestral(num_steps=20, denoise=denoise)
    mask = inverse.Mask(MASK)

    def draw(y):
        scores = [
            inverse.MMPS(SCORE, VP, mask, y, 0.1),
            inverse.PiGDM(SCORE, VP, mask, y, 0.1),
            inverse.DPS(SCORE, VP, mask, y, 1.0),
        ]
        found = [sd.sample(KEY, sampler, VP, score, (3, DIM)).x for score in scores]
        for around in (
            inverse.Replacement(sampler, mask, y, resamplings=2, jump=3),
            inverse.GradientSteps(sampler, mask, y, size=0.1),
        ):
            found.append(sd.sample(KEY, around, VP, SCORE, (3, DIM)).x)
        smc = inverse.twisted_smc(KEY, scores[1], (3, DIM), 10, num_steps=5)
        return [*found, smc.x, smc.weights]

    for one, other in zip(draw(Y), draw(Y.at[0, 1].set(1e3).at[0, 3].set(-5.0)), strict=True):
        assert bool(jnp.all(jnp.isfinite(one)))
        np.testing.assert_array_equal(one, other)


def test_the_last_step_is_clean():
    """A hidden entry that is 0.3 to 0.003, at t_min with sigma = .1: none of that is left in it."""
    cov = np.diag([1.0, 1e-5])
    score = sd.GaussianMixture(np.array([[0.0, 0.3]]), cov[None]).score(VP)
    t_min = 0.03
    assert float(VP.sigma(t_min)) > 0.08
    around = inverse.Replacement(
        sd.DDIM(num_steps=50, eta=1.0, t_min=t_min),
        inverse.Mask(np.array([[1, 0]])),
        jnp.array([[0.7, 0.0]]),
    )
    x = np.asarray(sd.sample(KEY, around, VP, score, (500, 2)).x)
    np.testing.assert_allclose(x[:, 1], 0.3, atol=5 * 0.003)


def test_it_is_biased_and_resampling_helps():
    """Mean of the hidden entries against the exact one: RePaint's passes bring it nearer."""
    matrix = np.eye(DIM)[[0, 2]]
    exact = np.asarray(GAUSSIAN.posterior(matrix, np.array([0.5, -1.0]), 5e-3).mean())
    gaps = []
    for resamplings, jump in ((1, 1), (5, 1), (5, 5)):
        around = inverse.Replacement(
            sd.EulerMaruyama(num_steps=60), inverse.Mask(MASK), Y, resamplings, jump
        )
        out = sd.sample(KEY, around, VP, SCORE, (2000, DIM))
        assert int(out.nfe) == 60 * resamplings + 1  # and the last denoising
        gaps.append(np.linalg.norm(np.asarray(out.x).mean(axis=0) - exact))
    stderr = 3.0 / np.sqrt(2000)
    assert gaps[0] > gaps[1] + 5 * stderr, gaps
    assert gaps[0] > gaps[2] + 5 * stderr, gaps


def test_colours_and_details_of_a_given_picture():
    """Gray and Downsample: what is measured of the samples is y, and the rest varies."""
    score = as_images(IMAGES.score(VP))
    for operator in (inverse.Gray(), inverse.Downsample(2)):
        y = operator(jax.random.normal(KEY, (1, 4, 4, 3)))
        around = inverse.Replacement(sd.DDIM(num_steps=30), operator, y)
        x = sd.sample(KEY, around, VP, score, (6, 4, 4, 3)).x
        np.testing.assert_allclose(operator(x), jnp.broadcast_to(y, operator(x).shape), atol=1e-5)
        assert float(jnp.std(x, axis=0).min()) > 0.05


def test_y_is_in_the_units_of_the_data():
    """A model of standardised data, per feature: the known entries are y in the data's own."""

    def score(x, t):
        return SCORE(x, t)

    score.denoise = SCORE.denoise
    score.standardization = sd.Standardization((3.0, -2.0, 0.0, 1.0), (2.0, 0.5, 1.0, 4.0))
    around = inverse.Replacement(sd.DDIM(num_steps=10), inverse.Mask(MASK), 10.0 * Y)
    out = sd.sample(KEY, around, VP, score, (3, DIM))
    np.testing.assert_allclose(out.x[:, [0, 2]], np.tile([5.0, -10.0], (3, 1)), rtol=1e-6)
    called = around(KEY, VP, score, VP.prior_sample(KEY, (3, DIM)))
    np.testing.assert_allclose(called.x[:, [0, 2]], np.tile([5.0, -10.0], (3, 1)), rtol=1e-6)


def test_gradient_steps_are_the_papers():
    """One step, written out: x' - size / |r| grad |r|^2, r = y - A(D(x))."""
    inner = sd.DDIM(num_steps=1, t_min=0.5, denoise=False)
    operator = inverse.Operator(lambda x: x[:, :2] ** 2)
    y = jnp.array([[0.3, 0.2]])
    x1 = jax.random.normal(KEY, (3, DIM))
    around = inverse.GradientSteps(inner, operator, y, size=0.7)
    out = around(KEY, VP, SCORE, x1)
    assert int(out.nfe) == 2

    def squared(x):
        denoised = SCORE.denoise(x, 1.0)
        return jnp.sum((y - denoised[:, :2] ** 2) ** 2, axis=1)

    gradient = jax.grad(lambda x: squared(x).sum())(x1)
    length = jnp.sqrt(squared(x1))[:, None]
    expected = inner(KEY, VP, SCORE, x1).x - 0.7 / length * gradient
    np.testing.assert_allclose(out.x, expected, rtol=1e-5, atol=1e-6)


def test_paths_are_kept():
    """Every state of the plan, taken again or not; E[x_0 | x] has y in place."""
    inner = sd.EulerMaruyama(num_steps=5, save_path=True)
    around = inverse.Replacement(inner, inverse.Mask(MASK), Y, resamplings=2)
    out = sd.sample(KEY, around, VP, SCORE, (3, DIM))
    assert out.path.x.shape == (3, 11, DIM)
    np.testing.assert_array_equal(out.path.denoised[:, :, 0], 0.5)
    np.testing.assert_array_equal(out.path.denoised[:, -1], out.x)


@pytest.mark.parametrize(
    ("build", "error", "message"),
    [
        (lambda: around(sd.ProbabilityFlow()), TypeError, r"sd\.DDIM\(num_steps=100\)"),
        (lambda: around(sd.AdaptiveSDE()), TypeError, "Any sampler takes a posterior score"),
        (lambda: around(sd.UniPC(), resamplings=2), ValueError, r"sd\.Ancestral\(\)"),
        (lambda: around(sd.DDIM(), resamplings=0), ValueError, "at least 1"),
        (lambda: around(sd.DDIM(), jump=0), ValueError, "at least 1"),
        (
            lambda: around(sd.DDIM(), operator=inverse.Blur(np.ones((3, 3)) / 9)),
            ValueError,
            r"Write sd.inverse.MMPS\(score, sde, operator, y, noise_std\)",
        ),
        (lambda: around(sd.DDIM())(KEY, VP, SCORE, jnp.ones((2, 3))), ValueError, "shape of the"),
    ],
)
def test_what_does_not_fit_is_refused(build, error, message):
    with pytest.raises(error, match=message):
        build()


def around(sampler, **settings):
    """Replacement around a sampler that the annotations would not let through."""
    kind = inverse.Replacement
    made = object.__new__(kind)
    fields = {"operator": inverse.Mask(MASK), "y": Y, "resamplings": 1, "jump": 1, **settings}
    for name, value in {"sampler": sampler, **fields}.items():
        object.__setattr__(made, name, value)
    kind.__post_init__(made)
    return made


def test_as_many_measurements_as_examples():
    two = inverse.Replacement(sd.DDIM(num_steps=3), inverse.Mask(MASK), jnp.ones((2, DIM)))
    with pytest.raises(ValueError, match="2 rows, and there are 3"):
        sd.sample(KEY, two, VP, SCORE, (3, DIM))
    nonlinear = inverse.Operator(lambda x: x**2)
    with pytest.raises(ValueError, match="not linear"):
        sd.sample(
            KEY,
            inverse.Replacement(sd.DDIM(num_steps=3), nonlinear, jnp.ones((1, DIM))),
            VP,
            SCORE,
            (3, DIM),
        )
