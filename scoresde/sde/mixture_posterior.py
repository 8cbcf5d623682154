"""A Gaussian mixture given a linear measurement with noise: a mixture again.

y = M x_0 + noise_std n, n ~ N(0, I), and each component is conditioned by itself:

    p(x_0 | y) = sum_k w'_k N(m_k + K_k (y - M m_k), C'_k)                        (Eq. 1)
    V_k = M C_k M^T + noise_std^2 I,   K_k = C_k M^T V_k^{-1}                     (Eq. 2)
    C'_k = (I - K_k M) C_k (I - K_k M)^T + noise_std^2 K_k K_k^T                  (Eq. 3)
    w'_k proportional to w_k N(y; M m_k, V_k)                                     (Eq. 4)

Eq. 3 is C_k - K_k M C_k, and stays positive when it is rounded.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import jax.numpy as jnp
import numpy as np

from scoresde import checks

LEAST_WEIGHT = 1e-30
"""The weight of a component that y excludes, which must be positive."""


class Components(NamedTuple):
    """The components of a mixture, in float64."""

    means: np.ndarray
    """(k, d)."""
    covs: np.ndarray
    """(k, d, d)."""
    weights: np.ndarray
    """(k,)."""


def condition(
    means: Any, covs: Any, weights: Any, matrix: Any, y: Any, noise_std: float
) -> Components:
    """Returns the components of p(x_0 | y) (Eq. 1).

    means: (k, d); covs: (k, d, d); weights: (k,); matrix: (m, d); y: (m,).

    Raises:
        TypeError: if the matrix or y is not of numbers.
        ValueError: if they do not fit, a number is not finite, or noise_std is not positive, or so
            small that it is lost in the precision of the means.
    """
    dtype = means.dtype
    means, covs, weights = (np.asarray(array, np.float64) for array in (means, covs, weights))
    dim = means.shape[1]
    matrix = _floats(matrix, "matrix")
    y = _floats(y, "y")
    _check(matrix, y, noise_std, dim)

    between = matrix @ covs @ matrix.T + noise_std**2 * np.eye(len(y))  # V_k, (k, m, m)
    gain = np.swapaxes(np.linalg.solve(between, matrix @ covs), 1, 2)  # K_k, (k, d, m)
    residual = y - means @ matrix.T  # (k, m)

    rest = np.eye(dim) - gain @ matrix
    new_covs = rest @ covs @ np.swapaxes(rest, 1, 2)
    new_covs = new_covs + noise_std**2 * gain @ np.swapaxes(gain, 1, 2)  # Eq. 3
    _check_rounding(new_covs, noise_std, dtype)

    whitened = np.linalg.solve(between, residual[:, :, None])[:, :, 0]
    log_normal = -0.5 * (np.sum(residual * whitened, axis=1) + np.linalg.slogdet(between)[1])
    log_weights = np.log(weights) + log_normal
    new_weights = np.exp(log_weights - log_weights.max())  # Eq. 4
    new_weights = np.maximum(new_weights / new_weights.sum(), LEAST_WEIGHT)

    new_means = means + np.einsum("kij,kj->ki", gain, residual)
    return Components(new_means, new_covs, new_weights)


# --- Checks ---


def _floats(value: Any, name: str) -> np.ndarray:
    """Returns an array of numbers in float64."""
    array = np.asarray(checks.unmasked(value, name))
    if array.dtype.kind not in "biuf":
        raise TypeError(
            f"{name} is of type {type(value).__name__}: wanted an array of numbers, such as the "
            f"matrix of sd.inverse.Projection(matrix)."
        )
    return array.astype(np.float64)


def _check(matrix: np.ndarray, y: np.ndarray, noise_std: float, dim: int) -> None:
    if matrix.ndim != 2 or matrix.shape[1] != dim or 0 in matrix.shape:
        raise ValueError(
            f"matrix has shape {matrix.shape}, but the mixture lives in {dim} dimensions: wanted "
            f"(measurements, {dim}). For one measurement write matrix[None]."
        )
    if y.shape != matrix.shape[:1]:
        raise ValueError(
            f"y has shape {y.shape} for a matrix {matrix.shape}: wanted ({len(matrix)},), what was "
            f"measured of one point."
        )
    for name, values in (("matrix", matrix), ("y", y)):
        if not np.all(np.isfinite(values)):
            raise ValueError(f"{name} holds NaN or infinity: wanted finite numbers.")
    checks.setting("noise_std", noise_std, "(0, inf)")


def _check_rounding(covs: np.ndarray, noise_std: float, dtype: Any) -> None:
    """Refuses covariances whose smallest eigenvalue is lost when they are rounded."""
    eigenvalues = np.linalg.eigvalsh(covs)
    if np.any(eigenvalues[:, 0] < 10.0 * float(jnp.finfo(dtype).eps) * eigenvalues[:, -1]):
        raise ValueError(
            f"noise_std = {noise_std:g} is so small that the narrow directions of the posterior "
            f"are lost in {dtype}: wanted a larger one, or jax.config.update('jax_enable_x64', "
            f"True) before the mixture is built."
        )
