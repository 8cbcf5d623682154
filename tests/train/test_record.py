"""What a run keeps: rows of metrics and checkpoints, from which only the same training resumes."""

import dataclasses
import json

import jax
import numpy as np
import pytest
from small_training import KEY, SMALL, data, mlp

import scoresde as sd


def test_metrics_are_one_json_object_a_line(mixture, tmp_path):
    run = tmp_path / "run"
    fit = sd.fit(KEY, mlp(), data(mixture), training=SMALL, run=run, progress=False)
    lines = (run / "metrics.jsonl").read_text().splitlines()
    rows = [json.loads(line) for line in lines]
    assert rows == fit.history
    assert [row["step"] for row in rows] == [10, 20, 30, 40]
    assert [row["step"] for row in rows if "valid_loss" in row] == [20, 40]


def test_metrics_of_callbacks_are_written_with_nan_as_null(mixture, tmp_path):
    def callback(step, model):
        return {"mine": np.float32(step), "nothing": np.float32(np.nan)}

    run = tmp_path / "run"
    sd.fit(KEY, mlp(), data(mixture), training=SMALL, callbacks=[callback], run=run, progress=False)
    last = json.loads((run / "metrics.jsonl").read_text().splitlines()[-1])
    assert (last["mine"], last["nothing"]) == (40.0, None)  # NaN is not JSON


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


def test_a_folder_that_cannot_be_written_is_refused_before_any_work(mixture, tmp_path):
    (tmp_path / "file").write_text("in the way")
    run = tmp_path / "file" / "run"
    with pytest.raises(OSError, match="cannot be written"):
        sd.fit(KEY, mlp(), data(mixture), training=SMALL, run=run, progress=False)
