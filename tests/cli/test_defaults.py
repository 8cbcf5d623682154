"""Defaults that a run's config.yaml gives to the options of a command."""

import numpy as np
from tiny_run import DRAW, fake_samples


def test_the_runs_own_tolerance_and_t_min_are_the_defaults(copy, json_of):
    (copy / "config.yaml").write_text("likelihood_t_min: 1.0e-2\nlikelihood_tolerance: 1e-2\n")
    about = json_of("likelihood", copy, "--num", "2")
    assert (about["t_min"], about["tolerance"]) == (1e-2, 1e-2)

    about = json_of("likelihood", copy, "--num", "2", "--t-min", "1e-3")
    assert about["t_min"] == 1e-3


def test_an_unreadable_sampler_is_reported_unless_one_is_chosen(copy, call, monkeypatch):
    (copy / "config.yaml").write_text("sampler: {kind: Mine}\n")
    code, _, err = call("sample", copy)
    assert code == 1
    assert "kind is 'Mine': wanted one of ProbabilityFlow, EulerMaruyama" in err
    assert "config.yaml: sampler" in err

    monkeypatch.setattr("scoresde.cli.sample.sample", fake_samples(np.zeros((6, 2), np.float32)))
    assert call("sample", copy, "sampler:euler-maruyama", *DRAW)[0] == 0
