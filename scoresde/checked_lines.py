"""Files of results in lines of JSON, each with a checksum: written one by one, and resumed.

    {"format": 2, "about": {...}, "sha256": "..."}      the first: what the results depend on
    {name: value, ..., "sha256": "..."}                 the others: some results each

A line's checksum is that of its other entries; in that of a result is the first line's too, so that
a line copied from a file of other results is not taken for one of these. Before format 2 lines had
no checksums, so that a changed digit could not be seen: such lines are not taken.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, BinaryIO

from scoresde import checks
from scoresde.reading import open_regular, parse_json
from scoresde.writing import write_atomically

FORMAT = 2
LONGEST = 2**30
"""The bytes that a line may hold: 1 GB."""
MOST_ENTRIES = 2**22
"""The commas in a line that is parsed, whose lists take 250 MB then. Arrays in text have none."""
NAMED = 10
"""The number of faulty lines that a warning names; it only counts the others."""

Take = Callable[[dict[str, Any]], None]
"""Receives the content of a line, and refuses one of another form by a ValueError."""


@dataclasses.dataclass(frozen=True)
class CheckedLines:
    """A file of the results that depend on `about`."""

    path: Path
    about: dict[str, Any]
    """Plain JSON data, infinity among it: some settings are infinite."""

    def resume(self, take: Take) -> None:
        """Passes the content of every sound line to `take`, and starts the file if there is none.

        A line that does not match its checksum, or that `take` refuses, is named in a warning, and
        the file is written again without it. A last line that was cut short is not named: the
        process was stopped while it wrote.

        Raises:
            ValueError: if the file holds the results of something else, or is no regular file.
            OSError: if it has to be written and cannot be.
        """
        self.path.parent.mkdir(parents=True, exist_ok=True)
        try:
            with open_regular(self.path, inside=self.path.parent) as stream:
                found = self._read(stream, take)
        except FileNotFoundError:
            self._write([])
            return

        if found.faults:
            named = "; ".join(found.faults[:NAMED])
            more = len(found.faults) - NAMED
            checks.warn(
                f"{self.path}: {named}{f'; and {more} more' if more > 0 else ''}. What is lost "
                f"thereby is computed again."
            )
        if not found.whole:
            self._write(found.sound)

    def append(self, content: dict[str, Any]) -> None:
        """Writes one more line. content: plain JSON data."""
        with self.path.open("ab") as stream:
            stream.write(_line(content, self._first[1]))

    def check_writable(self) -> None:
        """Raises an OSError now, rather than after the first results, if no line can be added."""
        self.path.open("ab").close()

    @property
    def _first(self) -> tuple[dict[str, Any], str]:
        """The content of the first line, and its checksum."""
        content = {"format": FORMAT, "about": self.about}
        return content, _checksum(content, "")

    def _read(self, stream: BinaryIO, take: Take) -> Found:
        """Passes on what is sound, and returns where that is and what is not."""
        found = Found()
        first, salt = self._first
        for number, start, raw in _lines(stream):
            ended = raw.endswith(b"\n")
            try:
                content = _content(raw, salt if number > 1 else "")
                if number > 1:
                    take(content)
                    found.sound.append((start, len(raw)))
            except (ValueError, OverflowError) as error:
                found.whole = False
                if ended:
                    found.faults.append(f"line {number} {error}")
                continue

            if number == 1 and content != json.loads(json.dumps(first)):
                raise ValueError(
                    f"{self.path} holds results made with other settings: delete it, or name "
                    f"another file."
                )
            found.whole &= ended

        found.whole &= stream.tell() > 0  # an empty file has no first line
        return found

    def _write(self, sound: list[tuple[int, int]]) -> None:
        """Writes the first line, and the sound ones of the file, in its place."""
        write_atomically(self.path, self._copied(sound))

    def _copied(self, sound: list[tuple[int, int]]) -> Iterator[bytes]:
        yield _line(self._first[0], "")
        if not sound:
            return
        with open_regular(self.path, inside=self.path.parent) as source:
            for start, length in sound:
                source.seek(start)
                yield source.read(length).removesuffix(b"\n") + b"\n"


@dataclasses.dataclass
class Found:
    """What a file holds."""

    sound: list[tuple[int, int]] = dataclasses.field(default_factory=list)
    """Where the sound results are: first byte, and number of bytes."""
    faults: list[str] = dataclasses.field(default_factory=list)
    """What is wrong with the other lines."""
    whole: bool = True
    """Whether the file needs no change."""


def read_results(path: Path) -> Iterator[dict[str, Any]]:
    """Yields the content of every result in a file, whatever they depend on.

    Raises:
        ValueError: at the first line that is not sound.
        OSError: if the file cannot be read.
    """
    salt = ""
    with open_regular(path, inside=path.parent) as stream:
        for number, _, raw in _lines(stream):
            try:
                content = _content(raw, salt)
            except ValueError as error:
                raise ValueError(f"{path}: line {number} {error}") from error
            if number == 1:
                salt = _checksum(content, "")
            else:
                yield content


# --- Lines ---


def _lines(stream: BinaryIO) -> Iterator[tuple[int, int, bytes]]:
    """Yields the number of each line, from 1, its first byte, and the line; of one that is too long
    no more than shows that it is."""
    number = 0
    while True:
        start = stream.tell()
        raw = stream.readline(LONGEST + 1)
        if not raw:
            return
        number += 1
        if len(raw) > LONGEST:
            while raw and not raw.endswith(b"\n"):
                raw = stream.readline(LONGEST)
            raw = b"...\n"
        yield number, start, raw


def _line(content: dict[str, Any], salt: str) -> bytes:
    """Returns content and its checksum as a line."""
    return json.dumps({**content, "sha256": _checksum(content, salt)}).encode() + b"\n"


def _content(raw: bytes, salt: str) -> dict[str, Any]:
    """Returns the content of a line.

    Raises:
        ValueError: that says what is wrong with the line, after its number.
    """
    if raw.count(b",") > MOST_ENTRIES:
        raise ValueError(f"holds more than {MOST_ENTRIES:,} entries")
    try:
        content = parse_json(raw)
    except ValueError as error:
        raise ValueError("is not JSON") from error
    if not isinstance(content, dict) or "sha256" not in content:
        raise ValueError("has no checksum, as no line had before format 2")

    if content.pop("sha256") != _checksum(content, salt):
        raise ValueError("does not match its checksum")
    return content


def _checksum(content: dict[str, Any], salt: str) -> str:
    """Returns the checksum of a line's content; salt: that of the first line, "" for itself."""
    text = json.dumps(content, sort_keys=True)
    return hashlib.sha256(f"{salt}{text}".encode()).hexdigest()[:16]
