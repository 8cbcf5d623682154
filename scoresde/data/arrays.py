"""Data sets that a wheel carries: nothing is downloaded."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np


class Arrays(NamedTuple):
    """Integer images (n, height, width, channels) and labels (n,), split for training and testing."""

    train: np.ndarray
    test: np.ndarray
    train_labels: np.ndarray
    test_labels: np.ndarray
    levels: int


def digits(num_test: int = 297, seed: int = 0) -> Arrays:
    """scikit-learn's 1797 handwritten digits (Alpaydin & Kaynak 1998): 8×8 pixels of 17 levels, 0 … 16.

    The split is a fixed permutation: neighbours in the file are of the same writer.

    Raises:
        ModuleNotFoundError: if scikit-learn is not installed.
    """
    try:
        from sklearn.datasets import load_digits
    except ModuleNotFoundError as error:
        raise ModuleNotFoundError(
            "the digits come with scikit-learn: pip install 'scoresde[experiments]'."
        ) from error
    pixels, labels = load_digits(return_X_y=True)
    order = np.random.default_rng(seed).permutation(len(pixels))
    images = pixels.reshape(-1, 8, 8, 1)[order].astype(np.int32)
    labels = labels[order].astype(np.int32)
    return Arrays(
        images[num_test:], images[:num_test], labels[num_test:], labels[:num_test], levels=17
    )
