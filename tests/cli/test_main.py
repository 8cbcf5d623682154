"""The commands on one tiny trained run, held against the library's own calls; what a user gets wrong, and the help."""

import dataclasses
import gc
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
import warnings
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from PIL import Image

import scoresde as sd
import scoresde.cli.folder
import scoresde.cli.likelihood
import scoresde.cli.sample
from scoresde.cli import main as cli
from scoresde.cli.exit import exit_code
from scoresde.keys import example_keys
from scoresde.likelihood import dataset
from scoresde.sampling.choices import AnySampler
from scoresde.train.load import describe, open_run
from scoresde.train.model_settings import ModelSettings
from scoresde.train.state import Skeleton, init_state

LEVELS = sd.UniformDequantization(levels=17)
DRAW = [
    "--num",
    "6",
    "--seed",
    "3",
]  # one shape and one sampler, so that most tests share a compilation
OWN = sd.EulerMaruyama(num_steps=20)


@dataclasses.dataclass(frozen=True)
class Experiment:
    sampler: AnySampler = OWN


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """40 steps on integer points of the plane, with checkpoints at 20 and 40; its config.yaml names a sampler."""
    path = tmp_path_factory.mktemp("runs") / "points"
    net = sd.MLPConfig(width=16, depth=1).build((2,), rngs=nnx.Rngs(0))
    model = sd.ScoreModel(sd.VP(), net, sd.EDM(0.5))
    data = np.random.default_rng(0).integers(3, 14, (200, 2))
    training = sd.Training(
        steps=40, batch_size=32, warmup=5, validate_every=20, log_every=10, learning_rate=1e-2
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


@pytest.fixture
def copy(trained, tmp_path):
    """The run, to be damaged."""
    return shutil.copytree(trained, tmp_path / "copy")


@pytest.fixture
def call(capsys, monkeypatch):
    """Run the command line: (exit code, standard output, standard error)."""
    monkeypatch.setenv("COLUMNS", "100")

    def call(*arguments):
        capsys.readouterr()
        try:
            code = cli.main([str(argument) for argument in arguments])
        except SystemExit as end:
            code = end.code
        return code, *capsys.readouterr()

    return call


@pytest.fixture
def json_of(call):
    """The JSON object that a command prints."""

    def json_of(*arguments):
        code, out, err = call(*arguments, "--json")
        assert code == 0, err
        assert out.count("\n") == 1
        return json.loads(out, parse_constant=pytest.fail)

    return json_of


def untrained(path, settings, shape, prepare=None):
    """A run's folder with one checkpoint of fresh weights."""
    model = settings.build(jax.random.key(0), shape)
    _, params, constants = Skeleton.split(model)
    with sd.runs.Checkpoints(path / "checkpoints") as checkpoints:
        state = init_state(params, constants, sd.Training().optimizer())
        checkpoints.save(1, state, describe(model, shape, prepare) | {"examples": 5})
    return path


# --- sample ---


def test_samples_are_those_of_the_library(trained, json_of):
    """The run's own sampler, newest checkpoint and EMA; the same key gives the same samples."""
    about = json_of("sample", trained, *DRAW)
    model = sd.load(trained)
    expected = sd.sample(jax.random.key(3), OWN, model.sde, model, (6, 2))
    with np.load(about["samples"]) as stored:
        np.testing.assert_allclose(stored["x"], expected.x, rtol=1e-5, atol=1e-6)
        assert stored["nfe"].tolist() == [21] * 6
        assert stored["success"].all()
    assert (about["step"], about["ema"], about["seed"], about["num"]) == (40, True, 3, 6)
    assert (about["failed"], about["evaluations"]) == (0, 21)
    assert about["sampler"] == {
        "kind": "EulerMaruyama",
        "num_steps": 20,
        "t_min": 1e-3,
        "denoise": True,
        "start": 1.0,
        "grid": {"kind": "Uniform"},
        "save_path": False,
    }
    assert about["samples"] == str(
        trained / "samples" / "EulerMaruyama_num_steps=20_num=6_seed=3_step=40.npz"
    )
    assert Image.open(about["picture"]).format == "PNG"


def test_another_sampler_draws_and_its_path_is_animated(trained, json_of):
    about = json_of("sample", trained, "--num", "40", "sampler:heun", "--gif")
    with Image.open(about["animation"]) as gif:
        assert gif.format == "GIF"
        assert gif.n_frames > 10
    assert about["failed"] == 0


def test_a_start_below_one_wants_data(trained, call):
    code, _, said = call("sample", trained, "sampler:ddim", "--sampler.start", "0.5")
    assert code != 0
    assert "x0=data" in said


def test_weights_are_those_asked_for(trained, json_of):
    """EMA or raw, newest or earlier: each as `open_run` gives it, and all different."""
    drawn = []
    for flags, kwargs in (
        ((), {}),
        (["--no-ema"], {"ema": False}),
        (["--step", "20"], {"step": 20}),
    ):
        about = json_of("sample", *flags, trained, *DRAW)
        model = sd.load(trained, **kwargs)
        drawn.append(np.load(about["samples"])["x"])
        expected = sd.sample(jax.random.key(3), OWN, model.sde, model, (6, 2)).x
        np.testing.assert_allclose(drawn[-1], expected, rtol=1e-5, atol=1e-6)
    assert about["step"] == 20
    assert min(np.abs(drawn[i] - drawn[j]).max() for i in range(3) for j in range(i)) > 1e-3


def test_a_sampler_is_chosen_anywhere_among_the_flags(trained, tmp_path, call):
    out = tmp_path / "new" / "draw.npz"
    code, said, _ = call(
        "sample",
        "--sampler.num-steps",
        "9",
        "sampler:predictor-corrector",
        trained,
        *DRAW,
        "--out",
        out,
        "--sampler.t-min",
        "1e-2",
        "sampler.corrector:identity",
    )
    assert code == 0
    assert "sampler          PredictorCorrector(" in said
    assert "predictor=predictors.ReverseDiffusion(), corrector=correctors.Identity()" in said
    model = sd.load(trained)
    sampler = sd.PredictorCorrector(corrector=sd.correctors.Identity(), num_steps=9, t_min=1e-2)
    with np.load(out) as stored:
        expected = sd.sample(jax.random.key(3), sampler, model.sde, model, (6, 2))
        np.testing.assert_allclose(stored["x"], expected.x, rtol=1e-5, atol=1e-6)
        assert stored["nfe"].tolist() == [10] * 6
    assert out.with_suffix(".png").exists()


def test_the_run_s_own_sampler_takes_flags(trained, monkeypatch, json_of):
    """--sampler.num-steps without naming the sampler; other settings have other names, so nothing is overwritten."""
    monkeypatch.setattr("scoresde.cli.sample.sample", fake_samples(np.zeros((6, 2), np.float32)))
    files = {
        json_of("sample", trained, *DRAW, *flags)["samples"]
        for flags in (
            [],
            ["--sampler.num-steps", "30"],
            ["sampler.grid:uniform-log-snr"],
            ["sampler:predictor-corrector"],
            ["sampler:predictor-corrector", "sampler.predictor:identity"],
            ["--seed", "4"],
            ["--no-ema"],
        )
    }
    assert len(files) == 7


def fake_samples(x, failed=(), cond=None):
    """sd.sample with a known result, where what surrounds it is asked for."""
    expected = cond
    success = np.isin(np.arange(len(x)), failed, invert=True)

    def sample(key, sampler, sde, score, shape, cond, batch_size, progress):
        assert shape == x.shape
        assert expected == (None if cond is None else cond.tolist())
        nfe = jnp.asarray(np.where(success, 10, 999))
        return sd.Sample(x=jnp.asarray(x), nfe=nfe, path=None, success=jnp.asarray(success))

    return sample


def test_failed_samples_are_counted_and_not_averaged_in(
    trained, tmp_path, monkeypatch, call, json_of
):
    x = np.where(np.arange(6)[:, None] == 2, np.nan, 0.5 * np.ones((6, 2), np.float32))
    monkeypatch.setattr("scoresde.cli.sample.sample", fake_samples(x, [2]))
    about = json_of("sample", trained, *DRAW, "--out", tmp_path / "x.npz")
    assert (about["failed"], about["evaluations"]) == (1, 10)
    assert np.load(tmp_path / "x.npz")["success"].tolist() == [True, True, False, True, True, True]
    monkeypatch.setattr("scoresde.cli.sample.sample", fake_samples(x, range(6)))
    code, out, err = call("sample", trained, *DRAW, "--json")
    assert (code, out) == (1, "")
    assert "all 6 samples failed" in err


def test_labels_of_a_conditional_network(tmp_path, monkeypatch, json_of, call):
    """Every class in turn, or one; a label that is none is refused."""
    settings = ModelSettings(sd.VP(), sd.MLPConfig(width=8, depth=1, num_classes=3), sd.EDM())
    run = untrained(tmp_path / "labels", settings, (5,))
    monkeypatch.setattr(
        "scoresde.cli.sample.sample",
        fake_samples(np.zeros((4, 5), np.float32), cond=[0, 1, 2, 0]),
    )
    about = json_of("sample", run, "--num", "4")
    assert about["picture"] is None  # neither images nor points of the plane
    assert np.load(about["samples"])["label"].tolist() == [0, 1, 2, 0]
    monkeypatch.setattr(
        "scoresde.cli.sample.sample", fake_samples(np.zeros((4, 5), np.float32), cond=[2] * 4)
    )
    assert json_of("sample", run, "--num", "4", "--label", "2")["label"] == 2
    code, _, err = call("sample", run, "--num", "4", "--label", "3")
    assert code == 1
    assert "label = 3: wanted 0 … 2." in err
    np.save(tmp_path / "x.npy", np.zeros((2, 5)))
    code, _, err = call("likelihood", run, "--data", tmp_path / "x.npy")
    assert code == 1
    assert "name their class, --label K" in err


def test_images_are_drawn_in_the_range_of_their_data(trained, tmp_path):
    """Of data dequantised to [0, 1], 1 is white, and 0 black."""
    prepare = sd.UniformDequantization(low=0.0, high=1.0)
    run = dataclasses.replace(open_run(trained), prepare=prepare)
    x = np.stack([np.zeros((8, 8, 1)), np.ones((8, 8, 1))])
    picture = np.asarray(Image.open(scoresde.cli.sample._picture(x, tmp_path / "x.png", run)))
    assert picture[20, 20].max() == 0
    assert picture[20, 70].min() == 255


# --- likelihood ---


def test_likelihoods_are_those_of_the_library(trained, json_of, call):
    """The same numbers as sd.log_likelihood on the dequantised held-out examples, and the same bits by hand."""
    flags = ["--num", "8", "--seed", "5", "--probes", "2", "--tolerance", "1e-3", "--t-min", "1e-4"]
    about = json_of("likelihood", trained, *flags)
    run = open_run(trained)
    held_out = run.held_out()
    assert held_out is not None
    keys = example_keys(jax.random.fold_in(jax.random.key(5), 0), 8)
    key_dequantize, key_probes = jnp.moveaxis(jax.vmap(jax.random.split)(keys), 1, 0)
    x = LEVELS(key_dequantize, jnp.asarray(held_out[0][:8]))
    direct = sd.log_likelihood(
        key_probes,
        run.model.sde,
        run.model,
        x,
        divergence=sd.Hutchinson(2),
        rtol=1e-3,
        atol=1e-3,
        t_min=1e-4,
    )
    log_prob = np.asarray(direct.log_prob)
    assert about["nats"] == pytest.approx(log_prob.mean(), rel=1e-5)
    assert about["nats_stderr"] == pytest.approx(log_prob.std(ddof=1) / np.sqrt(8), rel=1e-4)
    assert about["bits_per_dim"] == pytest.approx(
        -log_prob.mean() / (2 * np.log(2)) + np.log2(17 / 2), rel=1e-5
    )
    assert about["bits_per_dim_stderr"] == pytest.approx(
        about["nats_stderr"] / (2 * np.log(2)), rel=1e-4
    )
    probes = np.sqrt(np.mean(np.asarray(direct.stderr) ** 2) / 8) / (2 * np.log(2))
    assert about["error_split"] == {
        "examples": None,
        "dequantization": None,
        "probes": pytest.approx(probes, rel=1e-4),
    }
    assert about["evaluations"] == pytest.approx(np.mean(direct.nfe))
    assert (about["examples"], about["failed"], about["step"], about["ema"]) == (8, 0, 40, True)
    assert (about["t_min"], about["tolerance"], about["seed"], about["shape"]) == (
        1e-4,
        1e-3,
        5,
        [2],
    )
    assert about["dequantization"] == {
        "kind": "UniformDequantization",
        "levels": 17,
        "low": -1.0,
        "high": 1.0,
    }
    assert about["divergence"]["kind"] == "Hutchinson"
    assert about["divergence"]["num_probes"] == 2
    code, out, _ = call("likelihood", trained, *flags)
    assert code == 0
    assert f"{about['bits_per_dim']:.5g} ± {about['bits_per_dim_stderr']:.2g}" in out
    assert "UniformDequantization(levels=17, low=-1, high=1)" in out


def test_truncated_normal_dequantisation_and_the_split_of_the_error(trained, json_of):
    """Its bits are -(log p + D H) / D ln 2 at its own draws; three repeats and four probes tell the sources apart."""
    flags = [
        "--num",
        "10",
        "--split",
        "test",
        "--probes",
        "4",
        "--repeats",
        "3",
        "--tolerance",
        "1e-3",
        "--t-min",
        "2e-3",
        "--dequantization",
        "truncated-normal",
    ]
    about = json_of("likelihood", trained, *flags)
    assert about["dequantization"]["kind"] == "TruncatedNormalDequantization"
    assert (about["dequantization"]["levels"], about["t_min"]) == (17, 2e-3)
    run = open_run(trained)
    held_out = run.held_out()
    assert held_out is not None
    own = sd.TruncatedNormalDequantization(run.model.sde, 2e-3, 17)
    lines = [json.loads(line) for line in Path(about["rows"]).read_text().splitlines()][1:]
    assert sorted((line["repeat"], line["rows"], len(line["nats"])) for line in lines) == [
        (r, [*range(10)], 10) for r in range(3)
    ]
    nats = np.array([line["nats"] for line in lines])
    assert about["bits_per_dim"] == pytest.approx(
        -(nats.mean() + 2 * float(own.entropy)) / (2 * np.log(2)), rel=1e-5
    )
    parts = about["error_split"]
    assert sum(part**2 for part in parts.values()) == pytest.approx(
        about["bits_per_dim_stderr"] ** 2, rel=1e-6
    )
    assert parts["examples"] > 0 < parts["dequantization"]
    with pytest.warns(
        UserWarning, match=r"half a bin of 17 levels is 59 standard .* t_min = 0.003 makes it 3"
    ):
        scoresde.cli.likelihood.Likelihood(
            str(trained), dequantization="truncated-normal"
        )._dequantization(run)


def test_likelihoods_stream_and_go_on_where_they_stopped(trained, monkeypatch, json_of, call):
    """Killed after the second of four chunks, within a line: the same command does the other chunks, and no more."""
    flags = [
        "--num",
        "7",
        "--batch-size",
        "4",
        "--repeats",
        "2",
        "--tolerance",
        "1e-2",
        "--seed",
        "9",
    ]
    whole, calls, real = json_of("likelihood", trained, *flags), [], dataset.log_likelihood
    rows = Path(whole["rows"])
    content = rows.read_text().splitlines(keepends=True)
    assert len(content) == 5
    rows.write_text("".join([*content[:3], content[3][:20]]))
    monkeypatch.setattr(
        dataset, "log_likelihood", lambda *a, **k: calls.append(len(a[3])) or real(*a, **k)
    )
    again = json_of("likelihood", trained, *flags)
    assert calls == [4, 3]
    assert again | {"seconds": 0} == whole | {"seconds": 0}
    assert sorted(rows.read_text().splitlines(keepends=True)) == sorted(content)
    rows.write_text(
        "".join(content[:2]).rstrip("\n")
    )  # killed before the end of the line; then in other batches
    calls.clear()
    for _ in range(2):  # the second time from the file alone
        again = json_of("likelihood", trained, *flags[:3], "5", *flags[4:])
        assert calls == [3, 5, 2]
        assert again["failed"] == 0
        assert again["bits_per_dim"] == pytest.approx(whole["bits_per_dim"], abs=1e-5)
    other = json_of("likelihood", trained, *flags[:-1], "10")
    assert other["rows"] != whole["rows"]
    rows.write_text("".join([content[0], "no JSON\n", content[1]]))
    code, _, err = call("likelihood", trained, *flags)
    assert code == 1
    assert "line 2 cannot be read" in err
    weights = json.loads(content[0])["about"][
        "weights"
    ]  # other weights at the same step have rows of their own
    raw = json_of("likelihood", trained, "--no-ema", *flags)
    assert weights not in Path(raw["rows"]).read_text()
    rows.write_text(content[0][:-30])  # killed in its first line: as if new
    assert json_of("likelihood", trained, *flags) | {"seconds": 0} == whole | {"seconds": 0}


def fake_likelihood(log_prob):
    """log_likelihood that finds these values, NaN for a failure."""

    def log_likelihood(key, sde, score, x, cond, divergence, *rest, batch_size):
        values = jnp.asarray(log_prob[: len(x)], jnp.float32)
        seen.update(x=np.asarray(x), divergence=divergence)
        good = jnp.isfinite(values)
        return sd.Likelihood(values, values * jnp.nan, x, jnp.where(good, 10, 99), good, None)

    seen = {}
    return log_likelihood, seen


@pytest.mark.usefixtures("unchecked")
def test_likelihoods_of_a_file_and_failures(trained, tmp_path, monkeypatch, json_of):
    """A failed example is counted, named and left out; one example alone has no standard error."""
    np.save(tmp_path / "x.npy", np.full((3, 2), 8))
    fake, seen = fake_likelihood([0.0, np.nan, 2.0])
    monkeypatch.setattr(dataset, "log_likelihood", fake)
    about = json_of("likelihood", trained, "--data", tmp_path / "x.npy", "--exact")
    assert (about["failed"], about["examples"], about["nats"], about["nats_stderr"]) == (
        1,
        3,
        1.0,
        1.0,
    )
    assert about["failed_examples"] == [1]
    assert about["evaluations"] == 10
    assert about["data"] == str(tmp_path / "x.npy")
    assert seen["divergence"] == sd.ExactDivergence()
    assert np.all(
        (seen["x"] >= -1 + 2 * 8 / 17) & (seen["x"] < -1 + 2 * 9 / 17)
    )  # dequantised as in training
    about = json_of("likelihood", trained, "--data", tmp_path / "x.npy", "--num", "1")
    assert (about["nats"], about["nats_stderr"], about["bits_per_dim_stderr"]) == (0.0, None, None)


@pytest.mark.usefixtures("unchecked")
def test_real_valued_data_have_a_density(tmp_path, monkeypatch, json_of, call):
    run = untrained(
        tmp_path / "real", ModelSettings(sd.VP(), sd.MLPConfig(width=8), sd.EDM()), (2,)
    )
    np.save(tmp_path / "x.npy", np.zeros((4, 2)))
    monkeypatch.setattr(dataset, "log_likelihood", fake_likelihood([-1.0] * 4)[0])
    about = json_of("likelihood", run, "--data", tmp_path / "x.npy")
    assert about["bits_per_dim"] == pytest.approx(1 / (2 * np.log(2)))
    assert "real-valued" in about["dequantization"]
    code, _, err = call(
        "likelihood", run, "--data", tmp_path / "x.npy", "--dequantization", "truncated-normal"
    )
    assert code == 1
    assert "nothing to dequantise" in err


def test_the_runs_own_tolerance_and_t_min_are_the_defaults(copy, call, json_of):
    (copy / "config.yaml").write_text("likelihood_t_min: 1.0e-2\nlikelihood_tolerance: 1e-2\n")
    about = json_of("likelihood", copy, "--num", "2")
    assert (about["t_min"], about["tolerance"]) == (1e-2, 1e-2)
    assert json_of("likelihood", copy, "--num", "2", "--t-min", "1e-3")["t_min"] == 1e-3


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (np.zeros((3, 4)), r"x.npy holds \(3, 4\): wanted one array of shape \(n, 2\)"),
        (np.zeros((0, 2)), r"holds \(0, 2\)"),
        (np.full((3, 2), 0.5), "wanted whole numbers 0 … 16"),
        (np.full((3, 2), 8 + 1j), "x.npy has dtype complex128"),
        (np.array([["a", "b"]]), "x.npy has dtype <U1"),
        (b"no array", "not an array that NumPy can read"),
        (b"", "not an array that NumPy can read"),
        (None, "No such file"),
    ],
)
def test_examples_that_do_not_fit_are_refused(trained, tmp_path, call, content, message):
    if isinstance(content, bytes):
        (tmp_path / "x.npy").write_bytes(content)
    elif content is not None:
        np.save(tmp_path / "x.npy", content)
    code, out, err = call("likelihood", trained, "--data", tmp_path / "x.npy", "--json")
    assert (code, out) == (1, "")
    assert re.search(message, err)
    assert "Traceback" not in err


