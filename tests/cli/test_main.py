"""The choice of a command, and mistakes in what follows it."""

import jax.numpy as jnp
import pytest

import scoresde as sd
from scoresde.train.load import open_run


@pytest.mark.parametrize(
    ("arguments", "code", "message"),
    [
        ([], 2, "wanted one of sample, likelihood, inpaint, restore"),
        (["smaple"], 2, "did you mean 'sample'"),
        (["sample"], 2, "RUN"),
        (["sample", "RUN", "--nun", "3"], 2, "--num"),
        (["sample", "RUN", "--sampler.num-stes", "3"], 2, "--sampler.num-steps"),
        (["sample", "RUN", "--sampler.rtol", "1"], 2, "--sampler.rtol"),
        (
            ["sample", "RUN", "sampler:euler"],
            2,
            "is not a choice: write sampler:euler-maruyama, or another of\n"
            "  sampler:{probability-flow, euler-maruyama",
        ),
        (["sample", "RUN", "--num", "0"], 2, "num = 0: wanted a whole number"),
        (["sample", "RUN", "--out", "x.png"], 2, "ends in .npz"),
        (["sample", "--out", ".", "RUN"], 2, "ends in .npz"),
        (["sample", "RUN", "--label", "1"], 1, "the network is unconditional"),
        (["sample", "RUN", "--step", "7"], 1, "Committed steps: [20, 40]"),
        (["sample", "RUN", "--out", "RUN/config.yaml/x.npz"], 1, "config.yaml"),
        (["sample", "nowhere"], 1, "nowhere is not a run's folder"),
        (["likelihood", "RUN", "--exact", "--probes", "2"], 2, "--exact uses no probes"),
        (["likelihood", "RUN", "--tolerance", "0"], 2, "tolerance"),
        (["info", "nowhere"], 1, "there is no folder nowhere"),
        (["report", "."], 1, "is not a run's folder"),
    ],
)
def test_mistakes_are_one_paragraph(trained, tmp_path, monkeypatch, call, arguments, code, message):
    monkeypatch.chdir(tmp_path)
    words = [argument.replace("RUN", str(trained)) for argument in arguments]
    found, out, err = call(*words, "--json")
    assert (found, out) == (code, "")
    assert message in err
    assert "Traceback" not in err


def test_the_sampler_is_never_that_of_another_folder(trained, copy, call):
    (copy / "x.npz").mkdir()
    code, _, err = call("sample", "--out", copy / "x.npz", trained)
    assert code == 2
    assert f"write the run first, scoresde sample {trained}" in err


def test_a_custom_model_is_not_rebuilt_alone(tmp_path, call, json_of):
    own = {"sde": "Mine()", "net": "MyNet", "parameterization": "EDM()"}
    with sd.runs.Checkpoints(tmp_path / "own" / "checkpoints") as checkpoints:
        state = {"ema": {"w": jnp.zeros((2, 3))}}
        checkpoints.save(3, state, {"model": None, "own": own, "shape": [2]})

    code, _, err = call("sample", tmp_path / "own")
    assert code == 1
    assert "model=model" in err
    assert "--model FILE.py:build" in err

    about = json_of("info", tmp_path / "own")
    assert (about["sde"], about["net"], about["parameters"]) == ("Mine()", "MyNet", 6)


def test_data_prepared_by_a_function_need_python(trained, monkeypatch, call):
    run = open_run(trained)
    run.about["prepare"] = {"own": "my_prepare"}
    monkeypatch.setattr("scoresde.cli.with_model.open_run", lambda *_, **__: run)
    code, _, err = call("likelihood", trained)
    assert code == 1
    assert "prepared its data by my_prepare" in err
