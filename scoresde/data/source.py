"""Sources of examples for `fit`: anything with a length, a shape, and `batch(indices)`."""

from __future__ import annotations

import dataclasses
import hashlib
from typing import Any, Protocol, runtime_checkable

import jax
import numpy as np

from scoresde import checks
from scoresde.types import Cond

SAMPLED = 64
"""The number of examples from which the fingerprint of a source without its own is computed."""


@runtime_checkable
class Source(Protocol):
    """Examples by index: images decoded on demand, a database, a simulator. Arrays need no source.

    A source may have a `fingerprint`, a text that changes with the data: a run resumes only with
    the same. Without one, it is computed from a sample of the examples.
    """

    @property
    def shape(self) -> tuple[int, ...]:
        """The shape of one example."""
        ...

    def __len__(self) -> int: ...

    def batch(self, indices: np.ndarray, /) -> Any:
        """Returns the examples (k, *shape) at indices (k,), or (examples, labels).

        It is called from a thread beside the main one.
        """
        ...


@dataclasses.dataclass(frozen=True, eq=False)
class ArraySource:
    """Arrays in memory as a source: x (n, *shape), and a condition whose leaves are (n, ...).

    It states that the shape is meant as it is, where `fit` would ask about an array's.
    """

    x: np.ndarray
    cond: Cond = None

    @property
    def shape(self) -> tuple[int, ...]:
        """The shape of one example."""
        return self.x.shape[1:]

    def __len__(self) -> int:
        return len(self.x)

    def batch(self, indices: np.ndarray) -> tuple[np.ndarray, Cond]:
        """Returns (x, cond) at these rows."""
        return jax.tree.map(lambda leaf: leaf[indices], (self.x, self.cond))


@dataclasses.dataclass(frozen=True, eq=False)
class Subset:
    """Some examples of a source, by their indices in it."""

    source: Source
    rows: np.ndarray

    @property
    def shape(self) -> tuple[int, ...]:
        """The shape of one example."""
        return self.source.shape

    @property
    def fingerprint(self) -> str:
        """A text that changes with the source and with the rows."""
        return digest(fingerprint(self.source).encode(), self.rows)

    def __len__(self) -> int:
        return len(self.rows)

    def batch(self, indices: np.ndarray) -> Any:
        """Returns what the source returns for these of the rows."""
        return self.source.batch(self.rows[indices])


def take(source: Source, indices: np.ndarray) -> tuple[np.ndarray, Cond]:
    """Returns (x, cond) at indices of any shape, whose axes come first.

    cond is None if the source has no labels.
    """
    batch = source.batch(indices.reshape(-1))
    if not isinstance(batch, tuple):
        batch = (batch, None)

    def rows(leaf):
        leaf = checks.plain_array(leaf, "an array that the source's batch returned")
        return leaf.reshape(*indices.shape, *leaf.shape[1:])

    return jax.tree.map(rows, batch)


# --- Fingerprints ---


def fingerprint(source: Source) -> str:
    """Returns the source's own fingerprint, or a digest of its length, shape and some examples."""
    own = getattr(source, "fingerprint", None)
    if own is not None:
        return str(own)

    spread = np.unique(np.linspace(0, len(source) - 1, SAMPLED).astype(int))
    leaves = jax.tree.leaves(take(source, spread))
    return digest(f"{len(source)}{source.shape}".encode(), *leaves)


def digest(*parts: bytes | np.ndarray) -> str:
    """Returns 16 hexadecimal digits of the SHA-256 of bytes and arrays, shapes included."""
    sha = hashlib.sha256()
    for part in parts:
        if isinstance(part, bytes):
            sha.update(part)
        else:
            sha.update(f"{part.dtype}{part.shape}".encode())
            sha.update(np.ascontiguousarray(part).reshape(-1).view(np.uint8).data)  # no copy
    return sha.hexdigest()[:16]
