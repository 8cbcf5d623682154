"""The experiments on inverse problems: the study on Gaussian data, where the answer is known."""

import importlib
import json
import os
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest

import scoresde as sd
from scoresde import inverse
from scoresde.cli.exit import UsageError
from scoresde.runs.folder import RunFolder
from scoresde.runs.lock import RunHeldError

ROOT = Path(__file__).parents[1]
SIDE = 4


class GaussianImages:
    """The exact score of correlated Gaussian images (4, 4, 1)."""

    sde = sd.VP()
    place = np.stack(np.meshgrid(np.arange(SIDE), np.arange(SIDE)), axis=-1).reshape(-1, 2)
    distance = np.linalg.norm(place[:, None] - place[None], axis=-1)
    cov = 0.3 * np.exp(-0.5 * distance) + 0.01 * np.eye(SIDE**2)
    law = sd.GaussianMixture(np.zeros((1, SIDE**2)), cov[None])
    score = law.score(sde)

    def __call__(self, x, t):
        return self.score(x.reshape(len(x), -1), t).reshape(x.shape)

    def denoise(self, x, t):
        return self.score.denoise(x.reshape(len(x), -1), t).reshape(x.shape)


def test_the_study_finds_exact_samples_exact(monkeypatch, tmp_path, capsys):
    """MMPS and particles: coverage 90 % and misfit 1 within 5 standard errors; others miss."""
    monkeypatch.syspath_prepend(str(ROOT / "experiments"))
    study = importlib.import_module("inverse_study")
    score = GaussianImages()
    x = np.random.default_rng(0).multivariate_normal(np.zeros(SIDE**2), score.cov, 40)
    x = x.reshape(-1, SIDE, SIDE, 1).astype(np.float32)
    task = SimpleNamespace(
        test=x,
        dequantize=Identity(),
        classifier=SimpleNamespace(predict=lambda x: np.zeros(len(x), int)),
    )
    settings = study.InverseStudy(
        images=40, steps=(60,), runs=str(tmp_path), evaluation_batch=400, step_size=0.05
    )
    few = np.arange(SIDE**2).reshape(1, SIDE, SIDE, 1) % 3 == 0
    problems = {"a third": inverse.Mask(few)}
    assert study.run(settings, task, np.zeros(40, int), score, problems) == 0

    folder = tmp_path / "inverse"
    figures = json.loads((folder / "results.json").read_text())["figures"]

    def of(method, field):
        return figures[f"a third, {method}, 60 steps: {field}"]

    for method in ("MMPS", "SMC, 64 particles"):
        assert abs(of(method, "coverage") - 0.9) < 5 * of(method, "stderr") + 0.02, method
        assert of(method, "misfit") == pytest.approx(1.0, abs=5 / np.sqrt(2 * 40 * 6))
    assert of("replacement", "misfit") < 1e-5
    assert of("MMPS", "error") < of("replacement", "error")
    assert of("RePaint, 5 times", "error") < of("replacement", "error")
    assert (folder / "figures" / "one sample by every method.png").is_file()
    assert "coverage of 90 %" in (folder / "report.html").read_text()

    out = capsys.readouterr().out
    assert "| MMPS | 60 | 61 |" in out
    study.run(settings, task, np.zeros(40, int), score, problems)
    assert "is finished" in capsys.readouterr().out


def test_a_study_leaves_a_folder_alone_that_another_process_writes(monkeypatch, tmp_path):
    monkeypatch.syspath_prepend(str(ROOT / "experiments"))
    study = importlib.import_module("inverse_study")
    settings = study.InverseStudy(runs=str(tmp_path))
    with RunFolder(tmp_path / "inverse") as folder:
        before = sorted(folder.path.iterdir())
        with pytest.raises(RunHeldError, match="is being written by"):
            study.run(settings, SimpleNamespace(), np.zeros(0, int), GaussianImages(), {})
        assert sorted(folder.path.iterdir()) == before


class Identity:
    """Images that are real numbers already."""

    low, high = -1.0, 1.0

    def __call__(self, key, x):
        return x


def test_fashion_wants_a_score(monkeypatch):
    monkeypatch.syspath_prepend(str(ROOT / "experiments"))
    fashion = importlib.import_module("fashion_inverse")
    with pytest.raises(UsageError, match=r"--score runs/fashion_vp; or --smoke"):
        fashion.run(fashion.FashionInverse())


@pytest.mark.slow  # the study above is its fast form
def test_fashion_smoke(tmp_path):
    environment = os.environ | {"COLUMNS": "200", "JAX_DISABLE_MOST_OPTIMIZATIONS": "1"}
    script = str(ROOT / "experiments" / "fashion_inverse.py")
    done = subprocess.run(
        [sys.executable, script, "--runs", str(tmp_path), "--smoke"],
        capture_output=True,
        text=True,
        env=environment,
        timeout=500,
    )
    assert done.returncode == 0, done.stderr
    results = json.loads((tmp_path / "fashion_inverse_smoke" / "results.json").read_text())
    assert len(results["tables"]) == 4
