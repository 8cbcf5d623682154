"""What a run keeps: rows of metrics and checkpoints, from which only the same training resumes."""

import dataclasses
import json
import re

import jax
import numpy as np
import pytest
from small_training import KEY, SMALL, data, mlp

import scoresde as sd
from scoresde.runs.manifest import read_manifest, write_manifest
from scoresde.train.load import open_run


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
    sd.fit(KEY, mlp(), data(mixture), training=SMALL, run=run, progress=False)
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
        sd.fit(KEY, mlp(), data(mixture), training=SMALL, run=run, progress=False)
