"""What a run keeps: rows of metrics and checkpoints, from which only the same training resumes."""

import dataclasses
import errno
import json
import os
import re
import shutil
import subprocess
import sys
import warnings
from functools import partial
from pathlib import Path

import jax
import numpy as np
import pytest
from small_training import KEY, SMALL, data, mlp, train_small

import scoresde as sd
from scoresde.runs import checkpoint
from scoresde.runs.folder import RunFolder
from scoresde.runs.lock import LOCK, RunHeldError
from scoresde.runs.manifest import read_manifest, write_manifest
from scoresde.runs.report import write_report
from scoresde.train.load import open_run


def test_metrics_are_one_json_object_a_line(mixture, tmp_path):
    run = tmp_path / "run"
    fit = train_small(mixture, run=run)
    lines = (run / "metrics.jsonl").read_text().splitlines()
    rows = [json.loads(line) for line in lines]
    assert rows == fit.history
    assert [row["step"] for row in rows] == [10, 20, 30, 40]
    assert [row["step"] for row in rows if "valid_loss" in row] == [20, 40]


def test_metrics_of_callbacks_are_written_with_nan_as_null(mixture, tmp_path):
    def callback(step, model):
        return {"mine": np.float32(step), "nothing": np.float32(np.nan)}

    run = tmp_path / "run"
    train_small(mixture, callbacks=[callback], run=run)
    last = json.loads((run / "metrics.jsonl").read_text().splitlines()[-1])
    assert (last["mine"], last["nothing"]) == (40.0, None)  # NaN is not JSON


def test_a_resumed_run_says_so_and_how_long_it_took(mixture, tmp_path, capsys):
    run = tmp_path / "run"
    train = partial(sd.fit, KEY, mlp(), data(mixture), run=run)
    train(training=dataclasses.replace(SMALL, steps=20))
    assert "resumed" not in capsys.readouterr().err
    files = [file for file in (run / "checkpoints/20/arrays-0").rglob("*") if file.is_file()]
    mib = sum(file.stat().st_size for file in files) / 2**20

    fit = train(training=SMALL)
    (line,) = [line for line in capsys.readouterr().err.splitlines() if "resumed" in line]
    wanted = rf"resumed at step 20 of 40 in ([\d.]+) s \(verified {mib:.1f} MiB\)"
    seconds = [row.get("resume_seconds") for row in fit.history]
    assert seconds[:2] == seconds[3:] * 2 == [None, None]
    assert float(re.fullmatch(wanted, line)[1]) == pytest.approx(seconds[2], abs=0.051)
    assert "Resumed once, which took" in write_report(run).read_text()

    # Neither where nothing is trained, nor where nobody asked.
    train(training=SMALL)
    train(training=dataclasses.replace(SMALL, steps=50), progress=False)
    assert "resumed" not in capsys.readouterr().err


def test_a_run_resumes_only_with_its_own_settings(mixture, tmp_path):
    x = data(mixture)
    run = tmp_path / "run"
    sd.fit(KEY, mlp(), x, training=SMALL, run=run, progress=False)
    before = (run / "config.yaml").read_text()

    for change in (
        {"training": dataclasses.replace(SMALL, learning_rate=0.5)},
        {"model": dataclasses.replace(mlp(), sde=sd.VP(beta_max=15.0))},
        {"key": jax.random.key(1)},
        {"data": x[:100]},
        {"data": x[::-1]},
    ):
        arguments = {"key": KEY, "model": mlp(), "data": x, "training": SMALL} | change
        with pytest.raises(ValueError, match="made with other settings"):
            sd.fit(**arguments, run=run, progress=False)

    assert (run / "config.yaml").read_text() == before
    assert sd.load(run).sde == sd.VP()


def test_a_run_resumes_with_another_learning_rate_where_it_is_told_to(mixture, tmp_path):
    """It records the change, and resumes with the new settings from then on."""
    run = tmp_path / "run"

    def fit(training, **options):
        x = data(mixture)
        return sd.fit(KEY, mlp(), x, training=training, run=run, progress=False, **options)

    first = fit(SMALL)
    slower = dataclasses.replace(SMALL, steps=60, learning_rate=1e-4, warmup=0)
    with pytest.raises(ValueError, match=r"training\.learning_rate: 0\.001 there") as refused:
        fit(slower)
    advised = re.search(r"(new_schedule=True) in sd.fit", str(refused.value))
    second = eval(f"fit(slower, {advised[1]})", {"fit": fit, "slower": slower})

    assert second.history[:4] == first.history
    assert [row["step"] for row in second.history] == [10, 20, 30, 40, 50, 60]
    assert second.history[-1]["learning_rate"] == pytest.approx(1e-4)

    # Later calls with the new settings need no flag; those with the old ones are refused.
    decaying = dataclasses.replace(slower, steps=80, final_rate=0.0)
    with pytest.raises(ValueError, match=r"learning_rate: 0\.0001 there"):
        fit(dataclasses.replace(SMALL, steps=80))
    third = fit(dataclasses.replace(slower, steps=70))
    assert third.history[-1]["step"] == 70
    assert fit(decaying, new_schedule=True).history[-1]["learning_rate"] < 1e-5

    assert open_run(run).about["changes"] == [
        {
            "step": 40,
            "old": {"learning_rate": 1e-3, "warmup": 5},
            "new": {"learning_rate": 1e-4, "warmup": 0},
        },
        {
            "step": 70,
            "old": {"final_rate": 1.0, "steps": None},
            "new": {"final_rate": 0.0, "steps": 80},
        },
    ]


