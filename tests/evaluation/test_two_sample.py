"""The classifier two-sample test against Bayes' accuracies, and its error against repeats."""

import _thread
import sys
import threading

import numpy as np
import pytest
from repeats import assert_mean, repeat
from scipy.stats import norm
from sklearn.model_selection import StratifiedKFold, cross_val_score
from sklearn.neural_network import MLPClassifier
from sklearn.preprocessing import StandardScaler

from scoresde.evaluation.two_sample import two_sample_accuracy

RNG = np.random.default_rng(0)


def gaussians(n, dim, shift=0.0):
    """Rows of N(0, I), and as many of N(shift, I), shifted along the first axis."""
    x, y = RNG.normal(size=(2, n, dim))
    y[:, 0] += shift
    return x, y


@pytest.mark.filterwarnings("ignore:Stochastic Optimizer")
def test_accuracy_is_that_of_scikit_learns_cross_validation():
    """sbibm's protocol, but for the folds, which hold both sets in equal shares."""
    x, y = gaussians(60, 2, 2.0)
    scaler = StandardScaler().fit(x)  # divides by n, where ours divides by n - 1
    rows = np.sqrt(59 / 60) * scaler.transform(np.concatenate([x, y]))
    classifier = MLPClassifier((20, 20), activation="relu", max_iter=1000, random_state=3)
    folds = StratifiedKFold(4, shuffle=True, random_state=3)
    want = cross_val_score(classifier, rows, np.repeat([0, 1], 60), cv=folds)
    value, error = two_sample_accuracy(x, y, folds=4, seed=3)
    assert value == pytest.approx(want.mean(), abs=1.5 / 120)  # rounding may turn one verdict
    assert error == pytest.approx(np.sqrt(value * (1 - value) / 60), rel=0.05)


@pytest.mark.parametrize(("n", "dim"), [(100, 1), (150, 2)])
def test_two_draws_of_one_law_are_told_apart_half_of_the_time(n, dim):
    values, errors = repeat(two_sample_accuracy, lambda: gaussians(n, dim), 5)
    assert np.all(np.abs(values - 0.5) < 3.5 * errors)
    assert abs(np.mean(values) - 0.5) < 3.5 * errors[0] / np.sqrt(5)


@pytest.mark.parametrize("shift", [1.0, 2.0])
def test_accuracy_of_a_shift_is_nearly_bayes(shift):
    """No classifier exceeds Φ(δ / 2) on average, and this one comes within 0.02 of it."""
    value, error = two_sample_accuracy(*gaussians(1000, 2, shift))
    best = norm.cdf(shift / 2)
    assert best - 0.02 - 3 * error < value < best + 3 * error


def test_laws_of_equal_means_are_told_apart():
    """N(0, 1) and N(0, 9) differ where their densities cross: at |x| = √(9 log 9 / 8)."""
    x = RNG.normal(size=(800, 1))
    y = 3.0 * RNG.normal(size=(800, 1))
    edge = np.sqrt(9.0 * np.log(9.0) / 8.0)
    best = 0.5 * (norm.cdf(edge) - norm.cdf(-edge)) + norm.sf(edge / 3.0)
    value, error = two_sample_accuracy(x, y)
    assert best - 0.02 - 3 * error < value < best + 3 * error


def test_units_do_not_matter():
    """Exactly for powers of two, and up to the rounding of a shift; axes of rows are flattened."""
    x, y = gaussians(100, 2, 2.0)
    want = two_sample_accuracy(x, y)
    scale = 2.0 ** np.array([-20, 30])
    assert two_sample_accuracy(x * scale, -y * -scale) == want
    shifted = two_sample_accuracy(3.0 * x - 7.0, 3.0 * y - 7.0)
    assert shifted.value == pytest.approx(want.value, abs=want.stderr)
    assert two_sample_accuracy(x.reshape(100, 2, 1), y.reshape(100, 2, 1)) == want


def test_constant_columns_count_only_where_they_differ():
    """0.1 summed 100 times is not 10 exactly: the deviation is rounding, and no scale."""
    x, y = gaussians(100, 1)
    constant = np.full((100, 1), 0.1)
    want = two_sample_accuracy(np.hstack([x, 0 * x]), np.hstack([y, 0 * y]))
    assert two_sample_accuracy(np.hstack([x, constant]), np.hstack([y, constant])) == want
    assert two_sample_accuracy(constant, constant).value == 0.5

    apart = two_sample_accuracy(np.hstack([x, constant]), np.hstack([y, constant + 1e-9]))
    assert apart.value == 1.0
    assert 0.0 < apart.stderr < 0.02


def test_a_set_against_itself_is_not_told_apart():
    """Below 0.5: what was learnt of a row is wrong for its copy."""
    x = RNG.normal(size=(300, 2))
    value, error = two_sample_accuracy(x, RNG.permutation(x))
    assert 0.3 < value < 0.5 + 2 * error


def test_seeds_decide_folds_and_classifiers():
    x, y = gaussians(60, 1, 2.0)
    assert two_sample_accuracy(x, y, seed=3) == two_sample_accuracy(x, y, seed=3)
    assert len({two_sample_accuracy(x, y, seed=seed).value for seed in range(3)}) > 1


@pytest.mark.slow
def test_error_is_the_spread_of_repeats():
    """For one law, within 20 %, 4 standard errors of the spread of 200 repeats."""
    values, errors = repeat(two_sample_accuracy, lambda: gaussians(50, 1), 200)
    assert_mean(values, 0.5)
    assert np.std(values) / np.sqrt(np.mean(errors**2)) == pytest.approx(1.0, abs=0.2)


def test_ctrl_c_leaves_no_accuracy():
    """scikit-learn swallows it, and would return a classifier that is not trained."""
    x, y = gaussians(1000, 60)  # 5 folds would take a minute
    clock = threading.Timer(1.0, _thread.interrupt_main)
    clock.start()
    with pytest.raises(KeyboardInterrupt):
        two_sample_accuracy(x, y)
    clock.join()


def test_without_scikit_learn_the_error_says_what_to_install(monkeypatch):
    monkeypatch.setitem(sys.modules, "sklearn.neural_network", None)
    with pytest.raises(ModuleNotFoundError, match=r"pip install 'scoresde\[experiments\]'"):
        two_sample_accuracy(*gaussians(60, 1))


def test_sets_that_do_not_fit_are_refused(unchecked):
    x, y = gaussians(60, 2)
    with pytest.raises(ValueError, match=r"60 rows and y has 50.*x\[:50\], y\[:50\]"):
        two_sample_accuracy(x, y[:50])
    with pytest.raises(ValueError, match=r"7 in each of 5 folds.*Draw at least 50.*folds=3"):
        two_sample_accuracy(x[:35], y[:35])
    with pytest.raises(ValueError, match=r"at least 50 rows of each\.$"):
        two_sample_accuracy(x[:19], y[:19])
    with pytest.raises(ValueError, match="folds = 1"):
        two_sample_accuracy(x, y, folds=1)
    with pytest.raises(ValueError, match="same space"):
        two_sample_accuracy(x, y[:, :1])
