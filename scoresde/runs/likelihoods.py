"""The likelihoods in a run's folder, as `scoresde likelihood` leaves them, for its page.

RUN/likelihood/<digest>.json holds what the command printed; `<digest>.jsonl` beside it, the
likelihood of every example.
"""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

from scoresde.reading import read_json
from scoresde.runs.words import words

SAME = ("step", "ema", "examples", "content", "weights")
"""What a bound and an exact likelihood share that are of the same model and examples."""

LARGEST = 2**20
"""The bytes that a result may hold."""

OF_ANOTHER_FORM = (ValueError, TypeError, LookupError, AttributeError, ArithmeticError)
"""What reading a result raises that no command wrote."""


def read_likelihoods(folder: Path) -> tuple[list[list[str]], list[str]]:
    """Returns a row (name, mean ± standard error, conditions) for each result, and notes.

    Those of later checkpoints come first.
    """
    results = []
    notes = []
    for path in sorted(folder.glob("*.json")):
        try:
            found = read_json(path, inside=folder.parent, largest=LARGEST)
            results.append((int(found["step"]), _row(found)))
        except (OSError, *OF_ANOTHER_FORM) as error:
            notes.append(f"likelihood/{path.name} cannot be read and was left out ({error!r}).")

    results.sort(key=lambda result: result[0], reverse=True)
    return [row for _, row in results], notes


def _row(found: dict[str, Any]) -> list[str]:
    """Returns the row of one result; bits/dim come first where the data are integers."""
    if found.get("bound"):
        return _row_of_bound(found)
    bits = ("bits/dim", _with_error(found["bits_per_dim"], found["bits_per_dim_stderr"]))
    nats = ("log p in nats", _with_error(found["nats"], found["nats_stderr"]))
    first, second = (bits, nats) if isinstance(found["dequantization"], dict) else (nats, bits)

    conditions = [
        f"{second[0]} {second[1]}",
        f"{found['examples']:,} examples of {Path(found['data']).name}, {found['failed']} failed",
        f"step {found['step']}" + ("" if found["ema"] else " without EMA"),
        f"{words(found['divergence'])}, repeats {found['repeats']}",
        f"tolerance {words(found['tolerance'])}, t_min {words(found['t_min'])}",
        "± one standard error over examples",
    ]
    if isinstance(found["dequantization"], dict):
        conditions.insert(-1, found["dequantization"]["kind"])
    return [*first, "; ".join(conditions)]


def _row_of_bound(found: dict[str, Any]) -> list[str]:
    """Returns the row of a variational bound, with its terms, and the exact value beside it."""
    integers = isinstance(found["prepare"], dict)
    unit = "bits_per_dim" if integers else "nats"

    def value(name: str) -> str:
        return _with_error(found[name], found[f"{name}_stderr"])

    terms = [
        f"{name} {value(f'{name}_{unit}')}" for name in ("prior", "diffusion", "reconstruction")
    ]
    steps = "continuous time" if found["steps"] is None else f"{found['steps']} steps"
    conditions = [
        " + ".join(terms),
        f"{found['examples']:,} examples of {Path(found['data']).name}, {found['failed']} failed",
        f"step {found['step']}" + ("" if found["ema"] else " without EMA"),
        f"{steps}, {found['times']} times an example",
        found["prepare"]["kind"] if integers else "real-valued data",
        "± one standard error over examples",
    ]
    if "exact_bits_per_dim" in found:
        kind = found["exact_dequantization"]
        above = f"{value('bound_above_exact')} above the exact value"
        conditions.insert(1, f"{above} by {kind}, {value('exact_bits_per_dim')}")
    name = "bound, bits/dim" if integers else "bound of -log p in nats"
    return [name, value(f"bound_{unit}"), "; ".join(conditions)]


def _with_error(mean: float, stderr: float | None) -> str:
    """Returns "2.413 ± 0.012", to two digits of the error; that of one example is not known."""
    if not stderr:
        return f"{mean:.4f}"
    decimals = max(0, 1 - math.floor(math.log10(stderr)))
    return f"{mean:.{decimals}f} ± {stderr:.{decimals}f}"
