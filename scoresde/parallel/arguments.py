"""A score as an argument of a compiled function: its arrays are traced, everything else is
static."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from typing import Any

import jax
from jax import Array
from jaxtyping import PyTree

from scoresde import checks
from scoresde.standardization import Standardization, standardization_of
from scoresde.types import Cond, pytree_dataclass


def as_argument(score: PyTree) -> PyTree:
    """Returns the score as a pytree that `eqx.filter_jit` takes: arrays are traced, the rest is
    hashable.

    NNX and Equinox modules and `ScoreModel` are pytrees already; bound Linen modules, and methods
    of a pytree, are taken apart. A plain function is static: pass the same object again to compile
    once. What a function captures is frozen at its first call, so a captured NNX module draws a
    warning.
    """
    return jax.tree.map(_as_leaf, score)


def _as_leaf(leaf: Any) -> Any:
    if hasattr(leaf, "dtype"):
        return leaf
    if _is_bound_linen_module(leaf):
        module, variables = leaf.unbind()
        kind = LinenDenoiser if hasattr(module, "denoise") else LinenScore
        return kind(module, variables)
    if _is_method_of_arrays(leaf):
        return jax.tree_util.Partial(leaf.__func__, leaf.__self__)
    if inspect.isfunction(leaf):
        _warn_of_captured(leaf)
    return leaf if is_hashable(leaf) else ByIdentity(leaf)


def is_hashable(value: Any) -> bool:
    """Whether a value can be a static argument."""
    try:
        hash(value)
    except TypeError:
        return False
    return True


def settings_of(value: Any) -> tuple[Any, ...]:
    """Returns the fields of a settings object that is a static argument."""
    value = value.function if isinstance(value, ByIdentity) else value
    return tuple(getattr(value, "__dict__", {}).values())


def _is_bound_linen_module(leaf: Any) -> bool:
    """Recognises a bound module of flax.linen without importing it."""
    return hasattr(leaf, "unbind") and hasattr(leaf, "apply")


def _is_method_of_arrays(leaf: Any) -> bool:
    if not inspect.ismethod(leaf):
        return False
    return any(hasattr(part, "dtype") for part in jax.tree.leaves(leaf.__self__))


def _warn_of_captured(function: Callable[..., Any]) -> None:
    """Warns of a function around a network or a model, of which nothing can be known outside."""
    captured = inspect.getclosurevars(function)
    for name, value in {**captured.globals, **captured.nonlocals}.items():
        units = getattr(value, "standardization", None)
        if isinstance(units, Standardization) and standardization_of(function) is None:
            checks.warn(
                f"the score is a function around {name!r}, a model of standardised data, whose "
                f"units it does not have: its samples and densities are in standard units. For the "
                f"data's own write score.standardization = {name}.standardization."
            )
        if any(base.__module__.startswith("flax.nnx") for base in type(value).__mro__):
            checks.warn(
                f"the score is a function that captures the NNX module {name!r}: its weights are "
                f"frozen at the first call. If they may change, pass the module itself, or a "
                f"ScoreModel that holds it."
            )


@pytree_dataclass("module")
class LinenScore:
    """A bound Linen module taken apart, so that its weights are arguments of the program."""

    module: Any
    variables: PyTree[Array]

    def __call__(self, x: Array, t: Array, cond: Cond = None) -> Array:
        """Applies the module to its variables."""
        arguments = (x, t) if cond is None else (x, t, cond)
        return self.module.apply(self.variables, *arguments)


@pytree_dataclass("module")
class LinenDenoiser(LinenScore):
    """A bound Linen module that offers `denoise`."""

    def denoise(self, x: Array, t: Array, cond: Cond = None) -> Array:
        """Applies the module's own `denoise`, E[x_0 | x_t = x]."""
        arguments = (x, t) if cond is None else (x, t, cond)
        return self.module.apply(self.variables, *arguments, method="denoise")


class ByIdentity:
    """A callable that cannot be hashed, made static by its identity."""

    def __init__(self, function: Callable[..., Any]):
        self.function = function
        self.denoise = getattr(function, "denoise", None)
        self.start = getattr(function, "start", 1.0)
        self.standardization = getattr(function, "standardization", None)

    def __call__(self, *args: Any) -> Any:
        return self.function(*args)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, ByIdentity) and self.function is other.function

    def __hash__(self) -> int:
        return id(self.function)
