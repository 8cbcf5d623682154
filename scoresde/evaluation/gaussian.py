"""A Gaussian fitted to data: the baseline that a model has to beat."""

from __future__ import annotations

import dataclasses

import numpy as np

from scoresde.evaluation.features import Rows, flat_rows


@dataclasses.dataclass(frozen=True)
class GaussianFit:
    """The full-covariance Gaussian with the moments of x: the baseline any generative model must beat."""

    mean: np.ndarray
    cov: np.ndarray
    shape: tuple[int, ...]

    @classmethod
    def fit(cls, x: Rows) -> GaussianFit:
        """Maximum likelihood, but for the unbiased covariance."""
        flat = flat_rows(x, "x")
        return cls(flat.mean(axis=0), np.cov(flat, rowvar=False), np.shape(x)[1:])

    def log_prob(self, x: Rows) -> np.ndarray:
        """nats, (n,)."""
        centred = flat_rows(x, "x") - self.mean
        factor = np.linalg.cholesky(self.cov)
        white = np.linalg.solve(factor, centred.T)
        return (
            -0.5 * (white**2).sum(axis=0)
            - np.log(np.diag(factor)).sum()
            - 0.5 * len(factor) * np.log(2.0 * np.pi)
        )

    def sample(self, seed: int, n: int) -> np.ndarray:
        """(n, *shape)."""
        draws = np.random.default_rng(seed).multivariate_normal(
            self.mean, self.cov, n, method="cholesky"
        )
        return draws.reshape(n, *self.shape)
