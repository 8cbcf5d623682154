"""Runs that a command cannot use by itself: conditioned on vectors, or of a classifier."""

import re
from functools import partial
from types import SimpleNamespace

import jax
import numpy as np
import pytest
from tiny_run import DRAW, untrained

import scoresde as sd
from scoresde.nets.classifier import MLPClassifierConfig
from scoresde.runs.folder import RunFolder
from scoresde.train.model_settings import ClassifierSettings, ModelSettings

X = np.random.default_rng(0).normal(size=(6, 2)).astype(np.float32)
Y = np.random.default_rng(1).normal(size=(6, 3))


def run_of(path, **conditions):
    """Makes the folder of a run on points of the plane, whose network has these conditions."""
    net = sd.MLPConfig(width=8, depth=1, **conditions)
    return untrained(path / "run", ModelSettings(sd.VP(), net, sd.EDM(0.5)), (2,))


def advised(said, run, **names):
    """Runs the line of Python that an error advises, and returns what its call returns."""
    load, call = re.search(r"write in Python (model = .*?\)); (sd\..*\))", said).groups()
    assert repr(str(run)) in load
    names = {"sd": sd, "key": jax.random.key(0)} | names
    exec(load, names)
    return eval(call, names)


def test_vectors_need_python_to_sample(tmp_path, call):
    run = run_of(tmp_path, cond_dim=3)
    code, out, err = call("sample", run, *DRAW, "--json")
    assert (code, out) == (1, "")
    assert "is conditioned on a vector of 3 numbers, which a command cannot name" in err
    out = advised(err, run, sampler=sd.DDIM(num_steps=2), shape=X.shape, cond=Y)
    assert out.x.shape == X.shape

    code, _, err = call("sample", run, *DRAW, "--label", "0")
    assert code == 1
    assert "label = 0: wanted none, the network is conditioned on a vector of 3 numbers" in err


def test_held_out_vectors_have_likelihoods(tmp_path, json_of, call):
    """A file of examples alone does not have the vectors: what is advised there finds the same."""
    run = run_of(tmp_path, cond_dim=3)
    RunFolder(run).keep(X, Y)
    about = json_of("likelihood", run, "--exact", "--num", "4", "--tolerance", "1e-3")
    assert about["failed"] == 0

    np.save(tmp_path / "x.npy", X)
    code, _, err = call("likelihood", run, "--data", tmp_path / "x.npy")
    assert code == 1
    assert "is conditioned on a vector of 3 numbers, which" in err

    settings = {"divergence": sd.ExactDivergence(), "rtol": 1e-3, "atol": 1e-3}
    exact = SimpleNamespace(load=sd.load, log_likelihood=partial(sd.log_likelihood, **settings))
    out = advised(err, run, sd=exact, x0=X[:4], cond=Y[:4])
    assert about["nats"] == pytest.approx(float(np.mean(out.log_prob)), abs=1e-4)


def test_several_conditions_need_python(tmp_path, call):
    """A label is not enough where there is a vector too, and files of both are not read."""
    run = run_of(tmp_path, num_classes=4, cond_dim=3)
    RunFolder(run).keep(X, (np.zeros(6, int), Y))
    for command in ("sample", "likelihood"):
        code, _, err = call(command, run)
        assert code == 1
        assert "conditioned on a label of 4 classes and a vector of 3 numbers" in err
        assert "write in Python" in err

        code, _, err = call(command, run, "--label", "1")
        assert code == 1
        assert "Leave out --label" in err

    code, _, err = call("likelihood", run, "--label-information")
    assert code == 1
    assert "--label-information compares the labels of a class-conditional network" in err


def test_a_classifier_is_not_a_score(tmp_path, call, json_of):
    net = MLPClassifierConfig(num_classes=3, width=8, depth=1)
    run = untrained(tmp_path / "classifier", ClassifierSettings(sd.VP(), net), (2,))
    for command in ("sample", "likelihood"):
        for flags in ([], ["--model", "model.py:build"]):
            code, out, err = call(command, run, *flags, "--json")
            assert (code, out) == (1, "")
            assert f"{run} trained a classifier" in err
            assert f"sd.ClassifierGuidance(sd.load(RUN), sd.load('{run}'), label)" in err

    assert json_of("info", run)["trained"] == "a classifier of noisy data, to guide a score"
    assert call("report", run)[0] == 0
    page = re.sub(r"<[^>]+>+", "\n", (run / "report.html").read_text())
    assert re.search(r"\ntrained\n+a classifier of noisy data, to guide a score\n", page)


def test_info_says_that_a_run_trained_a_score(trained, json_of):
    assert json_of("info", trained)["trained"] == "a score"
