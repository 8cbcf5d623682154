"""The file of a set's results: whatever changes in it is named and computed again.

The results are known: solve returns numbers that depend on (repeat, row) alone.
"""

import json
import math
import warnings

import numpy as np
import pytest

from scoresde import checked_lines
from scoresde.likelihood import rows_file

NAMES = ("nats", "stderr", "nfe")
EXAMPLES = 7
ABOUT = {"weights": "abc", "shape": (2,)}


class Stream:
    """Streams the results to one file, and keeps which rows were asked for."""

    def __init__(self, path):
        self.path = path
        self.asked = []

    def __call__(self, about=ABOUT):
        self.asked.clear()
        return rows_file.stream(
            self.path, about, NAMES, self.solve, EXAMPLES, 2, 3, "tables", progress=False
        )

    def solve(self, repeat, rows):
        self.asked.append((repeat, rows.tolist()))
        nats = np.where(rows == 4, np.nan, np.sin(rows + 10.0 * repeat)).astype(np.float32)
        return {"nats": nats, "stderr": None, "nfe": rows + 20}

    @property
    def lines(self):
        return self.path.read_text().splitlines(keepends=True)


@pytest.fixture
def stream(tmp_path):
    return Stream(tmp_path / "rows.jsonl")


def assert_same(found, wanted):
    for name in NAMES:
        np.testing.assert_array_equal(found[name], wanted[name])


def sealed(path, number, **changes):
    """A line of the file with other entries, and the checksum that belongs to them."""
    lines = [json.loads(line) for line in path.read_text().splitlines()]
    first, line = lines[0], lines[number - 1] | changes
    del line["sha256"]
    return checked_lines._line(line, first["sha256"]).decode()


def test_what_was_streamed_is_read_back(stream):
    whole = stream()
    rows = np.arange(EXAMPLES)
    wanted = np.stack([np.sin(rows), np.sin(rows + 10.0)], axis=1).astype(np.float32)
    wanted[4] = np.nan
    np.testing.assert_array_equal(whole["nats"], wanted)
    np.testing.assert_array_equal(whole["nfe"], np.stack([rows + 20] * 2, axis=1))
    assert np.isnan(whole["stderr"]).all()

    content = stream.lines
    with warnings.catch_warnings(action="error"):
        assert_same(stream(), whole)
    assert stream.asked == []
    assert stream.lines == content
    assert_same(rows_file.read_tables(stream.path, NAMES, (EXAMPLES, 2)), whole)


def of_line(**changes):
    """Changes the entries of line 3, rows 3 … 5 of the first repeat, without their checksum."""

    def change(lines):
        return [*lines[:2], json.dumps(json.loads(lines[2]) | changes) + "\n", *lines[3:]]

    return change


def replaced(old, new):
    return lambda lines: [*lines[:2], lines[2].replace(old, new, 1), *lines[3:]]


DAMAGES = {
    "a digit": replaced('"nats": [0.14', '"nats": [0.15'),
    "another row": of_line(rows=[3, 4, 6]),
    "a row twice": of_line(rows=[3, 3, 5]),
    "the last row, from the end": of_line(rows=[3, 4, -1]),
    "a short list": of_line(nats=[0.5, 0.5]),
    "infinity": of_line(nats=[math.inf, 0.5, 0.5]),
    "too large a number": of_line(nfe=[10**400, 0, 0]),
    "another repeat": of_line(repeat=1),
    "no JSON": lambda lines: [*lines[:2], "no JSON\n", *lines[3:]],
    "no object": lambda lines: [*lines[:2], "[[1]]\n", *lines[3:]],
    "half of it": lambda lines: [*lines[:2], lines[2][:40] + "\n", *lines[3:]],
    "no UTF-8": replaced("repeat", "rep\udcffat"),
}


def test_a_line_of_very_many_numbers_is_not_parsed(tmp_path):
    """Sixty megabytes of them would take half a gigabyte."""
    path = tmp_path / "rows.jsonl"
    path.write_bytes(b"[" + b"0," * 5_000_000 + b"0]\n")
    with pytest.raises(ValueError, match="line 1 holds more than 4,194,304 entries"):
        rows_file.read_tables(path, NAMES, (EXAMPLES, 2))


