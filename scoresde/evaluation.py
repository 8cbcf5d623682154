"""Distances between samples and data, and features in which to take them."""

from __future__ import annotations

import dataclasses
import hashlib
from typing import Any

import numpy as np
from jax import Array
from jaxtyping import Float

Rows = Float[Array | np.ndarray, " _ *data"]


def sliced_wasserstein(x: Rows, y: Rows, num_directions: int = 128, seed: int = 0) -> float:
    """Mean over fixed directions u of W_1 between the projections <x, u> and <y, u> (Rabin et al. 2012).

    W_1 in one dimension is the mean absolute difference of sorted values; samples of unequal size meet at the
    quantiles of the smaller one. Not zero for two draws of one law: report it beside that floor.
    """
    x, y = _flat(x, "x"), _flat(y, "y")
    if x.shape[1] != y.shape[1]:
        raise ValueError(f"x has {x.shape[1]} dimensions, y has {y.shape[1]}: compare samples of the same space.")
    directions = np.random.default_rng(seed).normal(size=(x.shape[1], num_directions))
    directions /= np.linalg.norm(directions, axis=0)
    n = min(len(x), len(y))
    levels = (np.arange(n) + 0.5) / n
    a, b = (np.sort(z @ directions, axis=0) for z in (x, y))
    if len(a) != len(b):
        a, b = (np.quantile(z, levels, axis=0, method="hazen") for z in (a, b))
    return float(np.mean(np.abs(a - b)))


def frechet_distance(x: Rows, y: Rows) -> float:
    """|m_x - m_y|^2 + tr(C_x + C_y - 2 (C_x C_y)^(1/2)), the squared 2-Wasserstein distance of the fitted Gaussians.

    Dowson & Landau 1982; FID when x and y are Inception features, and only then (Heusel et al. 2017). Float64.

    Raises:
        ValueError: if either holds NaN, or fewer than two rows.
    """
    x, y = _flat(x, "x"), _flat(y, "y")
    mean = x.mean(axis=0) - y.mean(axis=0)
    cov_x, cov_y = (np.atleast_2d(np.cov(z, rowvar=False)) for z in (x, y))
    # The trace of (C_x C_y)^(1/2) from the eigenvalues of the symmetric C_x^(1/2) C_y C_x^(1/2): real, none negative.
    values, basis = np.linalg.eigh(cov_x)
    root = (basis * np.sqrt(np.clip(values, 0.0, None))) @ basis.T
    cross = np.sqrt(np.clip(np.linalg.eigvalsh(root @ cov_y @ root), 0.0, None)).sum()
    return float(mean @ mean + np.trace(cov_x) + np.trace(cov_y) - 2.0 * cross)


def _flat(x: Rows, name: str) -> np.ndarray:
    x = np.asarray(x, np.float64)
    x = x.reshape(len(x), -1)
    if len(x) < 2 or not np.all(np.isfinite(x)):
        raise ValueError(f"{name} has {len(x)} rows, {int((~np.isfinite(x)).any(axis=1).sum())} of them with NaN.")
    return x


@dataclasses.dataclass(frozen=True)
class ClassifierFeatures:
    """Hidden features and class probabilities of a small classifier trained on real data (scikit-learn's MLP).

    A Fréchet distance in them is named after them, e.g. `fd_digits`; `name` carries a hash of the weights.
    """

    classifier: Any

    @classmethod
    def fit(cls, images: np.ndarray, labels: np.ndarray, hidden: int = 64, seed: int = 0) -> ClassifierFeatures:
        """Train on images (n, ...) in [-1, 1] and integer labels (n,)."""
        from sklearn.neural_network import MLPClassifier

        # Trained until it no longer improves: an undertrained one is unsure of real data too.
        classifier = MLPClassifier((hidden,), max_iter=1000, n_iter_no_change=50, tol=1e-5, random_state=seed)
        return cls(classifier.fit(np.asarray(images).reshape(len(images), -1), labels))

    @property
    def name(self) -> str:
        """mlp<hidden>-<hash of the weights>."""
        weights = b"".join(np.ascontiguousarray(w).tobytes() for w in self.classifier.coefs_)
        return f"mlp{self.classifier.coefs_[0].shape[1]}-{hashlib.sha256(weights).hexdigest()[:8]}"

    def features(self, images: Rows) -> np.ndarray:
        """Hidden layer after its ReLU, (n, hidden)."""
        x = np.asarray(images, np.float64).reshape(len(images), -1)
        return np.maximum(x @ self.classifier.coefs_[0] + self.classifier.intercepts_[0], 0.0)

    def confidence(self, images: Rows) -> np.ndarray:
        """Probability of the likeliest class, (n,)."""
        return self.classifier.predict_proba(np.asarray(images).reshape(len(images), -1)).max(axis=1)


@dataclasses.dataclass(frozen=True)
class GaussianFit:
    """The full-covariance Gaussian with the moments of x: the baseline any generative model must beat."""

    mean: np.ndarray
    cov: np.ndarray
    shape: tuple[int, ...]

    @classmethod
    def fit(cls, x: Rows) -> GaussianFit:
        """Maximum likelihood, but for the unbiased covariance."""
        flat = _flat(x, "x")
        return cls(flat.mean(axis=0), np.cov(flat, rowvar=False), np.shape(x)[1:])

    def log_prob(self, x: Rows) -> np.ndarray:
        """nats, (n,)."""
        centred = _flat(x, "x") - self.mean
        factor = np.linalg.cholesky(self.cov)
        white = np.linalg.solve(factor, centred.T)
        return -0.5 * (white**2).sum(axis=0) - np.log(np.diag(factor)).sum() - 0.5 * len(factor) * np.log(2.0 * np.pi)

    def sample(self, seed: int, n: int) -> np.ndarray:
        """(n, *shape)."""
        draws = np.random.default_rng(seed).multivariate_normal(self.mean, self.cov, n, method="cholesky")
        return draws.reshape(n, *self.shape)
