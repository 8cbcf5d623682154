"""`Standardization`: an affine map between the data's own units and those of the model.

    x_data = mean + std x_model                                          (Eq. 1)
    log p(x_data) = log p(x_model) - sum over dimensions of log std      (Eq. 2)

The SDE, the network and every state at t > 0 live in the model's units, in which data have mean 0
and standard deviation 1. What enters or leaves as data (t = 0) is in the data's own units.
"""

from __future__ import annotations

import dataclasses
import math
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array
from jaxtyping import Float

from scoresde import checks
from scoresde.precision import at_least_float32, precision_of
from scoresde.types import Cond, ScoreFn, pytree_dataclass


@dataclasses.dataclass(frozen=True)
class Standardization:
    """Means and standard deviations along the last axis of an example: one per feature of a
    vector, one per channel of an image, or one number for all.

    Raises:
        ValueError: if they are not numbers or lists of one length, a mean is not finite, or a
            standard deviation is not positive and finite.
    """

    mean: Any = 0.0
    """(c,) or a number, in the data's units; kept as a tuple."""
    std: Any = 1.0
    """(c,) or a number, in the data's units; kept as a tuple."""

    def __post_init__(self):
        mean = np.atleast_1d(np.asarray(self.mean, np.float64))
        std = np.atleast_1d(np.asarray(self.std, np.float64))
        if mean.ndim != 1 or std.ndim != 1 or len({len(mean), len(std)} - {1}) > 1:
            raise ValueError(
                f"mean has shape {np.shape(self.mean)} and std {np.shape(self.std)}: wanted a "
                f"number, or one per feature or channel, e.g. "
                f"mean=x.reshape(-1, x.shape[-1]).mean(axis=0), and std likewise."
            )
        if not (np.all(np.isfinite(mean)) and np.all(np.isfinite(std) & (std > 0.0))):
            raise ValueError(
                f"mean = {mean.tolist()}, std = {std.tolist()}: wanted finite means and positive "
                f"standard deviations. Write 1.0 for a feature that is constant."
            )

        mean, std = np.broadcast_arrays(mean, std)
        object.__setattr__(self, "mean", tuple(mean.tolist()))  # static: never trained
        object.__setattr__(self, "std", tuple(std.tolist()))

    @classmethod
    def fit(cls, x: Any) -> Standardization:
        """Returns the means and standard deviations of examples x (n, *data) along the last axis.

        A constant feature has the standard deviation 1.

        Raises:
            ValueError: if x has no data axis, or holds NaN, infinity, masks or no real numbers.
        """
        x = checks.plain_array(x, "x")
        if x.ndim < 2:
            raise ValueError(
                f"x has shape {x.shape}: wanted (examples, *data). For scalars write x[:, None]."
            )
        checks.numbers(x, "x")
        mean, std = moments(x.reshape(-1, x.shape[-1]).astype(np.float64))
        return cls(mean, np.where(std > 0.0, std, 1.0))

    def to_model(self, x: Array | np.ndarray) -> Any:
        """Returns data (batch, *data) in the model's units; in float64 for an array of NumPy's, so
        that a large mean costs no digits.

        Raises:
            ValueError: if the last axis has another length.
        """
        mean, std = self._along_last_axis(x)
        return (x - mean) / std

    def to_data(self, x: Array | np.ndarray) -> Any:
        """Returns model states (..., *data) in the data's units (Eq. 1).

        Raises:
            ValueError: if the last axis has another length.
        """
        mean, std = self._along_last_axis(x)
        return mean + std * x

    def log_volume(self, shape: tuple[int, ...]) -> float:
        """Returns the sum of log std over the dimensions of an example of this shape (Eq. 2)."""
        return math.prod(shape) * float(np.mean(np.log(self.std)))

    def _along_last_axis(self, x: Array | np.ndarray) -> tuple[Any, Any]:
        """Returns mean and std with the rank of x, in float64 for an array of NumPy's."""
        count = len(self.mean)
        if count > 1 and (x.ndim < 2 or x.shape[-1] != count):
            raise ValueError(
                f"x has shape {x.shape}, and the model's standardization holds {count} features: "
                f"wanted as many along the last axis."
            )
        shape = (1,) * (x.ndim - 1) + (count,)
        if isinstance(x, np.ndarray):
            return np.reshape(self.mean, shape), np.reshape(self.std, shape)
        mean = jnp.asarray(self.mean, x.dtype)
        std = jnp.asarray(self.std, x.dtype)
        return mean.reshape(shape), std.reshape(shape)


