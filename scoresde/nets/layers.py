"""Pieces both networks share: initialisers, embeddings of time and label, checks."""

from __future__ import annotations

import math
from collections.abc import Callable
from functools import partial
from typing import Any, Literal, cast, get_args

import jax
import jax.numpy as jnp
from flax import nnx
from jax import Array
from jaxtyping import Float

from scoresde.types import Scalar

zeros = nnx.initializers.zeros_init()


def lecun_normal(key: Array, shape: tuple[int, ...], dtype=jnp.float32) -> Array:
    """N(0, 1 / fan_in) cut at two standard deviations, as `nnx.initializers.lecun_normal()`, but soon compiled.

    XLA needs 0.1 s and more for a draw of each new size, and a network has dozens: here sizes are 2^16, 2^17, ...
    """
    return _leaf(
        _cut_normal(key, max(2**16, 1 << (math.prod(shape) - 1).bit_length()), dtype), tuple(shape)
    )


@partial(jax.jit, static_argnums=(1, 2))
def _cut_normal(key: Array, count: int, dtype) -> Array:
    return (
        jax.random.truncated_normal(key, -2.0, 2.0, (count,), dtype) / 0.87962566103423978
    )  # now of std 1


@partial(jax.jit, static_argnums=1)
def _leaf(draws: Array, shape: tuple[int, ...]) -> Array:
    return draws[: math.prod(shape)].reshape(shape) / math.sqrt(math.prod(shape[:-1]))


def fan_average(scale: float = 1.0) -> Callable[..., Array]:
    """U(-l, l), l² = 6 scale / (fan_in + fan_out), the initialiser of DDPM and NCSN++; as soon compiled."""
    return partial(_fan_average, scale)


def _fan_average(scale: float, key: Array, shape: tuple[int, ...], dtype=jnp.float32) -> Array:
    fans = math.prod(shape[:-2]) * (shape[-2] + shape[-1])
    draws = _uniform(key, max(2**16, 1 << (math.prod(shape) - 1).bit_length()), dtype)
    return _scaled(draws, math.sqrt(6.0 * scale / fans), tuple(shape))


@partial(jax.jit, static_argnums=(1, 2))
def _uniform(key: Array, count: int, dtype) -> Array:
    return jax.random.uniform(key, (count,), dtype, -1.0, 1.0)


@partial(jax.jit, static_argnums=2)
def _scaled(draws: Array, limit: Scalar, shape: tuple[int, ...]) -> Array:
    return limit * draws[: math.prod(shape)].reshape(shape)


class Keys:
    """Keys of initialisers, as layers ask `nnx.Rngs` for them: fold_in(key, 1), fold_in(key, 2), … of one of its keys.

    `nnx.Rngs` counts on the device; this counts here: a network of 400 arrays is made, or its shapes alone, in a
    fraction of the time (5 s instead of 24 for the shapes of NCSN++).
    """

    def __init__(self, rngs: nnx.Rngs):
        self.rngs, self._key, self._count = rngs, rngs.params(), 0

    def params(self) -> Array:
        """The next key."""
        self._count += 1
        return jax.random.fold_in(self._key, self._count)

    def dropout(self, rate: float) -> nnx.Dropout:
        """A dropout layer with a random stream of its own, if it drops anything."""
        return nnx.Dropout(rate, rngs=self.rngs if rate > 0.0 else None)


def linear(
    n_in: int, n_out: int, *, kernel_init=lecun_normal, rngs: nnx.Rngs | Keys, **options
) -> nnx.Linear:
    """W h + b."""
    return nnx.Linear(n_in, n_out, kernel_init=kernel_init, rngs=cast(Any, rngs), **options)


Precision = Literal["float32", "bfloat16"]
"""What a network's layers compute in; its parameters are float32 in both."""


def compute_dtype(precision: Precision) -> Any:
    """The dtype that layers cast to; None where they follow their input."""
    return jnp.bfloat16 if precision == "bfloat16" else None


