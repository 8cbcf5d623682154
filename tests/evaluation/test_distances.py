"""Distances against closed forms, their errors against the spread of repeats, features against scikit-learn's."""

import _thread
import dataclasses
import json
import math
import sys
import threading
from functools import partial
from itertools import combinations

import jax.numpy as jnp
import numpy as np
import pytest
from scipy import linalg, stats
from sklearn.decomposition import PCA

import scoresde.evaluation.distances
from scoresde.data.arrays import digits
from scoresde.evaluation.comparison import Comparison, compare
from scoresde.evaluation.distances import (
    Estimate,
    frechet_distance,
    jackknife,
    kernel_distance,
    sliced_wasserstein,
)
from scoresde.evaluation.features import ClassifierFeatures, Features, PCAFeatures, RawFeatures
from scoresde.evaluation.gaussian import GaussianFit

RNG = np.random.default_rng(0)


def with_moments(mean, cov, n=400):
    """Rows whose sample mean and covariance are exactly these."""
    x = RNG.normal(size=(n, len(mean)))
    x -= x.mean(axis=0)
    white = np.linalg.inv(np.linalg.cholesky(np.cov(x, rowvar=False)))
    return x @ white.T @ np.linalg.cholesky(cov).T + mean


def repeat(distance, draw, times):
    """Values and standard errors of so many fresh pairs of draws."""
    return np.array([distance(*draw()) for _ in range(times)]).T


def assert_mean(values, want, errors=5.0):
    """The mean of independent values is `want`, within so many of its standard errors."""
    stderr = np.std(values, ddof=1) / np.sqrt(len(values))
    assert abs(np.mean(values) - want) < errors * stderr, (np.mean(values), want, stderr)


# --- Fréchet distance ---


def test_frechet_distance_is_the_formula():
    """Against SciPy's matrix square root, and the closed form for commuting covariances."""
    a, b = (root @ root.T + 0.1 * np.eye(5) for root in RNG.normal(size=(2, 5, 5)))
    m = RNG.normal(size=5)
    x, y = with_moments(np.zeros(5), a), with_moments(m, b)
    want = m @ m + np.trace(a + b - 2.0 * np.real(linalg.sqrtm(a @ b)))
    assert frechet_distance(x, y) == pytest.approx(want, rel=1e-8)
    p, q = np.array([1.0, 4.0, 9.0]), np.array([4.0, 4.0, 1.0])
    x, y = with_moments(np.zeros(3), np.diag(p)), with_moments(np.zeros(3), np.diag(q))
    assert frechet_distance(x, y) == pytest.approx(np.sum((np.sqrt(p) - np.sqrt(q)) ** 2), rel=1e-8)


def test_frechet_distance_of_singular_covariances():
    """Constants; rows along two lines u and v, where it is |m|² + a + b - 2 √(ab) |<u, v>|; fewer rows than dimensions.

    From covariances, the square root of their rounding would leave 1e-7 in the last, and float32 1e-3.
    """
    x, y = np.zeros((10, 3)), np.tile([3.0, 4.0, 0.0], (10, 1))
    assert frechet_distance(x, y) == pytest.approx(25.0)
    u, v = np.eye(40)[0], np.full(40, 40**-0.5)
    s, t = with_moments(np.zeros(2), np.diag([4.0, 9.0])).T[..., None]
    assert frechet_distance(s * u, t * v + 1.0) == pytest.approx(
        40.0 + 4.0 + 9.0 - 2 * 6.0 * 40**-0.5, rel=1e-12
    )
    x = RNG.normal(size=(20, 64)) + 100.0
    assert frechet_distance(x, x[::-1]) == pytest.approx(0.0, abs=1e-11)
    assert frechet_distance(jnp.asarray(x), np.asarray(jnp.asarray(x))) == pytest.approx(
        0.0, abs=1e-11
    )


