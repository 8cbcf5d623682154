"""Likelihoods of a whole set of examples, written to a file in chunks and resumed from it."""

from __future__ import annotations

import dataclasses
import json
import math
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Float, Int
from tqdm import tqdm

from scoresde import checks
from scoresde.data.dequantization import UniformDequantization
from scoresde.keys import as_typed_key, example_keys
from scoresde.likelihood.divergence import AnyDivergence
from scoresde.likelihood.exact import Likelihood, log_likelihood
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
    found = {name: np.full((len(x), repeats), np.nan) for name in ("nats", "stderr", "nfe")}
    done = _read(path, about, found)

    def solve(repeat: int, rows: np.ndarray) -> dict[str, Any]:
        """Returns a line of the file: the likelihoods of these rows."""
        keys = example_keys(jax.random.fold_in(key, repeat), len(x))[rows]
        key_dequantize, key_probes = jnp.moveaxis(jax.vmap(jax.random.split)(keys), 1, 0)
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
        return _line(repeat, rows, out)

    with _progress_bar(done, progress) as bar, path.open("a") as file:
        for repeat, rows in _missing(done, batch_size):
            line = solve(repeat, rows)
            file.write(json.dumps(line) + "\n")
            file.flush()
            _put(found, line)
            bar.update(len(rows))

    nfe = found["nfe"].astype(int)
    stderr = found["stderr"] if np.isfinite(found["stderr"]).any() else None  # not of one probe
    return SetLikelihood(found["nats"], stderr, nfe, dequantization)


def _missing(done: np.ndarray, batch_size: int) -> Iterator[tuple[int, np.ndarray]]:
    """Yields the repeats, and chunks of the rows that are not done in each."""
    for repeat in range(done.shape[1]):
        missing = np.flatnonzero(~done[:, repeat])
        for start in range(0, len(missing), batch_size):
            yield repeat, missing[start : start + batch_size]


def _progress_bar(done: np.ndarray, progress: bool) -> tqdm:
    return tqdm(
        total=done.size,
        initial=int(done.sum()),
        desc="likelihood",
        unit="example",
        disable=not progress,
        smoothing=0.5,
    )


def _real_valued(dequantization: Dequantization | None, keys: Key, k: jax.Array) -> jax.Array:
    return k.astype(jnp.float32) if dequantization is None else dequantization(keys, k)


# --- The file: a line of settings, then a line for each chunk ---


def _read(path: Path, about: dict[str, Any], found: dict[str, np.ndarray]) -> np.ndarray:
    """Fills in what the file holds, and returns which (examples, repeats) are done.

    A new file gets its first line; a last line that was cut short is removed.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    done = np.zeros(found["nats"].shape, bool)
    first = json.dumps({"about": about})

    # A new file, or one whose process was stopped within the first line.
    text = path.read_text() if path.exists() else ""
    lines = text.splitlines()
    if not lines or (len(lines) == 1 and not text.endswith("\n")):
        path.write_text(first + "\n")
        return done

    if lines[0] != first:
        raise ValueError(
            f"{path} holds likelihoods made with other settings: delete it, or name another file."
        )
    whole = _read_lines(path, lines, found, done)
    if text != whole:
        path.write_text(whole)
    return done


def _read_lines(
    path: Path, lines: list[str], found: dict[str, np.ndarray], done: np.ndarray
) -> str:
    """Fills in found and done, and returns the text of the lines that are whole."""
    for number, row in enumerate(lines[1:], start=2):
        try:
            line = json.loads(row)
            _put(found, line)
            done[line["rows"], line["repeat"]] = True
        except (ValueError, TypeError, KeyError, IndexError) as error:
            if number < len(lines):
                raise ValueError(
                    f"{path}: line {number} cannot be read ({error}): delete the file, or name "
                    f"another."
                ) from error
            lines = lines[:-1]  # the process was stopped while it wrote the last line
    return "".join(f"{row}\n" for row in lines)


def _line(repeat: int, rows: np.ndarray, out: Likelihood) -> dict[str, Any]:
    """Returns the line of a chunk, as JSON can hold it."""
    return {
        "repeat": repeat,
        "rows": rows.tolist(),
        "nats": _plain(out.log_prob),
        "stderr": None if out.stderr is None else _plain(out.stderr),
        "nfe": np.asarray(out.nfe).tolist(),
    }


def _put(found: dict[str, np.ndarray], line: dict[str, Any]) -> None:
    rows = np.array(line["rows"])
    for name, table in found.items():
        table[rows, line["repeat"]] = np.array(line[name], np.float64)  # None becomes NaN


def _plain(values: Any) -> list[float | None]:
    """Returns the values as JSON can hold them: None for NaN and infinity."""
    numbers = np.asarray(values, np.float64).tolist()
    return [number if math.isfinite(number) else None for number in numbers]
