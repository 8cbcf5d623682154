"""Data sets that come with a Python package, so that nothing is downloaded."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np


class Arrays(NamedTuple):
    """Integer images (n, height, width, c) and labels (n,), split for training and testing."""

    train: np.ndarray
    test: np.ndarray
    train_labels: np.ndarray
    test_labels: np.ndarray
    levels: int


def digits(num_test: int = 297, seed: int = 0) -> Arrays:
    """Returns scikit-learn's 1797 handwritten digits (Alpaydin & Kaynak 1998): 8×8, values 0 … 16.

    The examples are permuted before they are split, the same for each seed, because neighbours
    in the file were written by the same person.

    Raises:
        ModuleNotFoundError: if scikit-learn is not installed.
    """
    try:
        from sklearn.datasets import load_digits
    except ModuleNotFoundError as error:
        raise ModuleNotFoundError(
            "the digits come with scikit-learn: pip install 'scoresde[experiments]'."
        ) from error

    pixels, labels = (np.asarray(a) for a in load_digits(return_X_y=True))
    order = np.random.default_rng(seed).permutation(len(pixels))
    images = pixels.reshape(-1, 8, 8, 1)[order].astype(np.int32)
    labels = labels[order].astype(np.int32)

    return Arrays(
        train=images[num_test:],
        test=images[:num_test],
        train_labels=labels[num_test:],
        test_labels=labels[:num_test],
        levels=17,
    )
