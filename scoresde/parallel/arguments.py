"""A score as an argument of a compiled function: its arrays are traced, everything else is static."""

from __future__ import annotations

import inspect
import warnings
from collections.abc import Callable
from typing import Any

import jax
from jax import Array
from jaxtyping import PyTree

from scoresde.types import Cond, pytree_dataclass


@pytree_dataclass("module")
class LinenScore:
    """A bound Linen module taken apart, so that its weights are jit arguments and not constants of the program."""

    module: Any
    variables: PyTree[Array]

    def __call__(self, x: Array, t: Array, cond: Cond = None) -> Array:
        """The module applied to its variables."""
        return self.module.apply(self.variables, x, t, *(() if cond is None else (cond,)))


@pytree_dataclass("module")
class LinenDenoiser(LinenScore):
    """A bound Linen module that offers `denoise`."""

    def denoise(self, x: Array, t: Array, cond: Cond = None) -> Array:
        """The module's own E[x_0 | x_t]."""
        return self.module.apply(
            self.variables, x, t, *(() if cond is None else (cond,)), method="denoise"
        )


class ByIdentity:
    """A callable that cannot be hashed, made static by its identity."""

    def __init__(self, function: Callable[..., Any]):
        self.function = function
        self.denoise = getattr(function, "denoise", None)

    def __call__(self, *args: Any) -> Any:
        return self.function(*args)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, ByIdentity) and self.function is other.function

    def __hash__(self) -> int:
        return id(self.function)


def as_argument(score: PyTree) -> PyTree:
    """A score that `eqx.filter_jit` takes as an argument: arrays traced, everything else static and hashable.

    NNX and Equinox modules and `ScoreModel` are pytrees already; bound Linen modules are taken apart, methods bound to
    a pytree too. A plain function is static: hand over the same object to compile once, and know that what it
    captures is frozen at its first call (a captured NNX module draws a warning).
    """
    return jax.tree.map(_as_leaf, score)


def _as_leaf(leaf: Any) -> Any:
    if hasattr(leaf, "dtype"):
        return leaf
    if hasattr(leaf, "unbind") and hasattr(
        leaf, "apply"
    ):  # a bound Linen module, without importing Flax
        module, variables = leaf.unbind()
        return (LinenDenoiser if hasattr(module, "denoise") else LinenScore)(module, variables)
    if inspect.ismethod(leaf) and any(
        hasattr(part, "dtype") for part in jax.tree.leaves(leaf.__self__)
    ):
        return jax.tree_util.Partial(leaf.__func__, leaf.__self__)
    if inspect.isfunction(leaf):
        captured = inspect.getclosurevars(leaf)
        for name, value in {**captured.globals, **captured.nonlocals}.items():
            if any(base.__module__.startswith("flax.nnx") for base in type(value).__mro__):
                warnings.warn(
                    f"the score is a function that captures the NNX module {name!r}: its weights are frozen at the "
                    f"first call. If they may change, pass the module itself or a ScoreModel that holds it.",
                    stacklevel=4,
                )
    try:
        hash(leaf)
    except TypeError:
        return ByIdentity(leaf)
    return leaf
