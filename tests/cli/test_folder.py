"""`scoresde info` and `scoresde report`, on runs that are intact and on damaged ones."""

import json
import re
import shutil

import jax
import numpy as np
from flax import nnx
from tiny_run import DRAW, SAMPLER

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
    wanted = ["'name' .*line 2", "Unterminated string", "line 5 is not a row"]
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
