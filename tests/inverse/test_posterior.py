"""Posterior scores against exact posteriors."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from families import PROCESSES, SAMPLERS, begin
from flax import nnx
from guided_cases import MIXTURE as CLASSES
from posteriors import gaussian

import scoresde as sd
from scoresde import inverse
from scoresde.inverse.linear_operator import check_operator

KEY = jax.random.key(0)
RNG = np.random.default_rng(0)
DIM = 4
GAUSSIAN = gaussian(DIM)
MATRIX = RNG.normal(size=(2, DIM))
MASK = np.array([[1, 0, 1, 0]])
NOISE_STD = 0.3
Y = jnp.array([[0.5, -1.0]])
CASES = {
    "projection": (inverse.Projection(MATRIX), MATRIX, Y),
    "mask": (inverse.Mask(MASK), np.eye(DIM)[[0, 2]], jnp.array([[0.5, jnp.nan, -1.0, 7.0]])),
    "function": (inverse.Operator(lambda x: x @ MATRIX.T.astype(np.float32)), MATRIX, Y),
}
TIMES = jnp.array([0.002, 0.02, 0.1, 0.4, 0.7, 0.95])


@pytest.fixture(params=PROCESSES)
def process_and_case(request):
    """Every SDE with one operator, in turn."""
    name = list(CASES)[list(PROCESSES).index(request.param) % len(CASES)]
    return PROCESSES[request.param], *CASES[name]


def states():
    return jax.random.normal(KEY, (len(TIMES), DIM))


def close(found, exact, tolerance=2e-5):
    """Each row within this share of its length."""
    gap = np.linalg.norm(np.asarray(found - exact), axis=1)
    assert np.all(gap <= tolerance * np.linalg.norm(np.asarray(exact), axis=1)), gap


def test_mmps_is_exact_on_gaussian_data(process_and_case):
    """Score and denoiser of the exact posterior, at every t, to float32's rounding."""
    any_sde, operator, matrix, y = process_and_case
    exact = GAUSSIAN.posterior(matrix, np.array(Y[0]), NOISE_STD).score(any_sde)
    score = GAUSSIAN.score(any_sde)
    posterior = inverse.MMPS(score, any_sde, operator, y, NOISE_STD, tolerance=0.0)
    close(posterior(states(), TIMES), exact(states(), TIMES))
    close(posterior.denoise(states(), TIMES), exact.denoise(states(), TIMES))


@pytest.mark.parametrize("parameterization", [sd.Noise(), sd.Data(), sd.Flow()], ids=repr)
def test_it_is_exact_under_every_parameterization(parameterization):
    """Of networks that are the exact outputs."""
    sde = sd.VP()
    score = GAUSSIAN.score(sde)

    def net(x, t):
        t = TIMES.astype(x.dtype)
        return sd.convert(score(x, t), x, t, sde, sd.Score(), parameterization)

    model = sd.ScoreModel(sde, net, parameterization)
    exact = GAUSSIAN.posterior(MATRIX, np.array(Y[0]), NOISE_STD).score(sde)
    posterior = inverse.MMPS(model, sde, CASES["projection"][0], Y, NOISE_STD, tolerance=0.0)
    # A network of x_0 loses |x| eps / sigma^2 at small t: 2e-4 of the score at t = 0.002.
    close(posterior(states(), TIMES), exact(states(), TIMES), 5e-4)


def test_pigdm_is_exact_where_its_assumption_holds(any_sde):
    """N(m, s^2 I): Cov[x_0 | x_t] is r^2 I, so PiGDM with data_std = s is the posterior."""
    data = sd.GaussianMixture(RNG.normal(size=(1, DIM)), np.array([0.7**2]))
    operator = inverse.Projection(MATRIX)
    exact = data.posterior(MATRIX, np.array(Y[0]), NOISE_STD).score(any_sde)
    posterior = inverse.PiGDM(data.score(any_sde), any_sde, operator, Y, NOISE_STD, data_std=0.7)
    close(posterior(states(), TIMES), exact(states(), TIMES))

    unlike = inverse.PiGDM(data.score(any_sde), any_sde, operator, Y, NOISE_STD, data_std=2.0)
    gap = unlike(states(), TIMES) - exact(states(), TIMES)
    assert np.max(np.abs(gap[3:])) > 1e-2


