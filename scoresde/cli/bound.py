"""`scoresde likelihood --bound`: the variational bound of a run's examples, beside the exact
likelihood of the same ones where an earlier call left it."""

from __future__ import annotations

import dataclasses
import math
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from jax import Array

from scoresde.cli.results import (
    described,
    digest_of_tree,
    identity_of,
    keep,
    results_folder,
    rows_path,
    weights_and_version,
)
from scoresde.data.prepare import BinCentres
from scoresde.likelihood import rows_file
from scoresde.likelihood.set_bound import NAMES, SetBound, bound_of_set
from scoresde.reading import read_json
from scoresde.runs.likelihoods import SAME
from scoresde.train.load import Trained
from scoresde.types import Cond

TERMS = NAMES[1:]


@dataclasses.dataclass(frozen=True)
class BoundSettings:
    """The options of the bound."""

    times: int
    steps: int | None
    t_min: float
    batch_size: int


def bound_of_run(
    key: Array,
    trained: Trained,
    x: np.ndarray,
    cond: Cond,
    settings: BoundSettings,
    about: dict[str, Any],
    label: int | None,
    folder: Path,
) -> dict[str, Any]:
    """Evaluates the bound of examples, and returns what `scoresde likelihood` prints.

    about: the run and the examples; label: the one that all examples were given, if any; folder:
    for the results.

    Raises:
        ValueError: if steps are asked of a network that does not know integers, or no example has
            a bound.
    """
    prepare = trained.prepare
    if settings.steps is not None and not isinstance(prepare, BinCentres):
        raise ValueError(
            f"--steps is for networks of integers at the centres of their bins, which "
            f"{trained.path} is not: leave it out, for the bound in continuous time."
        )
    t_min = 0.0 if trained.model.sde.noisy_at_zero else settings.t_min
    about = {
        **about,
        "shape": list(trained.shape),
        "bound": True,
        "times": settings.times,
        "steps": settings.steps,
        "t_min": t_min,
        "prepare": "none: real-valued data" if prepare is None else described(prepare),
        **weights_and_version(trained),
    }
    content = digest_of_tree((x, cond))
    identity = identity_of(about, content=content, label=label)
    rows = rows_path(folder, identity)

    start = time.perf_counter()
    out = bound_of_set(
        key,
        trained.model,
        x,
        cond,
        prepare=prepare,
        path=rows,
        about=identity,
        num_steps=settings.steps,
        num_draws=settings.times,
        t_min=t_min,
        batch_size=settings.batch_size,
    )

    dim = math.prod(trained.shape)
    found = about | bound_summary(out, dim, prepare is not None)
    if prepare is not None:
        folders = {folder: None, results_folder(trained, None): None}
        found |= beside_exact(found | {"content": content}, out, [*folders], dim)
    found |= {"rows": str(rows), "seconds": time.perf_counter() - start}
    keep(found, content, rows)
    return found


def bound_summary(out: SetBound, dim: int, integers: bool) -> dict[str, Any]:
    """Returns means over the examples with a bound, and their errors: in bits/dim of integers, and
    in nats.

    Raises:
        ValueError: if no example has one.
    """
    good = np.isfinite(out.nll)
    if not good.any():
        raise ValueError(
            f"none of {len(good)} examples has a bound that is finite: look for NaN in the model."
        )
    unit, scale = ("bits_per_dim", dim * math.log(2.0)) if integers else ("nats", 1.0)
    summary: dict[str, Any] = {}
    for name, term in zip(("bound", *TERMS), NAMES, strict=True):
        summary |= _mean_and_error(f"{name}_{unit}", getattr(out, term)[good] / scale)
    if integers:
        summary |= _mean_and_error("bound_nats", out.nll[good])
    return summary | {"failed": len(out.failed), "failed_examples": out.failed.tolist()}


def beside_exact(
    found: dict[str, Any], bound: SetBound, folders: Sequence[Path], dim: int
) -> dict[str, Any]:
    """Returns the exact bits/dim of the same examples, and what the bound is above them, where a
    result of `scoresde likelihood` of the same weights and examples lies in one of the folders.

    Of several it takes the one whose dequantisation suits the training, with the smallest
    tolerance.
    """
    suits = "TruncatedNormalDequantization"
    if found["prepare"]["kind"] != "BinCentres":
        suits = found["prepare"]["kind"]

    best: tuple[Any, dict[str, Any]] | None = None
    for path in [path for folder in folders for path in sorted(folder.glob("*.json"))]:
        try:
            exact = read_json(path, inside=path.parent)
            if any(exact[name] != found[name] for name in SAME) or "bits_per_dim" not in exact:
                continue
            kind = exact["dequantization"]["kind"]
            rank = (kind != suits, float(exact["tolerance"]), path.name)
            if best is None or rank < best[0]:
                best = rank, _compared(exact, bound, path.with_suffix(".jsonl"), dim)
        except (OSError, ValueError, TypeError, KeyError, AttributeError):
            continue  # a file of another kind, damaged, or one that is being written
    return {} if best is None else best[1]


def _compared(exact: dict[str, Any], bound: SetBound, rows: Path, dim: int) -> dict[str, Any]:
    """Returns an exact result, and the mean of what the bound is above it, example by example."""
    shape = (exact["examples"], exact["repeats"])
    nats = rows_file.read_tables(rows, ["nats"], shape)["nats"]

    # Bits are affine in nats: bits = -(nats + offset) / (D ln 2).
    scale = dim * math.log(2.0)
    offset = -exact["bits_per_dim"] * scale - exact["nats"]
    bits = -(nats.mean(axis=1) + offset) / scale
    difference = bound.nll / scale - bits
    stderr = exact["bits_per_dim_stderr"]
    return {
        "exact_bits_per_dim": float(exact["bits_per_dim"]),
        "exact_bits_per_dim_stderr": math.nan if stderr is None else float(stderr),
        "exact_dequantization": exact["dequantization"]["kind"],
        **_mean_and_error("bound_above_exact", difference[np.isfinite(difference)]),
    }


def _mean_and_error(name: str, values: np.ndarray) -> dict[str, float]:
    """Returns the mean of a figure, and its standard error over examples."""
    stderr = values.std(ddof=1) / math.sqrt(len(values)) if len(values) > 1 else math.nan
    return {name: float(values.mean()), f"{name}_stderr": float(stderr)}
