"""Likelihoods of a whole set of examples: streamed to a file, resumed from it, their error split by its sources."""

from __future__ import annotations

import dataclasses
import json
import math
import warnings
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
from scoresde.likelihood.exact import log_likelihood
from scoresde.likelihood.truncated_normal import TruncatedNormalDequantization
from scoresde.sde.base import SDE
from scoresde.types import Cond, Key, ScoreFn

Dequantization = UniformDequantization | TruncatedNormalDequantization


@dataclasses.dataclass(frozen=True)
class SetLikelihood:
    """Of every example, once in every repeat; NaN where a solve failed."""

    nats: Float[np.ndarray, "examples repeats"]
    """log p."""
    stderr: Float[np.ndarray, "examples repeats"]
    """Its standard error over probes: NaN of one probe, 0 of the exact divergence."""
    nfe: Int[np.ndarray, "examples repeats"]
    dequantization: Dequantization | None
    """How integers became real numbers; None if they were."""

    @property
    def failed(self) -> np.ndarray:
        """Examples of which a repeat failed: to be named, and left out of every mean."""
        return np.flatnonzero(~np.isfinite(self.nats).all(axis=1))

    def bits_per_dim(self, dim: int) -> SetLikelihood:
        """The same in bits per dimension, -(log p + D H) / (D ln 2), H the dequantisation's entropy, 0 without one."""
        entropy = 0.0 if self.dequantization is None else float(self.dequantization.entropy)
        scale = dim * math.log(2.0)
        return dataclasses.replace(
            self, nats=-(self.nats + dim * entropy) / scale, stderr=self.stderr / scale
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
    """`log_likelihood` of every row of x exactly once in every repeat, the remainder of a batch included.

    Each chunk is a line of the file at `path` as soon as it is done; a file with the same `about` and key in its first
    line is gone on with. Example i of repeat r depends on (key, r, i) alone: dequantisation and probes are drawn anew
    in each.

    Raises:
        ValueError: if the file holds something else, or the examples do not fit the dequantisation.
    """
    checks.count("repeats", repeats)
    about = about | {"key": np.asarray(jax.random.key_data(as_typed_key(key))).tolist()}
    n, shape = len(x), (len(x), repeats)
    found = {name: np.full(shape, np.nan) for name in ("nats", "stderr", "nfe")}
    done = _read(path, about, found)
    bar = tqdm(
        total=n * repeats,
        initial=int(done.sum()),
        desc="likelihood",
        unit="example",
        disable=not progress,
        smoothing=0.5,
    )
    with bar, path.open("a") as file:
        for repeat in range(repeats):
            missing = np.flatnonzero(~done[:, repeat])
            for start in range(0, len(missing), batch_size):
                rows = missing[start : start + batch_size]
                keys = example_keys(jax.random.fold_in(key, repeat), n)[rows]
                key_dequantize, key_probes = jnp.moveaxis(jax.vmap(jax.random.split)(keys), 1, 0)
                k = jnp.asarray(x[rows])
                data = (
                    k.astype(jnp.float32)
                    if dequantization is None
                    else dequantization(key_dequantize, k)
                )
                part = jax.tree.map(lambda leaf, rows=rows: jnp.asarray(leaf)[rows], cond)
                with (
                    warnings.catch_warnings()
                ):  # rows of a chunk; those of the set are the caller's to name
                    warnings.filterwarnings("ignore", ".* likelihoods did not reach")
                    out = log_likelihood(
                        key_probes,
                        sde,
                        score,
                        data,
                        part,
                        divergence,
                        tolerance,
                        tolerance,
                        t_min,
                        batch_size=batch_size,
                    )
                line = {
                    "repeat": repeat,
                    "rows": rows.tolist(),
                    "nats": _plain(out.log_prob),
                    "stderr": _plain(out.stderr),
                    "nfe": np.asarray(out.nfe).tolist(),
                }
                file.write(json.dumps(line) + "\n")
                file.flush()
                _put(found, line)
                bar.update(len(rows))
    return SetLikelihood(found["nats"], found["stderr"], found["nfe"].astype(int), dequantization)


def _plain(values: Any) -> list[float | None]:
    """NaN is not JSON."""
    return [
        value if math.isfinite(value) else None for value in np.asarray(values, np.float64).tolist()
    ]


def _put(found: dict[str, np.ndarray], line: dict[str, Any]) -> None:
    for name, table in found.items():
        table[np.array(line["rows"]), line["repeat"]] = np.array(
            line[name], np.float64
        )  # None becomes NaN


def _read(path: Path, about: dict[str, Any], found: dict[str, np.ndarray]) -> np.ndarray:
    """Fill in what the file holds; which (examples, repeats) these are. A new file gets its first line."""
    path.parent.mkdir(parents=True, exist_ok=True)
    done = np.zeros(found["nats"].shape, bool)
    text = path.read_text() if path.exists() else ""
    lines = text.splitlines()
    if not lines or (
        len(lines) == 1 and not text.endswith("\n")
    ):  # new, or stopped within its first line
        path.write_text(json.dumps({"about": about}) + "\n")
        return done
    if lines[0] != json.dumps({"about": about}):
        raise ValueError(
            f"{path} holds likelihoods made with other settings: delete it, or name another file."
        )
    for number, row in enumerate(lines[1:], start=2):
        try:
            line = json.loads(row)
            _put(found, line)
            done[line["rows"], line["repeat"]] = True
        except (ValueError, TypeError, KeyError, IndexError) as error:
            if number < len(lines):
                raise ValueError(
                    f"{path}: line {number} cannot be read ({error}): delete the file."
                ) from error
            lines.pop()  # cut short when it was stopped
    if text != (whole := "".join(f"{row}\n" for row in lines)):
        path.write_text(whole)
    return done
