"""Checks of what a caller passes: an error says what arrived, what was wanted, and the line to
write.

They stand at the edge, in public functions and in the constructors of settings, and never inside a
formula. They read concrete values only, so they run once, while JAX traces, and cost nothing
afterwards.
"""

from __future__ import annotations

import sys
import types
import warnings
from typing import Any

import jax
import jax.core
import jax.numpy as jnp
import numpy as np
from jax import Array

from scoresde.types import Cond, Time


def is_concrete(*values: Any) -> bool:
    """Whether every value can be read now: none is a tracer, or one of JAX's structural
    placeholders."""
    readable = (int, float, np.generic, np.ndarray, jax.Array)
    return all(isinstance(v, readable) and not isinstance(v, jax.core.Tracer) for v in values)


# --- Settings ---


MOST_STEPS = 10**6
"""The steps that a sampler may take, all of whose times are in memory at once."""
MOST_BLOCKS = 256
"""The blocks, levels or labels that a network may have."""


def setting(name: str, value: Any, interval: str) -> None:
    """A number, or an array of numbers, in an interval such as "[0, 1]" or "(0, inf)". Tracers
    pass.

    Raises:
        TypeError: if the value is not a number.
        ValueError: if it is not finite, or lies outside the interval.
    """
    if isinstance(value, (str, bytes, bool)) or value is None:
        raise TypeError(f"{name} is {value!r}: wanted a number.")
    if not is_concrete(value):
        return

    low, high = (float(end) for end in interval[1:-1].split(","))
    numbers = np.asarray(value)
    above = numbers >= low if interval[0] == "[" else numbers > low
    below = numbers <= high if interval[-1] == "]" else numbers < high
    if not np.all(np.isfinite(numbers) & above & below):
        raise ValueError(f"{name} = {value} is out of range: it must be finite and in {interval}.")


def instance(name: str, value: Any, kind: type | types.UnionType, wanted: str) -> None:
    """A value is of a class.

    Raises:
        TypeError: if it is of another; `wanted` says what to write instead.
    """
    if not isinstance(value, kind):
        raise TypeError(f"{name} is of type {type(value).__name__}: wanted {wanted}")


def one_number(name: str, value: Any) -> None:
    """A setting is one number, not an array of them.

    Raises:
        ValueError: if it has an axis.
    """
    if np.ndim(value) > 0:
        raise ValueError(f"{name} has shape {np.shape(value)}: wanted one number.")


def fixed(name: str, value: Any) -> Any:
    """Returns a setting that a program is compiled for as a plain number.

    Raises:
        TypeError: if it is a tracer.
    """
    if isinstance(value, jax.core.Tracer):
        raise TypeError(
            f"{name} is a tracer, but it is fixed before the trace: wanted a number, e.g. "
            f"{name}=0.5."
        )
    return value.item() if hasattr(value, "item") and np.size(value) == 1 else value


def count(name: str, value: Any, at_least: int = 1, at_most: int = 2**31 - 1) -> None:
    """A whole number, at least `at_least` and at most `at_most`, by default what an int32 holds.

    Raises:
        ValueError: if it is anything else.
    """
    whole = isinstance(value, (int, np.integer)) and not isinstance(value, bool)
    if not whole or value < at_least:
        raise ValueError(f"{name} = {value!r}: wanted a whole number, at least {at_least}.")
    if value > at_most:
        raise ValueError(f"{name} = {value}: wanted a whole number, at most {at_most:,}.")


# --- Arrays ---


def times(t: Any, name: str = "t") -> None:
    """Times in [0, 1], where 0 is the data and 1 the prior.

    Raises:
        ValueError: if a time that is known now lies outside.
    """
    if not is_concrete(t):
        return

    values = np.asarray(t)
    if not np.all((values >= 0.0) & (values <= 1.0)):
        raise ValueError(
            f"{name} holds {values.min():g} … {values.max():g}: times lie in [0, 1], 0 is the data "
            f"and 1 the prior. For index i of a table of N levels write sde.level_times(N)[i]."
        )


def plain_array(value: Any, name: str) -> np.ndarray:
    """Returns numbers as a plain NumPy array in the machine's byte order.

    Raises:
        ValueError: if something would be lost, as `nothing_is_lost` says.
    """
    nothing_is_lost(value, name)
    array = np.asarray(value)
    if array.dtype.kind == "f" and array.dtype.itemsize > 8:
        return array.astype(np.float64)
    if array.dtype.kind == "V" and jnp.issubdtype(array.dtype, jnp.floating):
        return array.astype(np.float32)  # bfloat16, and floats of 8 bits
    return array.astype(array.dtype.newbyteorder("="), copy=False)


