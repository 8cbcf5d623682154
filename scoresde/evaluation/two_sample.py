"""The classifier two-sample test (C2ST): how well a classifier tells two sets apart.

    z = (x - mean_x) / std_x,   and y alike, by the moments of x                     (Eq. 1)
    accuracy = mean over folds of the share of held-out rows told apart               (Eq. 2)
    stderr^2 = p (1 - p) / n                                                          (Eq. 3)

An accuracy of 0.5 is that of one law, up to what the classifier can see; 1 is that of laws without
overlap. The test is Lopez-Paz & Oquab's (2017, arXiv:1610.06545), with the classifier and the
folds of Lueckmann et al. (2021, arXiv:2101.04653): two hidden layers of 10 dim ReLUs, trained by
Adam.

In Eq. 3, p is the accuracy and n the number of rows of each set. The 2n verdicts alone would give
half of that variance, but folds are not independent: each trains on the others' rows. For a linear
classifier and one law, two of k folds correlate by 1 / (k - 1), in any dimension, which doubles
the variance for every k.
"""

from __future__ import annotations

import warnings

import numpy as np

from scoresde import checks
from scoresde.evaluation.features import fit_or_interrupt
from scoresde.evaluation.rows import Rows, same_space
from scoresde.evaluation.standard_error import Estimate

LEAST = 10
"""The smallest number of rows of each set in a held-out fold."""


def two_sample_accuracy(x: Rows, y: Rows, *, folds: int = 5, seed: int = 0) -> Estimate:
    """Returns a classifier's accuracy on held-out rows of x and y (Eq. 2), and its error (Eq. 3).

    It is a share of rows, without unit, and does not depend on the units of a column. Each fold
    holds out equal shares of both sets, so that two draws of one law average 0.5 exactly; with
    folds drawn from both together, as in sbibm, 100 rows of one law average 0.488. A classifier
    that is not converged after 1000 epochs counts as it is.

    The standard error is over draws of both sets. It is right for one law, within about 25 % of the
    spread of repeats, and too large where the accuracy is well above 0.5, by 40 % at most.

    A row that occurs in both sets is learnt with one label and asked for with the other: such sets
    come out below 0.5.

    Args:
        x: one set, (n, ...), whose moments scale both.
        y: the other, (n, ...).
        folds: the number of folds k.
        seed: of the folds, and of each classifier's initial weights and batches.

    Raises:
        ValueError: if the sets differ in size, a fold holds fewer than 10 rows of each, folds < 2,
            or the sets are of different spaces.
        ModuleNotFoundError: if scikit-learn is not installed.
        KeyboardInterrupt: if training is interrupted.
    """
    x, y = same_space(x, y)
    _check_sizes(len(x), len(y), folds)

    rows = np.concatenate(_z_scores(x, y))
    labels = np.repeat([0, 1], len(x))
    accuracy = float(np.mean(_held_out_accuracies(rows, labels, folds, seed)))

    # One right and one wrong verdict more, so that an accuracy of 1 is not taken to be exact.
    n = len(x)
    p = (2 * n * accuracy + 1) / (2 * n + 2)
    return Estimate(accuracy, float(np.sqrt(p * (1.0 - p) / n)))


def _z_scores(x: np.ndarray, y: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Returns both sets in units of the first one's moments (Eq. 1).

    A column that is constant in x has no unit of its own: it takes the distance of y from it, and
    becomes zero where y is that constant, too.
    """
    constant = np.ptp(x, axis=0) == 0.0
    mean = np.where(constant, x[0], x.mean(axis=0))
    distance = np.sqrt(np.mean((y - mean) ** 2, axis=0))
    scale = np.where(constant, distance, x.std(axis=0, ddof=1))
    scale = np.where(scale == 0.0, 1.0, scale)
    return (x - mean) / scale, (y - mean) / scale


def _held_out_accuracies(rows: np.ndarray, labels: np.ndarray, folds: int, seed: int) -> list:
    """Returns the accuracy on each held-out fold, of a classifier trained on the others."""
    try:
        from sklearn.exceptions import ConvergenceWarning
        from sklearn.model_selection import StratifiedKFold
        from sklearn.neural_network import MLPClassifier
    except ModuleNotFoundError as error:
        raise ModuleNotFoundError(
            "the classifier is scikit-learn's: pip install 'scoresde[experiments]'. Without it "
            "use kernel_distance(x, y)."
        ) from error

    width = 10 * rows.shape[1]
    accuracies = []
    for train, test in StratifiedKFold(folds, shuffle=True, random_state=seed).split(rows, labels):
        classifier = MLPClassifier((width, width), max_iter=1000, random_state=seed)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", ConvergenceWarning)
            classifier = fit_or_interrupt(classifier, rows[train], labels[train])
        accuracies.append(classifier.score(rows[test], labels[test]))
    return accuracies


def _check_sizes(n: int, m: int, folds: int) -> None:
    checks.count("folds", folds, at_least=2)
    if n != m:
        least = min(n, m)
        raise ValueError(
            f"x has {n} rows and y has {m}: wanted as many of each, since otherwise guessing the "
            f"larger set is better than 0.5. Write two_sample_accuracy(x[:{least}], y[:{least}])."
        )
    if n < LEAST * folds:
        fewer = n // LEAST
        advice = f", or write folds={fewer}" if fewer >= 2 else ""
        raise ValueError(
            f"x and y have {n} rows each, {n / folds:g} in each of {folds} folds: wanted at least "
            f"{LEAST}. Draw at least {LEAST * folds} rows of each{advice}."
        )
