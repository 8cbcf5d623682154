"""The benchmarks run and report what they promise; no test asks how fast anything is."""

import json
import math
import os
import subprocess
import sys
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

import scoresde as sd
from scoresde.data.arrays import digits

FOLDER = Path(__file__).parents[1] / "benchmarks"
sys.path.insert(0, str(FOLDER))
import bench  # noqa: E402
import sampler_quality  # noqa: E402
import scaling  # noqa: E402
import start_up  # noqa: E402
import train_step  # noqa: E402


def run(script, *flags, ratios=True):
    """Runs a benchmark with --quick in a process of its own, and returns its JSON, checked."""
    command = [sys.executable, str(FOLDER / f"{script}.py"), "--quick", *flags]
    quick = os.environ | {"JAX_DISABLE_MOST_OPTIMIZATIONS": "1"}  # compiling takes most of the time
    out = subprocess.run(
        command, check=True, capture_output=True, text=True, timeout=600, env=quick
    ).stdout
    *table, line = out.splitlines()
    result = json.loads(line)
    assert result["benchmark"] == script
    assert result["quick"]
    assert result["cores"] >= 1
    assert {"python", "scoresde", "jax", "jaxlib", "numpy"} <= set(result["versions"])
    assert result["device"] and result["settings"]
    assert str(FOLDER.parent) not in out
    assert set(result["medians"]) == set(result["spread"])
    assert bool(result["ratios"]) == ratios
    for name, ratio in result["ratios"].items():
        lowest, *_, highest = ratio["spread"]
        assert 0 < lowest <= ratio["median"] <= highest < math.inf
        assert any(row.startswith(name) for row in table)
    return result


def test_sampler_overhead():
    """Fixed-grid samplers have a goal, and evaluations are 10 steps' and the denoising's."""
    result = run("sampler_overhead")
    goals = {name for name, ratio in result["ratios"].items() if ratio["goal"] == 1.1}
    assert len(goals) == 8
    assert {"Euler-Maruyama / by hand", "batch-mean corrector / by hand"} < goals
    assert result["figures"]["Euler-Maruyama, evaluations"] == 11
    assert result["figures"]["predictor-corrector, evaluations"] == 21
    assert result["figures"]["annealed Langevin, evaluations"] == 11
    assert result["figures"]["UniPC-3, evaluations"] == 11
    assert result["figures"]["Restart, evaluations"] == 41


def test_sampler_quality_spends_the_evaluations_it_says():
    """Each sampler's settings for 20 evaluations, traced; one fewer where a step takes two."""
    sde, found = sd.VP(), []

    def trace(settings):
        jax.eval_shape(
            lambda x: found.append(settings(jax.random.key(0), sde, lambda x, t: -x, x).nfe) or x,
            jnp.ones((1, 2)),
        )
        return found[-1]

    for name, rule in sampler_quality.RULES.items():
        counts = [n for n in sampler_quality.COUNTS if sampler_quality.possible(rule, n, sde)]
        assert counts == [
            n for n in sampler_quality.COUNTS if n >= (20 if name == "Restart" else 5)
        ]
        assert trace(rule(20)) == 20 - (name in sampler_quality.PAIRED), name


def test_sampler_quality_prints_what_it_found():
    """Means beyond 100 by that alone, failed samples beside the mean, which is of the others."""
    assert str(sampler_quality.Cell(19.0, [1.0, 3.0])) == "2.00 ± 1.00"
    assert str(sampler_quality.Cell(19.0, [99.0, 1e4])) == "> 100"
    assert str(sampler_quality.Cell(19.0, [1.0, 3.0], failed=4)) == "2.00 ± 1.00 (4 failed)"


@pytest.mark.slow
def test_sampler_quality(tmp_path):
    """A table, a picture and a line of JSON from a network of a few steps; about 3 minutes."""
    data = digits()
    net = sd.UNetConfig(channels=8, multipliers=(1,), num_blocks=1, attention_levels=()).build(
        (8, 8, 1), rngs=nnx.Rngs(0)
    )
    model = sd.ScoreModel(sd.VP(), net, sd.EDM(0.6))
    prepare = sd.UniformDequantization(levels=data.levels)
    training = sd.Training(steps=4, batch_size=32)
    sd.fit(
        jax.random.key(0),
        model,
        data.train,
        prepare=prepare,
        training=training,
        run=tmp_path / "run",
    )
    command = [sys.executable, str(FOLDER / "sampler_quality.py"), "--quick", str(tmp_path / "run")]
    out = subprocess.run(
        [*command, "--picture", str(tmp_path / "q.png")], check=True, capture_output=True, text=True
    )
    figures = json.loads(out.stdout.splitlines()[-1])["figures"]
    assert all(f"{name}, 5 evaluations" in figures for name in ("ancestral", "DDIM", "UniPC-3"))
    assert figures["failed samples"] == 0
    assert "9 for 10" in out.stdout
    assert (tmp_path / "q.png").stat().st_size > 10_000