def test_frechet_distance_of_one_law_is_its_bias():
    """In one dimension it is the squared gap of means and of standard deviations, of known variances; in five by the
    leading order of the docstring, whose next one is 1/n smaller (hence 3 % more)."""
    n, m = 12, 20
    c4 = [math.sqrt(2 / (k - 1)) * math.gamma(k / 2) / math.gamma((k - 1) / 2) for k in (n, m)]
    gap = np.square(c4[0] - c4[1]) + 2.0 - np.square(c4).sum()
    draws = [
        frechet_distance(RNG.normal(size=(n, 1)), RNG.normal(size=(m, 1))) for _ in range(2000)
    ]
    assert_mean(draws, 1 / n + 1 / m + gap)
    n, m, k = 300, 500, 5
    draws = [frechet_distance(RNG.normal(size=(n, k)), RNG.normal(size=(m, k))) for _ in range(300)]
    want = k * (k + 5) / 4 * (1 / n + 1 / m)
    assert abs(np.mean(draws) - want) < 5 * np.std(draws) / np.sqrt(300) + 0.03 * want


# --- Kernel distance ---


def test_kernel_distance_is_its_definition():
    """Against the double sums over i ≠ j, in unequal numbers."""
    x, y = RNG.normal(size=(7, 3)), RNG.normal(size=(5, 3)) + 0.5
    k = lambda a, b: (a @ b / 3 + 1.0) ** 3  # noqa: E731
    within = lambda z: np.mean(
        [k(a, b) for i, a in enumerate(z) for j, b in enumerate(z) if i != j]
    )  # noqa: E731
    want = within(x) + within(y) - 2.0 * np.mean([k(a, b) for a in x for b in y])
    assert kernel_distance(x, y).value == pytest.approx(want, rel=1e-12)


def test_kernel_distances_error_is_least_squares():
    """The three tables of kernel values fitted by NumPy, to mean + effects of both rows; what is left are the pairs."""
    x, y = RNG.normal(size=(7, 2)), RNG.normal(size=(6, 2)) + 1.0

    def fit(a, b, pairs):
        rows, columns = np.array(pairs).T
        design = np.eye(len(a) + len(b))[rows] + np.eye(len(a) + len(b))[columns]
        table = (np.concatenate([a, b])[rows] * np.concatenate([a, b])[columns]).sum(
            axis=1
        ) / 2 + 1.0
        effects, _, rank, _ = np.linalg.lstsq(design, table**3)
        return effects, np.sum((design @ effects - table**3) ** 2) / (len(table) - rank)

    (of_x, pair_x), (of_y, pair_y) = (
        fit(z, z[:0], list(combinations(range(len(z)), 2))) for z in (x, y)
    )
    of_xy, pair_xy = fit(x, y, [(i, 7 + j) for i in range(7) for j in range(6)])
    variance = 4 * (np.var(of_x - of_xy[:7], ddof=1) - pair_x / 5 - pair_xy / 6) / 7
    variance += 4 * (np.var(of_y - of_xy[7:], ddof=1) - pair_y / 4 - pair_xy / 7) / 6
    assert variance > 0.0
    variance += pair_x * 2 / 42 + pair_y * 2 / 30 + pair_xy * 4 / 42
    assert kernel_distance(x, y).stderr == pytest.approx(np.sqrt(variance), rel=1e-9)


def moments(mean, cov):
    """E x, E x⊗x, E x⊗x⊗x of N(mean, cov)."""
    third = np.einsum("a,b,c->abc", mean, mean, mean)
    for spec in ("a,bc->abc", "b,ac->abc", "c,ab->abc"):
        third += np.einsum(spec, mean, cov)
    return mean, np.outer(mean, mean) + cov, third


