"""The variational diffusion model of digits runs whole with short settings; its figures are
`slow`."""

import dataclasses
import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from bound_variance import variance_over_times
from test_experiments import experiment, figures_of

import scoresde as sd
from scoresde.cli.flags import parse
from scoresde.data import arrays
from scoresde.data.prepare import BinCentres


def test_digits_vdm(monkeypatch, tmp_path):
    """Bound, exact likelihood and samples of a small network; the page has the bound's parts."""
    module = experiment(monkeypatch, "digits_vdm")
    settings = dataclasses.replace(
        module.EXPERIMENT,
        sde=sd.LearntVP(sd.MonotoneGamma(-8.0, 5.0, learn_ends=True, hidden=16)),
        net=sd.MLPConfig(width=64, depth=1),
        training=dataclasses.replace(
            module.EXPERIMENT.training, steps=150, validate_every=150, log_every=50
        ),
        sampler=sd.UniPC(num_steps=8),
        num_samples=64,
        likelihood_tolerance=1e-2,
        runs=str(tmp_path),
    )
    assert module.run(settings) == 0
    run = tmp_path / "digits_vdm"
    figures = json.loads((run / "results.json").read_text())["figures"]

    parts = (figures[f"bound_{name}"] for name in ("prior", "diffusion", "reconstruction"))
    assert figures["bound"] == pytest.approx(sum(parts), abs=1e-5)
    assert figures["gamma_low"] > -8.0 + 0.01  # the ends moved
    assert figures["bound"] < np.log2(17)  # that of uniform pixels
    assert abs(figures["bound"] - figures["bits_per_dim"]) < 1.0
    assert figures["likelihood_failures"] == figures["sampling_failures"] == 0
    page = (run / "report.html").read_text()
    assert "truncated-normal dequantisation of 17 levels" in page
    assert "reconstruction" in page
    assert f"{figures['bound']:.4f}" in page


def test_the_commands_in_its_docstring_turn_parts_off(monkeypatch):
    """Each is a line of the docstring, read as the command line reads it."""
    module = experiment(monkeypatch, "digits_vdm")
    lines = [
        line.split()[2:]
        for line in module.__doc__.replace("\\\n", " ").splitlines()
        if line.strip().startswith("python experiments/digits_vdm.py") and "--help" not in line
    ]
    kind = type(module.EXPERIMENT)
    found = [parse(kind, line, defaults=vars(module.EXPERIMENT)) for line in lines]
    schedules = [one.sde.schedule for one in found]
    assert schedules[0] == sd.LinearGamma(-8.0, 5.0)
    assert schedules[1] == sd.LinearGamma(-8.0, 5.0, learn_ends=True)
    assert schedules[2] == sd.MonotoneGamma(-8.0, 5.0)
    assert found[3].net.fourier_features == ()
    assert found[4].training.objective.num_steps == 100


@pytest.mark.slow
def test_digits_vdm_reaches_its_figures(monkeypatch, tmp_path):
    """Bits/dim below those of `digits_likelihood.py`, 1.868, and the variance of the estimate over
    times at most half of that of the linear schedule with the same ends. About 5 minutes."""
    figures = figures_of(tmp_path, "digits_vdm")
    assert figures["bits_per_dim"] < 1.868
    assert figures["bound"] < 1.868

    model = sd.load(tmp_path / "digits_vdm")
    x = BinCentres(17)(jax.random.key(0), jnp.asarray(arrays.digits().test))
    x = jnp.tile(x, (20, 1, 1, 1))
    same_ends = sd.LinearGamma(*(float(model.sde.gamma(t)) for t in (0.0, 1.0)))
    schedules = {"learnt": model.sde.schedule, "linear": same_ends, "start": sd.LinearGamma(-8, 5)}
    variance = {
        name: variance_over_times(model, sd.LearntVP(schedule), x) / (64 * np.log(2)) ** 2
        for name, schedule in schedules.items()
    }
    print("variance of one draw, (bits/dim)^2:", variance)
    assert variance["learnt"] < 0.5 * variance["linear"]