def test_other_settings_do_not_change_with_the_schedule(mixture, tmp_path):
    x = data(mixture)
    run = tmp_path / "run"
    sd.fit(KEY, mlp(), x, training=SMALL, run=run, progress=False)
    other = dataclasses.replace(SMALL, learning_rate=0.5, batch_size=16)
    for options in ({}, {"new_schedule": True}):
        with pytest.raises(ValueError, match=r"training\.batch_size: 32 there") as refused:
            sd.fit(KEY, mlp(), x, training=other, run=run, progress=False, **options)
        assert "new_schedule" not in str(refused.value)


def test_a_run_from_before_there_were_optimisers_resumes(mixture, tmp_path):
    """Its checkpoint says nothing of a setting that had only one value then."""
    run = tmp_path / "run"
    train_small(mixture, run=run)
    for path in run.glob("checkpoints/*/manifest.json"):
        content = read_manifest(path)
        del content["about"]["training"]["optimizer"]
        write_manifest(path, content)

    x = data(mixture)
    more = dataclasses.replace(SMALL, steps=60)
    assert sd.fit(KEY, mlp(), x, training=more, run=run, progress=False).history[3]["step"] == 40
    adamw = dataclasses.replace(SMALL, optimizer=sd.optimizers.AdamW())
    with pytest.raises(ValueError, match=r"training\.optimizer\.kind: Adam there, AdamW now"):
        sd.fit(KEY, mlp(), x, training=adamw, run=run, progress=False)


def test_a_folder_that_cannot_be_written_is_refused_before_any_work(mixture, tmp_path):
    (tmp_path / "file").write_text("in the way")
    run = tmp_path / "file" / "run"
    with pytest.raises(OSError, match="cannot be written"):
        train_small(mixture, run=run)


# --- One writer ---


def test_a_second_training_of_a_run_is_refused_while_the_first_lives(mixture, tmp_path):
    run = tmp_path / "run"

    def train(training=SMALL, **options):
        return train_small(mixture, training, run=run, **options)

    def second(step, model):
        with pytest.raises(RunHeldError, match=f"{run} is being written by process {os.getpid()}"):
            train()

    train(callbacks=[second])
    assert not (run / LOCK).exists()

    # What a killed process leaves is taken over at once.
    kill = f"""
from pathlib import Path
from scoresde.runs.folder import RunFolder
import os
RunFolder(Path({str(run)!r})).hold()
os.kill(os.getpid(), 9)
"""
    assert subprocess.run([sys.executable, "-c", kill]).returncode == -9
    assert (run / LOCK).exists()
    assert train(dataclasses.replace(SMALL, steps=60)).step == 60


def test_a_training_whose_folder_was_taken_over_ends_without_writing(mixture, tmp_path):
    run = tmp_path / "run"

    def suspended(step, model):
        (run / LOCK).unlink()
        RunFolder(run).hold()

    with pytest.raises(RunHeldError, match="was taken over by"):
        train_small(mixture, run=run, callbacks=[suspended])
    assert sd.runs.Checkpoints(run / "checkpoints").steps() == [20]


def test_a_finished_run_that_cannot_be_written_is_only_read(mixture, tmp_path, monkeypatch):
    run = tmp_path / "run"

    def train(steps):
        training = dataclasses.replace(SMALL, steps=steps)
        return train_small(mixture, training, run=run)

    whole = train(40)
    before = {file: file.stat().st_mtime_ns for file in run.rglob("*")}

    def read_only(*_, **__):
        raise OSError(errno.EROFS, "Read-only file system")

    monkeypatch.setattr("tempfile.TemporaryFile", read_only)
    again = train(40)
    assert (again.step, again.interrupted, again.history) == (40, False, whole.history)
    assert {file: file.stat().st_mtime_ns for file in run.rglob("*")} == before
    with pytest.raises(OSError, match=r"cannot be written .Read-only file system"):
        train(60)


# --- Checkpoints that are lost ---


def _without_manifests(checkpoints):
    for manifest in checkpoints.rglob("manifest.json"):
        manifest.unlink()


def _renamed(checkpoints):
    for folder in list(checkpoints.iterdir()):
        folder.rename(checkpoints / f"step_{folder.name}")


