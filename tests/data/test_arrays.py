"""Data sets that come with a package: the split is fixed, and holds every example once."""

import numpy as np
from sklearn.datasets import load_digits

from scoresde.data.arrays import digits


def test_digits_are_split_once_and_for_all():
    data = digits()
    assert data.train.shape == (1500, 8, 8, 1)
    assert data.test.shape == (297, 8, 8, 1)
    assert (data.train.min(), data.train.max(), data.levels) == (0, 16, 17)

    both = np.concatenate([data.train, data.test]).reshape(1797, -1)
    original = load_digits().data
    np.testing.assert_array_equal(both[np.lexsort(both.T)], original[np.lexsort(original.T)])
    assert np.bincount(data.test_labels).min() > 15  # every digit is held out
