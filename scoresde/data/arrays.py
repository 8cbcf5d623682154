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
        raise ModuleNotFoundError("the digits come with scikit-learn: pip install 'scoresde[experiments]'.") from error
    bunch = load_digits()
    order = np.random.default_rng(seed).permutation(len(bunch.images))
    images = bunch.images[order].astype(np.int32)[..., None]  # pyright: ignore
    labels = bunch.target[order].astype(np.int32)  # pyright: ignore
    return Arrays(images[num_test:], images[:num_test], labels[num_test:], labels[:num_test], levels=17)
