"""`scoresde sample`, compared with the library's own calls."""

import jax
import numpy as np
from PIL import Image
from tiny_run import DRAW, SAMPLER, fake_samples, untrained

import scoresde as sd
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
