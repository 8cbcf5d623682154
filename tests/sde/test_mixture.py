"""The oracle itself, against SciPy, automatic differentiation and sampling error."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy import stats

import scoresde as sd

RNG = np.random.default_rng(0)


def normal(mean, cov):
    """SciPy's normal law."""
    return stats.multivariate_normal(mean, cov)


def covariances(kind, k, d):
    root = RNG.normal(size=(k, d, d)) * 0.4
    full = root @ np.swapaxes(root, 1, 2) + 0.1 * np.eye(d)
    match kind:
        case "isotropic":
            return full[:, 0, 0], full[:, :1, :1] * np.eye(d)
        case "diagonal":
            diagonal = np.diagonal(full, axis1=1, axis2=2)
            return diagonal, diagonal[:, :, None] * np.eye(d)
    return full, full


@pytest.fixture(params=["isotropic", "diagonal", "full"])
def case(request, x64):
    k = 3
    d = 4
    means = RNG.normal(size=(k, d))
    weights = np.array([0.2, 0.5, 0.3])
    covs, full = covariances(request.param, k, d)
    return sd.GaussianMixture(means, covs, weights), means, full, weights


def test_density_is_scipys_at_every_time(case, any_sde):
    mixture, means, full, weights = case
    x = RNG.normal(size=(20, 4))
    for t in (0.0, 1e-3, 0.3, 1.0):
        alpha = float(any_sde.alpha(t))
        variance = float(any_sde.variance(t)) if t > 0 else 0.0
        parts = [
            w * normal(alpha * m, alpha**2 * c + variance * np.eye(4)).pdf(x)
            for w, m, c in zip(weights, means, full, strict=True)
        ]
        np.testing.assert_allclose(
            mixture.log_prob(any_sde, jnp.asarray(x), t), np.log(sum(parts)), rtol=1e-9
        )


def test_score_divergence_and_denoiser_are_derivatives_of_the_density(case, any_sde):
    mixture, *_ = case
    score = mixture.score(any_sde)
    x = jnp.asarray(RNG.normal(size=(10, 4)))
    t = jnp.linspace(0.02, 0.9, 10)
    log_p = lambda x, t: mixture.log_prob(any_sde, x[None], t[None])[0]  # noqa: E731
    gradient = jax.vmap(jax.grad(log_p))(x, t)
    np.testing.assert_allclose(score(x, t), gradient, rtol=1e-8, atol=1e-10)
    np.testing.assert_allclose(
        score.divergence(x, t),
        jax.vmap(lambda x, t: jnp.trace(jax.hessian(log_p)(x, t)))(x, t),
        rtol=1e-7,
    )
    tweedie = (x + any_sde.variance(t)[:, None] * gradient) / any_sde.alpha(t)[:, None]
    np.testing.assert_allclose(score.denoise(x, t), tweedie, rtol=1e-6, atol=1e-8)
    np.testing.assert_allclose(
        sd.denoise(any_sde, lambda x, t: score(x, t), x, t), tweedie, rtol=1e-9
    )


def test_samples_have_the_mixtures_moments_and_shares(case):
    mixture, means, full, weights = case
    n = 50_000
    x = np.asarray(mixture.sample(jax.random.key(1), n))
    mean = weights @ means
    cov = np.einsum(
        "k,kij->ij", weights, full + np.einsum("ki,kj->kij", means - mean, means - mean)
    )
    np.testing.assert_allclose(mixture.mean(), mean, rtol=1e-12)
    np.testing.assert_allclose(mixture.cov(), cov, rtol=1e-12)
    assert np.all(np.abs(x.mean(axis=0) - mean) < 5 * np.sqrt(np.diag(cov) / n))
    products = np.einsum("ni,nj->nij", x - mean, x - mean)
    assert np.all(np.abs(products.mean(axis=0) - cov) < 5 * products.std(axis=0) / np.sqrt(n))
    np.testing.assert_array_equal(mixture.sample(jax.random.key(1), 5), x[:5])


def test_posteriors_obey_bayes_rule(case):
    """log p(x | y) + log p(y) = log p(x) + log p(y | x) at every x, p(y) by SciPy."""
    mixture, means, full, weights = case
    matrix, y, noise_std = RNG.normal(size=(2, 4)), np.array([0.3, -0.8]), 0.4
    noise = noise_std**2 * np.eye(2)
    x = RNG.normal(size=(20, 4))
    evidence = sum(
        w * normal(matrix @ m, matrix @ c @ matrix.T + noise).pdf(y)
        for w, m, c in zip(weights, means, full, strict=True)
    )
    likelihood = [normal(matrix @ point, noise).logpdf(y) for point in x]

    data = sd.VP()  # at t = 0 the density of the data, under any SDE
    posterior = mixture.posterior(matrix, y, noise_std).log_prob(data, jnp.asarray(x), 0.0)
    prior = mixture.log_prob(data, jnp.asarray(x), 0.0)
    np.testing.assert_allclose(
        posterior + np.log(evidence), prior + np.array(likelihood), rtol=1e-9
    )


