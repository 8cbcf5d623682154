"""`scoresde info` and `scoresde report`, on runs that are intact and on damaged ones."""

import dataclasses
import json
import re
import shutil

import jax
import numpy as np
import pytest
from flax import nnx
from tiny_run import DRAW, LEVELS, SAMPLER, fake_likelihood

import scoresde as sd


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


def test_a_damaged_checkpoint_is_passed_over_and_reported(copy, call, json_of):
    # One bit of the largest file, which holds the arrays, is flipped.
    files = [file for file in (copy / "checkpoints" / "40").rglob("*") if file.is_file()]
    arrays = max(files, key=lambda file: file.stat().st_size)
    content = bytearray(arrays.read_bytes())
    content[len(content) // 2] ^= 1
    arrays.write_bytes(content)

    # The step before it is used instead, with a warning.
    code, out, err = call("sample", copy, *DRAW, "--json")
    assert code == 0
    about = json.loads(out)
    assert about["step"] == 20
    assert "warning: passed over: step 40 cannot be used" in err
    model = sd.load(copy, step=20)
    expected = sd.sample(jax.random.key(3), SAMPLER, model.sde, model, (6, 2)).x
    np.testing.assert_allclose(np.load(about["samples"])["x"], expected, rtol=1e-5, atol=1e-6)

    # The damaged step, asked for by name, is refused.
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
    wanted = ["'name' .*line 2", "Unterminated string", "Line 5 of metrics.jsonl is not a row"]
    assert len(about["notes"]) >= 3
    for pattern, note in zip(wanted, about["notes"], strict=False):
        assert re.search(pattern, note)

    (copy / "config.yaml").write_text("sde: {kind: VE, sigma_max: 7.0}\n")
    (copy / "results.json").write_text(
        '{"status": "running", "headline": [["bits/dim", "1.9 ± 0.1", "a note"]]}'
    )
    about = json_of("info", copy)
    assert about["sde"] == {"kind": "VE", "sigma_max": 7.0}
    assert (about["status"], about["results"]) == ("running", {"bits/dim": "1.9 ± 0.1"})


def test_report_is_written_again(copy, call):
    (copy / "report.html").unlink(missing_ok=True)
    code, out, _ = call("report", copy)
    assert code == 0
    assert str(copy / "report.html") in out
    assert "loss" in (copy / "report.html").read_text()


def test_the_page_of_a_plain_fit_says_what_was_found(
    tmp_path, monkeypatch, json_of, call, unchecked
):
    """SDE, network, settings, data, and the likelihoods that a command computed."""
    run = tmp_path / "run"
    net = sd.MLPConfig(width=16, depth=1).build((2,), rngs=nnx.Rngs(0))
    model = sd.ScoreModel(sd.VP(beta_max=15.0), net, sd.EDM(0.25))
    training = sd.Training(steps=4, batch_size=8, validate_every=4, log_every=2)
    data = np.random.default_rng(0).integers(3, 14, (40, 2))

    def fit(training, **options):
        sd.fit(
            jax.random.key(0),
            model,
            data,
            prepare=LEVELS,
            training=training,
            run=run,
            progress=False,
            **options,
        )

    fit(training)
    fit(dataclasses.replace(training, steps=8, learning_rate=1e-4), new_schedule=True)

    log_prob = np.log([0.5, 0.7, 0.2, 0.4])
    fake, _ = fake_likelihood(log_prob)
    monkeypatch.setattr("scoresde.likelihood.dataset.log_likelihood", fake)
    found = json_of("likelihood", run)
    stderr = np.std(log_prob, ddof=1) / 2
    assert (found["nats"], found["nats_stderr"]) == pytest.approx((log_prob.mean(), stderr))

    code, *_ = call("report", run)
    page = (run / "report.html").read_text()
    assert code == 0
    decimals = f"{found['bits_per_dim']:.2f} ± {found['bits_per_dim_stderr']:.2f}"
    assert decimals in page
    assert f"log p in nats {log_prob.mean():.2f} ± {stderr:.2f}; 4 examples" in page
    text = re.sub(r"<[^>]+>+", "\n", page)
    for name, value in {
        "SDE": "VP(beta_min=0.1, beta_max=15)",
        "network": "MLPConfig(width=16, depth=1",
        "parameterisation": "EDM(sigma_data=0.25)",
        "training examples": "36",
        "shape of an example": "(2)",
        "optimizer": "Adam(b1=0.9, b2=0.999)",
        "batch size": "8",
        "steps taken": "8",
        "new schedule": "learning_rate 0.001 → 0.0001 at step 4",
    }.items():
        assert re.search(rf"\n{re.escape(name)}\n+{re.escape(value)}", text), name

    changes = json_of("info", run)["changes"]
    assert changes == ["learning_rate 0.001 → 0.0001 at step 4"]


def test_a_result_that_cannot_be_read_is_noted(copy, call):
    (copy / "likelihood").mkdir(exist_ok=True)
    (copy / "likelihood" / "cut.json").write_text('{"step": 4')
    call("report", copy)
    assert "likelihood/cut.json cannot be read" in (copy / "report.html").read_text()


def test_the_page_goes_where_there_is_place(copy, tmp_path, call):
    """Of a run whose folder cannot be written, for which a folder stands in the page's place."""
    (copy / "report.html").unlink(missing_ok=True)
    (copy / "report.html").mkdir()
    code, out, err = call("report", copy, "--json")
    assert (code, out) == (1, "")
    assert f"error: {copy} cannot be written (Is a directory): name another file" in err

    page = tmp_path / "new" / "page.html"
    code, out, _ = call("report", copy, "--out", page)
    assert code == 0
    assert str(page) in out
    assert "<title>copy</title>" in page.read_text()
    assert call("report", copy, "--out", tmp_path / "page")[0] == 2


def test_what_reads_a_run_writes_nothing_there(copy, call):
    def stamps():
        return {path: path.stat().st_mtime_ns for path in [copy, *copy.rglob("*")]}

    before = stamps()
    assert call("info", copy)[0] == 0
    sd.load(copy)
    assert call("sample", copy, "--help")[0] == 0
    assert stamps() == before
