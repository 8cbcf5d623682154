"""Features: the spaces in which distances between samples and data are computed."""

from __future__ import annotations

import dataclasses
import hashlib
import warnings
from typing import Any, Protocol, runtime_checkable

import numpy as np
from jaxtyping import Float64

from scoresde.evaluation.rows import Rows, flat_rows


@runtime_checkable
class Features(Protocol):
    """A feature space, whose name identifies it, weights included, beside every distance."""

    @property
    def name(self) -> str: ...

    def features(self, x: Rows, /) -> Float64[np.ndarray, " n k"]:
        """Returns the features (n, k) of examples (n, ...)."""
        ...


@dataclasses.dataclass(frozen=True)
class RawFeatures:
    """The data as they are, flattened."""

    name: str = "raw"

    def features(self, x: Rows) -> Float64[np.ndarray, " n k"]:
        """Returns the examples (n, ...) as rows (n, dim)."""
        return flat_rows(x, "x", least=1)


@dataclasses.dataclass(frozen=True, eq=False)
class PCAFeatures:
    """Coordinates along the directions of largest variance, (x - mean) @ basis (Pearson 1901)."""

    mean: np.ndarray
    basis: np.ndarray
    whitened: bool = False

    @classmethod
    def fit(cls, x: Rows, num_components: int, whiten: bool = False) -> PCAFeatures:
        """Fits the leading eigenvectors of the covariance of x.

        Args:
            x: the examples, (n, ...).
            num_components: the number of directions.
            whiten: whether coordinates are divided by the standard deviation along each direction.

        Raises:
            ValueError: if x varies in fewer directions than num_components.
        """
        x = flat_rows(x, "x")
        mean = x.mean(axis=0)
        _, singular, directions = np.linalg.svd(x - mean, full_matrices=False)
        rank = int(np.sum(singular > singular[0] * max(x.shape) * np.finfo(float).eps))
        if not 1 <= num_components <= rank:
            raise ValueError(
                f"num_components is {num_components}, and x of shape {x.shape} varies in {rank} "
                f"directions: write a number from 1 to {rank}."
            )

        # Fix the sign by the largest entry. Rounding makes it the first of equal entries, always.
        basis = directions[:num_components].T
        largest = np.argmax(np.round(np.abs(basis), 6), axis=0)
        basis = basis * np.sign(basis[largest, np.arange(num_components)])

        scale = singular[:num_components] / np.sqrt(len(x) - 1) if whiten else 1.0
        return cls(mean, basis / scale, whiten)

    @property
    def name(self) -> str:
        """pca<components>[-white]-<hash of mean and basis>.

        They are hashed to 6 decimals, since the last bits differ between machines.
        """
        rounded = [np.round(a, 6) + 0.0 for a in (self.mean, self.basis)]  # + 0.0: no negative zero
        return f"pca{self.basis.shape[1]}{'-white' * self.whitened}-{_hash(*rounded)}"

    def features(self, x: Rows) -> Float64[np.ndarray, " n k"]:
        """Returns the coordinates (n, num_components) of examples (n, ...)."""
        return (flat_rows(x, "x", least=1, dim=len(self.mean)) - self.mean) @ self.basis


@dataclasses.dataclass(frozen=True)
class ClassifierFeatures:
    """The hidden layer and class probabilities of a small classifier trained on real data.

    The classifier is scikit-learn's MLP. A Fréchet distance in these features is named after
    them, e.g. `fd_digits`; `name` holds a hash of the weights.
    """

    classifier: Any

    @classmethod
    def fit(
        cls, images: Rows, labels: np.ndarray, hidden: int = 64, seed: int = 0
    ) -> ClassifierFeatures:
        """Trains the classifier on images (n, ...) in [-1, 1] and integer labels (n,).

        Raises:
            ModuleNotFoundError: if scikit-learn is not installed.
            KeyboardInterrupt: if training is interrupted.
        """
        try:
            from sklearn.neural_network import MLPClassifier
        except ModuleNotFoundError as error:
            raise ModuleNotFoundError(
                "the classifier is scikit-learn's: pip install 'scoresde[experiments]'. Without it "
                "use PCAFeatures."
            ) from error

        # Trained until it no longer improves: an undertrained one is unsure of real data, too.
        classifier = MLPClassifier(
            (hidden,), max_iter=1000, n_iter_no_change=50, tol=1e-5, random_state=seed
        )
        rows = np.asarray(images).reshape(len(images), -1)
        return cls(fit_or_interrupt(classifier, rows, labels))

    @property
    def name(self) -> str:
        """mlp<hidden>-<hash of weights and biases>."""
        weights = self.classifier.coefs_
        biases = self.classifier.intercepts_
        return f"mlp{len(biases[0])}-{_hash(*weights, *biases)}"

    def features(self, x: Rows) -> Float64[np.ndarray, " n k"]:
        """Returns the hidden layer after its ReLU, (n, hidden), of examples (n, ...)."""
        weight = self.classifier.coefs_[0]
        bias = self.classifier.intercepts_[0]
        return np.maximum(flat_rows(x, "x", least=1, dim=len(weight)) @ weight + bias, 0.0)

    def predict(self, x: Rows) -> np.ndarray:
        """Returns the most likely class, (n,), of examples (n, ...)."""
        return self.classifier.predict(np.asarray(x).reshape(len(x), -1))

    def confidence(self, x: Rows) -> np.ndarray:
        """Returns the probability of the most likely class, (n,), of examples (n, ...)."""
        return self.classifier.predict_proba(np.asarray(x).reshape(len(x), -1)).max(axis=1)


def fit_or_interrupt(classifier: Any, rows: np.ndarray, labels: np.ndarray) -> Any:
    """Returns the trained classifier, and raises KeyboardInterrupt where training was interrupted.

    scikit-learn swallows Ctrl-C: it warns, and returns a classifier that is not trained.
    """
    interrupted = "Training interrupted by user"
    with warnings.catch_warnings():
        warnings.filterwarnings("error", message=interrupted)
        try:
            return classifier.fit(rows, labels)
        except UserWarning as warning:
            if str(warning).startswith(interrupted):
                raise KeyboardInterrupt from None
            raise


def _hash(*arrays: np.ndarray) -> str:
    """Returns 8 hexadecimal digits of the SHA-256 of the arrays, shapes included."""
    sha = hashlib.sha256()
    for array in arrays:
        sha.update(str(np.shape(array)).encode())
        sha.update(np.ascontiguousarray(array).tobytes())
    return sha.hexdigest()[:8]
