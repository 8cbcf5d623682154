"""What `fit` refuses about examples: one function per question, each with the line to write."""

from __future__ import annotations

import math
import warnings
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from scoresde import checks
from scoresde.data.dequantization import UniformDequantization
from scoresde.data.pixel_range import check_levels
from scoresde.data.prepare import BinCentres, Scale, without_augmentation
from scoresde.data.random_access import RandomAccess
from scoresde.data.real_valued import check_real_valued
from scoresde.data.source import ArraySource, Source, take
from scoresde.layout import builds, is_doubtful
from scoresde.nets.base import Network
from scoresde.nets.conditions import Conditions
from scoresde.train.given import as_array, written
from scoresde.train.model_settings import Model, conditions_of
from scoresde.types import Cond


def check_prepared(train: Source, held_out: Source | None, prepare: Any) -> None:
    """Refuses integers that are not prepared, or not as they should be.

    Raises:
        TypeError: if a source returns integers and `prepare` does not make real numbers of them.
        ValueError: if an array holds such integers, or if their levels are not those of `prepare`.
    """
    prepare, _ = without_augmentation(prepare)  # flipped integers are still integers
    check_fits_levels(train, held_out, prepare)

    for source in (train, held_out):
        if isinstance(source, ArraySource):
            if prepare is None:
                _check_real_valued(source, "data" if source is train else "validation")
        elif source is not None and prepare is None:
            _check_source_is_real(source)
        if isinstance(source, RandomAccess) and prepare is None:
            first, _ = take(source, np.arange(min(64, len(source))))
            _check_real_valued(ArraySource(first), "data" if source is train else "validation")


def _check_real_valued(source: ArraySource, name: str) -> None:
    """Refuses integers in disguise; what is only likely is said once, of the examples to train
    on."""
    with warnings.catch_warnings():
        if name != "data":
            warnings.simplefilter("ignore")
        check_real_valued(source.x, name, training=True)


def _check_source_is_real(source: Source) -> None:
    dtype = _first(source)[0].dtype
    if np.issubdtype(dtype, np.integer):
        raise TypeError(
            f"data are integers, {dtype}: write prepare=sd.UniformDequantization(levels=256), "
            f"which draws new noise at every step, or "
            f"prepare=sd.data.prepare.Scale(levels=256), which adds none."
        )


# --- One set of examples ---


def check_array(data: Any, name: str) -> np.ndarray:
    """Returns examples as an array (n, *shape) on the host, and refuses it unless all are finite.

    Raises:
        TypeError: if it is no array, and cannot be read as one.
        ValueError: if it is empty, has no data axis, is not numeric, or holds NaN or infinity.
    """
    array = as_array(data, name)
    if array.ndim < 2 or array.size == 0:
        raise ValueError(
            f"{name} has shape {array.shape}: wanted (examples, *shape), not empty. "
            f"For scalars write {written(data, name)}[:, None]."
        )
    if not np.issubdtype(array.dtype, np.integer):  # so a memory map of integers is not read
        checks.numbers(array, name)
    return array


def check_source(source: Source, cond: Cond, name: str) -> None:
    """Refuses a source whose first examples are not what it promises.

    Raises:
        TypeError: if they are no arrays.
        ValueError: if they have another shape or are not finite, or a condition came beside it.
    """
    if cond is not None:
        raise ValueError(
            f"{name} is a source and a condition came beside it: let its batch(indices) return "
            f"(examples, condition)."
        )

    if len(source) == 0:
        raise ValueError(f"{name} has length 0: wanted examples, not empty.")
    indices = np.arange(min(2, len(source)))
    returned = source.batch(indices)
    examples = returned[0] if isinstance(returned, tuple) else returned
    if not (hasattr(examples, "__array__") or isinstance(examples, list)):
        raise TypeError(
            f"{name}.batch(indices) returned a {type(examples).__module__}."
            f"{type(examples).__qualname__}: wanted the examples, an array (indices, *shape), or "
            f"(examples, labels). A data set whose batch takes a size is read in order, while fit "
            f"reads by index: write np.stack(list({name})) if its elements are arrays."
        )

    x, _ = take(source, indices)
    if x.shape[1:] != tuple(source.shape):
        raise ValueError(
            f"{name}.batch(indices) returned shape {x.shape} for {len(x)} indices, but "
            f"{name}.shape is {source.shape}: wanted (indices, *shape)."
        )
    check_array(x, f"{name}.batch(indices)")


