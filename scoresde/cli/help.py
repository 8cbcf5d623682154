"""The text of --help: paragraphs and lists of choices that fit the terminal."""

from __future__ import annotations

import inspect
import re
import shutil
import textwrap
from collections.abc import Mapping, Sequence


def page(description: str, unions: Mapping[str, Sequence[type]], footer: str = "") -> str:
    """Returns the text above the options: a description, the choices there are, a last line."""
    parts = [wrapped(inspect.cleandoc(description))]
    if unions:
        parts.append(f"Choices, anywhere among the options:\n{listing(unions)}")
    if footer:
        parts.append(wrapped(footer))
    return "\n\n".join(parts)


def listing(unions: Mapping[str, Sequence[type]]) -> str:
    """Returns one entry for each place where there is a choice, such as `sde:{vp, sub-vp, ve}`."""
    entries = []
    for place, members in unions.items():
        names = ", ".join(member_name(member) for member in members)
        entry = textwrap.fill(
            f"{place.replace('_', '-')}:{{{names}}}",
            _width(),
            initial_indent="  ",
            subsequent_indent="      ",
            break_on_hyphens=False,
            break_long_words=False,
        )
        entries.append(entry)
    return "\n".join(entries)


def member_name(member: type) -> str:
    """Returns a class's name on the command line: SubVP → sub-vp, UNetConfig → unet."""
    name = member.__name__.removesuffix("Config")

    # A hyphen goes between words, and after an abbreviation; "pp" belongs to it: NCSNpp → ncsnpp.
    between_words = "(?<=[a-z0-9])(?=[A-Z].)"
    after_abbreviation = "(?<=[A-Z]{2})(?=[A-Z][a-z](?!p$))"
    return re.sub(f"{between_words}|{after_abbreviation}", "-", name).lower()


def wrapped(text: str) -> str:
    """Returns the text with its paragraphs filled to the terminal's width.

    Indented paragraphs, which hold commands, stay as they are.
    """
    paragraphs = []
    for paragraph in re.split(r"\n\s*\n", text):
        if not paragraph.startswith(" "):
            paragraph = textwrap.fill(" ".join(paragraph.split()), _width())
        paragraphs.append(paragraph)
    return "\n\n".join(paragraphs)


def _width() -> int:
    """Returns the number of columns for text in the terminal."""
    return min(shutil.get_terminal_size().columns, 100) - 4
