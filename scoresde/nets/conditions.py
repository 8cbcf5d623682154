"""What a network is conditioned on: labels, vectors, and examples without a condition.

    c = Σ_k table_k[label_k] + V2 silu(V1 y + b1) + b2                       (Eq. 1)

is added to the embedding of the time (nets/embeddings.py). Whole numbers among the leaves of a
condition are labels, one per example; y holds all other numbers of an example. An example without a
condition takes the last row of every table, and a learnt vector in place of the other summand:

    c = Σ_k table_k[num_classes_k] + null                                    (Eq. 2)

So "none" is never a value that the data can take. It is learnt by dropping conditions in training
(Ho & Salimans 2022, arXiv:2207.12598; `sd.Training(drop_cond=0.1)`).
"""

from __future__ import annotations

import dataclasses
import math
from typing import Any, cast

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jax import Array
from jaxtyping import Bool, Float

from scoresde import checks
from scoresde.nets.initializers import Keys
from scoresde.nets.layers import linear
from scoresde.types import Classes, Cond, pytree_dataclass


@pytree_dataclass()
class Dropped:
    """A condition with vectors, which some of the examples go without."""

    cond: Any
    """Leaves (batch, ...); the rows of `dropped` examples are not read."""
    dropped: Bool[Array, " batch"]


@dataclasses.dataclass(frozen=True)
class Conditions:
    """The labels and vectors that a network takes, as its settings say."""

    num_classes: tuple[int, ...] = ()
    """The classes of each label, in the order of the leaves of a condition."""
    cond_dim: int = 0
    """The numbers of an example that are no labels, in all leaves together."""

    @classmethod
    def of(cls, config: Any) -> Conditions:
        """Returns what a network with these settings is conditioned on."""
        classes = getattr(config, "num_classes", None)
        cond_dim = getattr(config, "cond_dim", None)
        return cls(_as_tuple(classes), cond_dim or 0)

    def __bool__(self) -> bool:
        return bool(self.num_classes or self.cond_dim)

    def __str__(self) -> str:
        parts = []
        if self.num_classes:
            classes = self.num_classes
            count = f"{len(classes)} labels" if len(classes) > 1 else "a label"
            parts.append(f"{count} of {', '.join(map(str, classes))} classes")
        if self.cond_dim:
            parts.append(f"a vector of {self.cond_dim} numbers")
        return " and ".join(parts) or "nothing"

    def split(
        self, cond: Cond, batch: int
    ) -> tuple[list[Array], Float[Array, " batch d"] | None, Array | None]:
        """Returns the labels, the vectors, and which examples go without a condition.

        Raises:
            ValueError: if the network takes no condition, or another one.
        """
        if not self:
            raise ValueError(
                "a condition arrived at an unconditional network: build it with num_classes=... "
                "for labels or cond_dim=... for vectors, or leave the condition out (labels of "
                "images: Images(pixels), or .without_labels())."
            )

        dropped = None
        if isinstance(cond, Dropped):
            dropped = cond.dropped
            cond = cond.cond
        leaves = [
            leaf if hasattr(leaf, "dtype") else np.asarray(leaf) for leaf in jax.tree.leaves(cond)
        ]
        labels = [leaf for leaf in leaves if jnp.issubdtype(leaf.dtype, jnp.integer)]
        others = [leaf for leaf in leaves if not jnp.issubdtype(leaf.dtype, jnp.integer)]
        self._check_leaves(labels, others, batch)

        labels = [jnp.asarray(leaf) for leaf in labels]
        vectors = [jnp.asarray(leaf, _float_of(leaf)).reshape(batch, -1) for leaf in others]
        return labels, jnp.concatenate(vectors, axis=-1) if vectors else None, dropped

    def _check_leaves(self, labels: list[Any], others: list[Any], batch: int) -> None:
        """Refuses leaves other than the labels and vectors that the network takes."""
        leaves = (*labels, *others)
        numbers = sum(math.prod(leaf.shape[1:]) for leaf in others)
        fits = len(labels) == len(self.num_classes) and numbers == self.cond_dim
        fits &= all(leaf.shape[:1] == (batch,) for leaf in leaves)
        fits &= all(leaf.ndim == 1 for leaf in labels)
        fits &= all(_is_number(leaf) for leaf in others)
        if fits:
            return

        arrived = ", ".join(f"{leaf.dtype} {leaf.shape}" for leaf in leaves)
        one_vector = [leaf.shape for leaf in others] == [(self.cond_dim,)]
        if len(labels) > len(self.num_classes) == 1 and not others:
            wanted = f"one integer label per example, ({batch},)"
            advice = "A list is one leaf a number: write jnp.asarray(cond)."
        elif self.num_classes and not self.cond_dim:
            wanted = f"one integer label per example, ({batch},)"
            if len(self.num_classes) > 1:
                wanted = f"{len(self.num_classes)} labels, integers ({batch},) each"
            advice = "For one-hot rows write jnp.argmax(cond, axis=-1)."
        else:
            wanted = f"{self}, ({batch}, {self.cond_dim})"
            advice = "A vector is float, (batch, d): write cond.astype(jnp.float32)."
            if one_vector and self.cond_dim > 1:
                advice = "For one vector on all examples write cond[None]."
            elif numbers:
                advice = (
                    f"A vector is float: write cond.astype(jnp.float32); for other data build the "
                    f"network with cond_dim={numbers}."
                )
        raise ValueError(f"cond holds {arrived or 'nothing'}: wanted {wanted}. {advice}")

    def check(self, cond: Cond, batch: int, none: bool = True) -> None:
        """Refuses a condition that the network does not take, where its values are known.

        none: whether the label after the last one, "no label", is accepted.

        Raises:
            ValueError: if it has another structure, a label is not one of the classes, or a vector
                holds NaN or infinity.
        """
        labels, vectors, dropped = self.split(cond, batch)
        if vectors is not None and dropped is None and checks.is_concrete(vectors):
            checks.numbers(np.asarray(vectors, np.float64), "cond")
        for label, classes in zip(labels, self.num_classes, strict=True):
            highest = classes if none else classes - 1
            if not checks.is_concrete(label) or not label.size:
                continue
            label = np.asarray(label)
            if not 0 <= label.min() <= label.max() <= highest:
                raise ValueError(
                    f"cond holds {label.min()} … {label.max()}: wanted labels 0 … {classes - 1}."
                )

    def drop(self, cond: Cond, dropped: Bool[Array, " batch"]) -> Cond:
        """Returns the condition, without those of the `dropped` examples."""
        if not self.cond_dim:
            classes = iter(self.num_classes)
            return jax.tree.map(
                lambda label: jnp.where(dropped, jnp.asarray(next(classes), label.dtype), label),
                jax.tree.map(jnp.asarray, cond),
            )
        if isinstance(cond, Dropped):
            return Dropped(cond.cond, cond.dropped | dropped)
        return Dropped(cond, dropped)