def moments(x: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Returns the means and standard deviations of the columns of x; exactly constant columns have
    the standard deviation 0, not one of rounding."""
    constant = x.min(axis=0) == x.max(axis=0)
    mean = np.where(constant, x[0], x.mean(axis=0))
    return mean, np.where(constant, 0.0, x.std(axis=0))


# --- Scores that have one ---


def standardization_of(score: Any) -> Standardization | None:
    """Returns the standardization of a score: its attribute of that name, or None."""
    return getattr(score, "standardization", None)


def to_model_units(
    score: Any, x: Array | np.ndarray, float64: bool = False
) -> Float[Array, " batch *data"]:
    """Returns data as a JAX array in the units of a score's model, in float32 or better.

    float64: whether it was asked for, so that x keeps it.
    """
    standardization = standardization_of(score)
    if standardization is None:
        return at_least_float32(x, float64)
    if isinstance(x, np.ndarray):
        return at_least_float32(standardization.to_model(x), float64)
    x = at_least_float32(x, float64)
    with precision_of(x):
        return standardization.to_model(x)


def to_data_units(score: Any, x: Array) -> Array:
    """Returns states of a score's model in the data's units."""
    standardization = standardization_of(score)
    if standardization is None:
        return x
    with precision_of(x):
        return standardization.to_data(x)


def log_volume(score: Any, x: Array) -> float:
    """Returns log p of x in the model's units minus that in the data's (Eq. 2)."""
    standardization = standardization_of(score)
    return 0.0 if standardization is None else standardization.log_volume(x.shape[1:])


def units_of(score: Any) -> Standardization | None:
    """Returns the units of a score's data, also where other code converts the samples to them."""
    own = standardization_of(score)
    return getattr(score, "data_units", None) if own is None else own


CondUnits = tuple[Standardization | None, ...]
"""The units of a condition: one per leaf, None where it is a label."""


def units_of_cond(cond: Any) -> CondUnits | None:
    """Returns the means and standard deviations of the vectors in conditions with leaves (n, ...),
    along the last axis; None where there are labels alone."""
    units = []
    for leaf in jax.tree.leaves(cond):
        if not jnp.issubdtype(leaf.dtype, jnp.floating):
            units.append(None)
            continue
        rows = np.asarray(leaf, np.float64)
        rows = rows.reshape(-1, rows.shape[-1] if rows.ndim > 1 else 1)
        mean, std = moments(rows)
        units.append(Standardization(mean, np.where(std > 0.0, std, 1.0)))
    return tuple(units) if any(units) else None


def check_cond_units(units: CondUnits | None, cond: Cond) -> None:
    """Refuses a condition whose leaves are not those that were measured, in their order.

    Raises:
        ValueError: if a leaf is missing, or has another number of features.
    """
    if units is None or cond is None:
        return
    leaves = [jnp.asarray(leaf) for leaf in jax.tree.leaves(cond)]

    def fits(own: Standardization | None, leaf: Array) -> bool:
        if own is None:
            return not jnp.issubdtype(leaf.dtype, jnp.floating)
        features = leaf.shape[-1] if leaf.ndim > 1 else 1
        return len(own.mean) in (1, features)

    if len(leaves) != len(units) or not all(map(fits, units, leaves)):
        arrived = ", ".join(f"{leaf.dtype} {leaf.shape}" for leaf in leaves)
        known = ["a label" if own is None else f"{len(own.mean)} numbers" for own in units]
        raise ValueError(
            f"cond holds {arrived}: wanted the leaves that the network was trained on, in their "
            f"order: {', '.join(known)} an example."
        )


def cond_to_model(units: CondUnits | None, cond: Cond) -> Cond:
    """Returns a condition in the model's units: labels, and what follows the leaves that have
    units, such as which rows are dropped, as they are."""
    if units is None or cond is None:
        return cond
    leaves, structure = jax.tree.flatten(cond)
    for i, own in enumerate(units):
        if own is not None:
            leaves[i] = own.to_model(jnp.asarray(leaves[i]))
    return jax.tree.unflatten(structure, leaves)


def in_model_units(score: ScoreFn) -> ScoreFn:
    """Returns the score without its standardization: for code that converts the data itself."""
    return score if standardization_of(score) is None else InModelUnits(score)


@pytree_dataclass()
class InModelUnits:
    """A score like the one that it holds, without its standardization."""

    score: Any

    standardization = None

    @property
    def data_units(self) -> Standardization | None:
        """The units of the score's data, for what is measured in them."""
        return standardization_of(self.score)

    def __call__(self, x: Array, t: Array, *cond: Cond) -> Array:
        """Returns the score."""
        return self.score(x, t, *cond)

    def __getattr__(self, name: str) -> Any:
        """Offers what the score offers: `denoise`, `sde` and the others."""
        if name == "score":  # not set yet, while JAX rebuilds the pytree
            raise AttributeError(name)
        return getattr(self.score, name)
