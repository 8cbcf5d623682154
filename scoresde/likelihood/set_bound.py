"""The variational bounds of a whole set of examples, written to a file in chunks and resumed.

    at the centres of bins      -log P(k) <= ELBO                                       (Eq. 1)
    dequantised uniformly       -log P(k) <= E[bound(x)] - D H,   H = log(bin width)    (Eq. 2)
    real-valued                 -log p(x) <= bound(x)                                   (Eq. 3)

A network knows the data that it was trained on: Eq. 1 is `elbo`, which begins with noise of the
size of a bin; Eq. 2 and 3 are `variational_bound`, the bound of a density.
"""

from __future__ import annotations

import dataclasses
import warnings
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Float

from scoresde import checks
from scoresde.data.dequantization import UniformDequantization
from scoresde.data.prepare import BinCentres
from scoresde.keys import as_typed_key, example_keys, split_examples
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
    prepare: UniformDequantization | BinCentres | None,
    path: Path,
    about: dict[str, Any],
    num_steps: int | None = None,
    num_draws: int = 100,
    t_min: float = 1e-5,
    batch_size: int = 64,
    progress: bool = True,
) -> SetBound:
    """Returns the bound of every row of x, as the data of the training ask for (Eq. 1 to 3).

    Each chunk is written to the file at `path` as soon as it is done; a file whose first line
    holds the same `about` and key is resumed. Example i depends on (key, i) alone.

    Args:
        key: the random key of the whole set.
        model: a score that holds its SDE.
        x: the examples (n, *data), integers unless prepare is None.
        cond: a condition whose leaves have n rows, or None.
        prepare: what made real numbers of integers in training; None if they were real.
        path: the file of results.
        about: the settings the results depend on, as JSON can hold them.
        num_steps: T, or None for continuous time.
        num_draws: times per example.
        t_min: the time at which the bound starts, unless t = 0 is a noise level.
        batch_size: the number of examples in a chunk.
        progress: whether to show a progress bar.

    Raises:
        ValueError: if the file holds something else, or steps are asked of the bound of a density.
    """
    checks.count("num_draws", num_draws, at_most=checks.MOST_STEPS)
    if num_steps is not None and not isinstance(prepare, BinCentres):
        raise ValueError(
            f"num_steps = {num_steps} is for networks of integers at the centres of their bins, "
            f"and this one was trained with prepare = {prepare}: leave it out, for the bound in "
            f"continuous time."
        )
    score, cond = move_out(model, cond, len(x))
    about = about | {"key": np.asarray(jax.random.key_data(as_typed_key(key))).tolist()}
    keys = example_keys(key, len(x))

    def solve(_: int, rows: np.ndarray) -> dict[str, Any]:
        with warnings.catch_warnings():
            # The warning counts rows of the chunk; the caller names those of the whole set.
            warnings.filterwarnings("ignore", ".* bounds did not reach")
            return terms_of(rows)

    def terms_of(rows: np.ndarray) -> dict[str, Any]:
        """Returns the bounds of these rows."""
        own = jax.tree.map(lambda leaf: jnp.asarray(leaf)[rows], cond)
        sizes = {"t_min": t_min, "batch_size": batch_size}
        if isinstance(prepare, BinCentres):
            bins = {"levels": prepare.levels, "low": prepare.low, "high": prepare.high}
            counts = {"num_steps": num_steps, "num_draws": num_draws}
            out = elbo(keys[rows], score, x[rows], cond=own, **bins, **counts, **sizes)
            return {name: np.asarray(getattr(out, name)) for name in NAMES}

        key_dequantize, key_draws = split_examples(keys[rows])
        x0 = jnp.asarray(x[rows], jnp.float32)
        entropy = 0.0
        if prepare is not None:
            x0 = prepare(key_dequantize, jnp.asarray(x[rows]))
            entropy = x0[0].size * prepare.entropy
        out = variational_bound(key_draws, model.sde, score, x0, own, num_draws, **sizes)
        terms = {name: np.asarray(getattr(out, name)) for name in NAMES}
        for name in ("nll", "reconstruction"):
            terms[name] = terms[name] - entropy  # Eq. 2
        return terms

    found = rows_file.stream(path, about, NAMES, solve, len(x), 1, batch_size, "bound", progress)
    return SetBound(**{name: table[:, 0] for name, table in found.items()})
