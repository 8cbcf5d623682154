"""`scoresde sample`, compared with the library's own calls."""

import json
import shutil

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from PIL import Image
from tiny_run import DRAW, SAMPLER, fake_samples, untrained

import scoresde as sd
from scoresde import checks
from scoresde.train.model_settings import ModelSettings


def drawn_by_the_library(model, sampler=SAMPLER):
    """Returns the samples that `scoresde sample RUN *DRAW` should draw."""
    return sd.sample(jax.random.key(3), sampler, model.sde, model, (6, 2))


def test_samples_are_those_of_the_library(trained, json_of):
    """The run's own sampler, newest checkpoint and EMA; the same key gives the same samples."""
    about = json_of("sample", trained, *DRAW)
    expected = drawn_by_the_library(sd.load(trained))
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
    name = "EulerMaruyama_num_steps=20_num=6_seed=3_step=40.npz"
    assert about["samples"] == str(trained / "samples" / name)
    assert Image.open(about["picture"]).format == "PNG"


def test_another_sampler_draws_and_its_path_is_animated(trained, json_of):
    about = json_of("sample", trained, "--num", "40", "sampler:heun", "--gif")
    with Image.open(about["animation"]) as gif:
        assert gif.format == "GIF"
        assert gif.n_frames > 10
    assert about["failed"] == 0


def test_a_run_that_names_no_sampler_takes_twenty_steps(copy, json_of):
    """As a plain `fit` leaves it, where docs/results.md says that 20 evaluations suffice."""
    (copy / "config.yaml").write_text("steps: 40\n")
    found = json_of("sample", copy, *DRAW)
    assert found["sampler"]["kind"] == "UniPC"
    assert found["evaluations"] <= 21


def test_a_start_below_one_wants_data(trained, call):
    code, _, said = call("sample", trained, "sampler:ddim", "--sampler.start", "0.5")
    assert code != 0
    assert "x0=data" in said


def test_weights_are_those_asked_for(trained, json_of):
    """EMA or raw, newest or earlier: each as `open_run` gives it, and all different."""
    cases = [
        ([], {}),
        (["--no-ema"], {"ema": False}),
        (["--step", "20"], {"step": 20}),
    ]
    drawn = []
    for flags, kwargs in cases:
        about = json_of("sample", *flags, trained, *DRAW)
        drawn.append(np.load(about["samples"])["x"])
        expected = drawn_by_the_library(sd.load(trained, **kwargs)).x
        np.testing.assert_allclose(drawn[-1], expected, rtol=1e-5, atol=1e-6)

    assert about["step"] == 20
    assert min(np.abs(drawn[i] - drawn[j]).max() for i in range(3) for j in range(i)) > 1e-3


def test_a_sampler_is_chosen_anywhere_among_the_flags(trained, tmp_path, call):
    out = tmp_path / "new" / "draw.npz"
    code, said, _ = call(
        "sample",
        *("--sampler.num-steps", "9"),
        "sampler:predictor-corrector",
        trained,
        *DRAW,
        *("--out", out),
        *("--sampler.t-min", "1e-2"),
        "sampler.corrector:identity",
    )
    assert code == 0
    assert "sampler          PredictorCorrector(" in said
    assert "predictor=ReverseDiffusion(), corrector=Identity()" in said

    sampler = sd.PredictorCorrector(corrector=sd.correctors.Identity(), num_steps=9, t_min=1e-2)
    expected = drawn_by_the_library(sd.load(trained), sampler)
    with np.load(out) as stored:
        np.testing.assert_allclose(stored["x"], expected.x, rtol=1e-5, atol=1e-6)
        assert stored["nfe"].tolist() == [10] * 6
    assert out.with_suffix(".png").exists()


def test_the_run_s_own_sampler_takes_flags(trained, monkeypatch, json_of):
    """--sampler.num-steps works without naming the sampler.

    Other settings give files of other names, so that nothing is overwritten.
    """
    monkeypatch.setattr("scoresde.cli.sample.sample", fake_samples(np.zeros((6, 2), np.float32)))
    cases = [
        [],
        ["--sampler.num-steps", "30"],
        ["sampler.grid:uniform-log-snr"],
        ["sampler:predictor-corrector"],
        ["sampler:predictor-corrector", "sampler.predictor:identity"],
        ["--seed", "4"],
        ["--no-ema"],
    ]
    files = {json_of("sample", trained, *DRAW, *flags)["samples"] for flags in cases}
    assert len(files) == 7


