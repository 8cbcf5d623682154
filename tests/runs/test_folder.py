"""A run's folder holds its metrics and held-out data as another program would read them."""

import json

import numpy as np
import pytest

from scoresde.runs import folder as folder_module
from scoresde.runs.folder import HELD_OUT, RunFolder
from scoresde.runs.lock import LOCK, RunHeldError


def test_rows_are_json_lines_in_order_of_step(tmp_path):
    folder = RunFolder(tmp_path)
    folder.append({"step": 20, "loss": np.float32(2.5)})
    folder.append({"step": 10, "loss": float("nan")})

    lines = folder.metrics.read_text().splitlines()
    assert [json.loads(line) for line in lines] == [
        {"step": 20, "loss": 2.5},
        {"step": 10, "loss": None},
    ]
    assert [row["step"] for row in folder.rows()] == [10, 20]


def test_half_a_line_does_not_spoil_the_next(tmp_path):
    folder = RunFolder(tmp_path)
    folder.append({"step": 1, "loss": 3.0})
    with folder.metrics.open("a") as file:
        file.write('{"step": 2, "lo')

    folder.append({"step": 2, "loss": 2.0})
    assert folder.rows() == [{"step": 1, "loss": 3.0}, {"step": 2, "loss": 2.0}]


def test_no_row_is_written_where_another_process_has_taken_the_folder_over(tmp_path):
    with RunFolder(tmp_path) as suspended:
        suspended.append({"step": 1})
        (tmp_path / LOCK).unlink()
        with RunFolder(tmp_path), pytest.raises(RunHeldError, match="was taken over by"):
            suspended.append({"step": 2})
    assert suspended.rows() == [{"step": 1}]


def test_what_is_set_aside_twice_within_a_second_is_kept_twice(tmp_path):
    folder = RunFolder(tmp_path)
    for step in range(3):
        folder.append({"step": step})
        kept = folder.set_aside()
        assert json.loads((kept / "metrics.jsonl").read_text())["step"] == step
    assert len(list(tmp_path.glob("before-*/metrics.jsonl"))) == 3


def test_held_out_examples_are_kept_with_their_conditions(tmp_path):
    x = np.arange(6.0).reshape(3, 2)
    RunFolder(tmp_path).keep(x, {"label": np.arange(3), "mask": [np.ones(3)]})

    with np.load(tmp_path / HELD_OUT) as arrays:
        assert set(arrays) == {"x", "cond['label']", "cond['mask'][0]"}
        np.testing.assert_array_equal(arrays["x"], x)
        np.testing.assert_array_equal(arrays["cond['label']"], np.arange(3))


def test_a_large_held_out_set_is_not_copied(tmp_path, monkeypatch):
    monkeypatch.setattr(folder_module, "LARGEST_HELD_OUT", 10)
    RunFolder(tmp_path).keep(np.zeros((3, 2)), None)
    assert not (tmp_path / HELD_OUT).exists()


def test_a_folder_that_cannot_be_written_is_refused_at_once(tmp_path):
    (tmp_path / "file").write_text("in the way")
    with (
        pytest.raises(OSError, match=r"file/run cannot be written .*choose another folder"),
        RunFolder(tmp_path / "file" / "run"),
    ):
        pass


def test_checkpoints_of_another_run_are_refused(tmp_path):
    (tmp_path / "other").mkdir()
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "checkpoints").symlink_to(tmp_path / "other")
    with pytest.raises(ValueError, match="lies outside of"):
        RunFolder(tmp_path / "run")


def test_a_row_takes_the_same_time_however_many_there_are(tmp_path):
    """It reads one byte of the file, not all of them."""
    folder = RunFolder(tmp_path)
    with folder.metrics.open("wb") as file:
        file.truncate(2**40)  # a terabyte of zeros, which take no space
    folder.append({"step": 1})
    with folder.metrics.open("rb") as file:
        file.seek(2**40)
        assert file.read() == b'\n{"step": 1}\n'
