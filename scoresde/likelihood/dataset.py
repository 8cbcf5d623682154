"""Likelihoods of a whole set of examples, written to a file in chunks and resumed from it."""

from __future__ import annotations

import dataclasses
import math
import warnings
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Float, Int

from scoresde import checks
from scoresde.data.dequantization import UniformDequantization
from scoresde.keys import as_typed_key, example_keys, split_examples
from scoresde.likelihood import rows_file
from scoresde.likelihood.divergence import AnyDivergence
from scoresde.likelihood.exact import log_likelihood
from scoresde.likelihood.truncated_normal import TruncatedNormalDequantization
from scoresde.parallel.held import move_out
from scoresde.sde.base import SDE
from scoresde.types import Cond, Key, ScoreFn

Dequantization = UniformDequantization | TruncatedNormalDequantization


@dataclasses.dataclass(frozen=True)
class SetLikelihood:
    """The likelihood of every example, once for every repeat; NaN where a solve failed."""

    nats: Float[np.ndarray, "examples repeats"]
    """log p in nats."""
    stderr: Float[np.ndarray, "examples repeats"] | None
    """Its standard error over probes: None with one probe, 0 with the exact divergence."""
    nfe: Int[np.ndarray, "examples repeats"]
    """The number of evaluations of the score."""
    dequantization: Dequantization | None
    """How integers became real numbers; None if the data were real."""

    @property
    def failed(self) -> np.ndarray:
        """The indices of examples of which a repeat failed, to be left out of every mean."""
        return np.flatnonzero(~np.isfinite(self.nats).all(axis=1))

    def bits_per_dim(self, dim: int) -> SetLikelihood:
        """Returns the same in bits per dimension, -(log p + D H) / (D ln 2).

        D is dim, and H the entropy of the dequantisation, which is 0 for real-valued data.
        """
        entropy = 0.0 if self.dequantization is None else float(self.dequantization.entropy)
        scale = dim * math.log(2.0)
        bits = -(self.nats + dim * entropy) / scale
        stderr = None if self.stderr is None else self.stderr / scale
        return dataclasses.replace(self, nats=bits, stderr=stderr)

    def of(self, examples: np.ndarray) -> SetLikelihood:
        """Returns the same for some of the examples."""
        stderr = None if self.stderr is None else self.stderr[examples]
        return dataclasses.replace(
            self, nats=self.nats[examples], stderr=stderr, nfe=self.nfe[examples]
        )


def likelihood_of_set(
    key: Key,
    sde: SDE,
    score: ScoreFn,
    x: np.ndarray,
    cond: Cond = None,
    *,
    dequantization: Dequantization | None,
    path: Path,
    about: dict[str, Any],
    divergence: AnyDivergence,
    tolerance: float,
    t_min: float,
    repeats: int = 1,
    batch_size: int = 64,
    progress: bool = True,
) -> SetLikelihood:
    """Returns `log_likelihood` of every row of x, exactly once for every repeat.

    Each chunk is written to the file at `path` as soon as it is done. A file whose first line
    holds the same `about` and key is resumed. Example i of repeat r depends on (key, r, i)
    alone: dequantisation and probes are drawn again for each repeat.

    Args:
        key: the random key of the whole set.
        sde: the process.
        score: the score function.
        x: the examples (n, *data), integers if there is a dequantisation.
        cond: a condition whose leaves have n rows, or None.
        dequantization: what turns integers into real numbers, or None for real-valued data.
        path: the file of results.
        about: the settings the results depend on, as JSON can hold them.
        divergence: how the divergence is computed.
        tolerance: the solver's relative and absolute tolerance.
        t_min: the time at which the likelihood starts.
        repeats: how often each example is evaluated.
        batch_size: the number of examples in a chunk.
        progress: whether to show a progress bar.

    Raises:
        ValueError: if the file holds something else, or the examples do not fit the dequantisation.
    """
    checks.count("repeats", repeats)
    score, cond = move_out(score, cond, len(x))
    about = about | {"key": np.asarray(jax.random.key_data(as_typed_key(key))).tolist()}

    def solve(repeat: int, rows: np.ndarray) -> dict[str, Any]:
        """Returns the likelihoods of these rows."""
        keys = example_keys(jax.random.fold_in(key, repeat), len(x))[rows]
        key_dequantize, key_probes = split_examples(keys)
        k = jnp.asarray(x[rows])
        x0 = _real_valued(dequantization, key_dequantize, k)

        with warnings.catch_warnings():
            # The warning counts rows of the chunk; the caller names those of the whole set.
            warnings.filterwarnings("ignore", ".* likelihoods did not reach")
            out = log_likelihood(
                key_probes,
                sde,
                score,
                x0,
                jax.tree.map(lambda leaf: jnp.asarray(leaf)[rows], cond),
                divergence=divergence,
                rtol=tolerance,
                atol=tolerance,
                t_min=t_min,
                batch_size=batch_size,
            )
        return {"nats": out.log_prob, "stderr": out.stderr, "nfe": out.nfe}

    found = rows_file.stream(
        path,
        about,
        ("nats", "stderr", "nfe"),
        solve,
        len(x),
        repeats,
        batch_size,
        "likelihood",
        progress,
    )
    stderr = found["stderr"] if np.isfinite(found["stderr"]).any() else None  # not of one probe
    return SetLikelihood(found["nats"], stderr, found["nfe"].astype(int), dequantization)


def _real_valued(dequantization: Dequantization | None, keys: Key, k: jax.Array) -> jax.Array:
    return k.astype(jnp.float32) if dequantization is None else dequantization(keys, k)