def test_long_or_odd_settings_still_give_a_files_name(trained, json_of):
    times = [str(t) for t in np.geomspace(1.0, 1e-3, 41).round(6)]
    about = json_of(
        "sample",
        trained,
        *DRAW,
        "sampler:ddim",
        "sampler.grid:given-times",
        *("--sampler.num-steps", "40"),
        *("--sampler.grid.times", *times),
    )
    name = about["samples"].rsplit("/", 1)[1]
    assert len(name) < 100
    assert not set(name) & set(" '[]{}")


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
    """Samples take the classes in turn, or one class; a label that does not exist is refused."""
    settings = ModelSettings(sd.VP(), sd.MLPConfig(width=8, depth=1, num_classes=3), sd.EDM())
    run = untrained(tmp_path / "labels", settings, (5,))
    x = np.zeros((4, 5), np.float32)

    monkeypatch.setattr("scoresde.cli.sample.sample", fake_samples(x, cond=[0, 1, 2, 0]))
    about = json_of("sample", run, "--num", "4")
    assert about["picture"] is None  # neither images nor points of the plane
    assert np.load(about["samples"])["label"].tolist() == [0, 1, 2, 0]

    monkeypatch.setattr("scoresde.cli.sample.sample", fake_samples(x, cond=[2] * 4))
    assert json_of("sample", run, "--num", "4", "--label", "2")["label"] == 2

    code, _, err = call("sample", run, "--num", "4", "--label", "3")
    assert code == 1
    assert "label = 3: wanted 0 … 2." in err

    np.save(tmp_path / "x.npy", np.zeros((2, 5)))
    code, _, err = call("likelihood", run, "--data", tmp_path / "x.npy")
    assert code == 1
    assert "name their class, --label K" in err


# --- Many samples, in chunks ---

MANY = ["--num", "32", "--batch-size", "7", "--seed", "3"]


def chunks_drawn(monkeypatch, stop_at=None):
    """Counts the chunks that are drawn, and interrupts one of them."""
    calls = []

    def counting(*arguments, **options):
        calls.append(arguments[4])
        if len(calls) == stop_at:
            raise KeyboardInterrupt
        return sd.sample(*arguments, **options)

    monkeypatch.setattr("scoresde.cli.sample.sample", counting)
    return calls


def test_an_interrupted_command_continues_to_the_same_bytes(
    trained, tmp_path, monkeypatch, json_of, call
):
    calls = chunks_drawn(monkeypatch)
    whole = json_of("sample", trained, *MANY, "--out", tmp_path / "whole.npz")
    wanted = (tmp_path / "whole.npz").read_bytes()
    assert calls == [(7, 2)] * 5
    model = sd.load(trained)
    expected = sd.sample(jax.random.key(3), SAMPLER, model.sde, model, (32, 2), batch_size=7).x
    with np.load(tmp_path / "whole.npz") as stored:
        np.testing.assert_allclose(stored["x"], expected, rtol=1e-5, atol=1e-6)

    # Interrupted in the fourth chunk.
    out = tmp_path / "new" / "x.npz"
    chunks_drawn(monkeypatch, stop_at=4)
    code, _, err = call("sample", trained, *MANY, "--out", out)
    assert code == 130
    (partial,) = out.parent.iterdir()
    assert f"What is done is kept in {partial}: the same command continues.\n" in err
    lines = partial.read_text().splitlines(keepends=True)
    assert len(lines) == 4
    depends_on = {*json.loads(lines[0])["about"]}
    assert depends_on > {"seed", "step", "ema", "num", "sampler", "guidance", "weights", "version"}
    assert "run" not in depends_on

    # A chunk that has changed is named and drawn again, with those that were not drawn.
    damaged = lines[2].replace('"base64": "', '"base64": "A', 1)
    partial.write_text("".join([*lines[:2], damaged, lines[3]]))
    calls = chunks_drawn(monkeypatch)
    code, said, err = call("sample", trained, *MANY, "--out", out, "--json")
    assert code == 0
    assert f"warning: {partial}: line 3 does not match its checksum. What is lost" in err
    assert len(calls) == 3
    assert out.read_bytes() == wanted
    assert not partial.exists()
    changed = {"seconds": 0, "samples": "", "picture": ""}
    assert json.loads(said) | changed == whole | changed


def test_failed_samples_of_every_chunk_are_named_by_their_place(trained, monkeypatch, call):
    seen = []

    def fake(keys, sampler, sde, score, shape, cond, batch_size, progress):
        rows = np.arange(len(seen), len(seen) + len(keys))
        seen.extend(rows)
        success = ~np.isin(rows, [2, 9])
        checks.warn_of_failures(success, "samples", "t_min")
        x = np.zeros(shape, np.float32)
        return sd.Sample(jnp.asarray(x), 10, path=None, success=jnp.asarray(success))

    monkeypatch.setattr("scoresde.cli.sample.sample", fake)
    code, out, err = call("sample", trained, "--num", "12", "--batch-size", "4", "--json")
    assert code == 0
    assert json.loads(out)["failed"] == 2
    assert err.count("did not reach") == 1
    assert "2 of 12 samples did not reach t_min, rows 2, 9:" in err


