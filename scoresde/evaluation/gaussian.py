"""A Gaussian fitted to data: the baseline that a generative model has to beat."""

from __future__ import annotations

import dataclasses

import numpy as np

from scoresde.evaluation.rows import Rows, flat_rows


@dataclasses.dataclass(frozen=True)
class GaussianFit:
    """The Gaussian with the mean and the full covariance of some data."""

    mean: np.ndarray
    cov: np.ndarray
    shape: tuple[int, ...]
    """The shape of one example."""

    @classmethod
    def fit(cls, x: Rows) -> GaussianFit:
        """Fits the mean and the unbiased covariance of examples (n, ...).

        Raises:
            ValueError: if there are fewer than two examples.
        """
        flat = flat_rows(x, "x")
        cov = np.cov(flat, rowvar=False).reshape(flat.shape[1], flat.shape[1])
        return cls(flat.mean(axis=0), cov, np.shape(x)[1:])

    def log_prob(self, x: Rows) -> np.ndarray:
        """Returns the log density of examples (n, ...) in nats, (n,).

        Raises:
            ValueError: if the covariance is singular, so that there is no density.
        """
        centred = flat_rows(x, "x") - self.mean
        try:
            factor = np.linalg.cholesky(self.cov)
        except np.linalg.LinAlgError:
            rank = np.linalg.matrix_rank(self.cov, hermitian=True)
            raise ValueError(
                f"the data span {rank} of {len(self.mean)} dimensions, so a fitted Gaussian has no "
                "density there: drop the features that are constant or that others determine, fit "
                "more examples than there are features, or add noise (dequantise integers)."
            ) from None
        white = np.linalg.solve(factor, centred.T)
        return (
            -0.5 * (white**2).sum(axis=0)
            - np.log(np.diag(factor)).sum()
            - 0.5 * len(factor) * np.log(2.0 * np.pi)
        )

    def sample(self, seed: int, n: int) -> np.ndarray:
        """Draws n examples, (n, *shape)."""
        rng = np.random.default_rng(seed)
        try:
            draws = rng.multivariate_normal(self.mean, self.cov, n, method="cholesky")
        except np.linalg.LinAlgError:  # a singular covariance has draws, but no density
            draws = rng.multivariate_normal(self.mean, self.cov, n, method="eigh")
        return draws.reshape(n, *self.shape)
