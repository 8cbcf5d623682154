"""Data sets that are read one example at a time, `dataset[i]`, as a source of examples.

PyTorch's map-style data sets and Grain's `MapDataset` are of this kind, and any object with `len`
and `[i]` whose examples are arrays, or pairs (array, label).
"""

from __future__ import annotations

import dataclasses
import functools
import sys
from array import array as Array
from collections.abc import Mapping
from typing import Any

import jax
import numpy as np

from scoresde import checks


@dataclasses.dataclass(frozen=True, eq=False)
class RandomAccess:
    """Examples by their index in a data set: arrays of one shape, or pairs (array, label).

    Raises:
        TypeError: if the examples are dictionaries, or None.
        ValueError: if the data set is empty or endless, or holds numbers; when read, if an example
            has another shape than the first, or is not finite.
    """

    dataset: Any
    name: str = "data"

    def __post_init__(self):
        count = len(self.dataset)
        if count == 0:
            raise ValueError(f"{self.name} has length 0: wanted examples, not empty.")
        if count >= sys.maxsize:
            raise ValueError(
                f"{self.name} repeats without end: fit repeats the examples itself. Write it "
                f"without .repeat()."
            )
        if self.shape == ():
            raise ValueError(
                f"{self.name}[0] is a number: wanted arrays (*shape), for numbers an array (n, 1). "
                f"Write np.array([{self.name}[i] for i in range(len({self.name}))])[:, None]."
            )

    @functools.cached_property
    def shape(self) -> tuple[int, ...]:
        """The shape of one example."""
        x, _ = self._example(0)
        return x.shape

    @functools.cached_property
    def fingerprint(self) -> str | None:
        """The data set's own fingerprint, or None."""
        own = getattr(self.dataset, "fingerprint", None)
        return None if own is None or callable(own) else str(own)

    def __len__(self) -> int:
        return len(self.dataset)

    def batch(self, indices: np.ndarray) -> Any:
        """Returns the examples at these indices, or (examples, labels)."""
        examples = [self._example(int(i)) for i in indices]
        for i, (x, _) in zip(indices, examples, strict=True):
            if x.shape != self.shape:
                raise ValueError(
                    f"{self.name}[{i}] has shape {x.shape}, and {self.name}[0] has {self.shape}: "
                    f"wanted one shape for all examples."
                )
        x = np.stack([x for x, _ in examples])
        labels = [label for _, label in examples]
        if labels[0] is None:
            return x
        return x, jax.tree.map(lambda *leaves: np.stack(leaves), *labels)

    def _example(self, i: int) -> tuple[np.ndarray, Any]:
        """Returns (x, label) of one example; the label is None where there is none."""
        example = self.dataset[i]
        check_example(example, f"{self.name}[{i}]")
        x, label = example if _is_pair(example) else (example, None)

        x = checks.plain_array(x, f"{self.name}[{i}]")
        if np.issubdtype(x.dtype, np.floating) and not np.all(np.isfinite(x)):
            raise ValueError(f"{self.name}[{i}] holds NaN or infinity: drop or mend it first.")
        return x, jax.tree.map(np.asarray, label)


def is_random_access(data: Any) -> bool:
    """Returns whether an object has `len` and `[i]`, and is no array, list, dictionary or text."""
    arrays = ("__array__", "__array_interface__", "__dlpack__", "to_numpy")
    if isinstance(data, Mapping | list | tuple | str | bytes | bytearray | memoryview | Array):
        return False
    if any(hasattr(data, name) for name in arrays):
        return False
    return hasattr(type(data), "__len__") and hasattr(type(data), "__getitem__")


def check_example(example: Any, name: str) -> None:
    """Refuses examples that are not an array or a pair.

    Raises:
        TypeError: if it is a dictionary, with the line that makes arrays of all of them, or None.
    """
    data = name.partition("[")[0]
    if isinstance(example, Mapping):
        keys = ", ".join(map(str, example))
        first, *others = example
        cond = f", cond=np.stack([row[{others[0]!r}] for row in {data}])" if others else ""
        raise TypeError(
            f"the examples of {data} are dictionaries with the keys {keys}: wanted arrays, or "
            f"pairs (array, label). Name the key that holds them, for example "
            f"fit(key, model, np.stack([row[{first!r}] for row in {data}]){cond})."
        )
    if example is None:
        raise TypeError(
            f"an example of {data} is None, as Grain's .filter leaves it: wanted an array for each "
            f"index. Write {data} = [row for row in {data} if row is not None]."
        )


def _is_pair(example: Any) -> bool:
    """Returns whether an example is (array, label), and not a short vector."""
    return isinstance(example, tuple) and len(example) == 2 and np.ndim(example[0]) > 0