@pytest.mark.slow
def test_likelihood():
    """With the same probes two solvers err alike; with the exact divergence neither errs much."""
    result = run("likelihood")
    figures = result["figures"]
    assert result["ratios"]["log_likelihood / calls"]["goal"] == 1.15
    error = {
        solver: figures[f"{solver}, one probe, nats: mean |error|"]
        for solver in ("log_likelihood", "SciPy")
    }
    assert error["log_likelihood"] == pytest.approx(error["SciPy"], abs=2e-3)
    assert figures["log_likelihood, exact divergence, nats: max |error|"] < 0.01
    assert figures["SciPy, exact divergence, nats: max |error|"] < 0.01
    assert figures["log_likelihood, mean evaluations"] <= figures["log_likelihood, rounds"]


def test_guidance():
    result = run("guidance")
    goals = {name for name, ratio in result["ratios"].items() if ratio["goal"] == 1.1}
    assert {
        "classifier-free / unguided, twice as many",
        "classifier / evaluations and gradients",
    } <= goals


def test_inverse():
    """Each method has its goal, and memory grows no faster than the batch."""
    ratios = run("inverse")["ratios"]
    goals = [name for name, ratio in ratios.items() if ratio["goal"] == 1.15]
    assert len(goals) == 3
    for name, ratio in ratios.items():
        if "memory" in name:
            assert 1.0 < ratio["median"] <= 2.1, name


@pytest.mark.slow
def test_likelihood_variables():
    """Every variable is exact; with four points of each problem under VP."""
    result = run("likelihood_variables", ratios=False)
    assert len(result["figures"]) == 2 * 2 * 3
    for name, (evaluations, error) in result["figures"].items():
        assert evaluations > 40, name
        assert error < 5e-4, name


def test_plain_score():
    """The solve by hand, with the same probes, gives the library's likelihoods."""
    result = run("plain_score")
    assert [r["goal"] for r in result["ratios"].values()] == [1.15, 1.15, 1.15, None]
    for name, value in result["figures"].items():
        if "difference from by hand" in name:
            assert value < 0.01, name


@pytest.mark.slow
def test_train_step():
    """With a short real training on the side."""
    result = run("train_step", "--seconds", "40")
    assert result["figures"]["convolutions"] == 12
    assert result["figures"]["sd.fit, updates in 40 s"] > 0


@pytest.mark.slow
def test_data_pipeline():
    """Both kinds of memory; waiting is a share of the step time."""
    result = run("data_pipeline")
    assert [r["goal"] for r in result["ratios"].values()] == [0.05, 0.05]
    assert all(ratio["spread"][-1] <= 1 for ratio in result["ratios"].values())
    for kind in ("in memory", "memory mapped"):
        assert 0 < result["figures"][f"examples/s in training, {kind}"] < math.inf


PROGRAM = """
  %all-gather.1 = f32[8,128]{1,0} all-gather(%param.1), channel_id=1, dimensions={0}
  %all-reduce.2 = (f32[100]{0}, bf16[3,4]{1,0}) all-reduce(%a, %b), channel_id=2
  ROOT %add.3 = f32[8,128]{1,0} add(%all-gather.1, %all-gather.1)
"""


def test_scaling_counts_the_bytes_that_a_device_sends():
    """4096 bytes are collected; of 424 bytes of gradients 400 are cut, so that 24 count twice."""
    assert scaling.bytes_sent(PROGRAM, devices=4, cut=400) == 0.75 * (4096 + 400 + 2 * 24)


@pytest.mark.slow
def test_scaling():
    """What replicated parameters P send is 2 P (n - 1) / n, and a state is 4 P and counters."""
    figures = run("scaling", ratios=False)["figures"]
    for devices in (2, 4):
        name = f"{devices} devices"
        parameters = figures[f"{name}, replicated, state, MB"] / 4
        sent = 2 * (devices - 1) / devices * parameters
        assert figures[f"{name}, replicated, collectives, MB"] == pytest.approx(sent, rel=0.01)
        assert figures[f"{name}, sharded, state, MB"] < 1.2 * 4 * parameters / devices


@pytest.mark.slow
def test_checkpoints():
    """A state of one megabyte; each process resumes from what the one before it left."""
    result = run("checkpoints", "--megabytes", "1", "--seconds", "0.5", "--repeats", "1")
    assert [r["goal"] for r in result["ratios"].values()] == [1.03]
    assert result["medians"]["save returns"] <= result["medians"]["save is committed"]
    assert result["figures"]["MB of the MLP's checkpoint"] == 1
    assert result["medians"]["SIGTERM to exit"] > 0 and result["medians"]["resumed"] > 0


@pytest.mark.slow
def test_start_up():
    result = run("start_up", "--repeats", "1")
    assert result["medians"]["first training step, CPU"] > result["medians"]["network built, CPU"]


