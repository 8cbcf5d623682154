"""Settings and numbers as a person reads them."""

from __future__ import annotations

from typing import Any


def words(value: Any) -> str:
    """Returns a value as a person reads it."""
    if value is None or value in ({}, []):
        return "none"
    if isinstance(value, dict):
        return _words_of_dict(value)
    if isinstance(value, list):
        if all(isinstance(entry, str) for entry in value):
            return "; ".join(value)
        return f"({', '.join(words(entry) for entry in value)})"
    if isinstance(value, float):
        return f"{value:.5g}"
    return str(value)


def _words_of_dict(value: dict[Any, Any]) -> str:
    """Returns settings as VP(beta_min=0.1, beta_max=20), and other entries as a=1, b=2."""
    entries = [f"{name}={words(entry)}" for name, entry in value.items() if name != "kind"]
    inner = ", ".join(entries)
    return f"{value['kind']}({inner})" if "kind" in value else inner
