"""What `fit` takes examples from: anything with a length, the shape of one, and `batch(indices)`."""

from __future__ import annotations

import dataclasses
import hashlib
from typing import Any, Protocol, runtime_checkable

import jax
import numpy as np

from scoresde.types import Cond

SAMPLED = 64
"""Examples that stand for a source which has no fingerprint of its own."""


@runtime_checkable
class Source(Protocol):
    """Examples by index: images decoded on demand, a database, a simulator. NumPy arrays need none of it.

    It may say `fingerprint`, a text that changes with the data: runs resume only with the same. Without one, some
    examples spread over the whole stand for it.
    """

    @property
    def shape(self) -> tuple[int, ...]:
        """Of one example."""
        ...

    def __len__(self) -> int: ...

    def batch(self, indices: np.ndarray, /) -> Any:
        """Indices (k,) → examples (k, *shape), or (examples, labels). Called from a thread beside the main one."""
        ...


@dataclasses.dataclass(frozen=True, eq=False)
class ArraySource:
    """Arrays in memory: x (n, *shape), and the leaves of cond (n, ...)."""

    x: np.ndarray
    cond: Cond = None

    @property
    def shape(self) -> tuple[int, ...]:
        """Of one example."""
        return self.x.shape[1:]

    def __len__(self) -> int:
        return len(self.x)

    def batch(self, indices: np.ndarray) -> tuple[np.ndarray, Cond]:
        """(x, cond) of these rows."""
        return jax.tree.map(lambda a: a[indices], (self.x, self.cond))


@dataclasses.dataclass(frozen=True, eq=False)
class Subset:
    """Some examples of a source, by their indices there."""

    source: Source
    rows: np.ndarray

    @property
    def shape(self) -> tuple[int, ...]:
        """Of one example."""
        return self.source.shape

    @property
    def fingerprint(self) -> str:
        """Of the source and the rows."""
        return digest(fingerprint(self.source).encode(), self.rows)

    def __len__(self) -> int:
        return len(self.rows)

    def batch(self, indices: np.ndarray) -> Any:
        """The source's, of these of its rows."""
        return self.source.batch(self.rows[indices])


def take(source: Source, indices: np.ndarray) -> tuple[np.ndarray, Cond]:
    """(x, cond) at indices of any shape: its axes come first. cond is None where the source has no labels."""
    got = source.batch(indices.reshape(-1))
    got = got if isinstance(got, tuple) else (got, None)
    return jax.tree.map(lambda a: np.asarray(a).reshape(*indices.shape, *np.shape(a)[1:]), got)


def fingerprint(source: Source) -> str:
    """The source's own, or a digest of its length, its shape and examples spread over the whole."""
    own = getattr(source, "fingerprint", None)
    if own is not None:
        return str(own)
    spread = np.unique(np.linspace(0, len(source) - 1, SAMPLED).astype(int))
    return digest(f"{len(source)}{source.shape}".encode(), *jax.tree.leaves(take(source, spread)))


def digest(*parts: bytes | np.ndarray) -> str:
    """SHA-256 of bytes and arrays, types and shapes included; 16 hexadecimal digits."""
    sha = hashlib.sha256()
    for part in parts:
        if isinstance(part, bytes):
            sha.update(part)
        else:
            sha.update(f"{part.dtype}{part.shape}".encode())
            sha.update(
                np.ascontiguousarray(part).reshape(-1).view(np.uint8).data
            )  # nothing is copied
    return sha.hexdigest()[:16]