@pytest.mark.parametrize("cov", [[[0.5]], [[0.4, 0.1], [0.1, 0.2]]], ids=["1d", "2d"])
def test_kernel_distance_is_unbiased_and_knows_its_error(cov):
    """E[<x, y>^p] is the inner product of p-th moments, so MMD² = Σ_p (3 choose p) dim^-p |M_p(x) - M_p(y)|².

    The mean square error is the mean squared standard error, both within 5 of their own errors over 1500 repeats.
    """
    cov = np.array(cov)
    k = len(cov)
    mean, other = np.full(k, 0.5), 0.5 * np.eye(k)
    pairs = zip(moments(np.zeros(k), other), moments(mean, cov), strict=True)
    want = sum(
        math.comb(3, p) / k**p * np.sum((a - b) ** 2) for p, (a, b) in enumerate(pairs, start=1)
    )
    roots = np.linalg.cholesky(other), np.linalg.cholesky(cov)
    draw = lambda: (
        RNG.normal(size=(30, k)) @ roots[0].T,
        RNG.normal(size=(50, k)) @ roots[1].T + mean,
    )  # noqa: E731
    values, errors = repeat(kernel_distance, draw, 1500)
    assert_mean(values, want)
    assert_mean((values - want) ** 2 - errors**2, 0.0)
    assert 5 * np.std((values - want) ** 2 - errors**2) / np.sqrt(1500) < 0.5 * np.var(
        values
    )  # it could have failed


def test_kernel_distance_of_one_law():
    """Zero on average; the error is right up to its known excess, at most √2, here in six dimensions less."""
    draw = lambda: (0.7 * RNG.normal(size=(30, 6)), 0.7 * RNG.normal(size=(50, 6)))  # noqa: E731
    values, errors = repeat(kernel_distance, draw, 1000)
    assert_mean(values, 0.0)
    assert (
        0.95 < np.sqrt(np.mean(errors**2)) / np.std(values) < math.sqrt(2.0)
    )  # 5 standard errors are 0.15


def test_kernel_distance_in_pieces_is_the_same(monkeypatch):
    """The kernel matrix three rows at a time, the last piece a short one."""
    x, y = RNG.normal(size=(40, 2)), RNG.normal(size=(50, 2))
    whole = kernel_distance(x, y)
    monkeypatch.setattr(scoresde.evaluation.distances, "BLOCK", 150)
    assert kernel_distance(x, y) == pytest.approx(whole, rel=1e-12)


# --- Sliced Wasserstein, jackknife ---


def test_sliced_wasserstein_of_a_shift_is_its_mean_projection():
    """W_1 of a shift by c along u is |<c, u>|, over all directions |c| Γ(d/2) / (√π Γ((d+1)/2)): 5 standard errors of
    4000 directions. In unequal numbers it is the same; in one dimension SciPy's."""
    x, c = RNG.normal(size=(500, 3)), np.array([2.0, 1.0, -2.0])
    want = (
        3.0 * math.gamma(1.5) / (math.sqrt(math.pi) * math.gamma(2.0))
    )  # = 3 / 2, uniform in [0, 3]
    assert sliced_wasserstein(x, x + c, num_directions=4000) == pytest.approx(
        want, abs=5 * 3 / np.sqrt(12 * 4000)
    )
    once = sliced_wasserstein(x, x + c)
    assert sliced_wasserstein(x, np.repeat(x + c, 2, axis=0)) == pytest.approx(once, rel=0.02)
    one = RNG.normal(size=(300, 1))
    want = stats.wasserstein_distance(one[:, 0], one[:, 0] ** 3)
    assert sliced_wasserstein(one, one**3) == pytest.approx(want, rel=1e-9)


def test_sliced_wasserstein_of_unequal_numbers_meets_at_quantiles():
    x, y = RNG.normal(size=(20, 1)), RNG.normal(size=(33, 1))
    quantiles = np.quantile(y[:, 0], (np.arange(20) + 0.5) / 20, method="hazen")
    want = np.mean(np.abs(np.sort(x[:, 0]) - quantiles))
    assert sliced_wasserstein(x, y) == sliced_wasserstein(y, x) == pytest.approx(want, rel=1e-12)


