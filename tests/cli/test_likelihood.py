"""`scoresde likelihood`, compared with the library's own calls; sets that do not fit."""

import errno
import json
import re
import shutil
import tracemalloc
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from tiny_run import LEVELS, fake_likelihood, untrained

import scoresde as sd
from scoresde.cli.label_information import given_own_label, label_summary
from scoresde.cli.likelihood import LikelihoodCommand
from scoresde.keys import example_keys
from scoresde.likelihood import dataset
from scoresde.likelihood.dataset import SetLikelihood
from scoresde.train.load import open_run
from scoresde.train.model_settings import ModelSettings


def test_likelihoods_are_those_of_the_library(trained, json_of, call):
    """The numbers are those of sd.log_likelihood on the dequantised held-out examples.

    Bits/dim are computed from them by hand.
    """
    flags = ["--num", "8", "--seed", "5", "--probes", "2", "--tolerance", "1e-3", "--t-min", "1e-4"]
    about = json_of("likelihood", trained, *flags)

    # The same by the library's own calls.
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
    nats_to_bits = 1 / (2 * np.log(2))

    # Means and standard errors.
    nats_stderr = log_prob.std(ddof=1) / np.sqrt(8)
    bits = -log_prob.mean() * nats_to_bits + np.log2(17 / 2)
    assert about["nats"] == pytest.approx(log_prob.mean(), rel=1e-5)
    assert about["nats_stderr"] == pytest.approx(nats_stderr, rel=1e-4)
    assert about["bits_per_dim"] == pytest.approx(bits, rel=1e-5)
    assert about["bits_per_dim_stderr"] == pytest.approx(
        about["nats_stderr"] * nats_to_bits, rel=1e-4
    )
    probes = np.sqrt(np.mean(np.asarray(direct.stderr) ** 2) / 8) * nats_to_bits
    assert about["error_split"] == {
        "examples": None,
        "dequantization": None,
        "probes": pytest.approx(probes, rel=1e-4),
    }

    # What was done.
    assert about["evaluations"] == pytest.approx(np.mean(direct.nfe))
    assert (about["examples"], about["failed"], about["step"], about["ema"]) == (8, 0, 40, True)
    assert (about["t_min"], about["tolerance"]) == (1e-4, 1e-3)
    assert (about["seed"], about["shape"]) == (5, [2])
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
    """Bits/dim are -(log p + D H) / D ln 2 at the dequantisation's own draws.

    Three repeats and four probes tell the sources of the error apart.
    """
    about = json_of(
        "likelihood",
        trained,
        *("--num", "10"),
        *("--split", "test"),
        *("--probes", "4"),
        *("--repeats", "3"),
        *("--tolerance", "1e-3"),
        *("--t-min", "2e-3"),
        *("--dequantization", "truncated-normal"),
    )
    assert about["dequantization"]["kind"] == "TruncatedNormalDequantization"
    assert (about["dequantization"]["levels"], about["t_min"]) == (17, 2e-3)

    # Every example has one row in each repeat.
    lines = [json.loads(line) for line in Path(about["rows"]).read_text().splitlines()][1:]
    found = sorted((line["repeat"], line["rows"], len(line["nats"])) for line in lines)
    assert found == [(repeat, [*range(10)], 10) for repeat in range(3)]

    run = open_run(trained)
    dequantization = sd.TruncatedNormalDequantization(run.model.sde, 2e-3, 17)
    nats = np.array([line["nats"] for line in lines])
    bits = -(nats.mean() + 2 * float(dequantization.entropy)) / (2 * np.log(2))
    assert about["bits_per_dim"] == pytest.approx(bits, rel=1e-5)

    parts = about["error_split"]
    variance = sum(part**2 for part in parts.values())
    assert variance == pytest.approx(about["bits_per_dim_stderr"] ** 2, rel=1e-6)
    assert parts["examples"] > 0 < parts["dequantization"]


