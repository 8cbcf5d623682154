"""The form of what a checkpoint says about its model, data and training, whoever wrote it.

`train.load.describe` and `fit` write these entries. `Checkpoints` itself takes any others.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

from scoresde.reading import UnreadableError

LARGEST_EXAMPLE = 2**27
"""The numbers that one example may hold."""


def check_about(about: dict[str, Any], place: str) -> None:
    """Refuses a checkpoint whose entries are not what a training writes there; others pass.

    place: what the checkpoint is called in the message.

    Raises:
        UnreadableError: with the entry, and what was wanted.
    """
    for name, (fits, wanted) in FORM.items():
        value = about.get(name)
        if value is not None and not fits(value):
            raise UnreadableError(
                f"{place} says of itself {name} = {repr(value)[:60]}: wanted {wanted}. It is "
                f"damaged, or no run wrote it."
            )


def _is_number(value: Any) -> bool:
    """Whether a value is a finite number that float64 holds."""
    if isinstance(value, int):
        return abs(value) < 2**63
    return isinstance(value, float) and math.isfinite(value)


def _is_group(value: Any) -> bool:
    return isinstance(value, dict)


def _is_shape(value: Any) -> bool:
    """Whether a value is a list of lengths, of not too many numbers together."""
    if not isinstance(value, list) or len(value) > 8:
        return False
    if not all(type(length) is int and length > 0 for length in value):
        return False
    return math.prod(value) <= LARGEST_EXAMPLE


def _is_preparation(value: Any) -> bool:
    return _is_group(value) and all(isinstance(value.get(n, ""), str) for n in ("kind", "own"))


def _is_standardization(value: Any) -> bool:
    """Whether a value holds lists of numbers, the means and the standard deviations."""
    if not _is_group(value):
        return False
    both = (value.get("mean"), value.get("std"))
    return all(isinstance(one, list) and all(_is_number(entry) for entry in one) for one in both)


def _are_standardizations(value: Any) -> bool:
    return isinstance(value, list) and all(own is None or _is_standardization(own) for own in value)


def _is_range(value: Any) -> bool:
    return isinstance(value, list) and len(value) == 2 and all(_is_number(end) for end in value)


def _are_changes(value: Any) -> bool:
    """Whether each change has its step, and old and new settings of the same names."""
    if not isinstance(value, list) or not all(_is_group(change) for change in value):
        return False
    return all(
        _is_number(change.get("step"))
        and _is_group(change.get("old"))
        and _is_group(change.get("new"))
        and change["old"].keys() == change["new"].keys()
        for change in value
    )


def _is_flag(value: Any) -> bool:
    return isinstance(value, bool)


FORM: dict[str, tuple[Callable[[Any], bool], str]] = {
    "shape": (_is_shape, f"a list of lengths, of at most {LARGEST_EXAMPLE:,} numbers together"),
    "model": (_is_group, "a group of settings"),
    "own": (_is_group, "a group of names"),
    "classifier": (_is_flag, "true or false"),
    "schedule": (_is_flag, "true or false"),
    "null_is_trained": (_is_flag, "true or false"),
    "prepare": (_is_preparation, "a group of settings"),
    "standardization": (_is_standardization, "mean and std, lists of numbers"),
    "cond_units": (_are_standardizations, "a list of groups with mean and std"),
    "range": (_is_range, "a list of two numbers"),
    "examples": (_is_number, "a number"),
    "training": (_is_group, "a group of settings"),
    "changes": (_are_changes, "a list of groups with step, old and new"),
}
"""Each entry that the library reads: whether a value is what belongs there, and what does."""
