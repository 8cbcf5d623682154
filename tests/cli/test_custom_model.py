"""Commands on a run of the user's own SDE and network, built by a function of the user's file."""

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

MODEL = """
from __future__ import annotations

import dataclasses

import jax
import jax.numpy as jnp
from flax import nnx
from sizes import WIDTH

import scoresde as sd
from scoresde.types import Scalar, pytree_dataclass


@pytree_dataclass()
class Quadratic(sd.SDE):
    beta: Scalar = 20.0

    def log_alpha(self, t):
        return -0.25 * self.beta * t**2

    def variance(self, t):
        return -jnp.expm1(2.0 * self.log_alpha(t))


class Net(nnx.Module):
    def __init__(self, rngs):
        self.inner = nnx.Linear(3, WIDTH, rngs=rngs)
        self.outer = nnx.Linear(WIDTH, 2, rngs=rngs)

    def __call__(self, x, t):
        inputs = jnp.concatenate([x, jnp.broadcast_to(t, x.shape[:1])[:, None]], axis=1)
        return self.outer(nnx.silu(self.inner(inputs)))


def build():
    return sd.ScoreModel(Quadratic(), Net(nnx.Rngs(0)), sd.Noise())


def weaker():
    return dataclasses.replace(build(), sde=Quadratic(beta=15.0))


def a_number():
    return 7


def broken():
    return sd.ScoreModel(Quadratic(), Net(), sd.Noise())


if __name__ == "__main__":
    data = jax.random.normal(jax.random.key(0), (64, 2))
    training = sd.Training(steps=2, batch_size=16, validate_every=2, log_every=1)
    sd.fit(jax.random.key(1), build(), data, training=training, run="run", progress=False)
"""


@pytest.fixture(scope="module")
def home(tmp_path_factory):
    """A folder where a user has trained: model.py, what it imports, and the run."""
    home = tmp_path_factory.mktemp("home")
    (home / "sizes.py").write_text("WIDTH = 8\n")
    (home / "model.py").write_text(MODEL)
    (home / "faulty.py").write_text("import nowhere_to_be_found\n")
    root = str(Path(__file__).parents[2])
    environment = os.environ | {"PYTHONPATH": root}
    subprocess.run([sys.executable, "model.py"], cwd=home, env=environment, check=True)
    return home


def test_the_advised_option_opens_the_run(home, monkeypatch, call, json_of):
    monkeypatch.chdir(home)
    code, _, err = call("sample", "run")
    assert code == 1
    option, place = re.search(r"(--model) (FILE\.py:build)", err).groups()
    option = [option, place.replace("FILE", "model")]

    drawn = json_of("sample", "run", "--num", "3", *option)
    assert (drawn["failed"], Path(drawn["samples"]).is_file()) == (0, True)
    found = json_of("likelihood", "run", "--exact", "--num", "2", *option)
    assert -20 < found["nats"] < 0


def test_another_model_is_refused(home, monkeypatch, call):
    monkeypatch.chdir(home)
    code, _, err = call("sample", "run", "--num", "3", "--model", "model.py:weaker")
    assert code == 1
    assert re.search(r"error: model.py:weaker builds another .*beta=20.* there, .*beta=15", err)


@pytest.mark.parametrize(
    ("place", "message"),
    [
        ("model.py", "--model model.py: wanted --model FILE.py:NAME"),
        ("other.py:build", "there is no file other.py"),
        ("model.py:biuld", "model.py has no biuld"),
        ("model.py:WIDTH", "WIDTH in model.py is of type int, not a function"),
        ("model.py:a_number", "model.py:a_number returned a value of type int: wanted"),
        ("model.py:broken", "model.py:broken failed with TypeError"),
        ("faulty.py:build", "faulty.py failed with ModuleNotFoundError"),
    ],
)
def test_mistakes_are_one_paragraph(home, monkeypatch, call, place, message):
    monkeypatch.chdir(home)
    code, out, err = call("sample", "run", "--model", place)
    assert (code, out) == (1, "")
    assert message in err
    assert "Traceback" not in err


def test_a_run_that_does_not_need_it_says_so(home, trained, monkeypatch, call):
    monkeypatch.chdir(home)
    code, _, err = call("sample", trained, "--model", "model.py:build")
    assert code == 1
    assert "Leave out --model" in err