def test_a_folder_that_cannot_be_written_is_refused_before_anything_is_drawn(
    copy, monkeypatch, call
):
    monkeypatch.setattr("scoresde.cli.sample.sample", None)
    shutil.rmtree(copy / "samples", ignore_errors=True)
    (copy / "samples").write_text("a file")
    code, out, err = call("sample", copy, *DRAW, "--json")
    assert (code, out) == (1, "")
    assert f"error: {copy / 'samples'} cannot be written (" in err
    assert "name another file for the samples, --out NAME.npz.\n" in err


# --- Guidance ---


def test_guided_samples_are_those_of_the_library(labelled, json_of):
    """Each weight and interval draws its own samples, into a file of its own."""
    model = sd.load(labelled)
    cases = [
        ([], model),
        (["--guidance", "3"], sd.ClassifierFreeGuidance(model, 3.0)),
        (
            ["--guidance", "3", "--guidance-interval", "0.3", "2"],
            sd.ClassifierFreeGuidance(model, 3.0, (0.3, 2.0)),
        ),
    ]
    drawn = {}
    for flags, score in cases:
        about = json_of("sample", labelled, *DRAW, "--label", "1", *flags)
        with np.load(about["samples"]) as stored:
            drawn[about["samples"]] = stored["x"]
            assert stored["label"].tolist() == [1] * 6
        expected = sd.sample(jax.random.key(3), SAMPLER, model.sde, score, (6, 2), np.full(6, 1))
        np.testing.assert_allclose(drawn[about["samples"]], expected.x, rtol=1e-4, atol=1e-5)

    assert (about["guidance"], about["guidance_interval"]) == (3.0, [0.3, 2.0])
    name = "EulerMaruyama_num_steps=20_label=1_guidance=3.0_num=6_seed=3_step=60"
    assert about["samples"] == str(labelled / "samples" / f"{name}_interval=0.3-2.0.npz")
    assert len(drawn) == 3
    plain, guided, within = drawn.values()
    assert min(np.abs(a - b).max() for a, b in [(plain, guided), (guided, within)]) > 1e-3


def test_a_weight_of_one_is_the_plain_model(labelled, json_of, call):
    """Without a label the classes come in turn, guided each to its own."""
    files = [
        json_of("sample", labelled, *DRAW, *flags)["samples"] for flags in ([], ["--guidance", "1"])
    ]
    plain, guided = (np.load(file)["x"] for file in files)
    np.testing.assert_allclose(guided, plain, rtol=1e-4, atol=1e-5)

    code, out, _ = call("sample", labelled, *DRAW, "--guidance", "1")
    assert code == 0
    assert "guidance         1\nguidance interval none\n" in out


@pytest.mark.parametrize(
    ("flags", "code", "message"),
    [
        (["--guidance", "nan"], 2, "guidance = nan is out of range"),
        (["--guidance-interval", "0.2", "5"], 2, "but there is no guidance"),
        (["--guidance", "2", "--guidance-interval", "5", "0.2"], 2, "wanted 0 <= LOW < HIGH"),
        (["--guidance", "2"], 1, "has no classes to be guided by"),
    ],
)
def test_guidance_that_makes_no_sense_is_refused(trained, call, flags, code, message):
    found, out, err = call("sample", trained, *DRAW, *flags, "--json")
    assert (found, out) == (code, "")
    assert message in err
    assert "Traceback" not in err


@pytest.mark.parametrize("null_is_trained", [False, None])
def test_guidance_needs_training_without_labels(tmp_path, call, null_is_trained):
    """Checkpoints from before there was `drop_cond` do not say so, and were not trained so."""
    settings = ModelSettings(sd.VP(), sd.MLPConfig(width=8, depth=1, num_classes=3), sd.EDM())
    run = untrained(tmp_path / "run", settings, (5,), null_is_trained=null_is_trained)
    code, _, err = call("sample", run, *DRAW, "--label", "1", "--guidance", "2")
    assert code == 1
    assert "never trained without its labels" in err
    assert "--training.drop-cond 0.1 of the experiment" in err


# --- A picture by class ---


def test_a_picture_has_a_column_for_each_class(tmp_path, json_of):
    """Of the picture and of the animation; one class alone is drawn about square."""
    net = sd.MLPConfig(width=8, depth=1, num_classes=3)
    run = untrained(tmp_path / "images", ModelSettings(sd.VP(), net, sd.EDM()), (8, 8, 1))
    fast = ["sampler:ddim", "--sampler.num-steps", "2", "--num", "7"]

    about = json_of("sample", run, *fast, "--gif")
    columns, rows = 3, 3
    width, height = 2 + 50 * columns, 2 + 50 * rows
    assert Image.open(about["picture"]).size == (width, height)
    with Image.open(about["animation"]) as gif:
        assert gif.size == (2 * width + 8, height + 18)

    about = json_of("sample", run, *fast[:-1], "4", "--label", "1", "--gif")
    assert Image.open(about["picture"]).size == (2 + 50 * 2, 2 + 50 * 2)
    with Image.open(about["animation"]) as gif:
        assert gif.size == (2 * 102 + 8, 102 + 18)
