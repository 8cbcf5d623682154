"""What `fit` was given as data: an array, a source, a data set by index, or something else.

Something else is refused with the line that makes an array of it.
"""

from __future__ import annotations

import inspect
from array import array as Array
from collections.abc import Iterable, Mapping
from typing import Any

import jax
import numpy as np

from scoresde import checks
from scoresde.data.random_access import check_example, is_random_access

WANTED = (
    "wanted an array (examples, *shape), a data set with len(data) and data[i], or a source with "
    "len, shape and batch(indices)"
)


def is_source(data: Any) -> bool:
    """Returns whether an object is a `Source`, whose `batch` takes indices.

    The method `batch` of tf.data, datasets and Grain takes a batch size, and returns a data set.
    """
    if not all(hasattr(data, name) for name in ("batch", "shape", "__len__")):
        return False
    return callable(data.batch) and "batch_size" not in _parameters(data.batch)


def _parameters(function: Any) -> list[str]:
    try:
        return list(inspect.signature(function).parameters)
    except (TypeError, ValueError):  # some builtins have no signature
        return []


def as_array(data: Any, name: str) -> np.ndarray:
    """Returns what has the form of an array as one of NumPy's: lists, tensors and tables too.

    Raises:
        TypeError: if it is no array of numbers, with the line that makes one of it.
        ValueError: if rows differ in shape, or something would be lost.
    """
    checks.nothing_is_lost(data, name)
    if isinstance(data, list | tuple):
        return checks.plain_array(_of_rows(data, name), name)
    if hasattr(data, "select_dtypes") and hasattr(data, "columns"):
        return checks.plain_array(_of_table(data, name), name)
    if hasattr(data, "detach") and hasattr(data, "cpu"):  # a tensor of PyTorch's
        data = data.detach().cpu()

    known = ("__array__", "__array_interface__", "__dlpack__")
    is_array = isinstance(data, int | float | complex | memoryview | Array)
    is_array = is_array or any(hasattr(data, a) for a in known)
    if isinstance(data, Mapping) or not is_array:
        raise TypeError(f"{_kind(data, name)}{_advice(data, name)}")
    try:
        return checks.plain_array(data, name)
    except (TypeError, RuntimeError) as error:
        raise TypeError(
            f"{_kind(data, name)}, which NumPy does not read ({error}): {WANTED}."
        ) from error


def written(data: Any, name: str) -> str:
    """Returns what to write for an array of the data, which may be indexed as NumPy does."""
    return name if isinstance(data, np.ndarray | jax.Array) else f"np.asarray({name})"


def _kind(data: Any, name: str) -> str:
    return f"{name} is a {type(data).__module__}.{type(data).__qualname__}"


def _advice(data: Any, name: str) -> str:
    """Returns the rest of the refusal of what is no array: what it is, and the line to write."""
    if isinstance(data, Mapping):
        keys = [repr(key) for key in data]
        line = f" Write {name}[{keys[0]}], or another of them." if keys else ""
        return f" with the keys {', '.join(keys) or 'none'}: {WANTED}.{line}"
    if isinstance(data, str | bytes) or hasattr(data, "__fspath__"):
        return (
            f": {WANTED}. Write np.load({name}) for a file of NumPy's, and "
            f"sd.data.images.from_folder({name}) for a folder of images."
        )
    in_order = f", which is read in order, while fit reads by index: {WANTED}."
    if is_random_access(getattr(data, "dataset", None)):  # a loader
        return f"{in_order} Write {name}.dataset."
    if hasattr(data, "as_numpy_iterator"):  # tf.data
        return (
            f"{in_order} If it is finite and its elements are examples, write "
            f"np.stack(list({name}.as_numpy_iterator()))."
        )
    if isinstance(data, Iterable):
        return (
            f"{in_order} If it is finite, write np.stack(list({name})) where its elements are "
            f"examples, and np.concatenate(list({name})) where they are batches."
        )
    if hasattr(data, "batch") and "batch_size" not in _parameters(data.batch):
        missing = [a for a in ("shape", "__len__") if not hasattr(data, a)]
        return f" with a method batch, but without {' and '.join(missing)}: {WANTED}."

    return f": {WANTED}." + (" Call it, and pass what it returns." if callable(data) else "")


# --- Rows and tables ---


def _of_rows(rows: list | tuple, name: str) -> Any:
    """Returns a list of examples as an array."""
    if len(rows) == 0:
        return np.asarray(rows)
    check_example(rows[0], name)

    is_pair = isinstance(rows, tuple) and len(rows) == 2 and all(hasattr(r, "shape") for r in rows)
    if is_pair and np.ndim(rows[0]) > 1:
        raise TypeError(
            f"{name} is a tuple of two arrays: wanted the examples, and labels as a condition "
            f"beside them. Write fit(key, model, {name}[0], cond={name}[1])."
        )

    shapes = {_shape(row) for row in rows}
    if None not in shapes and len(shapes) == 1:
        return np.asarray([np.asarray(r) for r in rows] if hasattr(rows[0], "shape") else rows)

    if isinstance(rows[0], tuple) and len(rows[0]) == 2 and _shape(rows[0][0]):
        raise TypeError(
            f"{name} is a list of pairs: wanted one array of examples, and labels as a condition "
            f"beside it. Write fit(key, model, np.stack([x for x, _ in {name}]), "
            f"cond=np.stack([label for _, label in {name}]))."
        )
    raise ValueError(
        f"{name} is a list whose elements have the shapes {', '.join(map(str, shapes))}: wanted "
        f"one shape. Cut them to one, for example with n = min(map(len, {name})) write "
        f"np.stack([row[:n] for row in {name}])."
    )


def _shape(row: Any) -> tuple[int, ...] | None:
    """Returns the shape of a row, or None if it is ragged itself."""
    try:
        return tuple(np.shape(row))
    except ValueError:
        return None


def _of_table(table: Any, name: str) -> np.ndarray:
    """Returns a table of pandas, whose columns must be numbers; what is missing becomes NaN."""
    numbers = list(table.select_dtypes("number").columns)
    others = [column for column in table.columns if column not in numbers]
    if others:
        raise TypeError(
            f"{name} has columns that are not numbers, {', '.join(map(repr, others))}: wanted a "
            f"number in each place. Leave them out, {name}[{numbers!r}]."
        )
    array = np.asarray(table)
    return table.to_numpy(np.float64, na_value=np.nan) if array.dtype == object else array
