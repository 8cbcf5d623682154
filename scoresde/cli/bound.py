"""`scoresde likelihood --bound`: the variational bound of a run's examples, beside the exact
likelihood of the same ones where an earlier call left it."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import numpy as np

from scoresde.likelihood import rows_file
from scoresde.likelihood.set_bound import NAMES, SetBound
from scoresde.runs.likelihoods import SAME

TERMS = NAMES[1:]


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


def beside_exact(found: dict[str, Any], bound: SetBound, folder: Path, dim: int) -> dict[str, Any]:
    """Returns the exact bits/dim of the same examples, and what the bound is above them, where a
    result of `scoresde likelihood` of the same weights and examples lies in the folder.

    Of several it takes the one whose dequantisation suits the training, with the smallest
    tolerance.
    """
    suits = "TruncatedNormalDequantization"
    if found["prepare"]["kind"] != "BinCentres":
        suits = found["prepare"]["kind"]

    best: tuple[Any, dict[str, Any]] | None = None
    for path in sorted(folder.glob("*.json")):
        try:
            exact = json.loads(path.read_bytes())
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