def test_dps_is_a_gradient_of_the_misfit(any_sde):
    """s - scale / (2 noise^2) grad |y - A(D(x))|^2, by another gradient; A not linear."""
    score = GAUSSIAN.score(any_sde)
    operator = inverse.Operator(lambda x: jnp.stack([x[:, 0] ** 2, jnp.tanh(x[:, 1])], axis=1))
    posterior = inverse.DPS(score, any_sde, operator, Y, NOISE_STD, scale=0.4)

    def misfit(x):
        denoised = sd.denoise(any_sde, score, x, TIMES)
        return 0.4 / (2.0 * NOISE_STD**2) * jnp.sum((Y - operator(denoised)) ** 2)

    close(posterior(states(), TIMES), score(states(), TIMES) - jax.grad(misfit)(states()), 1e-4)


def test_the_noise_of_y_may_be_zero():
    """Then y is known to the last digit: MMPS still has the exact score."""
    sde = sd.VP()
    exact = GAUSSIAN.posterior(MATRIX, np.array(Y[0]), 2e-3).score(sde)
    posterior = inverse.MMPS(GAUSSIAN.score(sde), sde, inverse.Projection(MATRIX), Y, 0.0)
    close(posterior(states(), TIMES)[2:], exact(states(), TIMES)[2:], 1e-3)


def test_preconditioning_saves_iterations():
    """Of an ill-conditioned A, two iterations get much nearer with PiGDM's solve before them."""
    sde = sd.VP()
    matrix = np.diag([1.0, 0.3, 0.05, 0.01])
    y = RNG.normal(size=(1, DIM)).astype(np.float32)
    exact = GAUSSIAN.posterior(matrix, y[0], 0.01).score(sde)(states(), TIMES)
    errors = []
    for precondition in (False, True):
        posterior = inverse.MMPS(
            GAUSSIAN.score(sde),
            sde,
            inverse.Projection(matrix),
            y,
            0.01,
            iterations=2,
            precondition=precondition,
        )
        gap = posterior(states(), TIMES) - exact
        errors.append(np.linalg.norm(gap[1:4]) / np.linalg.norm(exact[1:4]))
    assert errors[1] < 0.5 * errors[0], errors


def moments_agree(x, exact, extra=0.0):
    """Mean and covariance within 5 standard errors of n independent draws, and what the solver
    adds."""
    x = np.asarray(x, float)
    mean, cov = np.asarray(exact.mean(), float), np.asarray(exact.cov(), float)
    variance = np.diag(cov)
    stderr = np.sqrt(variance / len(x))
    assert np.all(np.abs(x.mean(axis=0) - mean) <= 5.0 * stderr + extra), (x.mean(axis=0), mean)
    stderr = np.sqrt((np.outer(variance, variance) + cov**2) / len(x))
    assert np.all(np.abs(np.cov(x.T) - cov) <= 5.0 * stderr + extra), (np.cov(x.T), cov)


def test_mmps_samples_the_posterior(long_sde):
    """From its exact law at the start: there the prior of some SDEs still differs from it."""
    """Mean and covariance of 20 000 samples within 5 standard errors."""
    operator, matrix, y = CASES["projection"]
    score = inverse.MMPS(GAUSSIAN.score(long_sde), long_sde, operator, y, NOISE_STD, 2, 0.0)
    exact = GAUSSIAN.posterior(matrix, np.array(Y[0]), NOISE_STD)
    sampler, x1 = begin(sd.Heun(num_steps=40, t_min=1e-4), long_sde, KEY, (20_000, DIM))
    noise = jax.random.normal(jax.random.key(1), x1.shape)
    alpha, sigma = long_sde.alpha(sampler.start), long_sde.sigma(sampler.start)
    x1 = alpha * exact.sample(jax.random.key(2), len(x1)) + sigma * noise
    out = sd.sample(KEY, sampler, long_sde, score, x1.shape, x1=x1)
    moments_agree(out.x, exact)


METHODS = ("mmps", "pigdm", "dps")
PAIRS = [
    pytest.param(method, sampler, marks=[] if (i + 4 * j) % 6 == 0 else [pytest.mark.slow])
    for i, sampler in enumerate(SAMPLERS)
    for j, method in enumerate(METHODS)
]


