"""Callbacks of `fit`: what they receive, and the metrics that they may return."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Sequence
from typing import Any

from scoresde.runs.folder import as_json

Callback = Callable[..., dict[str, Any] | None]
"""(step, EMA model) or (step, EMA model, row of metrics) → metrics to log, or None. `fit` calls it
after every validation."""


def call(
    callbacks: Sequence[Callback], step: int, model: Any, row: dict[str, Any]
) -> dict[str, Any]:
    """Calls every callback with the EMA model, and returns the metrics that they add.

    row: the metrics so far; a callback that takes it sees those of the callbacks before it too.

    Raises:
        TypeError: if a callback returns what is not a dictionary of metrics.
        ValueError: if it returns a metric that the row holds already.
    """
    added = {}
    for callback in callbacks:
        known = row | added
        arguments = (step, model, known)
        returned = callback(*arguments[: _num_arguments(callback)])
        added |= _metrics_of(callback, returned, known)
    return added


def _num_arguments(callback: Callback) -> int:
    """Returns 3 if a callback needs the row of metrics, and 2 otherwise.

    A third parameter with a default is the callback's own.
    """
    try:
        parameters = inspect.signature(callback).parameters.values()
    except ValueError:  # some builtins have no signature
        return 2

    needed = 0
    for parameter in parameters:
        positional = parameter.kind in (parameter.POSITIONAL_ONLY, parameter.POSITIONAL_OR_KEYWORD)
        needed += positional and parameter.default is parameter.empty
    return 3 if needed > 2 else 2


def _metrics_of(callback: Callback, returned: Any, known: dict[str, Any]) -> dict[str, Any]:
    """Returns a callback's metrics. known: those that the row holds.

    Raises:
        TypeError: naming the callback and the key, if one cannot be written as JSON.
        ValueError: if the row has a metric of that name.
    """
    name = getattr(callback, "__name__", repr(callback))
    if returned is None:
        return {}
    if not isinstance(returned, dict):
        raise TypeError(
            f"callback {name} returned a {type(returned).__name__}: wanted a dictionary of "
            "metrics, or None."
        )

    for key, value in returned.items():
        if key in known:
            raise ValueError(
                f"callback {name} returned {key!r}, which the row holds already: write another "
                f"name, such as {f'my_{key}'!r}."
            )
        try:
            as_json(value)
        except TypeError as error:
            raise TypeError(f"callback {name} returned {key!r}: {error}") from None
    return returned
