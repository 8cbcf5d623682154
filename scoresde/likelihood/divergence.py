"""The divergence of a score, the trace of its Jacobian J, from products J v: exact, or estimated.

    Hutchinson    tr J = E[v^T J v],   E[v v^T] = I                                   (Eq. 1)
    Hutch++       tr J = tr(Q^T J Q) + E[w^T J w],   w = (I - Q Q^T) v                (Eq. 2)
    exact         tr J = sum_i e_i^T J e_i                                            (Eq. 3)

Everything works on a batch: probes are (batch, probes, *data), fixed along a solve of the ODE, and
give terms (batch, n), which may be integrated over time before they are combined. Hutchinson 1990;
Hutch++: Meyer et al. 2021 (arXiv:2010.09649), Alg. 1.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable
from typing import Any, Protocol, runtime_checkable

import jax
import jax.numpy as jnp
from jax import Array
from jaxtyping import Float

from scoresde import checks

Products = Callable[[Float[Array, " batch probes *data"]], tuple[Array, Array]]
"""Vectors v (batch, probes, *data) → the score (batch, *data) and every J v (batch, probes,
*data)."""


@runtime_checkable
class Divergence(Protocol):
    """Probes, and terms of them whose mean or sum, as `combine` says, estimates tr J."""

    def probes(
        self, keys: Array, x: Float[Array, " batch *data"]
    ) -> Float[Array, " batch probes *data"]: ...

    def terms(
        self, products: Products, probes: Float[Array, " batch probes *data"]
    ) -> tuple[Array, Array]:
        """Returns the score, (batch, *data), and the terms, (batch, n)."""
        ...

    def combine(
        self, terms: Float[Array, " batch n"]
    ) -> tuple[Float[Array, " batch"], Float[Array, " batch"] | None]:
        """Returns tr J and its standard error over probes, None where it is not known."""
        ...


def jacobian_products(score: Callable[[Array], Array], x: Float[Array, " batch *data"]) -> Products:
    """Returns the products of the score's Jacobian at x, in forward mode; the score acts row by
    row."""

    def products(v):
        if v.shape[1] == 1:  # an axis of one costs a fifth more where the score is small
            s, jv = jax.jvp(score, (x,), (v[:, 0],))
            return s, jv[:, None]

        s, product = jax.linearize(score, x)
        return s, jax.vmap(product, in_axes=1, out_axes=1)(v)

    return products


# --- Distributions of probes ---


@dataclasses.dataclass(frozen=True)
class Rademacher:
    """Probes of independent signs, which have the least variance among those of independent
    entries."""

    def draw(self, key: Array, shape: tuple[int, ...], dtype: Any) -> Array:
        """Draws ±1 with equal probability."""
        return jax.random.rademacher(key, shape, dtype)


@dataclasses.dataclass(frozen=True)
class Gaussian:
    """Standard normal probes."""

    def draw(self, key: Array, shape: tuple[int, ...], dtype: Any) -> Array:
        """Draws N(0, I)."""
        return jax.random.normal(key, shape, dtype)


# --- Divergences ---


@dataclasses.dataclass(frozen=True)
class Hutchinson:
    """Hutchinson's estimator (Eq. 1): unbiased, with an error that falls as num_probes^-1/2.

    Products in one evaluation of the field: num_probes, in one batch.

    Raises:
        ValueError: if num_probes < 1.
    """

    num_probes: int = 1
    """Probes an example, fixed along its solve."""
    distribution: Rademacher | Gaussian = Rademacher()
    """What the probes are drawn from."""

    def __post_init__(self):
        checks.count("num_probes", self.num_probes, at_most=checks.MOST_STEPS)

    def probes(
        self, keys: Array, x: Float[Array, " batch *data"]
    ) -> Float[Array, " batch probes *data"]:
        """Draws (batch, num_probes, *data)."""
        shape = (self.num_probes, *x.shape[1:])
        return jax.vmap(lambda key: self.distribution.draw(key, shape, x.dtype))(keys)

    def terms(
        self, products: Products, probes: Float[Array, " batch probes *data"]
    ) -> tuple[Array, Array]:
        """Returns the score, and v^T J v of every probe."""
        s, jv = products(probes)
        return s, _inner(probes, jv)

    def combine(self, terms: Float[Array, " batch probes"]) -> tuple[Array, Array | None]:
        """Returns the mean over probes and its standard error, None with one probe."""
        return _mean(terms)


@dataclasses.dataclass(frozen=True)
class HutchPlusPlus:
    """Hutch++ (Eq. 2), where Q is an orthonormal basis of J S, and S are `rank` signs fixed along
    the solve.

    The part of J that Q captures is exact, and the rest is probed: better than Hutchinson where few
    directions hold most of J's trace, worse where J is nearly a multiple of the identity. It is
    unbiased for any S, so its error is that of the probes. Products in one evaluation of the field:
    2 rank + num_probes, in two batches (the score is evaluated twice).

    Raises:
        ValueError: if rank or num_probes < 1.
    """

    rank: int = 1
    """Directions that are captured, at most the data's dimension."""
    num_probes: int = 1
    """Probes of what remains."""

    def __post_init__(self):
        checks.count("rank", self.rank)
        checks.count("num_probes", self.num_probes, at_most=checks.MOST_STEPS)

    def probes(
        self, keys: Array, x: Float[Array, " batch *data"]
    ) -> Float[Array, " batch probes *data"]:
        """Draws S and the v, (batch, rank + num_probes, *data).

        Raises:
            ValueError: if the rank exceeds the data's dimension.
        """
        dim = math.prod(x.shape[1:])
        if self.rank > dim:
            raise ValueError(
                f"rank = {self.rank} for data of {dim} dimensions: write sd.ExactDivergence()."
            )
        shape = (self.rank + self.num_probes, *x.shape[1:])
        return jax.vmap(lambda key: jax.random.rademacher(key, shape, x.dtype))(keys)

    def terms(
        self, products: Products, probes: Float[Array, " batch probes *data"]
    ) -> tuple[Array, Array]:
        """Returns the score, and tr(Q^T J Q) + w^T J w for every probe."""
        sketch, v = jnp.split(probes, [self.rank], axis=1)
        _, j_sketch = products(sketch)
        basis, _ = jnp.linalg.qr(_columns(j_sketch))  # (batch, D, rank)

        v_columns = _columns(v)
        captured_part = basis @ (jnp.swapaxes(basis, 1, 2) @ v_columns)
        w = _rows(v_columns - captured_part, v.shape)

        both = jnp.concatenate([_rows(basis, sketch.shape), w], axis=1)
        s, jv = products(both)
        captured, rest = jnp.split(_inner(both, jv), [self.rank], axis=1)
        return s, jnp.sum(captured, axis=1, keepdims=True) + rest

    def combine(self, terms: Float[Array, " batch probes"]) -> tuple[Array, Array | None]:
        """Returns the mean over probes and its standard error, None with one probe."""
        return _mean(terms)


