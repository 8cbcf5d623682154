"""The text of --help: paragraphs and choices that fit the terminal."""

from __future__ import annotations

import difflib
import re
import shutil
import textwrap
from collections.abc import Mapping, Sequence


def _width() -> int:
    """Columns of text in the terminal."""
    return min(shutil.get_terminal_size().columns, 100) - 4


def _wrapped(text: str) -> str:
    """Paragraphs filled to the terminal's width; indented lines, commands, as they are."""
    paragraphs = re.split(r"\n\s*\n", text)
    fill = lambda p: p if p.startswith(" ") else textwrap.fill(" ".join(p.split()), _width())  # noqa: E731
    return "\n\n".join(map(fill, paragraphs))


def _by_name(members: Sequence[type]) -> dict[str, type]:
    """Members by their names on the command line, without hyphens."""
    return {_name(member).replace("-", ""): member for member in members}


def _meant(place: str, wanted: str, members: Sequence[type]) -> str:
    """The line to write, where it can be guessed, and all the members."""
    names = _by_name(members)
    near = difflib.get_close_matches(wanted, names, 1, cutoff=0.5)
    line = f"write {place}:{_name(names[near[0]])}, or another" if near else "wanted one"
    return f"{line} of\n{_listing({place: members})}"


def _listing(unions: Mapping[str, Sequence[type]]) -> str:
    lines = (
        f"{place.replace('_', '-')}:{{{', '.join(map(_name, members))}}}"
        for place, members in unions.items()
    )
    return "\n".join(
        textwrap.fill(
            line,
            _width(),
            initial_indent="  ",
            subsequent_indent="      ",
            break_on_hyphens=False,
            break_long_words=False,
        )
        for line in lines
    )


def _name(member: type) -> str:
    """A class as the command line names it: SubVP → sub-vp, UNetConfig → unet, NCSNppConfig → ncsnpp."""
    name = member.__name__.removesuffix("Config")
    return re.sub("(?<=[a-z0-9])(?=[A-Z].)|(?<=[A-Z]{2})(?=[A-Z][a-z](?!p$))", "-", name).lower()
