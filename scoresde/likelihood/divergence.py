"""The divergence of a score, the trace of its Jacobian J, from products J v: exact, or an unbiased estimate."""

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

Products = Callable[[Float[Array, " probes *data"]], tuple[Array, Array]]
"""Vectors v_k (probes, *data) → the score (*data) and every J v_k (probes, *data), in forward mode."""


@runtime_checkable
class Divergence(Protocol):
    """Probes, fixed along a solve of the ODE, and terms whose mean or sum, as `combine` says, estimates tr J."""

    def probes(self, key: Array, x: Float[Array, " *data"]) -> Float[Array, " probes *data"]: ...

    def terms(
        self, products: Products, probes: Float[Array, " probes *data"]
    ) -> tuple[Array, Array]:
        """The score, and the terms (n,)."""
        ...

    def combine(self, terms: Float[Array, " n"]) -> tuple[Array, Array]:
        """tr J and its standard error over probes, from terms that may have been integrated over time."""
        ...


@dataclasses.dataclass(frozen=True)
class Rademacher:
    """Probes of independent signs: the least variance among probes with independent entries."""

    def draw(self, key: Array, shape: tuple[int, ...], dtype: Any) -> Array:
        """±1 with equal probability."""
        return jax.random.rademacher(key, shape, dtype)


@dataclasses.dataclass(frozen=True)
class Gaussian:
    """Standard normal probes."""

    def draw(self, key: Array, shape: tuple[int, ...], dtype: Any) -> Array:
        """N(0, I)."""
        return jax.random.normal(key, shape, dtype)


@dataclasses.dataclass(frozen=True)
class Hutchinson:
    """tr J = E[v^T J v] for E[v v^T] = I (Hutchinson 1990): unbiased, with an error that falls as num_probes^-1/2.

    Products a field evaluation: num_probes, in one batch.

    Raises:
        ValueError: if num_probes < 1.
    """

    num_probes: int = 1
    distribution: Rademacher | Gaussian = Rademacher()

    def __post_init__(self):
        checks.count("num_probes", self.num_probes)

    def probes(self, key: Array, x: Float[Array, " *data"]) -> Float[Array, " probes *data"]:
        """(num_probes, *data)."""
        return self.distribution.draw(key, (self.num_probes, *x.shape), x.dtype)

    def terms(
        self, products: Products, probes: Float[Array, " probes *data"]
    ) -> tuple[Array, Array]:
        """The score, and v^T J v of every probe."""
        s, jv = products(probes)
        return s, _inner(probes, jv)

    def combine(self, terms: Float[Array, " probes"]) -> tuple[Array, Array]:
        """Mean over probes and its standard error, NaN from one probe."""
        return _mean(terms)


@dataclasses.dataclass(frozen=True)
class HutchPlusPlus:
    """tr J = tr(Q^T J Q) + E[w^T J w], w = (I - Q Q^T) v: Hutch++ (Meyer et al. 2021, arXiv:2010.09649, Alg. 1).

    Q is an orthonormal basis of J S, S of `rank` signs fixed along the solve; Q follows J(x, t). The part of J that Q
    captures is exact, the rest is probed: better than Hutchinson where few directions hold most of J's trace, worse
    where J is nearly a multiple of the identity. Unbiased for any S, so the error is that of the probes, v signs too.
    Products a field evaluation: 2 rank + num_probes, in two batches (the score is evaluated twice).

    Raises:
        ValueError: if rank or num_probes < 1.
    """

    rank: int = 1
    """Directions that are captured, at most the data's dimension."""
    num_probes: int = 1
    """Probes of what remains."""

    def __post_init__(self):
        checks.count("rank", self.rank)
        checks.count("num_probes", self.num_probes)

    def probes(self, key: Array, x: Float[Array, " *data"]) -> Float[Array, " probes *data"]:
        """S and the v, (rank + num_probes, *data)."""
        if self.rank > x.size:
            raise ValueError(
                f"rank = {self.rank} for data of {x.size} dimensions: write ExactDivergence()."
            )
        return jax.random.rademacher(key, (self.rank + self.num_probes, *x.shape), x.dtype)

    def terms(
        self, products: Products, probes: Float[Array, " probes *data"]
    ) -> tuple[Array, Array]:
        """The score, and tr(Q^T J Q) + w^T J w for every probe."""
        sketch, v = jnp.split(probes, [self.rank])
        _, js = products(sketch)
        q = jnp.linalg.qr(js.reshape(self.rank, -1).T)[0]  # (D, rank)
        w = (
            v.reshape(self.num_probes, -1).T - q @ (q.T @ v.reshape(self.num_probes, -1).T)
        ).T.reshape(v.shape)
        basis = q.T.reshape(sketch.shape)
        both = jnp.concatenate([basis, w])
        s, jv = products(both)
        captured, rest = jnp.split(_inner(both, jv), [self.rank])
        return s, jnp.sum(captured) + rest

    def combine(self, terms: Float[Array, " probes"]) -> tuple[Array, Array]:
        """Mean over probes and its standard error, NaN from one probe."""
        return _mean(terms)