def test_jackknife_knows_the_error_of_a_frechet_distance():
    """Laws that differ: its square averages to the variance of values within 5 standard errors. One law: 40 to 50 %
    too large, 25 % being 5 standard errors."""
    frechet = lambda x, y: float((x.mean() - y.mean()) ** 2 + (x.std(ddof=1) - y.std(ddof=1)) ** 2)  # noqa: E731
    x, y = RNG.normal(size=(60, 1)), 0.6 * RNG.normal(size=(80, 1)) + 1.0
    assert frechet_distance(x, y) == pytest.approx(frechet(x, y))
    estimate = partial(jackknife, frechet)
    values, errors = repeat(
        estimate, lambda: (RNG.normal(size=x.shape), 0.6 * RNG.normal(size=y.shape) + 1.0), 250
    )
    assert_mean((values - values.mean()) ** 2 * 250 / 249 - errors**2, 0.0)
    values, errors = repeat(
        estimate, lambda: (RNG.normal(size=x.shape), RNG.normal(size=y.shape)), 250
    )
    assert 1.1 < np.sqrt(np.mean(errors**2)) / np.std(values) < 1.9


def test_jackknife_of_a_mean_is_its_standard_error():
    """With as many groups as rows it is s / √n to rounding, and of two means the root of the sum of squares."""
    x, y = RNG.normal(size=(30, 1)), 2.0 * RNG.normal(size=(20, 1))
    value, stderr = jackknife(lambda a, b: float(a.mean() - b.mean()), x, y, groups=100)
    assert value == pytest.approx(x.mean() - y.mean())
    assert stderr == pytest.approx(np.sqrt(x.var(ddof=1) / 30 + y.var(ddof=1) / 20), rel=1e-9)


# --- Features ---


@pytest.mark.parametrize("whiten", [False, True])
def test_pca_features_are_scikit_learns(whiten):
    """Up to the sign, which is fixed: on rows in another order, or all negated, the same basis and name."""
    x = RNG.normal(size=(200, 2, 3)) * np.array([3.0, 2.0, 1.0]) + 1.0
    features = PCAFeatures.fit(x, 4, whiten=whiten)
    want = PCA(4, whiten=whiten, svd_solver="full").fit_transform(x.reshape(200, 6))
    np.testing.assert_allclose(np.abs(features.features(x)), np.abs(want), rtol=1e-6, atol=1e-9)
    assert features.name.startswith("pca4-white-" if whiten else "pca4-")
    again = PCAFeatures.fit(x[::-1], 4, whiten=whiten)
    np.testing.assert_allclose(again.features(x), features.features(x), atol=1e-9)
    mirrored = PCAFeatures.fit(2.0 - x, 4, whiten=whiten)
    np.testing.assert_allclose(mirrored.basis, features.basis, atol=1e-9)
    others = [
        PCAFeatures.fit(x[:150], 4, whiten=whiten),
        PCAFeatures.fit(x + 1.0, 4, whiten=whiten),
    ]
    assert again.name == features.name not in [other.name for other in others]


@pytest.mark.filterwarnings("ignore:Stochastic Optimizer")
def test_features_are_the_classifiers_hidden_layer():
    """One more affine layer and a softmax on the features give the classifier's own probabilities."""
    data = digits()
    x = (data.train / 8.0 - 1.0).astype(np.float32)
    fit = partial(ClassifierFeatures.fit, x[:100], data.train_labels[:100], hidden=8)
    features, again, other = fit(), fit(), fit(seed=1)
    logits = (
        features.features(x) @ features.classifier.coefs_[1] + features.classifier.intercepts_[1]
    )
    probability = np.exp(logits - logits.max(axis=1, keepdims=True))
    probability /= probability.sum(axis=1, keepdims=True)
    np.testing.assert_allclose(features.confidence(x), probability.max(axis=1), rtol=1e-5)
    assert features.name == again.name != other.name
    again.classifier.intercepts_[0][3] += 1e-3
    assert features.name != again.name  # biases count