@pytest.mark.slow
def test_fit_speed():
    """Images/s are those of the timings, and the ratio is theirs."""
    result = run("fit_speed", "--repeats", "1")
    figures, (ratio,) = result["figures"], result["ratios"].values()
    found = figures["sd.fit, images/s"] / figures["plain JAX loop, images/s"]
    assert ratio["median"] == pytest.approx(found, rel=1e-3)
    assert figures["sd.fit, images/s"] == pytest.approx(
        8 / result["medians"]["sd.fit, a step"], rel=1e-3
    )


@pytest.mark.slow
def test_likelihood_recipe(tmp_path):
    """Two recipes, two seeds, a tiny network: a paired difference is that of the means."""
    recipes = ["digits_vp", "digits_likelihood"]
    result = run("likelihood_recipe", "--runs", str(tmp_path), ratios=False)
    for name in ("uniform", "uniform, from 1e-3", "truncated normal"):
        figures = result["figures"]
        assert figures[f"{name}: digits left out, a solve failed"] == 0
        first, second = (figures[f"{name}: {recipe}, bits/dim"] for recipe in recipes)
        difference = f"{name}: digits_likelihood minus digits_vp"
        assert figures[difference] == pytest.approx(second - first, abs=1e-6)
        assert len(figures[f"{difference}, seed by seed"]) == 2


# --- Their pieces ---


def test_start_up_times_a_process_from_outside():
    """Nothing takes less than something; a command that fails is not a timing."""
    nothing, version = (
        start_up.run(start_up.commands(True)[name]) for name in ("python", "scoresde --version")
    )
    assert all(0 < a < b for a, b in zip(nothing, version, strict=True))
    with pytest.raises(subprocess.CalledProcessError):
        start_up.run(["-c", "raise SystemExit(3)"])


def test_parts_take_turns(capsys):
    """One call to compile, then one of each a repeat; a ratio is of what one repeat measured."""
    calls = []
    times = bench.interleaved(
        {name: lambda name=name: calls.append(name) for name in "ab"}, repeats=3
    )
    assert calls == ["a", "b"] * 4
    assert times["a"].cpu.shape == times["b"].wall.shape == (3,)

    report = bench.Report("none", True, {})
    load = np.array([1.0, 5.0, 2.0])
    report.time("part", 3.0 * load)
    report.ratio("part / base", 3.0 * load, 2.0 * load, goal=1.1)
    report.finish()
    assert report.ratios["part / base"] == {"median": 1.5, "spread": [1.5] * 4, "goal": 1.1}
    result = json.loads(capsys.readouterr().out.splitlines()[-1])
    assert result["medians"] == {"part": 6.0}
    assert result["spread"] == {"part": [3.0, 4.5, 10.5, 15.0]}


def test_every_convolution_of_a_network_is_found():
    """Their number is the architecture's, and their kernels are the network's parameters."""
    net = sd.UNetConfig(channels=4, num_blocks=1).build((8, 8, 1), rngs=nnx.Rngs(0))
    found = train_step.convolutions(
        jax.jit(lambda x, t: net(x, t)), jnp.zeros((2, 8, 8, 1)), jnp.full(2, 0.5)
    )
    blocks = 2 + 2 + 4  # down, middle, up
    assert len(found) == 1 + 2 * blocks + 2 + 1  # with those between the two levels
    kernels = [p.shape for p in jax.tree.leaves(nnx.state(net, nnx.Param)) if p.ndim == 4]
    assert sorted(kernel for _, kernel, _ in found) == sorted(kernels)
    assert ((2, 8, 8, 4), (3, 3, 4, 4), (2, 4, 4, 4)) in found


def test_operations_are_those_of_the_sum():
    """Ones convolved with ones count multiplications; additions double them, gradients triple."""
    x, kernel = jnp.ones((2, 8, 8, 3)), jnp.ones((3, 3, 3, 5))
    out = jax.lax.conv_general_dilated(
        x, kernel, (1, 1), "VALID", dimension_numbers=("NHWC", "HWIO", "NHWC")
    )
    shapes = (x.shape, kernel.shape, out.shape)
    multiplications = float(out.sum())
    assert (
        train_step.operations([shapes]) == 2 * 2 * multiplications
    )  # no gradient for the first one's input
    assert train_step.operations([shapes, shapes]) == (2 + 3) * 2 * multiplications


def test_the_baseline_convolves_what_the_network_does():
    """It has outputs and gradients of the shapes found, except for the first input's gradient."""
    found = [((4, 8, 8, 1), (3, 3, 1, 2), (4, 8, 8, 2)), ((4, 8, 8, 2), (3, 3, 2, 6), (4, 4, 4, 6))]
    for i, (out, gradients) in enumerate(train_step.convolutions_alone(found, 4)()):
        x, kernel, shape = found[i]
        assert out.shape == shape
        assert [g.shape for g in gradients] == ([kernel] if i == 0 else [kernel, x])