@dataclasses.dataclass(frozen=True)
class ExactDivergence:
    """The trace itself (Eq. 3): one product per data dimension, and no sampling error.

    Raises:
        ValueError: if block_size < 1.
    """

    block_size: int = 256
    """Products at a time: memory grows with it, and each block evaluates the score again."""

    def __post_init__(self):
        checks.count("block_size", self.block_size)

    def probes(
        self, keys: Array, x: Float[Array, " batch *data"]
    ) -> Float[Array, " batch probes *data"]:
        """Returns the D unit vectors, (batch, D, *data)."""
        dim = math.prod(x.shape[1:])
        vectors = jnp.eye(dim, dtype=x.dtype).reshape(1, dim, *x.shape[1:])
        return jnp.broadcast_to(vectors, (x.shape[0], dim, *x.shape[1:]))

    def terms(
        self, products: Products, probes: Float[Array, " batch probes *data"]
    ) -> tuple[Array, Array]:
        """Returns the score, and the diagonal of J, `block_size` entries at a time."""
        batch, count = probes.shape[:2]
        block = self.block_size
        if count <= block:
            s, jv = products(probes)
            return s, _inner(probes, jv)

        missing = -count % block
        zeros = jnp.zeros((batch, missing, *probes.shape[2:]), probes.dtype)
        padded = jnp.concatenate([probes, zeros], axis=1)
        blocks = padded.reshape(batch, -1, block, *probes.shape[2:])

        def entries(part):
            s, jv = products(part)
            return s, _inner(part, jv)

        s, terms = jax.lax.map(entries, jnp.moveaxis(blocks, 1, 0))
        return s[0], jnp.moveaxis(terms, 0, 1).reshape(batch, -1)[:, :count]

    def combine(self, terms: Float[Array, " batch n"]) -> tuple[Array, Array]:
        """Returns the sum, with standard error 0."""
        return jnp.sum(terms, axis=1), jnp.zeros_like(terms[:, 0])


AnyDivergence = Hutchinson | HutchPlusPlus | ExactDivergence
"""The divergences that settings choose from."""


def check_divergence(divergence: Any) -> None:
    """Checks that a divergence is an object with the methods of `Divergence`, not its class or
    name.

    Raises:
        TypeError: if it is not.
    """
    if isinstance(divergence, type) or not isinstance(divergence, Divergence):
        raise TypeError(
            f"divergence is {divergence!r}: wanted sd.Hutchinson(num_probes=4), "
            "sd.divergences.HutchPlusPlus(4, num_probes=4), sd.ExactDivergence(), or a custom "
            "object with the methods of sd.divergences.Divergence."
        )


def _columns(v: Float[Array, " batch n *data"]) -> Float[Array, " batch dim n"]:
    """Vectors as the columns of a matrix."""
    return jnp.swapaxes(v.reshape(*v.shape[:2], -1), 1, 2)


def _rows(columns: Float[Array, " batch dim n"], shape: tuple[int, ...]) -> Array:
    """The inverse of `_columns`."""
    return jnp.swapaxes(columns, 1, 2).reshape(shape)


def _inner(
    v: Float[Array, " batch n *data"], w: Float[Array, " batch n *data"]
) -> Float[Array, " batch n"]:
    """v^T w of every vector."""
    return jnp.sum((v * w).reshape(*v.shape[:2], -1), axis=2)


def _mean(terms: Float[Array, " batch n"]) -> tuple[Array, Array | None]:
    """The mean and its standard error, None with one term."""
    count = terms.shape[1]
    if count == 1:
        return terms[:, 0], None
    return jnp.mean(terms, axis=1), jnp.std(terms, axis=1, ddof=1) / math.sqrt(count)