def test_all_features_are_rows_of_float64():
    x = RNG.normal(size=(30, 2, 2)).astype(np.float32)
    for features in (RawFeatures(), PCAFeatures.fit(x, 2)):
        assert isinstance(features, Features)
        assert features.features(jnp.asarray(x[:1])).dtype == np.float64
        np.testing.assert_allclose(features.features(x)[:1], features.features(x[:1]), atol=1e-12)
    np.testing.assert_array_equal(RawFeatures().features(x), x.reshape(30, 4))


def test_ctrl_c_leaves_no_classifier_that_is_not_trained():
    """scikit-learn swallows it, and would hand back what it has."""
    labels = np.arange(2000) % 10
    images = np.random.default_rng(0).normal(
        size=(2000, 64)
    )  # noise: a thousand epochs would take a minute
    clock = threading.Timer(0.5, _thread.interrupt_main)
    clock.start()
    with pytest.raises(KeyboardInterrupt):
        ClassifierFeatures.fit(images, labels, hidden=512)
    clock.join()


def test_another_warning_of_the_classifiers_is_no_ctrl_c(monkeypatch):
    """Where warnings are errors, one of scikit-learn's stays what it is."""

    def fit(self, x, y):
        raise UserWarning("not converged")

    monkeypatch.setattr("sklearn.neural_network.MLPClassifier.fit", fit)
    with pytest.raises(UserWarning, match="not converged"):
        ClassifierFeatures.fit(np.zeros((2, 3)), np.arange(2))


def test_without_scikit_learn_the_error_says_what_to_install(monkeypatch):
    monkeypatch.setitem(sys.modules, "sklearn.neural_network", None)
    with pytest.raises(ModuleNotFoundError, match=r"pip install 'scoresde\[experiments\]'"):
        ClassifierFeatures.fit(np.zeros((2, 2)), np.zeros(2))


# --- Samples beside real data ---


def test_a_perfect_model_reaches_the_floor_on_average():
    """Samples of the data's own law, four times as many as held-out rows: value - floor is zero within 5 standard
    errors. With all samples at once it would lie far below, and does by more than 10 of them."""
    plain = {"fd": lambda x, y: Estimate(frechet_distance(x, y), 0.0)}
    gaps, unmatched = [], []
    for _ in range(60):
        samples, train, test = (RNG.normal(size=(n, 6)) for n in (240, 300, 60))
        (row,) = compare(samples, train, test, distances=plain)
        gaps.append(row.value - row.floor)
        unmatched.append(frechet_distance(samples, train) - row.floor)
    assert (row.rows, row.reference_rows) == (60, 300)
    assert_mean(gaps, 0.0)
    assert np.mean(unmatched) < -10 * np.std(unmatched) / np.sqrt(60)


def test_wrong_models_leave_the_floor():
    """A shifted one lies above by 3 error bars, in every distance and feature space; a copy of the data below."""
    scale = np.array([[2.0, 1.5], [1.0, 0.3]])
    samples, train, test = (scale * RNG.normal(size=(n, 2, 2)) for n in (500, 300, 250))
    spaces = [RawFeatures(), PCAFeatures.fit(train, 3)]
    rows = compare(jnp.asarray(samples + 1.5 * scale), train, test, spaces)
    names = "Fréchet distance", "kernel distance", "sliced Wasserstein"
    assert [(r.distance, r.features) for r in rows] == [
        (name, space.name) for space in spaces for name in names
    ]
    for row in rows:
        assert row.value - row.floor > 3 * math.hypot(row.stderr, row.floor_stderr), row
    for row in compare(train, train, scale * RNG.normal(size=(300, 2, 2))):
        if (
            row.distance != "kernel distance"
        ):  # without bias it cannot be small for copies, only negative
            assert row.value < 1e-9 < row.floor, row