@pytest.mark.parametrize(("method", "sampler"), PAIRS)
def test_every_sampler_takes_every_posterior_score(method, sampler):
    """Each example has its own y, mask and noise, in chunks: x_0 is measured to be where y says."""
    sde = sd.VP()
    y = jnp.asarray(RNG.normal(size=(5, DIM)), jnp.float32)
    masks = np.array([[1, 0, 1, 0], [0, 1, 0, 1], [1, 1, 0, 0], [0, 0, 1, 1], [1, 1, 1, 0]])
    noise_std = np.array([0.01, 0.02, 0.01, 0.02, 0.01])
    kind = {"mmps": inverse.MMPS, "pigdm": inverse.PiGDM, "dps": inverse.DPS}[method]
    if method == "dps":
        noise_std = 20.0 * noise_std  # its pull is stiff: |1 / noise_std^2| of a step's length
    score = kind(GAUSSIAN.score(sde), sde, inverse.Mask(masks), y, noise_std)
    out = sd.sample(KEY, SAMPLERS[sampler], sde, score, (5, DIM), batch_size=2)
    assert bool(jnp.all(out.success))
    gap = np.abs(masks * np.asarray(out.x - y)) / noise_std[:, None]
    assert np.max(gap) < 6.0
    again = sd.sample(KEY, SAMPLERS[sampler], sde, score, (5, DIM))
    np.testing.assert_allclose(out.x, again.x, rtol=2e-2, atol=2e-3)


def test_guidance_goes_inside_and_around():
    """Classes of a mixture: y names the plane's first coordinate, the label the component."""
    sde = sd.VP()
    labels = np.array([1, 3, 1, 3])
    classes = sd.MixtureClassScore(sde, CLASSES)
    operator = inverse.Projection(np.array([[1.0, 0.0]]))
    y = jnp.full((4, 1), 0.1)
    inside = inverse.MMPS(sd.ClassifierFreeGuidance(classes, 1.0), sde, operator, y, 0.05)
    around = sd.ClassifierFreeGuidance(inverse.MMPS(classes, sde, operator, y, 0.05), 1.0)
    held = inverse.MMPS(sd.conditioned(classes, labels), sde, operator, y, 0.05)
    sampler = sd.DDIM(num_steps=40, eta=1.0)
    for score, cond in ((inside, labels), (around, labels), (held, None)):
        x = np.asarray(sd.sample(KEY, sampler, sde, score, (4, 2), cond, batch_size=2).x)
        np.testing.assert_allclose(x[:, 0], 0.1, atol=5 * 0.06)
        np.testing.assert_allclose(x[:, 1], np.where(labels == 1, 1.5, -1.5), atol=5 * 0.2)


def test_y_is_in_the_units_of_the_data():
    """A model of standardised data, per feature: the posterior in the data's own units is exact."""
    sde = sd.VP()
    units = sd.Standardization((3.0, -2.0, 0.0, 1.0), (2.0, 0.5, 1.0, 4.0))
    scale, shift = np.array(units.std), np.array(units.mean)
    data = sd.GaussianMixture(
        shift + scale * np.asarray(GAUSSIAN.means), np.outer(scale, scale) * GAUSSIAN.covs
    )
    model = in_units(GAUSSIAN.score(sde), units)
    for operator, matrix in ((inverse.Projection(MATRIX), MATRIX), (CASES["mask"][0], None)):
        matrix = np.eye(DIM)[[0, 2]] if matrix is None else matrix
        y = operator(jnp.array([[4.0, -2.5, 1.0, 3.0]]))
        exact = data.posterior(matrix, matrix @ [4.0, -2.5, 1.0, 3.0], NOISE_STD)
        score = inverse.MMPS(model, sde, operator, y, NOISE_STD, 4, 0.0)
        x = sd.sample(KEY, sd.Heun(num_steps=30), sde, score, (2000, DIM)).x
        moments_agree(x, exact, extra=1e-3)


def in_units(score, units):
    """A score whose data are in these units."""

    def standardised(x, t):
        return score(x, t)

    standardised.denoise = score.denoise
    standardised.standardization = units
    return standardised


def test_likelihoods_of_a_posterior_score():
    """log p(x | y) of its flow is that of the exact posterior."""
    sde = sd.VP()
    operator, matrix, y = CASES["projection"]
    exact = GAUSSIAN.posterior(matrix, np.array(Y[0]), NOISE_STD)
    score = inverse.MMPS(GAUSSIAN.score(sde), sde, operator, y, NOISE_STD, 2, 0.0)
    x = exact.sample(KEY, 5).astype(jnp.float32)
    found = sd.log_likelihood(
        KEY,
        sde,
        score,
        x,
        divergence=sd.ExactDivergence(),
        prior_log_prob=lambda x1: exact.log_prob(sde, x1, 1.0),
        t_min=1e-4,
    )
    np.testing.assert_allclose(found.log_prob, exact.log_prob(sde, x, 1e-4), atol=1e-3)


