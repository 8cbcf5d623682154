"""What the library's networks share: a check of their input, and a printed form of a few lines."""

from __future__ import annotations

import dataclasses
import math
from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx
from jax import Array
from jaxtyping import Bool

from scoresde import layout
from scoresde.nets.conditions import Conditions
from scoresde.types import Cond


class Network(nnx.Module):
    """A network for examples of one shape: the base of `UNet`, `NCSNpp`, `DiT` and `MLP`.

    A subclass sets `config`, a frozen dataclass, and `shape`, the shape of one example, first.
    """

    reads_layout = True
    """Whether the last axis of an example is read as channels, and the others as space."""

    config: Any
    shape: tuple[int, ...]

    def __repr__(self) -> str:
        """Returns the class, the settings that differ from the defaults, the shape and the size."""
        config = changed_settings(self.config)
        return (
            f"{type(self).__name__}({config}, shape={self.shape}, "
            f"parameters={num_parameters(self):_})"
        )

    def __str__(self) -> str:
        """Returns the same line; the one that NNX prints would list every layer."""
        return repr(self)

    def accepts(self, x: Any) -> bool:
        """Returns whether the network takes this batch: here, whether it is (batch, *shape)."""
        return x.shape[1:] == self.shape

    def check_input(self, x: Any, name: str = "x") -> None:
        """Refuses a batch, or its shape alone, that the network was not built for.

        Raises:
            ValueError: if the network does not accept x.
        """
        if self.accepts(x):
            return

        given = tuple(x.shape[1:])
        raise ValueError(
            f"{name} holds examples of shape {given}, but the network was built for "
            f"{self.shape}. {self._advice(given, name)}"
        )

    @property
    def conditions(self) -> Conditions:
        """The labels and vectors that condition the network; false where there are none."""
        return Conditions.of(self.config)

    def drop_cond(self, cond: Cond, dropped: Bool[Array, " batch"]) -> Cond:
        """Returns the condition, without those of the `dropped` examples: what training with
        dropped conditions and classifier-free guidance give the network."""
        return self.conditions.drop(cond, dropped)

    def _advice(self, given: tuple[int, ...], name: str) -> str:
        """Returns the line that mends the examples where it can, and else the network."""
        config = type(self.config).__name__
        fitting = layout.matching(given, self._accepts_shape, name)
        if fitting is not None:
            shape = ", ".join(map(str, fitting.shape))
            return (
                f"The channels of an example come last: write {fitting.line}; samples have the "
                f"shape (batch, {shape})."
            )
        if self.reads_layout and layout.is_doubtful(given):
            return layout.builds(given, config, name)
        return f"Write {config}(...).build({given}, rngs=...)."

    def _accepts_shape(self, shape: tuple[int, ...]) -> bool:
        return self.accepts(jax.ShapeDtypeStruct((1, *shape), jnp.float32))


def check_image(
    network: str, config: str, shape: tuple[int, ...], factor: int, advice: str, word: str = ""
) -> None:
    """Refuses shapes other than (height, width, channels), both sides multiples of `factor`.

    advice: what to write where only the sides do not fit. word: what the factor is.

    Raises:
        ValueError: if the shape is another one.
    """
    wanted = f"shape is {shape}: {network} takes images, (height, width, channels)"
    if len(shape) == 2:
        raise ValueError(
            f"{wanted}. For images without a channel axis write x[..., None], and "
            f"{config}(...).build({(*shape, 1)}, rngs=...); for signals (length, channels) write "
            f"UNetConfig()."
        )
    if len(shape) != 3:
        other = "MLPConfig()" if len(shape) < 2 else "UNetConfig()"
        raise ValueError(f"{wanted}. For this shape write {other}.")

    if any(side % factor for side in shape[:2]):
        if layout.is_doubtful(shape):
            advice = layout.builds(shape, config, "x")
        raise ValueError(f"{wanted}, whose sides are multiples of {word}{factor}. {advice}")


def num_parameters(net: nnx.Module) -> int:
    """Returns the number of entries of all parameters, of a network or of its shapes alone."""
    return sum(math.prod(leaf.shape) for leaf in jax.tree.leaves(nnx.state(net, nnx.Param)))


def changed_settings(config: Any) -> str:
    """Returns the call that builds the settings: only fields that differ from their defaults."""
    changes = [
        f"{field.name}={getattr(config, field.name)!r}"
        for field in dataclasses.fields(config)
        if getattr(config, field.name) != field.default
    ]
    return f"{type(config).__name__}({', '.join(changes)})"