def unmasked(value: Any, name: str) -> Any:
    """Returns a value without the mask of one that hides nothing, which JAX does not take.

    Raises:
        ValueError: if something would be lost, as `nothing_is_lost` says.
    """
    nothing_is_lost(value, name)
    return np.asarray(value) if isinstance(value, np.ma.MaskedArray) else value


def nothing_is_lost(value: Any, name: str) -> None:
    """A value holds nothing that its plain numbers would lose: no mask, field, imaginary part or
    digits beyond float64.

    Raises:
        ValueError: if it does, with the line that keeps it.
    """
    if isinstance(value, np.ma.MaskedArray) and np.ma.is_masked(value):
        raise ValueError(
            f"{name} is a masked array with {np.ma.count_masked(value)} masked entries: wanted a "
            f"number in each. Keep the rows without one by np.ma.compress_rows({name}.reshape("
            f"len({name}), -1)).reshape(-1, *{name}.shape[1:]), or write {name}.filled(value)."
        )

    if isinstance(value, (list, tuple)):
        for i, row in enumerate(value):
            if isinstance(row, np.ndarray):
                nothing_is_lost(row, f"{name}[{i}]")
        return
    if hasattr(value, "toarray"):
        raise ValueError(f"{name} is a sparse matrix: write {name}.toarray().")

    dtype = getattr(value, "dtype", None)
    if not isinstance(dtype, np.dtype):
        return
    if dtype.kind in "mM":
        since = f"({name} - {name}.min())" if dtype.kind == "M" else name
        raise ValueError(
            f"{name} holds times, {dtype}: wanted numbers. In seconds they are "
            f"{since} / np.timedelta64(1, 's')."
        )
    if dtype.names is not None:
        raise ValueError(
            f"{name} is a structured array with the fields {', '.join(dtype.names)}: wanted one "
            f"array of numbers. Write np.lib.recfunctions.structured_to_unstructured({name})."
        )
    if dtype.kind == "c":
        raise ValueError(
            f"{name} is complex: wanted real numbers. Its two parts as channels are "
            f"np.stack([{name}.real, {name}.imag], axis=-1)."
        )
    if dtype.kind == "O":
        raise ValueError(
            f"{name} is an array of Python objects: wanted one array of numbers. For rows of one "
            f"shape write np.stack([np.asarray(row, np.float32) for row in {name}])."
        )
    if dtype.kind != "f" or dtype.itemsize <= 8:
        return
    if not np.array_equal(value, value.astype(np.float64), equal_nan=True):
        raise ValueError(
            f"{name} has dtype {dtype}, with digits that float64 does not hold: write "
            f"{name}.astype(np.float64)."
        )


def batch(x: Any, name: str = "x") -> None:
    """An array of floating-point numbers with a batch axis, (batch, *data).

    Raises:
        TypeError: if it is not an array, or not of floating-point numbers.
        ValueError: if it has no axis, or `nothing_is_lost` refuses it.
    """
    if not hasattr(x, "shape"):
        raise TypeError(
            f"{name} is a {type(x).__name__}: wanted an array (batch, *data). "
            f"Write jnp.asarray({name})."
        )
    nothing_is_lost(x, name)
    if len(x.shape) < 1:
        raise ValueError(
            f"{name} is a scalar: wanted (batch, *data). For one example write {name}[None]."
        )
    if not jnp.issubdtype(x.dtype, jnp.floating):
        raise TypeError(
            f"{name} has dtype {x.dtype}: wanted floating-point numbers. "
            f"Write {name}.astype(jnp.float32); integer images go through "
            f"sd.UniformDequantization(levels=256) first."
        )


def batch_at_times(x: Any, t: Time, name: str = "x") -> None:
    """A batch (batch, *data), and one time for all of it or one per example.

    Raises:
        TypeError, ValueError: as `batch` and `times`; if the shapes do not fit.
    """
    batch(x, name)
    if jnp.ndim(t) != 0 and jnp.shape(t) != x.shape[:1]:
        raise ValueError(
            f"t has shape {jnp.shape(t)}, {name} has {x.shape}: wanted one time, or one per "
            f"example. For a single time use jnp.full({x.shape[:1]}, t)."
        )
    times(t)


