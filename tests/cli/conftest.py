"""One tiny trained run for all commands, and calls of the command line."""

import json
import shutil

import jax
import numpy as np
import pytest
from flax import nnx
from tiny_run import LEVELS, Experiment

import scoresde as sd
from scoresde.cli.main import main


@pytest.fixture(scope="session")
def trained(tmp_path_factory):
    """A run of 40 steps on integer points of the plane.

    It has checkpoints at 20 and 40, and a sampler in config.yaml.
    """
    path = tmp_path_factory.mktemp("runs") / "points"
    net = sd.MLPConfig(width=16, depth=1).build((2,), rngs=nnx.Rngs(0))
    model = sd.ScoreModel(sd.VP(), net, sd.EDM(0.5))
    data = np.random.default_rng(0).integers(3, 14, (200, 2))
    training = sd.Training(
        steps=40,
        batch_size=32,
        warmup=5,
        validate_every=20,
        log_every=10,
        learning_rate=1e-2,
    )
    sd.fit(
        jax.random.key(0),
        model,
        data,
        prepare=LEVELS,
        training=training,
        run=path,
        config=Experiment(),
        progress=False,
    )
    return path


@pytest.fixture(scope="session")
def labelled(tmp_path_factory):
    """A run of 60 steps on integer points of three classes, which lost their labels at times."""
    path = tmp_path_factory.mktemp("runs") / "labelled"
    net = sd.MLPConfig(width=16, depth=1, num_classes=3).build((2,), rngs=nnx.Rngs(0))
    model = sd.ScoreModel(sd.VP(), net, sd.EDM(0.5))
    rng = np.random.default_rng(0)
    label = rng.integers(0, 3, 200)
    data = np.array([[3, 8], [8, 13], [13, 3]])[label] + rng.integers(-1, 2, (200, 2))
    training = sd.Training(
        steps=60,
        batch_size=32,
        warmup=5,
        validate_every=60,
        log_every=20,
        learning_rate=1e-2,
        drop_cond=0.2,
    )
    sd.fit(
        jax.random.key(0),
        model,
        data,
        cond=label,
        prepare=LEVELS,
        training=training,
        run=path,
        config=Experiment(),
        progress=False,
    )
    return path


@pytest.fixture
def copy(trained, tmp_path):
    """A copy of the run, to be damaged."""
    return shutil.copytree(trained, tmp_path / "copy")


@pytest.fixture
def call(capsys, monkeypatch):
    """Runs the command line: (exit code, standard output, standard error)."""
    monkeypatch.setenv("COLUMNS", "100")

    def call(*arguments):
        capsys.readouterr()
        try:
            code = main([str(argument) for argument in arguments])
        except SystemExit as end:
            code = end.code
        return code, *capsys.readouterr()

    return call


@pytest.fixture
def json_of(call):
    """Returns the JSON object that a command prints."""

    def json_of(*arguments):
        code, out, err = call(*arguments, "--json")
        assert code == 0, err
        assert out.count("\n") == 1
        return json.loads(out, parse_constant=pytest.fail)

    return json_of
