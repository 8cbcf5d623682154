"""The experiment as a person runs it: wrong flags, an interruption, resuming, the end, and what it reaches."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import jax.numpy as jnp
import pytest

import scoresde as sd

ROOT = Path(__file__).parents[1]
SCRIPT = str(ROOT / "experiments" / "digits_vp.py")
SHORT = ["--training.steps", "160", "--training.validate-every", "40", "--training.warmup", "20",
         "--num-samples", "64", "--likelihood-tolerance", "1e-2"]  # fmt: skip


def start(folder, *flags):
    environment = os.environ | {"COLUMNS": "200"}  # so that messages stand on one line
    return subprocess.Popen([sys.executable, SCRIPT, "--runs", str(folder), *flags], text=True, env=environment,
                            stdout=subprocess.PIPE, stderr=subprocess.PIPE)  # fmt: skip


def finish(process, timeout=400):
    out, err = process.communicate(timeout=timeout)
    return process.returncode, out, err


def test_wrong_flags_say_what_was_meant(tmp_path):
    code, _, err = finish(start(tmp_path, "--sde.beta-mx", "15"))
    assert code == 2
    assert "--sde.beta-max" in err
    code, _, err = finish(start(tmp_path, "--sde.beta-max", "-1"))
    assert code == 2
    assert "out of range" in err
    assert "Traceback" not in err


def test_an_unwritable_place_is_one_paragraph(tmp_path):
    (tmp_path / "file").write_text("in the way")
    code, out, err = finish(start(tmp_path / "file"))
    assert code == 1
    assert "cannot be written" in err
    assert "Traceback" not in out + err


def test_a_run_can_be_interrupted_resumed_and_finished(tmp_path):
    """Ctrl-C after the first checkpoint; the same command ends the run; once more says that it is finished."""
    run = tmp_path / "digits_vp"
    process = start(tmp_path, *SHORT)
    deadline = time.monotonic() + 300
    while not (run / "checkpoints" / "40" / "manifest.json").exists():
        assert process.poll() is None, process.communicate()
        assert time.monotonic() < deadline
        time.sleep(0.2)
    process.send_signal(signal.SIGINT)
    code, out, err = finish(process)
    assert code == 130, err
    assert "To go on:" in out
    assert "Traceback" not in err
    stopped = json.loads((run / "results.json").read_text())
    assert stopped["status"] == "interrupted"
    assert 40 <= stopped["step"] < 160

    code, out, err = finish(start(tmp_path, *SHORT, "--sde.beta-max", "15"))
    assert code == 1
    assert "sde.beta_max: 20.0 there, 15.0 now" in err

    code, out, err = finish(start(tmp_path, *SHORT))
    assert code == 0, err
    assert "report.html" in out.splitlines()[-1]
    rows = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    assert rows[-1]["step"] == 160
    assert {"config.yaml", "metrics.jsonl", "checkpoints", "samples", "report.html", "results.json"} <= {
        p.name for p in run.iterdir()
    }
    # The fast form of the figures below: even 160 steps beat the fitted Gaussian by far on held-out digits.
    figures = json.loads((run / "results.json").read_text())["figures"]
    assert figures["bits_per_dim"] + 5 * figures["bits_per_dim_stderr"] < figures["bits_per_dim_gaussian"]
    assert figures["likelihood_failures"] == figures["sampling_failures"] == 0
    page = (run / "report.html").read_text()
    assert f"{figures['bits_per_dim']:.3f} ± {figures['bits_per_dim_stderr']:.3f}" in page

    before = os.path.getmtime(run / "results.json")
    code, out, err = finish(start(tmp_path, *SHORT))
    assert code == 0
    assert "is finished" in out
    assert os.path.getmtime(run / "results.json") == before

    model = sd.load(run)
    assert isinstance(model.sde, sd.VP)
    assert bool(jnp.all(jnp.isfinite(model(jnp.zeros((2, 8, 8, 1)), 0.5))))


@pytest.mark.slow
@pytest.mark.parametrize("seed", [0, 1, 2])
def test_digits_reach_their_figures(tmp_path, seed):
    """The README's figures at the experiment's own settings, about 5 minutes a seed."""
    code, _, err = finish(start(tmp_path, "--seed", str(seed)), timeout=1800)
    assert code == 0, err
    figures = json.loads((tmp_path / "digits_vp" / "results.json").read_text())["figures"]
    print(seed, figures)
    assert figures["bits_per_dim"] < figures["bits_per_dim_gaussian"] - 0.9
    assert figures["bits_per_dim_gaussian"] == pytest.approx(2.94, abs=0.1)
    assert figures["fd"] < figures["fd_gaussian"] / 3
    assert figures["sure"] >= 0.80
    assert figures["sure_real"] > 0.9