@pytest.mark.parametrize("kind", DAMAGES)
def test_a_line_that_has_changed_is_named_and_computed_again(stream, kind):
    whole = stream()
    content = stream.lines
    damaged = "".join(DAMAGES[kind](content))
    stream.path.write_bytes(damaged.encode(errors="surrogateescape"))
    with pytest.raises(ValueError, match="line 3 "):
        rows_file.read_tables(stream.path, NAMES, (EXAMPLES, 2))
    with pytest.warns(UserWarning, match=r"rows.jsonl: line 3 \w.* is computed again"):
        assert_same(stream(), whole)
    assert stream.asked == [(0, [3, 4, 5])]

    # The file is as it was, but for the order of its lines.
    assert sorted(stream.lines) == sorted(content)
    assert not list(stream.path.parent.glob(".*"))
    with warnings.catch_warnings(action="error"):
        assert_same(stream(), whole)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"rows": [3, 4, 7]}, "line 3 names rows that are not among the 7 examples"),
        ({"rows": [3, 4, -1]}, "names rows that are not among"),
        ({"rows": [3, 4, True]}, "names rows that are not among"),
        ({"rows": [3, 3, 5]}, "names a row twice"),
        ({"repeat": 2}, "is of repeat 2, which is not one of 2"),
        ({"nats": [0.5, 0.5]}, "holds 2 nats for 3 rows"),
        ({"nats": [0.5, "0.5", 0.5]}, "holds nats that are not numbers"),
    ],
)
def test_a_line_of_another_form_is_not_taken_whatever_its_checksum(stream, changes, message):
    whole = stream()
    line = sealed(stream.path, 3, **changes)
    content = stream.lines
    stream.path.write_text("".join([*content[:2], line, *content[3:]]))
    with pytest.warns(UserWarning, match=message):
        assert_same(stream(), whole)
    assert stream.asked == [(0, [3, 4, 5])]


def test_lines_that_are_there_twice_count_once(stream):
    """As two processes leave them, or a copy; where they differ, the first is taken."""
    whole = stream()
    content = stream.lines
    later = sealed(stream.path, 3, nats=[9.0, 9.0, 9.0])
    stream.path.write_text("".join([*content, content[1], later]))
    with warnings.catch_warnings(action="error"):
        assert_same(stream(), whole)
    assert stream.asked == []


def test_a_line_of_other_results_is_not_taken(stream, tmp_path):
    """Its checksum depends on the first line of its file."""
    whole = stream()
    other = Stream(tmp_path / "other.jsonl")
    other({"weights": "def"})
    stream.path.write_text("".join([stream.lines[0], *other.lines[1:3], *stream.lines[3:]]))
    with pytest.warns(UserWarning, match="line 2 does not match its checksum; line 3 does not"):
        assert_same(stream(), whole)
    assert stream.asked == [(0, [0, 1, 2]), (0, [3, 4, 5])]


def test_the_first_line_is_checked_too(stream):
    whole = stream()
    content = stream.lines
    stream.path.write_text("".join([content[0].replace("abc", "abd"), *content[1:]]))
    with pytest.warns(UserWarning, match="line 1 does not match its checksum. What is lost"):
        assert_same(stream(), whole)
    assert stream.asked == []
    assert stream.lines == content

    with pytest.raises(ValueError, match="made with other settings: delete it, or name another"):
        stream({"weights": "def"})
    assert stream.lines == content


@pytest.mark.parametrize("end", [0, 30, -1])
def test_a_file_cut_short_is_continued_silently(stream, end):
    """Anywhere in its last line, or in its first; a line without its end alone is whole."""
    whole = stream()
    content = stream.lines
    for number, again in ((0, 6), (3, 4)):
        stream.path.write_text("".join([*content[:number], content[number][:end]]))
        with warnings.catch_warnings(action="error"):
            assert_same(stream(), whole)
        assert len(stream.asked) == (again - 1 if number and end == -1 else again)
        assert stream.lines == content


def test_lines_from_before_there_were_checksums_are_computed_again(stream):
    whole = stream()
    old = [json.loads(line) for line in stream.lines]
    for line in old:
        del line["sha256"]
    del old[0]["format"]
    stream.path.write_text("".join(json.dumps(line) + "\n" for line in old))
    with pytest.warns(UserWarning) as caught:
        assert_same(stream(), whole)
    assert len(caught) == 1
    assert "line 2 has no checksum, as no line had before format 2" in str(caught[0].message)
    assert len(stream.asked) == 6


def test_many_faults_are_counted(stream):
    stream()
    stream.path.write_text(stream.lines[0] + "x\n" * 30)
    with pytest.warns(UserWarning, match="line 11 is not JSON; and 20 more"):
        stream()


def test_a_file_that_is_complete_is_not_opened_to_write(stream, monkeypatch):
    """So that results on a read-only disk are served."""
    whole = stream()
    real = type(stream.path).open

    def read_only(path, mode="r", *arguments):
        if mode != "rb":
            raise OSError(30, "Read-only file system", str(path))
        return real(path, mode, *arguments)

    monkeypatch.setattr(type(stream.path), "open", read_only)
    assert_same(stream(), whole)

    # One that is not fails before anything is computed.
    monkeypatch.undo()
    stream.path.write_text("".join(stream.lines[:3]))
    monkeypatch.setattr(type(stream.path), "open", read_only)
    with pytest.raises(OSError, match="Read-only"):
        stream()
    assert stream.asked == []