def test_a_t_min_that_cuts_the_noise_is_warned_about(trained):
    """At the default t_min the noise of truncated-normal is far narrower than a bin."""
    command = LikelihoodCommand(str(trained), dequantization="truncated-normal")
    message = r"half a bin of 17 levels is 59 standard .* t_min = 0.003 to make it 3"
    with pytest.warns(UserWarning, match=message):
        command._dequantization(open_run(trained))


def test_likelihoods_are_resumed_where_they_stopped(trained, monkeypatch, json_of, call):
    """A command killed in the middle of a line computes only the missing chunks when repeated."""
    options = {"--num": "7", "--batch-size": "4", "--repeats": "2", "--tolerance": "1e-2"}

    def likelihood(*more, **changes):
        flags = [word for pair in (options | changes).items() for word in pair]
        return json_of("likelihood", trained, *flags, *more)

    whole = likelihood("--seed", "9")
    rows = Path(whole["rows"])
    content = rows.read_text().splitlines(keepends=True)
    assert len(content) == 5

    # The first line holds all that the results depend on, which is no place on the disk.
    names = "step ema seed examples repeats shape dequantization divergence t_min tolerance weights"
    assert {*json.loads(content[0])["about"]} == {
        *names.split(),
        *("version", "content", "label", "key"),
    }
    assert str(trained) not in content[0]

    # Killed after the second of four chunks, in the middle of a line.
    calls = []
    real = dataset.log_likelihood

    def counting(*args, **kwargs):
        calls.append(len(args[3]))
        return real(*args, **kwargs)

    monkeypatch.setattr(dataset, "log_likelihood", counting)
    rows.write_text("".join([*content[:3], content[3][:20]]))
    again = likelihood("--seed", "9")
    assert calls == [4, 3]
    assert again | {"seconds": 0} == whole | {"seconds": 0}
    assert sorted(rows.read_text().splitlines(keepends=True)) == sorted(content)

    # Killed before the end of a line, then repeated in other batches; then from the file alone.
    rows.write_text("".join(content[:2]).rstrip("\n"))
    calls.clear()
    for _ in range(2):
        again = likelihood("--seed", "9", **{"--batch-size": "5"})
        assert calls == [3, 5, 2]
        assert again["failed"] == 0
        assert again["bits_per_dim"] == pytest.approx(whole["bits_per_dim"], abs=1e-5)

    # Killed in the first line: as if new.
    rows.write_text(content[0][:-30])
    assert likelihood("--seed", "9") | {"seconds": 0} == whole | {"seconds": 0}

    # Another seed, and other weights at the same step, have files of their own.
    other = likelihood("--seed", "10")
    assert other["rows"] != whole["rows"]
    weights = json.loads(content[0])["about"]["weights"]
    raw = likelihood("--no-ema", "--seed", "9")
    assert weights not in Path(raw["rows"]).read_text()

    # A digit that has changed is seen, and the mean is what it was.
    damaged = content[2].replace('"nats": [-', '"nats": [-1', 1)
    assert damaged != content[2]
    rows.write_text("".join([*content[:2], damaged, *content[3:]]))
    flags = [word for pair in options.items() for word in pair]
    calls.clear()
    code, out, err = call("likelihood", trained, *flags, "--seed", "9", "--json")
    assert code == 0
    assert json.loads(out) | {"seconds": 0} == whole | {"seconds": 0}
    assert calls == [3]
    assert f"warning: {rows}: line 3 does not match its checksum" in err


@pytest.mark.usefixtures("unchecked")
def test_likelihoods_of_a_file_and_failures(trained, tmp_path, monkeypatch, json_of):
    """A failed example is counted, listed and left out; a single example has no standard error."""
    file = tmp_path / "x.npy"
    np.save(file, np.full((3, 2), 8))
    fake, seen = fake_likelihood([0.0, np.nan, 2.0])
    monkeypatch.setattr(dataset, "log_likelihood", fake)

    about = json_of("likelihood", trained, "--data", file, "--exact")
    assert (about["failed"], about["failed_examples"], about["examples"]) == (1, [1], 3)
    assert (about["nats"], about["nats_stderr"]) == (1.0, 1.0)
    assert about["evaluations"] == 10
    assert about["data"] == str(file)
    assert seen["divergence"] == sd.ExactDivergence()

    # Dequantised as in training.
    assert np.all(seen["x"] >= -1 + 2 * 8 / 17)
    assert np.all(seen["x"] < -1 + 2 * 9 / 17)

    about = json_of("likelihood", trained, "--data", file, "--num", "1")
    assert (about["nats"], about["nats_stderr"], about["bits_per_dim_stderr"]) == (0.0, None, None)