@dataclasses.dataclass(frozen=True)
class ExactDivergence:
    """tr J = sum_i e_i^T J e_i: one forward-mode product per data dimension, no sampling error.

    Raises:
        ValueError: if block_size < 1.
    """

    block_size: int = 256
    """Products at a time: memory grows with it, and each block evaluates the score anew."""

    def __post_init__(self):
        checks.count("block_size", self.block_size)

    def probes(self, key: Array, x: Float[Array, " *data"]) -> Float[Array, " probes *data"]:
        """The D unit vectors, (D, *data)."""
        return jnp.eye(x.size, dtype=x.dtype).reshape(x.size, *x.shape)

    def terms(
        self, products: Products, probes: Float[Array, " probes *data"]
    ) -> tuple[Array, Array]:
        """The score, and the diagonal of J, `block_size` entries at a time."""
        count, block = len(probes), self.block_size
        if count <= block:
            s, jv = products(probes)
            return s, _inner(probes, jv)
        padded = jnp.concatenate(
            [probes, jnp.zeros((-count % block, *probes.shape[1:]), probes.dtype)]
        )

        def entries(part):
            s, jv = products(part)
            return s, _inner(part, jv)

        s, terms = jax.lax.map(entries, padded.reshape(-1, block, *probes.shape[1:]))
        return s[0], terms.reshape(-1)[:count]

    def combine(self, terms: Float[Array, " probes"]) -> tuple[Array, Array]:
        """The sum, with standard error 0."""
        return jnp.sum(terms), jnp.zeros_like(terms[0])


AnyDivergence = Hutchinson | HutchPlusPlus | ExactDivergence
"""The divergences that settings choose from."""


def check_divergence(divergence: Any) -> None:
    """One of the library's, or of the user's own: an object, not its class or name.

    Raises:
        TypeError: if it is none.
    """
    if isinstance(divergence, type) or not isinstance(divergence, Divergence):
        raise TypeError(
            f"divergence is {divergence!r}: wanted sd.Hutchinson(num_probes=4), sd.divergences.HutchPlusPlus(4, num_probes=4), "
            f"sd.ExactDivergence(), or one of your own with the methods of scoresde.likelihood.divergence.Divergence."
        )


def _inner(v: Float[Array, " n *data"], w: Float[Array, " n *data"]) -> Float[Array, " n"]:
    return jnp.sum((v * w).reshape(len(v), -1), axis=1)


def _mean(terms: Float[Array, " n"]) -> tuple[Array, Array]:
    """The mean and its standard error, NaN from one term."""
    if len(terms) == 1:
        return terms[0], jnp.full_like(terms[0], jnp.nan)
    return jnp.mean(terms), jnp.std(terms, ddof=1) / math.sqrt(len(terms))
