"""The experiments on conditions run whole with short settings; their figures are `slow`."""

import importlib
import json
import os
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest

from scoresde.cli.flags import parse

ROOT = Path(__file__).parents[1]
FAST = os.environ | {"COLUMNS": "200", "JAX_DISABLE_MOST_OPTIMIZATIONS": "1"}
TINY = ["--net.channels=8", "--net.multipliers", "1", "--net.attention-levels"]


def run(name, folder, *flags, environment=FAST, timeout=500):
    """Runs an experiment as a command, and returns its results."""
    command = [sys.executable, str(ROOT / "experiments" / f"{name}.py"), "--runs", str(folder)]
    done = subprocess.run(
        [*command, *flags], capture_output=True, text=True, env=environment, timeout=timeout
    )
    assert done.returncode == 0, done.stderr
    (results,) = folder.rglob("results.json")
    return json.loads(results.read_text()), results.parent


def training(steps):
    return [
        f"--training.steps={steps}",
        f"--training.validate-every={steps}",
        "--training.warmup=5",
    ]


def test_posteriors(tmp_path):
    """A few steps come near to the posterior of the linear Gaussian, and its page has all parts."""
    results, folder = run(
        "posterior",
        tmp_path,
        *training(300),
        "--training.log-every=100",
        "--training.batch-size=125",  # odd: on one device, which compiles faster
        "--simulations=4000",
        "--observations=2",
        "--num-samples=400",
        "--densities=40",
        "--calibrations=40",
        "--draws-per-rank=19",
        "--likelihood-tolerance=1e-3",
        "--sampler.num-steps=10",
        "--net.width=32",
        "--net.depth=1",
        "simulator:LinearGaussian",
        "--simulator.dim=2",
    )
    figures = results["figures"]
    assert 0.4 < figures["c2st_floor"] < 0.6
    assert 0.45 < figures["c2st"] < 0.85  # 1.0 for anything else
    assert figures["log_prob_gap_per_dim"] < 0.5
    assert (folder / "figures" / "ranks of the true parameters.png").is_file()


@pytest.mark.slow
def test_digits_by_class(tmp_path):
    results, folder = run(
        "digits_conditional",
        tmp_path,
        *training(20),
        *TINY,
        "--num-samples=20",
        "--informed=2",
        "--weights",
        "1.0",
        "2.0",
        "--likelihood-tolerance=1e-1",
    )
    assert {"weight_1_accuracy", "weight_2_coverage"} <= set(results["figures"])
    titles = [table["title"] for table in results["tables"]]
    assert any("label tells" in title for title in titles)
    assert (folder / "figures" / "accuracy and diversity.png").is_file()


@pytest.mark.slow
def test_digits_by_a_classifier(tmp_path):
    results, folder = run(
        "digits_classifier",
        tmp_path,
        *training(100),
        "--num-samples=20",
        "--weights",
        "0.0",
        "2.0",
    )
    figures = results["figures"]
    assert figures["classifier_accuracy_0.05"] > 0.5
    assert figures["scale_2_accuracy"] > figures["scale_0_accuracy"]
    assert (folder / "figures" / "accuracy of the classifier.png").is_file()


@pytest.mark.parametrize(
    ("flag", "asked"), [("--afresh", {"afresh"}), ("--new-schedule", {"new_schedule"})]
)
def test_the_classifier_takes_the_flags_that_resuming_advises(monkeypatch, tmp_path, flag, asked):
    """They reach the training, and config.yaml stores neither of them."""
    monkeypatch.syspath_prepend(str(ROOT / "experiments"))
    module = importlib.import_module("digits_classifier")
    given = {}

    def fit(*_, **options):
        given.update(options)
        raise InterruptedError

    task = SimpleNamespace(shape=(8, 8, 1), dequantize=None)
    monkeypatch.setattr(module.ImageTask, "build", lambda **_: task)
    monkeypatch.setattr(module.sd, "pretrained", lambda _: None)
    monkeypatch.setattr(module.sd, "fit", fit)

    own = module.DigitsClassifier(runs=str(tmp_path))
    settings = parse(module.DigitsClassifier, [flag], defaults=vars(own))
    with pytest.raises(InterruptedError):
        module.run(settings)
    assert {name for name in ("afresh", "new_schedule") if given[name]} == asked
    assert given["config"] == own


@pytest.mark.slow
def test_garments_by_class(tmp_path):
    environment = FAST | {"SCORESDE_CACHE": str(tmp_path / "none")}
    results, _ = run("fashion_conditional", tmp_path, "--smoke", environment=environment)
    assert "weight_2_accuracy" in results["figures"]


# --- Figures ---


@pytest.mark.slow
def test_digits_reach_their_accuracy(tmp_path):
    """At the experiment's own settings: 97 % of guided samples are of the class asked for, and the
    accuracy rises with the weight while the spread falls."""
    results, _ = run("digits_conditional", tmp_path, environment=os.environ, timeout=3600)
    figures = results["figures"]
    accuracy = [figures[f"weight_{w}_accuracy"] for w in ("0", "1", "1.5", "2")]
    spread = [figures[f"weight_{w}_spread"] for w in ("1", "1.5", "2", "3", "4")]
    assert accuracy == sorted(accuracy)
    assert accuracy[-1] >= 0.97
    assert spread == sorted(spread, reverse=True)


@pytest.mark.slow
@pytest.mark.parametrize(("name", "c2st"), [("posterior", 0.55), ("posterior_two_moons", 0.58)])
def test_posteriors_reach_their_figures(tmp_path, name, c2st):
    results, _ = run(name, tmp_path, environment=os.environ, timeout=7200)
    figures = results["figures"]
    assert figures["c2st"] <= c2st
    assert figures["calibrated"]
    if name == "posterior":
        assert figures["log_prob_gap_per_dim"] <= 0.05