@pytest.mark.usefixtures("unchecked")
def test_of_a_large_file_only_the_examples_asked_for_are_read(
    trained, tmp_path, monkeypatch, json_of
):
    file = tmp_path / "x.npy"
    x = np.lib.format.open_memmap(file, "w+", np.int64, (16_000_000, 2))  # 256 MB, on no disk
    x[:3] = 8
    monkeypatch.setattr(dataset, "log_likelihood", fake_likelihood([0.0, 1.0, 2.0])[0])

    tracemalloc.start()
    about = json_of("likelihood", trained, "--data", file, "--num", "3")
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert (about["examples"], about["nats"]) == (3, 1.0)
    assert peak < 2**26


@pytest.mark.usefixtures("unchecked")
def test_real_valued_data_have_a_density(tmp_path, monkeypatch, json_of, call):
    settings = ModelSettings(sd.VP(), sd.MLPConfig(width=8), sd.EDM())
    run = untrained(tmp_path / "real", settings, (2,))
    file = tmp_path / "x.npy"
    np.save(file, np.zeros((4, 2)))
    fake, _ = fake_likelihood([-1.0] * 4)
    monkeypatch.setattr(dataset, "log_likelihood", fake)

    about = json_of("likelihood", run, "--data", file)
    assert about["bits_per_dim"] == pytest.approx(1 / (2 * np.log(2)))
    assert "real-valued" in about["dequantization"]

    code, _, err = call("likelihood", run, "--data", file, "--dequantization", "truncated-normal")
    assert code == 1
    assert "nothing to dequantise" in err


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
    file = tmp_path / "x.npy"
    if isinstance(content, bytes):
        file.write_bytes(content)
    elif content is not None:
        np.save(file, content)

    code, out, err = call("likelihood", trained, "--data", file, "--json")
    assert (code, out) == (1, "")
    assert re.search(message, err)
    assert "Traceback" not in err


def test_labels_given_twice_are_refused():
    command = LikelihoodCommand("runs/points", label=1)
    with pytest.raises(ValueError, match="have labels already: leave out --label 1"):
        command._check_labels(3, np.array([0, 2]), Path("x.npy"))


