"""Linear inverse problems whose posterior is known: of a mixture it is a mixture again."""

import numpy as np
from scipy.special import logsumexp

import scoresde as sd


def exact_posterior(mixture, matrix, y, noise_std):
    """p(x | y) of y = matrix x + noise_std n, x of the mixture.

    Component k has the gain K = C M^T S^-1, S = M C M^T + noise_std^2 I, and the weight w_k N(y; M
    m_k, S).
    """
    means, weights = np.asarray(mixture.means, float), np.asarray(mixture.weights, float)
    dim = means.shape[1]
    covs = np.asarray(mixture.covs, float)
    if covs.ndim < 3:
        covs = np.stack([np.eye(dim) * c for c in covs])

    new_means, new_covs, logs = [], [], []
    for mean, cov, weight in zip(means, covs, weights, strict=True):
        s = matrix @ cov @ matrix.T + noise_std**2 * np.eye(len(matrix))
        gain = cov @ matrix.T @ np.linalg.inv(s)
        residual = y - matrix @ mean
        new_means.append(mean + gain @ residual)
        new_cov = cov - gain @ matrix @ cov
        new_covs.append(0.5 * (new_cov + new_cov.T))
        log_det = np.linalg.slogdet(s)[1]
        logs.append(np.log(weight) - 0.5 * (residual @ np.linalg.solve(s, residual) + log_det))
    logs = np.array(logs)
    kept = logs > logs.max() - 30.0  # lighter components do not show
    weights = np.exp(logs - logsumexp(logs))[kept]
    return sd.GaussianMixture(np.stack(new_means)[kept], np.stack(new_covs)[kept], weights)


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