def test_one_block_is_the_distance_itself_and_a_table_can_be_written():
    samples, train, test = (RNG.normal(size=(n, 3)) for n in (40, 60, 50))
    rows = compare(samples, train, test)
    assert rows[0].value == pytest.approx(frechet_distance(samples, train), rel=1e-9)
    assert (rows[1].value, rows[1].stderr) == pytest.approx(
        kernel_distance(samples, train), rel=1e-9
    )
    assert rows == compare(samples, train, test)
    for row in rows:
        assert dict(zip(Comparison.COLUMNS[5:], row.row()[5:], strict=True)) == {
            "rows": 40,
            "reference rows": 60,
        }
        assert row.row()[:3] == [f"{row.distance}, raw", row.value, row.stderr]
        assert json.loads(json.dumps(dataclasses.asdict(row))) == dataclasses.asdict(row)


# --- The baseline, the data, errors ---


def test_gaussian_fit_is_scipys():
    x = with_moments(np.array([1.0, -2.0]), np.array([[2.0, 0.6], [0.6, 0.5]]))
    fit = GaussianFit.fit(x.reshape(-1, 2, 1))
    want = stats.multivariate_normal([1.0, -2.0], [[2.0, 0.6], [0.6, 0.5]]).logpdf(x)
    np.testing.assert_allclose(fit.log_prob(x), want, rtol=1e-7)
    draws = fit.sample(0, 20_000)
    assert draws.shape == (20_000, 2, 1)
    assert np.all(
        np.abs(draws[..., 0].mean(axis=0) - [1.0, -2.0]) < 5 * np.sqrt([2.0, 0.5]) / np.sqrt(20_000)
    )


def test_digits_are_split_once_and_for_all():
    data = digits()
    assert data.train.shape == (1500, 8, 8, 1)
    assert data.test.shape == (297, 8, 8, 1)
    assert (data.train.min(), data.train.max(), data.levels) == (0, 16, 17)
    both = np.concatenate([data.train, data.test]).reshape(1797, -1)
    from sklearn.datasets import load_digits

    original = load_digits().data
    np.testing.assert_array_equal(both[np.lexsort(both.T)], original[np.lexsort(original.T)])
    assert np.bincount(data.test_labels).min() > 15  # every digit is held out


def test_bad_samples_are_refused(unchecked):
    good = np.arange(8.0).reshape(4, 2)
    bad = np.where(good == 5.0, np.nan, good)
    for distance in (
        frechet_distance,
        kernel_distance,
        sliced_wasserstein,
        partial(jackknife, frechet_distance),
    ):
        with pytest.raises(
            ValueError,
            match=r"y has 4 rows, 1 of them with NaN or infinity, the first at 2.*success",
        ):
            distance(good, bad)
        with pytest.raises(ValueError, match=r"x has shape \(4, 2\), y has \(4, 1\).*same space"):
            distance(good, good[:, :1])
        with pytest.raises(ValueError, match=r"x has shape \(1, 2\): at least [234] rows"):
            distance(good[:1], good)
    with pytest.raises(ValueError, match="samples has 4 rows, 1 of them"):
        compare(bad, good, good)
    with pytest.raises(ValueError, match=r"test has shape .* 1 numbers an example: 2 are wanted"):
        compare(good, good, good[:, :1])
    with pytest.raises(ValueError, match="max_blocks is 0"):
        compare(good, good, good, max_blocks=0)
    with pytest.raises(ValueError, match="groups is 1"):
        jackknife(frechet_distance, good, good, groups=1)
    with pytest.raises(ValueError, match="varies in 1 directions: write a number from 1 to 1"):
        PCAFeatures.fit(good, 2)
    with pytest.raises(ValueError, match="3 numbers an example: 2 are wanted"):
        PCAFeatures.fit(good, 1).features(np.zeros((2, 3)))
