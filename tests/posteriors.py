"""Data and operators whose posterior is known."""

import numpy as np

import scoresde as sd


def gaussian(dim, seed=0):
    """One Gaussian with a full covariance, as a mixture."""
    rng = np.random.default_rng(seed)
    root = rng.normal(size=(dim, dim)) / np.sqrt(dim)
    return sd.GaussianMixture(rng.normal(size=(1, dim)), (root @ root.T + 0.1 * np.eye(dim))[None])


def of_matrix(operator, data_shape):
    """The matrix of an operator, from the images of the unit vectors."""
    dim = int(np.prod(data_shape))
    units = np.eye(dim, dtype=np.float32).reshape(dim, *data_shape)
    return np.asarray(operator(units)).reshape(dim, -1).T