def test_held_out_examples_that_are_missing_or_damaged(copy, call):
    file = copy / "held_out.npz"
    content = file.read_bytes()
    half = content[: len(content) // 2]
    overwritten = content[:60] + b"\xff" * 40 + content[100:]
    for damaged in (half, overwritten):
        file.write_bytes(damaged)
        code, _, err = call("likelihood", copy)
        assert code == 1
        assert "held_out.npz is not a .npz file of NumPy's" in err

    file.unlink()
    code, _, err = call("likelihood", copy)
    assert code == 1
    assert (
        "keeps no held_out.npz that can be used: name a file of examples, --data FILE.npy." in err
    )


# --- Where results are written ---

FEW = ["--num", "3", "--tolerance", "1e-2"]


@pytest.mark.usefixtures("unchecked")
def test_results_go_where_there_is_place(copy, tmp_path, monkeypatch, json_of, call):
    """Of a run whose folder cannot be written, for which a file stands here."""
    fake, _ = fake_likelihood([-1.0, -2.0, -3.0])
    monkeypatch.setattr(dataset, "log_likelihood", fake)
    whole = json_of("likelihood", copy, *FEW)
    shutil.move(copy / "likelihood", tmp_path / "earlier")
    (copy / "likelihood").write_text("a file")
    code, out, err = call("likelihood", copy, *FEW, "--json")
    assert (code, out) == (1, "")
    assert f"error: {copy / 'likelihood'} cannot be written (" in err
    assert "name another folder for the results, --out FOLDER.\n" in err

    # A folder that is new, and one that holds the results already.
    monkeypatch.setattr(dataset, "log_likelihood", fake_likelihood([-5.0] * 3)[0])
    new = json_of("likelihood", copy, *FEW, "--out", tmp_path / "new" / "results")
    assert new["nats"] == -5.0
    assert Path(new["rows"]).parent == tmp_path / "new" / "results"
    assert Path(new["rows"]).with_suffix(".json").exists()
    again = json_of("likelihood", copy, *FEW, "--out", tmp_path / "earlier")
    changed = {"seconds": 0, "rows": ""}
    assert again | changed == whole | changed


@pytest.mark.usefixtures("unchecked")
def test_results_that_are_complete_are_served_from_a_read_only_folder(
    copy, monkeypatch, json_of, call
):
    monkeypatch.setattr(dataset, "log_likelihood", fake_likelihood([-1.0, -2.0, -3.0])[0])
    whole = json_of("likelihood", copy, *FEW)
    before = {path: path.read_bytes() for path in (copy / "likelihood").iterdir()}
    real = Path.open

    def read_only(path, mode="r", *arguments, **options):
        if mode[0] != "r" and path.is_relative_to(copy):
            raise OSError(errno.EROFS, "Read-only file system", str(path))
        return real(path, mode, *arguments, **options)

    monkeypatch.setattr(Path, "open", read_only)
    assert json_of("likelihood", copy, *FEW) | {"seconds": 0} == whole | {"seconds": 0}
    assert {path: path.read_bytes() for path in (copy / "likelihood").iterdir()} == before

    code, _, err = call("likelihood", copy, *FEW, "--seed", "1")
    assert code == 1
    assert "cannot be written (Read-only file system): name another folder" in err


@pytest.mark.usefixtures("unchecked")
def test_a_run_that_was_moved_finds_its_results(copy, tmp_path, monkeypatch, json_of):
    monkeypatch.setattr(dataset, "log_likelihood", fake_likelihood([-1.0, -2.0, -3.0])[0])
    whole = json_of("likelihood", copy, *FEW)
    moved = tmp_path / "elsewhere" / "run"
    moved.parent.mkdir()
    shutil.move(copy, moved)

    monkeypatch.setattr(dataset, "log_likelihood", None)
    again = json_of("likelihood", moved, *FEW)
    changed = {"seconds": 0, "run": "", "data": "", "rows": ""}
    assert again | changed == whole | changed
    assert str(copy) not in json.dumps(again)


def test_ctrl_c_says_that_the_same_command_continues(copy, monkeypatch, call):
    def stop(*_, **__):
        raise KeyboardInterrupt

    monkeypatch.setattr(dataset, "log_likelihood", stop)
    code, _, err = call("likelihood", copy, *FEW)
    assert code == 130
    kept = f"What is done is kept in {copy / 'likelihood'}: the same command continues."
    assert err.endswith(f"\ninterrupted.\n{kept}\n")


# --- The information of labels ---

OF_LABELS = ["--num", "6", "--seed", "5", "--tolerance", "1e-3"]


def test_the_information_of_labels_is_that_of_the_library(labelled, json_of, call):
    """One draw of the dequantisation serves all labels of an example, and each label has a file of
    its own. Everything else is as without the flag."""
    about = json_of("likelihood", labelled, *OF_LABELS, "--label-information")

    run = open_run(labelled)
    held_out = run.held_out()
    assert held_out is not None
    keys = example_keys(jax.random.fold_in(jax.random.key(5), 0), 6)
    key_dequantize, key_probes = jnp.moveaxis(jax.vmap(jax.random.split)(keys), 1, 0)
    x = LEVELS(key_dequantize, jnp.asarray(held_out[0][:6]))
    label = held_out[1][:6]
    direct = sd.label_information(
        key_probes, run.model.sde, run.model, x, label, rtol=1e-3, atol=1e-3
    )
    assert about["classes"] == 3
    assert about["label_bits"] == pytest.approx(direct.mean, abs=1e-4)
    assert about["label_bits_stderr"] == pytest.approx(direct.stderr, abs=1e-4)
    assert about["label_accuracy"] == pytest.approx(direct.accuracy)
    assert about["label_failed"] == 0
    assert about["label_bits"] < np.log2(3)

    # The rows given each label.
    for y in range(3):
        lines = Path(about["rows"].replace("*", str(y))).read_text().splitlines()
        assert json.loads(lines[0])["about"]["given"] == y
        nats = json.loads(lines[1])["nats"]
        np.testing.assert_allclose(nats, direct.log_prob[:, y], rtol=1e-4, atol=1e-4)

    plain = json_of("likelihood", labelled, *OF_LABELS)
    for name in ("nats", "nats_stderr", "bits_per_dim", "bits_per_dim_stderr", "evaluations"):
        assert about[name] == pytest.approx(plain[name], rel=1e-5)
    assert {*about} - {*plain} == {
        *("classes", "label_bits", "label_bits_stderr", "label_accuracy", "label_failed")
    }

    # Both stay, and both are on the page.
    folder = labelled / "likelihood"
    assert len([*folder.glob("*.json")]) == 2
    assert call("report", labelled)[0] == 0
    page = (labelled / "report.html").read_text()
    assert page.count("6 examples of held_out.npz, 0 failed") == 2


def test_the_information_of_labels_is_resumed(labelled, monkeypatch, json_of, call):
    flags = [*OF_LABELS[:2], *OF_LABELS[4:], "--seed", "6", "--repeats", "2", "--label-information"]
    whole = json_of("likelihood", labelled, *flags)
    Path(whole["rows"].replace("*", "1")).unlink()

    calls = []
    real = dataset.log_likelihood

    def counting(*args, **kwargs):
        calls.append(np.asarray(args[4]).tolist())
        return real(*args, **kwargs)

    monkeypatch.setattr(dataset, "log_likelihood", counting)
    again = json_of("likelihood", labelled, *flags)
    assert calls == [[1] * 6] * 2
    assert again | {"seconds": 0} == whole | {"seconds": 0}

    code, out, _ = call("likelihood", labelled, *flags)
    assert code == 0
    assert f"{whole['label_bits']:.5g} ± {whole['label_bits_stderr']:.2g}" in out


def test_labels_of_which_a_solve_failed_are_left_out():
    """By hand: two labels and two repeats, of which one of the last example's failed."""
    nats = np.array(
        [
            [[-1.0, -3.0], [-5.0, -5.0], [-2.0, -2.0], [-1.0, -1.0]],
            [[-2.0, -2.0], [-2.0, -4.0], [-1.0, -1.0], [-1.0, np.nan]],
        ]
    )
    label = np.array([0, 1, 0, 0])
    given = [
        SetLikelihood(nats[y], 0.1 * np.abs(nats[y]), np.full((4, 2), 10 + y), LEVELS)
        for y in range(2)
    ]
    own = given_own_label(given, label)
    np.testing.assert_array_equal(own.nats, [[-1, -3], [-2, -4], [-2, -2], [-1, -1]])
    np.testing.assert_allclose(own.stderr, 0.1 * np.abs(own.nats))
    np.testing.assert_array_equal(own.nfe[:, 0], [10, 11, 10, 10])

    # Means over repeats -2, -2; -5, -3; -2, -1: the first is a tie, which label 0 wins.
    bits = np.log2(2 / (1 + np.exp([0.0, -2.0, 1.0])))
    found = label_summary(given, label)
    assert (found["classes"], found["label_failed"]) == (2, 1)
    assert found["label_bits"] == pytest.approx(bits.mean())
    assert found["label_bits_stderr"] == pytest.approx(bits.std(ddof=1) / np.sqrt(3))
    assert found["label_accuracy"] == pytest.approx(2 / 3)


def test_the_information_of_labels_needs_labels(trained, call):
    code, _, err = call("likelihood", trained, "--label-information")
    assert code == 1
    assert "--label-information compares the labels of a class-conditional network" in err
