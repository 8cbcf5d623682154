"""The variational bounds of a whole set of examples, written to a file in chunks and resumed."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Float

from scoresde import checks
from scoresde.data.pixel_range import PixelRange
from scoresde.keys import as_typed_key, example_keys
from scoresde.likelihood import rows_file
from scoresde.likelihood.bound import variational_bound
from scoresde.likelihood.elbo import elbo
from scoresde.parallel.held import move_out
from scoresde.types import Cond, Key

NAMES = ("nll", "prior", "diffusion", "reconstruction")


@dataclasses.dataclass(frozen=True)
class SetBound:
    """The bound of every example and its terms in nats; NaN where it is not finite."""

    nll: Float[np.ndarray, " examples"]
    prior: Float[np.ndarray, " examples"]
    diffusion: Float[np.ndarray, " examples"]
    reconstruction: Float[np.ndarray, " examples"]

    @property
    def failed(self) -> np.ndarray:
        """The indices of examples without a bound."""
        return np.flatnonzero(~np.isfinite(self.nll))


def bound_of_set(
    key: Key,
    model: Any,
    x: np.ndarray,
    cond: Cond = None,
    *,
    pixels: PixelRange | None,
    path: Path,
    about: dict[str, Any],
    num_steps: int | None = None,
    num_draws: int = 100,
    t_min: float = 1e-5,
    batch_size: int = 64,
    progress: bool = True,
) -> SetBound:
    """Returns `elbo` of every row of x, or `variational_bound` of real-valued data.

    Each chunk is written to the file at `path` as soon as it is done; a file whose first line
    holds the same `about` and key is resumed. Example i depends on (key, i) alone.

    Args:
        key: the random key of the whole set.
        model: a score that holds its SDE.
        x: the examples (n, *data), integers if there are pixels.
        cond: a condition whose leaves have n rows, or None.
        pixels: the bins of the integers, or None for real-valued data.
        path: the file of results.
        about: the settings the results depend on, as JSON can hold them.
        num_steps: T, or None for continuous time.
        num_draws: times per example.
        t_min: the time at which the bound starts, unless t = 0 is a noise level.
        batch_size: the number of examples in a chunk.
        progress: whether to show a progress bar.

    Raises:
        ValueError: if the file holds something else, or steps are asked for real-valued data.
    """
    checks.count("num_draws", num_draws)
    if pixels is None and num_steps is not None:
        raise ValueError(
            f"num_steps = {num_steps} is for integers: the bound of a density is in continuous "
            f"time. Leave it out."
        )
    score, cond = move_out(model, cond, len(x))
    about = about | {"key": np.asarray(jax.random.key_data(as_typed_key(key))).tolist()}
    keys = example_keys(key, len(x))

    def solve(_: int, rows: np.ndarray) -> dict[str, Any]:
        """Returns the bounds of these rows."""
        own = jax.tree.map(lambda leaf: jnp.asarray(leaf)[rows], cond)
        sizes = {"t_min": t_min, "batch_size": batch_size}
        if pixels is None:
            x0 = jnp.asarray(x[rows], jnp.float32)
            out = variational_bound(keys[rows], model.sde, score, x0, own, num_draws, **sizes)
        else:
            out = elbo(
                keys[rows],
                score,
                x[rows],
                pixels.levels,
                num_steps,
                num_draws,
                own,
                low=pixels.low,
                high=pixels.high,
                **sizes,
            )
        return {name: getattr(out, name) for name in NAMES}

    found = rows_file.stream(path, about, NAMES, solve, len(x), 1, batch_size, "bound", progress)
    return SetBound(**{name: table[:, 0] for name, table in found.items()})
