"""Runs that earlier versions wrote are opened, evaluated and resumed by this one."""

import json
import shutil
import warnings
from pathlib import Path

import numpy as np
import pytest
import released_formats

import scoresde as sd
from scoresde.cli.main import main
from scoresde.runs.manifest import FORMAT, read_manifest, write_manifest

RELEASED = Path(__file__).parent / "released"


@pytest.fixture(scope="module")
def uninterrupted():
    return released_formats.train(None, 8)


@pytest.mark.parametrize("number", range(1, FORMAT + 1))
def test_a_run_of_an_earlier_version_is_read_and_resumed(
    tmp_path, monkeypatch, capsys, uninterrupted, number
):
    shutil.copytree(RELEASED / str(number), tmp_path, dirs_exist_ok=True)
    monkeypatch.chdir(tmp_path)
    run = tmp_path / "run"
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert isinstance(sd.load(run).sde, sd.VP)
        assert sd.runs.Checkpoints(run / "checkpoints").states() == {4: "good"}

    (stored,) = (run / "likelihood").glob("*.json")
    want = json.loads(stored.read_text())
    assert main(["likelihood", "run", *released_formats.LIKELIHOOD, "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    np.testing.assert_allclose(found["nats"], want["nats"], rtol=1e-5)

    assert main(["info", "run", "--json"]) == 0
    about = json.loads(capsys.readouterr().out)
    assert (about["status"], about["notes"]) == ("finished", ["no results.json"])

    resumed = released_formats.train(run, 8)
    assert [row["step"] for row in resumed.history] == list(range(1, 9))
    for name in ("loss", "grad_norm", "valid_loss"):
        values = [[row.get(name) for row in fit.history] for fit in (resumed, uninterrupted)]
        np.testing.assert_allclose(*np.array(values, float), rtol=1e-4)


def test_a_run_of_a_later_version_is_refused(tmp_path):
    shutil.copytree(RELEASED / str(FORMAT), tmp_path, dirs_exist_ok=True)
    file = tmp_path / "run" / "checkpoints" / "4" / "manifest.json"
    write_manifest(file, {**read_manifest(file), "format": FORMAT + 1})
    with (
        pytest.warns(UserWarning, match="passed over"),
        pytest.raises(
            sd.runs.CheckpointError,
            match=rf"has format {FORMAT + 1}, and this version .* reads 1 to {FORMAT}: open",
        ),
    ):
        sd.load(tmp_path / "run")