def check_layout(net: Any, train: Source, prepare: Any, declared: bool, name: str) -> None:
    """Refuses examples that the network was not built for, or whose layout is doubtful.

    A network of the library's that reads the last axis as channels would train on images without a
    channel axis, or with channels first, as if they were something else.

    Args:
        net: the network; custom ones pass.
        train: the examples.
        prepare: what is applied to a batch before the network sees it, or None.
        declared: whether the shape was stated by a source, and is not that of an array.
        name: how to write the examples in code.

    Raises:
        ValueError: if they do not fit, with the line that mends the examples or the network.
    """
    if not isinstance(net, Network):
        return
    x, _ = _first(train)
    batch = jax.eval_shape(prepare or (lambda key, x: x), jax.random.key(0), jnp.asarray(x))
    net.check_input(batch, name)

    shape = tuple(batch.shape[1:])
    if declared or not net.reads_layout or not is_doubtful(shape):
        return
    raise ValueError(
        f"{name} holds examples of shape {shape}, which the network reads as {shape[-1]} channels "
        f"in space {shape[:-1]}. {builds(shape, type(net.config).__name__, name)} If the last axis "
        f"does hold {shape[-1]} channels, write sd.data.ArraySource({name}), with labels "
        f"sd.data.ArraySource({name}, cond)."
    )


# --- Training and held-out examples together ---


def check_held_out(data: Source, held_out: Source) -> None:
    """Refuses held-out examples that differ from the data in kind.

    Raises:
        ValueError: if shapes differ, or only one of the two holds integers, or has conditions.
    """
    if tuple(held_out.shape) != tuple(data.shape):
        raise ValueError(
            f"validation has examples of shape {held_out.shape}, but data has {data.shape}: "
            f"both need the same shape."
        )

    x, cond = _first(data)
    x_held_out, cond_held_out = _first(held_out)
    if np.issubdtype(x.dtype, np.integer) != np.issubdtype(x_held_out.dtype, np.integer):
        raise ValueError(
            f"data has dtype {x.dtype}, but validation has {x_held_out.dtype}: wanted integers "
            f"both, or reals both."
        )
    if (cond is None) != (cond_held_out is None):
        raise ValueError(
            "cond and validation_cond come together: if the data have conditions, the held-out "
            "examples need them too."
        )


def check_fits_levels(train: Source, held_out: Source | None, prepare: Any) -> None:
    """Refuses integers outside the levels that `prepare` maps to real numbers.

    It reads all of an array in memory, and the first 64 examples of any other source.

    Raises:
        ValueError: if there are any outside 0 … levels - 1, or if the array to train on uses less
            than a quarter of the levels.
    """
    if not isinstance(prepare, UniformDequantization | Scale | BinCentres):
        return

    for source in (train, held_out):
        if source is None:
            continue
        if not isinstance(source, ArraySource) or isinstance(source.x, np.memmap):
            x, _ = take(source, np.arange(min(64, len(source))))
            check_levels(x, prepare.levels)
            continue
        if source is train:
            _check_uses_levels(source.x, prepare.levels)
        check_levels(source.x, prepare.levels)


def _check_uses_levels(x: np.ndarray, levels: int) -> None:
    """Refuses an array of 64 entries or more that uses less than a quarter of the levels."""
    used = int(x.max()) + 1
    if x.size >= 64 and 4 * used <= levels:
        raise ValueError(
            f"data holds {x.min()} … {used - 1}, few of the {levels} levels in prepare: write "
            f"levels={max(2, used)} there."
        )


# --- Conditions ---


def check_arrays_of_conditions(model: Model, train: Source, held_out: Source | None) -> None:
    """Checks the conditions of sources that hold all of them (`check_conditions`).

    Raises:
        ValueError: if they do not fit the model.
    """
    conditions = conditions_of(model, tuple(train.shape))
    for source in (train, held_out):
        if isinstance(source, ArraySource):
            check_conditions(conditions, source.cond, (len(source),))


def check_conditions(conditions: Conditions | None, cond: Cond, shape: tuple[int, ...]) -> None:
    """Refuses conditions that the network does not take, and labels other than 0 … num_classes - 1,
    whose embedding would be NaN.

    conditions: those that the model takes; None, of a custom network, lets all pass. shape: the
    leading axes of every leaf.

    Raises:
        ValueError: if the conditions are missing, or others than the network takes.
    """
    if not conditions:
        return
    if cond is None:
        raise ValueError(
            f"the network wants {conditions} with each example, and the data have no condition: "
            f"pass cond=..., one row per example. A score without conditions is built without "
            f"num_classes and cond_dim."
        )
    batch = math.prod(shape)
    rows = jax.tree.map(lambda leaf: leaf.reshape(batch, *leaf.shape[len(shape) :]), cond)
    conditions.check(rows, batch, none=False)


def _first(source: Source) -> tuple[np.ndarray, Cond]:
    """Returns the first example of a source, with a batch axis, and its condition."""
    return take(source, np.arange(1))