# --- The embedding ---


def check_settings(config: Any) -> None:
    """Checks `num_classes` and `cond_dim` of a network's settings.

    Raises:
        ValueError: if one is not a positive whole number.
    """
    each = _as_tuple(config.num_classes)
    checks.count("the number of num_classes", len(each), 0, at_most=checks.MOST_BLOCKS)
    for classes in each:
        checks.count("num_classes", classes)
    if config.cond_dim is not None:
        checks.count("cond_dim", config.cond_dim)


def label_tables(num_classes: Classes, width: int, *, rngs: nnx.Rngs | Keys) -> Any:
    """Returns a table with a row per class and a last one for "no label"; None without classes, and
    a list of tables for several labels."""
    if num_classes is None:
        return None
    tables = [
        nnx.Embed(classes + 1, width, rngs=cast(Any, rngs)) for classes in _as_tuple(num_classes)
    ]
    return tables[0] if isinstance(num_classes, int) else nnx.List(tables)


class VectorEmbedding(nnx.Module):
    """The summand of a vector (Eq. 1), or of its absence (Eq. 2)."""

    def __init__(self, dim: int, width: int, *, rngs: nnx.Rngs | Keys):
        self.dense1 = linear(dim, width, rngs=rngs)
        self.dense2 = linear(width, width, rngs=rngs)
        self.null = nnx.Param(jnp.zeros(width))

    def __call__(
        self, y: Float[Array, " batch d"] | None, dropped: Array | None, batch: int
    ) -> Float[Array, " batch width"]:
        null = jnp.broadcast_to(self.null[...], (batch, self.null.shape[0]))
        if y is None:
            return null
        embedded = self.dense2(jax.nn.silu(self.dense1(y)))
        if dropped is None:
            return embedded
        return jnp.where(dropped[:, None], null.astype(embedded.dtype), embedded)


def vector_embedding(
    cond_dim: int | None, width: int, *, rngs: nnx.Rngs | Keys
) -> VectorEmbedding | None:
    """Returns the embedding of vectors of `cond_dim` numbers; None without."""
    return None if cond_dim is None else VectorEmbedding(cond_dim, width, rngs=rngs)


def add_condition(
    h: Float[Array, " batch width"], tables: Any, vector: VectorEmbedding | None, cond: Cond
) -> Float[Array, " batch width"]:
    """Returns h plus the embedding of each example's condition, or of "none" if `cond` is None.

    Raises:
        ValueError: if the network does not take this condition.
    """
    batch = len(h)
    tables = [tables] if isinstance(tables, nnx.Embed) else list(tables or [])
    nones = [table.num_embeddings - 1 for table in tables]
    if cond is None:
        labels = [jnp.full(batch, none) for none in nones]
        y = dropped = None
    else:
        dim = 0 if vector is None else vector.dense1.in_features
        labels, y, dropped = Conditions(tuple(nones), dim).split(cond, batch)

    for table, label, none in zip(tables, labels, nones, strict=True):
        if dropped is not None:
            label = jnp.where(dropped, jnp.asarray(none, label.dtype), label)
        h = h + table(label).astype(h.dtype)
    if vector is not None:
        y = None if y is None else y.astype(h.dtype)
        h = h + vector(y, dropped, batch).astype(h.dtype)
    return h


def _as_tuple(classes: Classes) -> tuple[int, ...]:
    if classes is None:
        return ()
    return (classes,) if isinstance(classes, int | np.integer) else tuple(classes)


def _is_number(leaf: Any) -> bool:
    return jnp.issubdtype(leaf.dtype, jnp.floating) or leaf.dtype == bool


def _float_of(leaf: Any) -> Any:
    """Returns the type of a leaf as real numbers: float32 for truth values, else its own."""
    return jnp.float32 if leaf.dtype == bool else jnp.result_type(leaf)