def same_shape(value: Any, x: Array, name: str) -> None:
    """What a score or a denoiser returned has the shape of its state x.

    Raises:
        ValueError: if it has another shape.
    """
    if jnp.shape(value) != x.shape:
        raise ValueError(
            f"{name} returned shape {jnp.shape(value)} for x of shape {x.shape}: a score is a "
            f"gradient with respect to x, and E[x_0 | x] is data, so both have the shape of x. "
            f"Return one value per entry of x, e.g. out.reshape(x.shape). Arrays with one row per "
            f"example go into cond, not into the score: it is also traced for one example."
        )


def one_per_example(value: Any, x: Array, name: str) -> None:
    """What a function returned is one number per example of x.

    Raises:
        ValueError: if it has another shape.
    """
    if jnp.shape(value) != x.shape[:1]:
        raise ValueError(
            f"{name} returned shape {jnp.shape(value)}: wanted one value per example, "
            f"{x.shape[:1]}."
        )


def same_shapes(value: Any, like: Any, name: str) -> None:
    """What a function returned has the structure and the shapes of what it was given.

    Raises:
        ValueError: if it has others.
    """
    got = jax.tree.map(jnp.shape, value)
    wanted = jax.tree.map(jnp.shape, like)
    if got != wanted:
        raise ValueError(
            f"{name} returned shapes {got}: wanted those of the state that it was given, {wanted}. "
            "A factor of shape (batch,) multiplies x as right_pad(factor, x) * x."
        )


def condition(cond: Cond, batch: int) -> None:
    """Every leaf of a condition has the leading batch axis.

    Raises:
        ValueError: if one does not.
    """
    for path, leaf in jax.tree_util.tree_leaves_with_path(cond):
        nothing_is_lost(leaf, f"cond{jax.tree_util.keystr(path)}")
        if jnp.ndim(leaf) == 0 and isinstance(cond, (list, tuple)) and len(cond) == batch:
            raise ValueError(
                f"cond is a {type(cond).__name__}, whose {batch} numbers would be {batch} "
                f"conditions: write jnp.asarray(cond)."
            )
        if jnp.ndim(leaf) < 1 or jnp.shape(leaf)[0] != batch:
            raise ValueError(
                f"cond{jax.tree_util.keystr(path)} has shape {jnp.shape(leaf)} for {batch} "
                f"examples: conditions are per example. For one condition on all write "
                f"jnp.broadcast_to(c, ({batch},) + jnp.shape(c))."
            )


def numbers(array: np.ndarray, name: str) -> None:
    """Whole or real numbers, all finite, one example a row.

    Raises:
        ValueError: if they are of another type, or one is NaN or infinite.
    """
    if not (np.issubdtype(array.dtype, np.floating) or np.issubdtype(array.dtype, np.integer)):
        raise ValueError(
            f"{name} has dtype {array.dtype}: wanted numbers. Write {name}.astype(np.float32)."
        )
    finite = np.isfinite(array.reshape(len(array), -1)).all(axis=1)
    if not np.all(finite):
        raise ValueError(
            f"{name} holds NaN or infinity in {np.sum(~finite)} of {len(array)} examples: "
            f"drop or mend them first."
        )


# --- Warnings ---


_INTERNAL = ("scoresde", "jax", "equinox", "jaxtyping", "beartype", "contextlib")
"""Packages between a check and the person who called the library."""


LOOSER = (
    "Try a looser tolerance, a larger max_steps or t_min, or look for NaN in the score and in the "
    "SDE's drift and diffusion."
)


OF_BOUNDS = "Try a larger t_min, or look for NaN in the score."
"""What to try where a bound, which has no solver, is NaN."""


def warn_of_failures(success: Any, what: str, goal: str, advice: str = LOOSER) -> None:
    """Names the rows that failed, where that is known now.

    what, goal: name the examples, and what a failed one did not reach. advice: what to try.
    """
    if success is None or not is_concrete(success):
        return
    failed = np.flatnonzero(~np.asarray(success))
    if len(failed):
        rows = ", ".join(map(str, failed[:10])) + (", …" if len(failed) > 10 else "")
        warn(
            f"{len(failed)} of {len(success)} {what} did not reach {goal}, rows {rows}: they are "
            f"NaN, and their success is False. {advice}"
        )


def warn(message: str) -> None:
    """Warns at the line outside the library that led here."""
    frame = sys._getframe()
    level = 1
    while frame.f_back is not None and _package(frame) in _INTERNAL:
        frame = frame.f_back
        level += 1
    warnings.warn(message, stacklevel=level)


def _package(frame: Any) -> str:
    return frame.f_globals.get("__name__", "").split(".")[0]