@pytest.mark.parametrize(
    ("lose", "earlier"),
    [
        (_without_manifests, False),
        (_renamed, False),
        (shutil.rmtree, False),
        (shutil.rmtree, True),
    ],
    ids=["manifests", "names", "all", "all of an earlier version"],
)
def test_a_run_that_lost_its_checkpoints_begins_anew_only_if_told_to(
    mixture, tmp_path, lose, earlier
):
    run = tmp_path / "run"
    training = dataclasses.replace(SMALL, steps=3, log_every=1, validate_every=1)

    def train(**options):
        return train_small(mixture, training, run=run, **options)

    train()
    if earlier:
        rows = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
        for row in rows:
            del row["checkpoint"]
        (run / "metrics.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    metrics = (run / "metrics.jsonl").read_bytes()

    lose(run / "checkpoints")
    left = sorted(map(str, run.rglob("arrays-0")))
    with pytest.raises(ValueError, match=r"has lost its checkpoints: .* of step [23]") as lost:
        train()
    assert (run / "metrics.jsonl").read_bytes() == metrics
    assert sorted(map(str, run.rglob("arrays-0"))) == left

    assert "afresh=True" in str(lost.value)
    assert len(train(afresh=True).history) == 3
    (aside,) = run.glob("before-*")
    assert (aside / "metrics.jsonl").read_bytes() == metrics


def test_a_run_that_was_killed_before_its_first_checkpoint_begins_again(mixture, tmp_path):
    run = tmp_path / "run"
    folder = RunFolder(run)
    with folder:
        folder.append({"step": 10, "loss": 1.0, "checkpoint": None})
    (run / "checkpoints" / "20" / "arrays-0").mkdir(parents=True)
    assert train_small(mixture, run=run).history[0]["loss"] != 1.0


def test_an_older_checkpoint_than_the_metrics_know_is_said(mixture, tmp_path):
    run = tmp_path / "run"
    train_small(mixture, run=run)
    with RunFolder(run) as folder:
        folder.append({"step": 40, "checkpoint": 40})
    shutil.rmtree(run / "checkpoints" / "40")
    with pytest.warns(UserWarning, match="had a checkpoint of step 40, .* goes on from that one"):
        assert train_small(mixture, run=run).step == 40


# --- What cannot be written ---


def test_saves_that_fail_are_tried_again(mixture, tmp_path, monkeypatch):
    """Two of them, of which the run keeps no trace; after a while it ends, with the reason."""
    write = checkpoint.write_manifest
    failing = {20: 2}

    def full(path, content):
        if failing.get(content["step"], 0) > 0 or failing.get("all"):
            failing[content["step"]] = failing.get(content["step"], 0) - 1
            raise OSError(errno.ENOSPC, "No space left on device", str(path))
        write(path, content)

    monkeypatch.setattr(checkpoint, "write_manifest", full)
    monkeypatch.setattr("scoresde.train.record.RETRY", 0.0)
    monkeypatch.setattr("scoresde.train.record.PAUSE", 0.0)
    run = tmp_path / "run"

    def train(steps):
        training = dataclasses.replace(SMALL, steps=steps, log_every=1)
        return train_small(mixture, training, run=run)

    with pytest.warns(UserWarning, match="step 20 could not be saved .* Training goes on"):
        fit = train(40)
    steps = sd.runs.Checkpoints(run / "checkpoints").steps()
    assert fit.step == 40 and len(steps) == 2 and 20 < steps[0] < 40 == steps[1]

    failing["all"] = True
    monkeypatch.setattr("scoresde.train.record.PATIENCE", 0.0)
    full = r"No space left on device.*MiB were to be written\. [\d,.]+ MiB are free there"
    with pytest.raises(sd.runs.CheckpointError, match=full):
        train(80)
    failing["all"] = False
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert train(80).step == 80


def test_rows_that_cannot_be_written_are_written_later(tmp_path):
    folder = RunFolder(tmp_path)
    folder.append({"step": 1})
    moved = folder.metrics.rename(tmp_path / "moved")
    folder.metrics.mkdir()
    with pytest.raises(OSError, match=r"\d+ bytes of metrics could not be written to .* are free"):
        folder.append({"step": 2})
    folder.metrics.rmdir()
    moved.rename(folder.metrics)
    folder.append({"step": 3})
    assert [row["step"] for row in folder.rows()] == [1, 2, 3]


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="a device that is always full")
def test_metrics_on_a_full_disk_do_not_end_training_at_once(mixture, tmp_path):
    run = tmp_path / "run"
    run.mkdir()
    (run / "metrics.jsonl").symlink_to("/dev/full")

    def freed(step, model):
        if (run / "metrics.jsonl").is_symlink():
            (run / "metrics.jsonl").unlink()

    with pytest.warns(UserWarning, match=r"No space left on device.*Training goes on"):
        fit = train_small(mixture, run=run, callbacks=[freed])
    lines = (run / "metrics.jsonl").read_text().splitlines()
    assert [json.loads(line) for line in lines] == fit.history
