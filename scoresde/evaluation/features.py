"""Features: the spaces in which distances between samples and data are taken."""

from __future__ import annotations

import dataclasses
import hashlib
import warnings
from typing import Any, Protocol, runtime_checkable

import numpy as np
from jax import Array
from jaxtyping import Float, Float64

Rows = Float[Array | np.ndarray, " _ *data"]


@runtime_checkable
class Features(Protocol):
    """What distances are taken in. The name tells which they are, weights included, and goes with every figure."""

    @property
    def name(self) -> str: ...

    def features(self, x: Rows, /) -> Float64[np.ndarray, " n k"]:
        """(n, ...) → (n, k)."""
        ...


@dataclasses.dataclass(frozen=True)
class RawFeatures:
    """The data as they are, flattened."""

    name: str = "raw"

    def features(self, x: Rows) -> Float64[np.ndarray, " n k"]:
        """(n, ...) → (n, dim)."""
        return flat_rows(x, "x", least=1)


@dataclasses.dataclass(frozen=True, eq=False)
class PCAFeatures:
    """Coordinates along the directions of largest variance, (x - mean) @ basis (Pearson 1901)."""

    mean: np.ndarray
    basis: np.ndarray
    whitened: bool = False

    @classmethod
    def fit(cls, x: Rows, num_components: int, whiten: bool = False) -> PCAFeatures:
        """The leading eigenvectors of the covariance of x; whitened: divided by the standard deviation along each."""
        x = flat_rows(x, "x")
        mean = x.mean(axis=0)
        _, singular, basis = np.linalg.svd(x - mean, full_matrices=False)
        rank = int(np.sum(singular > singular[0] * max(x.shape) * np.finfo(float).eps))
        if not 1 <= num_components <= rank:
            raise ValueError(
                f"num_components is {num_components}, x of shape {x.shape} varies in {rank} directions: write a "
                f"number from 1 to {rank}."
            )
        basis = basis[:num_components].T
        largest = np.argmax(
            np.round(np.abs(basis), 6), axis=0
        )  # rounded: of equal entries the first, always
        basis = basis * np.sign(basis[largest, np.arange(num_components)])
        scale = singular[:num_components] / np.sqrt(len(x) - 1) if whiten else 1.0
        return cls(mean, basis / scale, whiten)

    @property
    def name(self) -> str:
        """pca<components>[-white]-<hash of mean and basis, to 6 decimals: the last bits differ between machines>."""
        rounded = (np.round(a, 6) + 0.0 for a in (self.mean, self.basis))  # + 0.0: no negative zero
        return f"pca{self.basis.shape[1]}{'-white' * self.whitened}-{_hash(*rounded)}"

    def features(self, x: Rows) -> Float64[np.ndarray, " n k"]:
        """(n, ...) → (n, num_components)."""
        return (flat_rows(x, "x", least=1, dim=len(self.mean)) - self.mean) @ self.basis


@dataclasses.dataclass(frozen=True)
class ClassifierFeatures:
    """Hidden features and class probabilities of a small classifier trained on real data (scikit-learn's MLP).

    A Fréchet distance in them is named after them, e.g. `fd_digits`; `name` carries a hash of the weights.
    """

    classifier: Any

    @classmethod
    def fit(
        cls, images: Rows, labels: np.ndarray, hidden: int = 64, seed: int = 0
    ) -> ClassifierFeatures:
        """Train on images (n, ...) in [-1, 1] and integer labels (n,).

        Raises:
            ModuleNotFoundError: if scikit-learn is not installed.
        """
        try:
            from sklearn.neural_network import MLPClassifier
        except ModuleNotFoundError as error:
            raise ModuleNotFoundError(
                "the classifier is scikit-learn's: pip install 'scoresde[experiments]'. Without it use PCAFeatures."
            ) from error

        # Trained until it no longer improves: an undertrained one is unsure of real data too.
        classifier = MLPClassifier(
            (hidden,), max_iter=1000, n_iter_no_change=50, tol=1e-5, random_state=seed
        )
        with warnings.catch_warnings():
            # scikit-learn answers Ctrl-C with this warning and a classifier that is not trained.
            interrupted = "Training interrupted by user"
            warnings.filterwarnings("error", message=interrupted)
            try:
                return cls(classifier.fit(np.asarray(images).reshape(len(images), -1), labels))
            except UserWarning as warning:
                raise (
                    KeyboardInterrupt if str(warning).startswith(interrupted) else warning
                ) from None

    @property
    def name(self) -> str:
        """mlp<hidden>-<hash of weights and biases>."""
        weights, biases = self.classifier.coefs_, self.classifier.intercepts_
        return f"mlp{len(biases[0])}-{_hash(*weights, *biases)}"

    def features(self, x: Rows) -> Float64[np.ndarray, " n k"]:
        """Hidden layer after its ReLU, (n, ...) → (n, hidden)."""
        weight, bias = self.classifier.coefs_[0], self.classifier.intercepts_[0]
        return np.maximum(flat_rows(x, "x", least=1, dim=len(weight)) @ weight + bias, 0.0)

    def confidence(self, x: Rows) -> np.ndarray:
        """Probability of the likeliest class, (n,)."""
        return self.classifier.predict_proba(np.asarray(x).reshape(len(x), -1)).max(axis=1)


# --- Checks ---


def flat_rows(x: Rows, name: str, least: int = 2, dim: int | None = None) -> np.ndarray:
    """(n, ...) → (n, dim) in float64."""
    shape = np.shape(x)
    if len(shape) < 1 or shape[0] < least:
        raise ValueError(
            f"{name} has shape {shape}: at least {least} rows are wanted, one example each."
        )
    x = np.asarray(x, np.float64).reshape(shape[0], -1)
    if dim is not None and x.shape[1] != dim:
        raise ValueError(
            f"{name} has shape {shape}, {x.shape[1]} numbers an example: {dim} are wanted. Give examples shaped like "
            "the training data, batch first."
        )
    bad = ~np.isfinite(x).all(axis=1)
    if bad.any():
        raise ValueError(
            f"{name} has {shape[0]} rows, {bad.sum()} of them with NaN or infinity, the first at {np.argmax(bad)}. "
            "Leave failed samples out: out.x[out.success]; and say how many there were."
        )
    return x


def _hash(*arrays: np.ndarray) -> str:
    content = b"".join(
        str(np.shape(a)).encode() + np.ascontiguousarray(a).tobytes() for a in arrays
    )
    return hashlib.sha256(content).hexdigest()[:8]
