"""Choices on the command line: `sde:ve` chooses the member VE for the union field `sde`."""

from __future__ import annotations

import dataclasses
import difflib
import itertools
import typing
from collections.abc import Mapping, Sequence
from typing import Any

from scoresde.cli.exit import UsageError
from scoresde.cli.help import listing, member_name
from scoresde.runs.settings import union_members


def choose(
    kind: Any, values: dict[str, Any], arguments: Sequence[str]
) -> tuple[dict[str, Any], list[str]]:
    """Applies every `place:member` among the arguments to the values of the fields of `kind`.

    Returns the new values, and the arguments that are not choices.

    Raises:
        UsageError: if a place or a member does not exist, or a place is chosen twice.
    """
    chosen, others = _separate(values, arguments)

    # Outer places first, because they decide which places lie within them.
    for place in sorted(chosen, key=lambda place: place.count(".")):
        member = _member(place, chosen[place], unions(kind, values))
        values = _put(values, place.split("."), member)

    _refuse_choices_written_as_options(others, unions(kind, values))
    return values, others


def unions(kind: Any, values: Mapping[str, Any], prefix: str = "") -> dict[str, tuple[type, ...]]:
    """Returns the members of each union field of settings with these values, by its dotted place.

    Fields of what is chosen now are included: with a sampler that has a grid, `sampler.grid`.
    """
    found: dict[str, tuple[type, ...]] = {}
    for name, hint in typing.get_type_hints(kind).items():
        value = values.get(name)
        members = union_members(hint)
        if members:
            found[prefix + name] = members
        if (members or dataclasses.is_dataclass(hint)) and dataclasses.is_dataclass(value):
            found |= unions(type(value), vars(value), f"{prefix}{name}.")
    return found


def _separate(
    values: Mapping[str, Any], arguments: Sequence[str]
) -> tuple[dict[str, str], list[str]]:
    """Splits the arguments into choices, place → member, and all others."""
    chosen: dict[str, str] = {}
    others = []
    for word in arguments:
        place, colon, member = word.partition(":")
        place = place.replace("-", "_")
        field = place.split(".")[0]

        if not colon or not dataclasses.is_dataclass(values.get(field)):
            others.append(word)
        elif chosen.setdefault(place, member) != member:
            raise UsageError(f"{place} is chosen twice, {chosen[place]} and {member}: keep one.")
    return chosen, others


def _member(place: str, name: str, places: Mapping[str, tuple[type, ...]]) -> type:
    """Returns the class that `place:name` chooses, whatever the case and hyphens of the name."""
    if place not in places:
        raise UsageError(
            f"{place}:{name} is not a choice here. The choices are:\n{listing(places)}"
        )

    names = _by_name(places[place])
    wanted = name.replace("-", "").lower().removesuffix("config")
    if wanted not in names:
        raise UsageError(
            f"{place}:{name} is not a choice: {_suggestion(place, wanted, places[place])}"
        )
    return names[wanted]


def _put(values: Mapping[str, Any], place: list[str], member: type) -> dict[str, Any]:
    """Returns the values with a member at the place.

    If the place holds such a member already, it keeps its settings.
    """
    name, *rest = place
    value = values[name]

    if rest:
        inner = _put(vars(value), rest, member)
        return {**values, name: dataclasses.replace(value, **inner)}
    return {**values, name: value if type(value) is member else member()}


def _refuse_choices_written_as_options(
    arguments: Sequence[str], places: Mapping[str, tuple[type, ...]]
) -> None:
    """Raises a UsageError for `--sampler heun`, `--sampler=heun` and `--sampler:heun`: wanted is
    `sampler:heun`."""
    for word, following in itertools.pairwise([*arguments, ""]):
        option, _, member = word.replace(":", "=", 1).partition("=")
        place = option.removeprefix("--").replace("-", "_")
        if not option.startswith("--") or place not in places:
            continue

        wanted = (member or following).replace("-", "").lower()
        suggestion = _suggestion(place, wanted, places[place])
        raise UsageError(f"{option} is a choice, not an option: {suggestion}")


def _suggestion(place: str, wanted: str, members: Sequence[type]) -> str:
    """Returns the line to write, where it can be guessed, and all the members."""
    names = _by_name(members)
    near = difflib.get_close_matches(wanted, names, 1, cutoff=0.5)
    line = f"write {place}:{member_name(names[near[0]])}, or another" if near else "wanted one"
    return f"{line} of\n{listing({place: members})}"


def _by_name(members: Sequence[type]) -> dict[str, type]:
    """Returns the members by their names on the command line, without hyphens."""
    return {member_name(member).replace("-", ""): member for member in members}
