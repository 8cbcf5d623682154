"""What the library's networks share: a check of their input, and a printed form of a few lines."""

from __future__ import annotations

import dataclasses
import math
from typing import Any

import jax
from flax import nnx
from jax import Array


class Network(nnx.Module):
    """A network for examples of one shape: the base of `UNet`, `NCSNpp`, `DiT` and `MLP`.

    A subclass sets `config`, a frozen dataclass, and `shape`, the shape of one example, first.
    """

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

    def accepts(self, x: Array) -> bool:
        """Returns whether the network takes this batch: here, whether it is (batch, *shape)."""
        return x.shape[1:] == self.shape

    def check_input(self, x: Array) -> None:
        """Refuses a batch that the network was not built for.

        Raises:
            ValueError: if the network does not accept x.
        """
        if not self.accepts(x):
            raise ValueError(
                f"x holds examples of shape {x.shape[1:]}, but the network was built for "
                f"{self.shape}. Write {type(self.config).__name__}(...).build({x.shape[1:]}, "
                f"rngs=...)."
            )


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
