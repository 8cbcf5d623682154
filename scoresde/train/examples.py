"""The examples of a training: arrays or a source, checked, with a part of them held out."""

from __future__ import annotations

import dataclasses
from typing import Any, cast

import jax
import numpy as np
from jax import Array

from scoresde import checks
from scoresde.data.random_access import RandomAccess, is_random_access
from scoresde.data.source import ArraySource, Source, Subset, digest, fingerprint, take
from scoresde.standardization import Standardization
from scoresde.train.example_checks import (
    check_array,
    check_arrays_of_conditions,
    check_held_out,
    check_layout,
    check_prepared,
    check_source,
)
from scoresde.train.given import is_source, written
from scoresde.train.model_settings import Model
from scoresde.train.step import Prepare
from scoresde.train.what_trains import check_trainable
from scoresde.types import Cond


def training_examples(
    key: Array,
    model: Model,
    data: Any,
    cond: Cond,
    validation: Any,
    validation_cond: Cond,
    prepare: Prepare | None,
) -> tuple[Source, Source | None]:
    """Returns the examples to train on and those held out, or refuses what `fit` cannot train on.

    The key draws which examples are held out, where `validation` is a fraction.

    Raises:
        TypeError: if the model cannot be trained, or a source of integers comes without `prepare`.
        ValueError: if the examples are empty or not finite, or do not fit the model, each other
            or `prepare`.
    """
    check_trainable(model)
    examples = as_source(data, cond, "data")
    train, held_out = hold_out(key, examples, validation, validation_cond)

    check_prepared(train, held_out, prepare)
    declared = isinstance(data, ArraySource) or is_source(data)
    name = "data" if declared else written(data, "data")
    check_layout(model.net, train, prepare, declared, name)
    check_arrays_of_conditions(model, train, held_out)
    return train, held_out


def as_source(data: Any, cond: Cond, name: str) -> Source:
    """Returns arrays and data sets as a source of examples, and a source as it is.

    Raises:
        TypeError: if it is none of these, with the line that makes one of it.
        ValueError: if it is empty, ragged or not finite, or if conditions come beside a source.
    """
    if isinstance(data, ArraySource):  # arrays whose shape is meant as it is
        if cond is not None:
            check_source(data, cond, name)  # refuses the condition
        return as_source(data.x, data.cond, name)
    if is_source(data) or is_random_access(data):
        source = cast(Source, data if is_source(data) else RandomAccess(data, name))
        check_source(source, cond, name)
        return source

    x = check_array(data, name)
    if isinstance(cond, (list, tuple)) and not any(map(np.ndim, jax.tree.leaves(cond))):
        cond = np.asarray(cond)  # rows of numbers, not a pytree of conditions
    checks.condition(cond, len(x))
    return ArraySource(x, jax.tree.map(lambda leaf: checks.plain_array(leaf, "cond"), cond))


def hold_out(
    key: Array, data: Source, validation: Any, validation_cond: Cond
) -> tuple[Source, Source | None]:
    """Returns (train, held out), or (train, None) where nothing is held out.

    validation: the held-out examples, or the fraction of the data to draw at random; which ones
    depends on the key and the number of examples alone.

    Raises:
        ValueError: if the held-out examples do not fit the data, or nothing is left to train on.
    """
    if not isinstance(validation, (int, float)):
        if isinstance(validation, tuple):
            raise ValueError(
                "validation is a tuple: write validation=x, validation_cond=cond instead."
            )
        held_out = as_source(validation, validation_cond, "validation")
        check_held_out(data, held_out)
        return data, held_out

    checks.setting("validation", validation, "[0, 1)")
    if validation_cond is not None:
        raise ValueError(
            "validation_cond came without held-out examples: pass them as validation=array."
        )
    return _draw_held_out(key, data, validation)


def _draw_held_out(key: Array, data: Source, fraction: float | int) -> tuple[Source, Source | None]:
    count = round(fraction * len(data))
    if count == len(data):
        raise ValueError(
            f"validation = {fraction} of {len(data)} examples leaves none to train on: write "
            f"validation=0.0."
        )
    if count == 0:
        return data, None

    order = np.asarray(jax.random.permutation(key, len(data)))
    train = _subset(data, np.sort(order[count:]))
    held_out = _subset(data, np.sort(order[:count]))
    return train, held_out


def _subset(data: Source, rows: np.ndarray) -> Source:
    """Returns some rows of a source: a copy of those in memory, a view of any other."""
    if isinstance(data, ArraySource):
        return ArraySource(*data.batch(rows))
    return Subset(data, rows)


@dataclasses.dataclass(frozen=True, eq=False)
class StandardizedSource:
    """A source whose examples are in the model's units.

    They are converted on the host in float64, so that a large mean costs no digits.
    """

    source: Source
    standardization: Standardization

    @property
    def shape(self) -> tuple[int, ...]:
        """The shape of one example."""
        return self.source.shape

    def __len__(self) -> int:
        return len(self.source)

    def batch(self, indices: np.ndarray) -> tuple[np.ndarray, Cond]:
        """Returns the examples at indices (k,), and their conditions."""
        x, cond = take(self.source, indices)
        dtype = np.promote_types(x.dtype, np.float32)
        return self.standardization.to_model(x).astype(dtype), cond


def standardized(
    source: Source, prepare: Prepare | None, standardization: Standardization | None
) -> tuple[Source, Prepare | None]:
    """Returns a source and what prepares its batches, together in the model's units.

    Where a batch is prepared on the device, it is converted after that.
    """
    if standardization is None:
        return source, prepare
    if prepare is None:
        return StandardizedSource(source, standardization), None
    return source, _standardized(prepare, standardization)


def _standardized(prepare: Prepare, standardization: Standardization) -> Prepare:
    def prepared(key: Array, x: Array) -> Array:
        return standardization.to_model(prepare(key, x))

    return prepared


def nbytes(source: Source) -> int:
    """Estimates the size of a source in bytes, from that of its first example."""
    first = take(source, np.arange(1))
    return len(source) * sum(leaf.nbytes for leaf in jax.tree.leaves(first))


def fingerprint_of(train: Source, held_out: Source | None) -> str:
    """Returns a digest of the data, so that a run resumes only with its own.

    It reads arrays as a whole, and asks other sources for their fingerprints.
    """
    parts = []
    for source in (train, held_out):
        if isinstance(source, ArraySource):
            parts += jax.tree.leaves((source.x, source.cond))
        elif source is not None:
            parts.append(fingerprint(source).encode())
    return digest(*parts)