def test_posteriors_of_what_a_mixture_excludes_are_finite(mixture):
    posterior = mixture.posterior([[1.0, 0.0]], [1e3], 0.01)
    assert np.all(np.isfinite(posterior.means)) and np.all(posterior.weights > 0.0)
    assert float(posterior.mean()[0]) == pytest.approx(1e3, rel=0.01)


def test_noise_that_rounding_hides_is_refused(mixture):
    with pytest.raises(ValueError, match=r"lost in float32.*jax_enable_x64"):
        mixture.posterior([[1.0, 0.0]], [0.0], 1e-6)
    with jax.enable_x64(True):  # what the message advises
        wide = sd.GaussianMixture(np.asarray(mixture.means, float), np.asarray(mixture.covs, float))
        narrow = np.diagonal(wide.posterior([[1.0, 0.0]], [0.0], 1e-6).covs, axis1=1, axis2=2)
    np.testing.assert_allclose(narrow[:, 0], 1e-12, rtol=1e-6)


def test_one_dimension_and_many_components_integrate_to_one(any_sde):
    mixture = sd.GaussianMixture(np.linspace(-2, 2, 7)[:, None], np.full(7, 0.05))
    grid = (
        jnp.linspace(-300, 300, 600_001)[:, None]
        if isinstance(any_sde, sd.VE | sd.EDMProcess)
        else jnp.linspace(-9, 9, 20_001)[:, None]
    )
    for t in (0.0, 0.2, 0.9):
        density = np.exp(np.asarray(mixture.log_prob(any_sde, grid, t), np.float64))
        assert np.trapezoid(density, np.asarray(grid[:, 0], np.float64)) == pytest.approx(
            1.0, abs=1e-4
        )


def test_it_is_a_pytree_and_differentiable_in_its_parameters(mixture):
    sde = sd.VP()
    x = jnp.asarray([[0.3, -0.2]])
    slope = jax.jit(jax.grad(lambda mixture: mixture.log_prob(sde, x, 0.5)[0]))(mixture)
    step = 1e-2
    moved = [jax.tree.map(lambda a: a, mixture) for _ in range(2)]
    values = [
        sd.GaussianMixture(m.means.at[1, 0].add(s * step), m.covs, m.weights).log_prob(sde, x, 0.5)[
            0
        ]
        for m, s in zip(moved, (1, -1), strict=True)
    ]
    assert float(slope.means[1, 0]) == pytest.approx(
        float(values[0] - values[1]) / (2 * step), rel=0.02
    )


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ((np.zeros(3), np.ones(3)), "wanted .components"),
        ((np.zeros((3, 2)), np.ones(2)), "isotropic variances"),
        ((np.zeros((2, 2)), np.ones(2), np.array([1.0, -1.0])), "positive numbers"),
        ((np.zeros((1, 2)), np.array([[[1.0, 2.0], [2.0, 1.0]]])), "eigenvalue"),
        ((np.zeros((1, 2)), np.array([[[1.0, 0.5], [0.0, 1.0]]])), "not symmetric"),
        ((np.full((1, 2), np.nan), np.ones(1)), "NaN"),
    ],
)
def test_bad_mixtures_are_refused(arguments, message, unchecked):
    with pytest.raises(ValueError, match=message):
        sd.GaussianMixture(*arguments)


def test_points_of_the_wrong_dimension_are_refused(mixture):
    with pytest.raises(ValueError, match="lives in 2 dimensions"):
        mixture.score(sd.VP())(jnp.ones((4, 3)), 0.5)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (([1.0, 0.0], [0.0], 0.1), "write matrix.None."),
        (([[1.0, 0.0, 0.0]], [0.0], 0.1), "lives in 2 dimensions"),
        (([[1.0, 0.0]], [[0.0]], 0.1), "wanted .1,., what was measured of one point"),
        (([[1.0, 0.0]], [np.nan], 0.1), "y holds NaN"),
        (([[1.0, 0.0]], [0.0], 0.0), "noise_std = 0.0 is out of range"),
        (([[1j, 0.0]], [0.0], 0.1), "such as the matrix of"),
        ((np.array([[1j, 0.0]]), [0.0], 0.1), "complex"),
        ((sd.inverse.Projection(np.eye(2)), [0.0], 0.1), "such as the matrix of"),
    ],
)
def test_measurements_that_do_not_fit_are_refused(mixture, arguments, message, unchecked):
    with pytest.raises((TypeError, ValueError), match=message):
        mixture.posterior(*arguments)


def test_built_inside_jit_it_is_the_same():
    """Unnormalised weights, lists and tracers mixed: one path for all."""
    x = jnp.asarray([[0.2, 0.1]])
    sde = sd.VP()

    def build(means, weights):
        mixture = sd.GaussianMixture(means, [0.04, 0.09], weights)
        return mixture.log_prob(sde, x, 0.1)

    means = jnp.asarray([[-1.0, 0.0], [1.0, 0.0]])
    weights = jnp.asarray([2.0, 6.0])
    eager = build(means, weights)
    np.testing.assert_allclose(jax.jit(build)(means, weights), eager, rtol=1e-6)
    np.testing.assert_allclose(
        jax.jit(lambda w: build([[-1.0, 0.0], [1.0, 0.0]], w))(weights), eager, rtol=1e-6
    )
    np.testing.assert_allclose(build(means, weights / 8), eager, rtol=1e-6)