def test_held_out_examples_that_are_missing_or_damaged(copy, call):
    content = (copy / "held_out.npz").read_bytes()
    for damaged in (content[: len(content) // 2], content[:60] + b"\xff" * 40 + content[100:]):
        (copy / "held_out.npz").write_bytes(damaged)
        code, _, err = call("likelihood", copy)
        assert code == 1
        assert "held_out.npz is not an array that NumPy can read" in err
    (copy / "held_out.npz").unlink()
    code, _, err = call("likelihood", copy)
    assert code == 1
    assert "keeps no held_out.npz that can be used: name examples by --data FILE.npy." in err


# --- info, report, damaged runs ---


def test_info_says_what_was_trained(trained, json_of, call):
    about = json_of("info", trained)
    model = sd.load(trained)
    count = sum(np.size(leaf) for leaf in jax.tree.leaves(nnx.state(model.net, nnx.Param)))
    assert about["parameters"] == count
    assert about["sde"] == {"kind": "VP", "beta_min": 0.1, "beta_max": 20.0}
    assert (about["net"]["width"], about["parameterization"]["kind"]) == (16, "EDM")
    assert (about["shape"], about["examples"], about["prepare"]["levels"]) == ([2], 180, 17)
    assert about["checkpoints"] == {"20": "good", "40": "good"}
    assert about["metrics"]["step"] == 40
    assert about["notes"] == ["no results.json"]
    _, out, _ = call("info", trained)
    assert "sde              VP(beta_min=0.1, beta_max=20)\n" in out


def test_a_damaged_checkpoint_is_passed_over_and_said(copy, call, json_of):
    arrays = max(
        (file for file in (copy / "checkpoints" / "40").rglob("*") if file.is_file()),
        key=lambda file: file.stat().st_size,
    )
    content = bytearray(arrays.read_bytes())
    content[len(content) // 2] ^= 1
    arrays.write_bytes(content)
    code, out, err = call("sample", copy, *DRAW, "--json")
    assert code == 0
    about = json.loads(out)
    assert about["step"] == 20
    assert "warning: passed over: step 40 cannot be used" in err
    model = sd.load(copy, step=20)
    expected = sd.sample(jax.random.key(3), OWN, model.sde, model, (6, 2)).x
    np.testing.assert_allclose(np.load(about["samples"])["x"], expected, rtol=1e-5, atol=1e-6)
    code, _, err = call("sample", copy, *DRAW, "--step", "40")
    assert code == 1
    assert "step 40 cannot be used" in err
    health = json_of("info", copy)["checkpoints"]
    assert health["20"] == "good"
    assert "has changed" in health["40"]


def test_info_works_before_the_first_checkpoint_and_on_what_is_broken(copy, json_of):
    shutil.rmtree(copy / "checkpoints")
    (copy / "config.yaml").write_text("sde: {kind: VE}\nname: a\nname: b\n")
    (copy / "results.json").write_text('{"headline": [["bits/d')
    with (copy / "metrics.jsonl").open("a") as file:
        file.write("broken\n{}\n")
    about = json_of("info", copy)
    assert (about["checkpoints"], about["parameters"], about["sde"]) == ({}, None, None)
    assert about["metrics"]["step"] == 40
    assert [
        bool(re.search(wanted, note))
        for wanted, note in zip(
            ("'name' stands in line 2 too", "Unterminated string", "line 5 is no row"),
            about["notes"],
            strict=False,
        )
    ] == [True] * 3
    (copy / "config.yaml").write_text("sde: {kind: VE, sigma_max: 7.0}\n")
    (copy / "results.json").write_text(
        '{"status": "running", "headline": [["bits/dim", "1.9 ± 0.1", "a note"]]}'
    )
    about = json_of("info", copy)
    assert about["sde"] == {"kind": "VE", "sigma_max": 7.0}
    assert (about["status"], about["results"]) == ("running", {"bits/dim": "1.9 ± 0.1"})


def test_report_is_written_anew(copy, call):
    (copy / "report.html").unlink(missing_ok=True)
    code, out, _ = call("report", copy)
    assert code == 0
    assert str(copy / "report.html") in out
    assert "loss" in (copy / "report.html").read_text()


# --- What a user gets wrong ---


@pytest.mark.parametrize(
    ("arguments", "code", "message"),
    [
        ([], 2, "wanted one of sample, likelihood, info, report"),
        (["smaple"], 2, "did you mean 'sample'"),
        (["sample"], 2, "RUN"),
        (["sample", "RUN", "--nun", "3"], 2, "--num"),
        (["sample", "RUN", "--sampler.num-stes", "3"], 2, "--sampler.num-steps"),
        (["sample", "RUN", "--sampler.rtol", "1"], 2, "--sampler.rtol"),
        (
            ["sample", "RUN", "sampler:euler"],
            2,
            "is no choice: write sampler:euler-maruyama, or another of\n  sampler:{probability-flow, euler-maruyama",
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
    found, out, err = call(
        *(argument.replace("RUN", str(trained)) for argument in arguments), "--json"
    )
    assert (found, out) == (code, "")
    assert message in err
    assert "Traceback" not in err


def test_the_sampler_is_never_that_of_another_folder(trained, copy, call):
    (copy / "x.npz").mkdir()
    code, _, err = call("sample", "--out", copy / "x.npz", trained)
    assert code == 2
    assert f"write the run first, scoresde sample {trained}" in err


def test_an_unreadable_sampler_is_said_unless_one_is_chosen(copy, call, monkeypatch):
    (copy / "config.yaml").write_text("sampler: {kind: Mine}\n")
    code, _, err = call("sample", copy)
    assert code == 1
    assert "kind is 'Mine': wanted one of ProbabilityFlow, EulerMaruyama" in err
    assert "config.yaml: sampler" in err
    monkeypatch.setattr("scoresde.cli.sample.sample", fake_samples(np.zeros((6, 2), np.float32)))
    assert call("sample", copy, "sampler:euler-maruyama", *DRAW)[0] == 0


def test_an_own_model_and_an_own_prepare_need_python(tmp_path, trained, monkeypatch, call, json_of):
    own = {"sde": "Mine()", "net": "MyNet", "parameterization": "EDM()"}
    with sd.runs.Checkpoints(tmp_path / "own" / "checkpoints") as checkpoints:
        checkpoints.save(
            3, {"ema": {"w": jnp.zeros((2, 3))}}, {"model": None, "own": own, "shape": [2]}
        )
    code, _, err = call("sample", tmp_path / "own")
    assert code == 1
    assert "model=model" in err
    about = json_of("info", tmp_path / "own")
    assert (about["sde"], about["net"], about["parameters"]) == ("Mine()", "MyNet", 6)
    run = open_run(trained)
    run.about["prepare"] = {"own": "my_prepare"}
    monkeypatch.setattr("scoresde.cli.with_model.open_run", lambda *_, **__: run)
    code, _, err = call("likelihood", trained)
    assert code == 1
    assert "prepared its data by my_prepare" in err


def test_interruption_and_debug(trained, monkeypatch, call):
    def stop(*_, **__):
        raise KeyboardInterrupt

    monkeypatch.setattr("scoresde.cli.sample.sample", stop)
    code, out, err = call("sample", trained, "--json")
    assert (code, out) == (130, "")
    assert "interrupted" in err
    with pytest.raises(FileNotFoundError):
        call("sample", "nowhere", "--debug")


def test_only_json_reaches_standard_output(trained, monkeypatch, call):
    """Whatever a library prints or warns of goes to standard error."""
    real = scoresde.cli.folder.write_report

    def chatty(run):
        print("chatter")
        warnings.warn("a warning", stacklevel=1)
        return real(run)

    monkeypatch.setattr("scoresde.cli.folder.write_report", chatty)
    code, out, err = call("--json", "report", trained)
    assert code == 0
    assert json.loads(out) == {"report": str(trained / "report.html")}
    assert "chatter" in err
    assert "warning: a warning" in err


def test_a_reader_that_is_gone_is_no_error(trained):
    """As `scoresde info RUN | head -0` would; the only test in a process of its own."""
    process = subprocess.Popen(
        [sys.executable, "-m", "scoresde", "info", str(trained)],
        env=os.environ,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    assert process.stdout is not None
    assert process.stderr is not None
    process.stdout.close()
    assert process.stderr.read() == ""
    assert process.wait(timeout=60) == 0


def test_an_interrupted_command_ends_with_130(trained):
    """Ctrl-C while XLA compiles or runs: Python's own way out would crash (exit code -11)."""
    command = [
        sys.executable,
        "-m",
        "scoresde",
        "sample",
        str(trained),
        "--num",
        "1000000",
        "--batch-size",
        "10000",
        "sampler:euler-maruyama",
        "--sampler.num-steps",
        "200",
    ]
    process = subprocess.Popen(
        command, env=os.environ, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )
    assert process.stderr is not None
    assert process.stderr.read(9).strip() == "sampling"
    time.sleep(1.0)
    process.send_signal(signal.SIGINT)
    _, err = process.communicate(timeout=60)
    assert process.returncode == 130
    assert "interrupted." in err
    assert "Traceback" not in err


def test_ctrl_c_lost_in_a_callback_comes_again(monkeypatch):
    """Python drops what is raised in a callback of its garbage collector, where a Ctrl-C may find XLA; of that
    nothing is printed, of another error dropped there it is."""
    lost, printed = [], []
    monkeypatch.setattr(sys, "unraisablehook", lambda dropped: printed.append(dropped.exc_type))

    def callback(phase, info):
        if not lost:
            lost.append(phase)
            signal.raise_signal(signal.SIGINT)
        elif phase == "stop":
            raise LookupError

    def action(arguments):
        gc.callbacks.append(callback)
        gc.collect()
        gc.callbacks.remove(callback)
        time.sleep(30.0)

    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    try:
        assert exit_code(action, [], "interrupted.") == 130
        assert lost
        assert printed == [LookupError]
        assert signal.getsignal(signal.SIGINT) is signal.default_int_handler
    finally:
        signal.signal(signal.SIGINT, before)


# --- Help ---


@pytest.mark.parametrize(
    "command", [(), ("sample",), ("likelihood",), ("info",), ("report",), ("import-checkpoint",)]
)
def test_help_fits_a_screen(command, call):
    code, out, _ = call(*command, "--help")
    lines = out.splitlines()
    assert code == 0
    assert len(lines) <= 40
    assert max(map(len, lines)) <= (120 if not command else 110)


def test_help_names_every_command_and_sampler(call):
    _, out, _ = call("--help")
    assert all(f"scoresde {command} " in out for command in cli.COMMANDS)
    _, out, _ = call("sample", "--help")
    assert "sampler:{probability-flow, euler-maruyama, predictor-corrector" in out
    assert "--sampler.rtol" not in out
    _, out, _ = call("sample", "sampler:euler-maruyama", "--help")
    assert "--sampler.num-steps" in out
    assert call("--version")[1] == f"scoresde {sd.__version__}\n"


def test_long_or_odd_settings_still_give_a_files_name(trained, json_of):
    times = [str(t) for t in np.geomspace(1.0, 1e-3, 41).round(6)]
    about = json_of(
        "sample",
        trained,
        *DRAW,
        "sampler:ddim",
        "sampler.grid:given-times",
        "--sampler.num-steps",
        "40",
        "--sampler.grid.times",
        *times,
    )
    name = about["samples"].rsplit("/", 1)[1]
    assert len(name) < 100 and not set(name) & set(" '[]{}")
