"""`ScoreModel`: a network under an SDE, as a score.

    score(x, t) = -noise / sigma,   E[x_0 | x_t = x] = x_0        (Eq. 1)

where the network's output gives x_0 and noise as its parameterisation says.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jax import Array
from jaxtyping import Float

from scoresde import checks
from scoresde.checks import is_concrete
from scoresde.score.parameterization import Noise
from scoresde.sde.base import SDE, times_of
from scoresde.standardization import (
    CondUnits,
    Standardization,
    check_cond_units,
    cond_to_model,
)
from scoresde.types import Cond, Time, pytree_dataclass, right_pad


@pytree_dataclass("parameterization", "standardization", "null_is_trained", "cond_units")
class ScoreModel:
    """A network under an SDE: a ScoreFn that offers `denoise`, and a pytree of the network's
    arrays.

    net(x, t) or net(x, t, cond) is an NNX, Equinox or bound Linen module, or any function, whose
    output has the shape of x and means what `parameterization` says. A model of standardised data
    holds their `standardization`: the model itself works in standard units, and everything that
    takes or returns data (sampling, codes, likelihoods, losses) converts.
    """

    sde: SDE
    net: Callable[..., Array]
    parameterization: Any = Noise()
    standardization: Standardization | None = None
    null_is_trained: bool | None = None
    """Whether the network was trained without its condition too (`sd.Training(drop_cond=0.1)`), as
    guidance needs; None where that is not known."""
    cond_units: CondUnits | None = None
    """The standardization of each vector of the condition, which arrives in its own units."""

    is_bound = True  # its outputs have the shape and the precision of x (sde/bound_score.py)

    def __call__(
        self, x: Float[Array, " batch *data"], t: Time, cond: Cond = None
    ) -> Float[Array, " batch *data"]:
        """Returns the score (Eq. 1). t: one time, or one per example.

        Raises:
            ValueError: if t does not fit x, or the network returned another shape than that of x.
        """
        output = self.net(*self._network_inputs(x, t, cond))
        _, noise = self._data_and_noise(output, x, t)
        return -noise / right_pad(self.sde.sigma(times_of(t, x)), x)

    def denoise(
        self, x: Float[Array, " batch *data"], t: Time, cond: Cond = None
    ) -> Float[Array, " batch *data"]:
        """Returns E[x_0 | x_t = x] (Eq. 1). t: one time, or one per example.

        Raises:
            ValueError: as the score.
        """
        output = self.net(*self._network_inputs(x, t, cond))
        x0, _ = self._data_and_noise(output, x, t)
        return x0

    def data_and_noise(
        self, x: Float[Array, " batch *data"], t: Time, cond: Cond = None
    ) -> tuple[Float[Array, " batch *data"], Float[Array, " batch *data"]]:
        """Returns E[x_0 | x_t] and E[noise | x_t] from one evaluation of the network.

        Raises:
            ValueError: as the score.
        """
        return self._data_and_noise(self.net(*self._network_inputs(x, t, cond)), x, t)

    def output(
        self, x: Float[Array, " batch *data"], t: Time, cond: Cond = None
    ) -> Float[Array, " batch *data"]:
        """Returns what the network itself returns, whose meaning is the parameterisation's.

        Raises:
            ValueError: as the score.
        """
        output = self.net(*self._network_inputs(x, t, cond))
        checks.same_shape(output, x, "the network")
        return output.astype(x.dtype)

    def _network_inputs(self, x: Array, t: Time, cond: Cond) -> tuple[Any, ...]:
        """Returns the arguments of the network."""
        checks.batch_at_times(x, t)
        inputs = self.parameterization.inputs(self.sde, x, times_of(t, x))
        return inputs if cond is None else (*inputs, cond_to_model(self.cond_units, cond))

    def _data_and_noise(self, output: Array, x: Array, t: Time) -> tuple[Array, Array]:
        """Returns the x_0 and the noise that the network's output means."""
        checks.same_shape(output, x, "the network")
        output = output.astype(x.dtype)
        return self.parameterization.data_and_noise(self.sde, output, x, times_of(t, x))

    @property
    def denoises_noise(self) -> bool:
        """Whether the network's output says what x_0 is at t = 1: where alpha(1) = 0, noise and
        scores do not."""
        if not is_concrete(*jax.tree.leaves(self.sde)):
            return True
        with jax.ensure_compile_time_eval():
            x = jnp.ones((1, 1))
            t = jnp.ones(1)
            _, label = self.parameterization.inputs(self.sde, x, t)
            x0, _ = self.parameterization.data_and_noise(self.sde, x, x, t)
            return bool(jnp.all(jnp.isfinite(x0)) & jnp.all(jnp.isfinite(label)))

    @property
    def num_classes(self) -> int | None:
        """The number of classes, where a single label conditions a network of the library."""
        classes = getattr(getattr(self.net, "config", None), "num_classes", None)
        return classes if isinstance(classes, int) else None

    @property
    def conditions(self) -> Any:
        """The labels and vectors that condition a network of the library (nets/conditions.py);
        None for a custom network."""
        return getattr(self.net, "conditions", None)

    def check_cond(self, cond: Cond, batch: int) -> None:
        """Refuses a condition that the network does not take, and its absence where it was never
        trained. Conditions of custom networks pass.

        Raises:
            ValueError: if it does not fit, or is None and the network has only seen conditions.
        """
        conditions = self.conditions
        if conditions is None:
            return
        if cond is not None:
            conditions.check(cond, batch, none=self.null_is_trained is not False)
            check_cond_units(self.cond_units, cond)
        elif not conditions:
            return
        elif self.null_is_trained is None:
            checks.warn(
                f"the network is conditioned on {conditions}, but no cond was passed: it answers "
                f"without a condition, which training teaches it by sd.Training(drop_cond=0.1) "
                f"alone. Write cond=..., one row per example."
            )
        elif not self.null_is_trained:
            raise ValueError(
                f"the network is conditioned on {conditions}, but no cond was passed, and it was "
                f"never trained without one. Write cond=..., one row per example, or train with "
                f"sd.Training(drop_cond=0.1)."
            )

    def drop_cond(self, cond: Cond, dropped: Array) -> Cond:
        """Returns the condition without that of the `dropped` examples, (batch,), as the network
        says.

        Raises:
            TypeError: if a custom network does not say so.
        """
        drop = getattr(self.net, "drop_cond", None)
        if drop is None:
            raise TypeError(
                f"{type(self.net).__name__} does not say what it sees in place of a condition: "
                f"give it a method drop_cond(self, cond, dropped), with dropped (batch,) of "
                f"booleans, such as return jnp.where(dropped, self.num_classes, cond)."
            )
        return drop(cond, dropped)

    def __repr__(self) -> str:
        lines = [
            f"sde={self.sde!r}",
            f"net={_described(self.net)}",
            f"parameterization={self.parameterization!r}",
        ]
        if self.standardization is not None:
            lines.append(f"standardization={self.standardization!r}")
        return "ScoreModel(\n" + "".join(f"  {line},\n" for line in lines) + ")"


def _described(net: Any) -> str:
    """Returns a network in one line, as it prints itself, or its class where that is longer."""
    text = repr(net)
    if "\n" not in text:
        return text
    arrays = [leaf for leaf in jax.tree.leaves(net) if hasattr(leaf, "shape")]
    numbers = sum(math.prod(leaf.shape) for leaf in arrays)
    return f"{type(net).__name__} of {numbers:,} numbers"
