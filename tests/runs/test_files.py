"""Rows of metrics and results that no run wrote: what is read of them, and what is noted."""

import json
import os
import tracemalloc

import pytest

from scoresde.runs import files
from scoresde.runs.files import read_results, read_rows


def write(path, rows):
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))


def test_of_a_very_large_file_the_newest_rows_are_read(tmp_path, monkeypatch):
    file = tmp_path / "metrics.jsonl"
    write(file, [{"step": i, "loss": 0.5} for i in range(2000)])
    assert len(read_rows(file)[0]) == 2000

    monkeypatch.setattr(files, "BLOCK", 256)
    bounds = {"LARGEST_METRICS": 3000, "MOST_ENTRIES": 900}
    for name, value in bounds.items():
        with monkeypatch.context() as patch:
            patch.setattr(files, name, value)
            rows, notes = read_rows(file)
        assert [row["step"] for row in rows] == list(range(2000 - len(rows), 2000))
        assert 80 < len(rows) < 130  # rows of 27 bytes, or of 1 comma and `ROW` more
        assert notes == [
            "metrics.jsonl is very large: of its rows only those at its end were read."
        ]


def test_rows_take_no_more_memory_than_they_need(tmp_path, monkeypatch):
    """3000 rows of 8 entries: a dict with 8 numbers takes 0.6 kB, and the names are shared."""
    file = tmp_path / "metrics.jsonl"
    names = ("step", "loss", "valid_loss", "grad_norm", "learning_rate", "time", "rate", "skipped")
    write(file, [dict.fromkeys(names, i + 0.5) for i in range(3000)])
    monkeypatch.setattr(files, "BLOCK", 1024)
    tracemalloc.start()
    rows, _ = read_rows(file)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert len(rows) == 3000
    assert peak < 3000 * 750 + 300_000


def test_lines_that_are_no_rows_are_counted(tmp_path):
    file = tmp_path / "metrics.jsonl"
    lines = ["[" * 10**5, '{"step": 1e999}', '{"step": ' + "9" * 400 + "}", '{"step": null}', "{}"]
    file.write_text("\n".join([*lines, "[]", "\xff", '{"step": 1, "loss": 2.0}\n']))
    rows, notes = read_rows(file)
    assert rows == [{"step": 1, "loss": 2.0}]
    assert notes[0] == "Line 1 of metrics.jsonl is not a row with a step: left out."
    assert notes[-1] == "2 more lines of metrics.jsonl are not rows: left out."
    assert len(notes) == files.SHOWN + 1


@pytest.mark.parametrize("read", [read_rows, read_results])
def test_links_out_of_the_run_pipes_and_devices_are_left_out(tmp_path, read):
    (tmp_path / "run").mkdir()
    (tmp_path / "secret").write_text('{"step": 1}\n')
    file = tmp_path / "run" / "file"
    assert not read(file)[1]
    for hostile in (
        lambda: file.symlink_to(tmp_path / "secret"),
        lambda: file.symlink_to("/dev/zero"),
        lambda: os.mkfifo(file),
        file.mkdir,
    ):
        hostile()
        found, notes = read(file)
        assert not found
        assert len(notes) == 1
        assert "file was left out" in notes[0]
        file.rmdir() if file.is_dir() else file.unlink()