def test_a_network_serves_and_gradients_pass():
    """Another y, mask or noise compiles nothing, and the solve has a derivative."""
    sde = sd.VP()
    net = sd.MLPConfig(width=8, depth=1).build((DIM,), rngs=nnx.Rngs(0))
    model = sd.ScoreModel(sde, net)
    x = states()[:2]
    traces = []

    @jax.jit
    def run(posterior, x):
        traces.append(None)
        return posterior(x, 0.5)

    for factor in (1.0, 2.0):
        mask = np.roll(MASK, int(factor))
        y = jnp.asarray(RNG.normal(size=(1, DIM)), jnp.float32)
        posterior = inverse.MMPS(model, sde, inverse.Mask(mask), y, 0.1 * factor, iterations=2)
        assert bool(jnp.all(jnp.isfinite(run(posterior, x))))
    assert len(traces) == 1
    assert bool(jnp.all(jnp.isfinite(jax.grad(lambda x: posterior(x, 0.5).sum())(x))))


@pytest.mark.parametrize("kind", [inverse.MMPS, inverse.PiGDM, inverse.DPS])
def test_what_does_not_fit_is_refused(kind):
    sde = sd.VP()
    score = GAUSSIAN.score(sde)
    operator = inverse.Projection(MATRIX)
    x = states()
    for arguments, message in (
        ((score, sde, operator, jnp.ones((1, 3)), 0.1), r"A\(x\) has \(6, 2\)"),
        ((score, sde, operator, jnp.ones((2, 2)), 0.1), "2 rows, and there are 6"),
        ((score, sde, operator, Y, -0.1), "not negative"),
        ((score, sde, operator, Y, [[0.1]]), "one per example"),
        ((score, sde, operator, Y, np.ones(3)), "3 rows, and there are 6"),
        ((score, sde, inverse.Mask(np.ones((1, 3))), jnp.ones((1, 3)), 0.1), "shape of the data"),
    ):
        with pytest.raises(ValueError, match=message):
            kind(*arguments)(x, TIMES)
    with pytest.raises(TypeError, match=r"sd\.inverse\.Operator\(function\)"):
        check_operator(MATRIX)
    with pytest.raises(TypeError, match="floating-point"):
        kind(score, sde, operator, jnp.ones((1, 2), int), 0.1)

    broken = kind(score, sde, operator, Y.at[0, 1].set(jnp.nan), 0.1)
    assert not np.any(sd.sample(KEY, sd.DDIM(num_steps=2), sde, broken, (3, DIM)).success)

    nonlinear = inverse.Operator(lambda x: x[:, :2] ** 2)
    if kind is inverse.DPS:
        assert bool(jnp.all(jnp.isfinite(kind(score, sde, nonlinear, Y, 0.1)(x, TIMES))))
        with pytest.raises(ValueError, match="PiGDM and MMPS take 0"):
            kind(score, sde, operator, Y, 0.0)
        with pytest.raises(ValueError, match=r"scale has shape \(2,\): wanted one number"):
            inverse.DPS(score, sde, operator, Y, 0.1, scale=jnp.ones(2))
        rounded = inverse.Operator(lambda x: jnp.round(x[:, :2]))
        with pytest.raises(ValueError, match="derivative of the operator's function is 0"):
            kind(score, sde, rounded, Y, 0.1)(x, TIMES)
    else:
        with pytest.raises(ValueError, match="not linear"):
            kind(score, sde, nonlinear, Y, 0.1)(x, TIMES)


def test_pure_noise_is_begun_a_little_below():
    """Where alpha(1) = 0 the gradient's factor is infinite: the message's line works."""
    sde = PROCESSES["rectified"]
    operator, _, y = CASES["projection"]
    score = inverse.MMPS(GAUSSIAN.score(sde), sde, operator, y, NOISE_STD)
    sampler = sd.DDIM(num_steps=10)
    with pytest.raises(ValueError, match=r"start=0\.999"):
        sd.sample(KEY, sampler, sde, score, (3, DIM))
    x1 = sde.sigma(0.999) * sde.prior_sample(KEY, (3, DIM))
    below = dataclasses.replace(sampler, start=0.999)
    assert bool(jnp.all(sd.sample(KEY, below, sde, score, x1.shape, x1=x1).success))
