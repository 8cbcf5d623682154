"""The examples of a training: arrays or a source, checked, a part of them held out, known again at a resume."""

from __future__ import annotations

from typing import Any, cast

import jax
import numpy as np
from jax import Array

from scoresde import checks
from scoresde.data.dequantization import UniformDequantization, check_levels
from scoresde.data.prepare import Scale
from scoresde.data.source import ArraySource, Source, Subset, digest, fingerprint, take
from scoresde.score.model import ScoreModel
from scoresde.types import Cond


def as_source(data: Any, cond: Cond, name: str) -> Source:
    """Arrays as a source of examples; a source as it is.

    Raises:
        ValueError: if it is empty, ragged, not finite, or conditions come beside a source.
    """
    if not hasattr(data, "batch"):
        array = _check_array(data, name)
        cond = np.asarray(cond) if isinstance(cond, (list, tuple)) else cond
        checks.condition(cond, len(array))
        return ArraySource(array, jax.tree.map(np.asarray, cond))
    source = cast(Source, data)
    if cond is not None:
        raise ValueError(
            f"{name} is a source and a condition came beside it: let its batch(indices) return "
            f"(examples, condition)."
        )
    x, _ = take(source, np.arange(min(2, len(source))))
    if x.shape[1:] != tuple(source.shape):
        raise ValueError(
            f"{name}.batch(indices) returned shape {x.shape} for {len(x)} indices, {name}.shape is "
            f"{source.shape}: wanted (indices, *shape)."
        )
    _check_array(x, f"{name}.batch(indices)")
    return source


def _check_array(data: Any, name: str) -> np.ndarray:
    """An array (n, *shape) without NaN, on the host."""
    array = np.asarray(data)
    if array.ndim < 2 or array.size == 0:
        raise ValueError(
            f"{name} has shape {array.shape}: wanted (examples, *shape), not empty. Scalars: {name}[:, None]."
        )
    if np.issubdtype(array.dtype, np.integer):
        return array  # a memory map is not read through
    checks.numbers(array, name)
    return array


def hold_out(
    key: Array, data: Source, validation: Any, validation_cond: Cond
) -> tuple[Source, Source | None]:
    """(train, held out or None): given examples, or a random fraction that depends on the key alone."""
    if not isinstance(validation, (int, float)):
        if isinstance(validation, tuple):
            raise ValueError("validation is a tuple: write validation=x, validation_cond=cond.")
        held_out = as_source(validation, validation_cond, "validation")
        if tuple(held_out.shape) != tuple(data.shape):
            raise ValueError(
                f"validation has examples of shape {held_out.shape}, data of {data.shape}."
            )
        kinds = [
            np.issubdtype(take(part, np.arange(1))[0].dtype, np.integer)
            for part in (data, held_out)
        ]
        if kinds[0] != kinds[1]:
            raise ValueError(
                "data and validation are not of one kind: wanted integers both, or reals both."
            )
        if (_labels(data) is None) != (_labels(held_out) is None):
            raise ValueError(
                "cond and validation_cond come together: the held-out examples need theirs too."
            )
        return data, held_out
    checks.setting("validation", validation, "[0, 1)")
    if validation_cond is not None:
        raise ValueError(
            "validation_cond came without held-out examples: give them as validation=array."
        )
    count = round(validation * len(data))
    if count == len(data):
        raise ValueError(
            f"validation = {validation} of {len(data)} examples leaves none to train on: write validation=0.0."
        )
    if count == 0:
        return data, None
    order = np.asarray(jax.random.permutation(key, len(data)))
    parts = np.sort(order[count:]), np.sort(order[:count])
    if isinstance(data, ArraySource):
        train, held_out = (ArraySource(*data.batch(rows)) for rows in parts)
    else:
        train, held_out = (Subset(data, rows) for rows in parts)
    return train, held_out


def _labels(source: Source) -> Cond:
    return take(source, np.arange(1))[1]


def nbytes(source: Source) -> int:
    """Of all its examples, taken to be alike."""
    return len(source) * sum(leaf.nbytes for leaf in jax.tree.leaves(take(source, np.arange(1))))


def fingerprint_of(train: Source, held_out: Source | None) -> str:
    """Of the data: a run goes on with its own only. Arrays are read whole, sources say their own."""
    parts = [part for part in (train, held_out) if part is not None]
    return digest(
        *(
            leaf
            for part in parts
            for leaf in (
                jax.tree.leaves((part.x, part.cond))
                if isinstance(part, ArraySource)
                else [fingerprint(part).encode()]
            )
        )
    )


def check_fits(train: Source, held_out: Source | None, prepare: Any) -> None:
    """Integers fit the levels they are prepared with: all of an array in memory, the first of another source.

    Raises:
        ValueError: if there are others than 0 … levels - 1, or an array to train on uses less than a quarter of them.
    """
    if not isinstance(prepare, UniformDequantization | Scale):
        return
    levels = prepare.levels
    for part in (train, held_out):
        if part is None:
            continue
        if not isinstance(part, ArraySource) or isinstance(part.x, np.memmap):
            check_levels(take(part, np.arange(min(64, len(part))))[0], levels)
            continue
        used = int(part.x.max()) + 1
        if part is train and part.x.size >= 64 and 4 * used <= levels:
            raise ValueError(
                f"data hold {part.x.min()} … {used - 1} of {levels} levels: write levels={used} in "
                f"prepare."
            )
        check_levels(part.x, levels)


def check_labels(model: ScoreModel, cond: Cond, shape: tuple[int, ...]) -> None:
    """Labels of the library's conditional networks lie in 0 … num_classes - 1: outside, their embedding is NaN."""
    classes = model.num_classes
    if classes is None:
        return
    if cond is None:
        raise ValueError(
            f"the network has {classes} classes and the data no labels: give cond=labels, or build it "
            f"without num_classes."
        )
    if not (
        isinstance(cond, np.ndarray)
        and cond.shape == shape
        and np.issubdtype(cond.dtype, np.integer)
    ):
        found = (
            f"{cond.dtype} {cond.shape}"
            if isinstance(cond, np.ndarray)
            else f"a {type(cond).__name__}"
        )
        raise ValueError(f"cond is {found}: wanted one integer label an example, {shape}.")
    if not np.all((cond >= 0) & (cond < classes)):
        raise ValueError(
            f"cond holds {np.min(cond)} … {np.max(cond)}: wanted labels 0 … {classes - 1}."
        )