def run_block(block: nnx.Module, *args: Array, remat: bool) -> Array:
    """block(*args); with remat nothing inside is kept for the gradient, but computed a second time.

    Outside training the block is only read: it may belong to an outer trace, as in a likelihood's solver.
    """
    if not remat:
        return cast(Any, block)(*args)
    graph, streams, rest = nnx.split(block, nnx.RngState, ...)

    def pure(streams, rest, *args):
        copy = nnx.merge(graph, streams, rest)
        return cast(Any, copy)(*args), nnx.state(copy, nnx.RngState)

    out, streams = jax.checkpoint(pure)(streams, rest, *args)
    if any(isinstance(m, nnx.Dropout) and not m.deterministic for _, m in nnx.iter_modules(block)):
        nnx.update(block, streams)  # dropout has drawn
    return out


def check_choice(name: str, value: Any, choices: Any) -> None:
    """The setting is one of a Literal's values."""
    if value not in get_args(choices):
        raise ValueError(
            f"{name} = {value!r}: wanted one of {', '.join(map(repr, get_args(choices)))}."
        )


def sinusoidal_embedding(
    t: Float[Array, " batch"], dim: int, scale: float, max_period: float = 10_000.0
) -> Array:
    """sin and cos of scale t at dim / 2 geometric frequencies 1 … 1 / max_period (Vaswani et al. 2017)."""
    frequencies = jnp.exp(-math.log(max_period) * jnp.arange(dim // 2) / (dim // 2 - 1))
    angles = scale * t[:, None] * frequencies
    return jnp.concatenate([jnp.sin(angles), jnp.cos(angles)], axis=-1)


def check_shape(x: Array, fits: bool, shape: tuple[int, ...], config: str) -> None:
    """x holds examples of the shape that the network was built for."""
    if not fits:
        raise ValueError(
            f"x holds examples of shape {x.shape[1:]}, the network was built for {shape}: write "
            f"{config}(...).build({x.shape[1:]}, rngs=...)."
        )


class TimeEmbedding(nnx.Module):
    """What modulates every block: sinusoids of t through two dense layers, plus an embedding of the label if any."""

    def __init__(
        self, dim: int, width: int, scale: float, num_classes: int | None, *, rngs: nnx.Rngs
    ):
        self.dim, self.scale, self.num_classes = dim, scale, num_classes
        self.dense1 = linear(dim, width, rngs=rngs)
        self.dense2 = linear(width, width, rngs=rngs)
        self.label = label_table(num_classes, width, rngs=rngs)

    def __call__(
        self, t: Float[Array, " batch"], cond: Array | None
    ) -> Float[Array, " batch width"]:
        h = self.dense2(jax.nn.silu(self.dense1(sinusoidal_embedding(t, self.dim, self.scale))))
        return add_label(h, self.label, cond)


def label_table(num_classes: int | None, width: int, *, rngs: nnx.Rngs | Keys) -> nnx.Embed | None:
    """One row more than there are classes: the last one stands for "no label"."""
    return None if num_classes is None else nnx.Embed(num_classes + 1, width, rngs=cast(Any, rngs))


def add_label(
    h: Float[Array, " batch width"], table: nnx.Embed | None, cond: Array | None
) -> Array:
    """h plus each example's row of the table; h itself where the network is unconditional."""
    if table is None:
        if cond is not None:
            raise ValueError(
                "a condition arrived at an unconditional network: build it with num_classes=..., or leave it out "
                "(labels of images: Images(pixels), or .without_labels())."
            )
        return h
    label = jnp.full(h.shape[:1], table.num_embeddings - 1) if cond is None else cond
    if label.shape != h.shape[:1] or not jnp.issubdtype(label.dtype, jnp.integer):
        raise ValueError(
            f"cond has shape {label.shape} and dtype {label.dtype}: wanted one integer label per example, "
            f"{h.shape[:1]}. One-hot rows: jnp.argmax(cond, axis=-1)."
        )
    return h + table(label)
