"""What a command prints: one JSON object for scripts, or lines of text for people."""

from __future__ import annotations

import json
import math
from typing import Any

from scoresde.runs.words import words


def as_json(about: dict[str, Any]) -> str:
    """Returns one line of JSON; NaN and infinity, which JSON lacks, become null."""
    return json.dumps(_finite(about))


def as_text(about: dict[str, Any]) -> str:
    """Returns one line for each entry; "x" and its standard error "x_stderr" share one."""
    lines = []
    for name, value in about.items():
        if name.endswith("_stderr"):
            continue

        line = f"{name.replace('_', ' '):<16} {words(value)}"
        stderr = about.get(f"{name}_stderr", math.nan)
        if not math.isnan(stderr):
            line += f" ± {stderr:.2g}"
        lines.append(line)
    return "\n".join(lines)


def _finite(value: Any) -> Any:
    """Returns the value with None in place of NaN and infinity."""
    if isinstance(value, dict):
        return {name: _finite(entry) for name, entry in value.items()}
    if isinstance(value, list):
        return [_finite(entry) for entry in value]
    if isinstance(value, float) and not math.isfinite(value):
        return None
    return value
