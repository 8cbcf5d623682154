"""Experiments as a person runs them: wrong flags, an interruption, resuming, and the figures."""

import dataclasses
import importlib
import json
import math
import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from PIL import Image

import scoresde as sd
from scoresde.cli.flags import parse
from scoresde.nets.ncsnpp import NCSNpp
from scoresde.runs.yaml_files import load_yaml, save_yaml
from scoresde.train.model_settings import ModelSettings
from scoresde.train.signals import interruptible

ROOT = Path(__file__).parents[1]
SCRIPT = str(ROOT / "experiments" / "digits_vp.py")
SHORT = [
    "--training.steps=200",
    "--training.validate-every=100",
    "--training.warmup=20",
    "--training.batch-size=64",
    "--num-samples=64",
    "--likelihood-tolerance=1e-3",
    "sampler:uni-pc",
    "--sampler.num-steps=8",
    "net:di-t-config",
    "--net.width=64",
    "--net.depth=2",
    "--net.num-heads=2",
]


def start(folder, *flags):
    environment = os.environ | {"COLUMNS": "200"}  # so that messages stand on one line
    return subprocess.Popen(
        [sys.executable, SCRIPT, "--runs", str(folder), *flags],
        text=True,
        env=environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    )


def finish(process, timeout=400):
    out, err = process.communicate(timeout=timeout)
    return process.returncode, out, err


def test_wrong_flags_suggest_what_was_meant(tmp_path):
    code, _, err = finish(start(tmp_path, "--sde.beta-mx", "15"))
    assert code == 2
    assert "--sde.beta-max" in err
    code, _, err = finish(start(tmp_path, "--sde.beta-max", "-1"))
    assert code == 2
    assert "out of range" in err
    assert "Traceback" not in err


def test_an_unwritable_place_is_one_paragraph(tmp_path):
    (tmp_path / "file").write_text("in the way")
    code, out, err = finish(start(tmp_path / "file"))
    assert code == 1
    assert "cannot be written" in err
    assert "Traceback" not in out + err


def test_a_run_can_be_interrupted_resumed_and_finished(monkeypatch, tmp_path, capsys):
    """Ctrl-C after the first checkpoint; the same command resumes; again, it reports the end."""
    run = tmp_path / "digits_vp"
    process = start(tmp_path, *SHORT)
    deadline = time.monotonic() + 300
    while not (run / "checkpoints" / "100" / "manifest.json").exists():
        assert process.poll() is None, process.communicate()
        assert time.monotonic() < deadline
        time.sleep(0.2)
    process.send_signal(signal.SIGINT)
    code, out, err = finish(process)
    assert code == 130, err
    assert "To resume:" in out
    assert "Traceback" not in err and "JAX already runs" not in err  # on one core, that is
    stopped = json.loads((run / "results.json").read_text())
    assert stopped["status"] == "interrupted"
    assert 100 <= stopped["step"] < 200

    code, out, err = finish(start(tmp_path, *SHORT))
    assert code == 0, err
    assert "report.html" in out.splitlines()[-1]
    rows = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    assert rows[-1]["step"] == 200
    assert {
        "config.yaml",
        "metrics.jsonl",
        "checkpoints",
        "samples",
        "report.html",
        "results.json",
    } <= {p.name for p in run.iterdir()}
    # A fast form of the figures below: 200 steps beat the fitted Gaussian by far.
    figures = json.loads((run / "results.json").read_text())["figures"]
    assert (
        figures["bits_per_dim"] + 5 * figures["bits_per_dim_stderr"]
        < figures["bits_per_dim_gaussian"]
    )
    assert figures["likelihood_failures"] == figures["sampling_failures"] == 0
    page = (run / "report.html").read_text()
    assert f"{figures['bits_per_dim']:.3f} ± {figures['bits_per_dim_stderr']:.3f}" in page

    before = os.path.getmtime(run / "results.json")
    module = experiment(monkeypatch, "digits_vp")
    flags = ["--runs", str(tmp_path), *SHORT]
    settings = parse(type(module.EXPERIMENT), flags, defaults=vars(module.EXPERIMENT))
    assert module.digits.run(settings) == 0
    assert "is finished" in capsys.readouterr().out
    assert os.path.getmtime(run / "results.json") == before

    model = sd.load(run)
    assert isinstance(model.sde, sd.VP)
    assert bool(jnp.all(jnp.isfinite(model(jnp.zeros((2, 8, 8, 1)), 0.5))))


def experiment(monkeypatch, name):
    monkeypatch.syspath_prepend(str(ROOT / "experiments"))
    return importlib.import_module(name)


def test_results_that_no_experiment_wrote_are_not_finished(monkeypatch, tmp_path):
    bookkeeping = experiment(monkeypatch, "bookkeeping")
    (tmp_path / "config.yaml").write_text("steps: 3\n")
    results = tmp_path / "results.json"
    for content in ("[]", "[" * 10**5, '{"status": "finished"'):
        results.write_text(content)
        assert not bookkeeping.is_finished(tmp_path, {"steps": 3})

    results.unlink()
    os.mkfifo(results)  # to open it would wait for ever
    assert not bookkeeping.is_finished(tmp_path, {"steps": 3})


def test_a_stopped_experiment_tells_the_signal(monkeypatch, tmp_path, capsys):
    """SLURM's warning before it ends a job: 128 + 10 on Linux."""
    pipeline = experiment(monkeypatch, "pipeline")
    mixture = experiment(monkeypatch, "mixture_2d")
    settings = dataclasses.replace(mixture.EXPERIMENT, runs=str(tmp_path))

    def train(*_):
        with interruptible(print):
            signal.raise_signal(signal.SIGUSR1)
        return pipeline.Fit(None, 7, [], interrupted=True)

    monkeypatch.setattr(pipeline, "train", train)
    assert pipeline.run(settings, lambda: None) == 128 + signal.SIGUSR1
    assert "stopped at step 7" in capsys.readouterr().out


@pytest.mark.slow  # tests/train/test_record.py has its fast form
def test_the_advised_flag_resumes_with_another_schedule(monkeypatch, tmp_path, capsys):
    """Once: the same settings without it are then those of the run."""
    module = experiment(monkeypatch, "mixture_2d")
    nothing = module.pipeline.Outcome({}, [], [], [])
    monkeypatch.setattr(module.MixtureTask, "evaluate", lambda *_: nothing)
    tiny = (
        f"--runs {tmp_path} --num-data 64 --num-samples 4 sampler:ddim --sampler.num-steps 2 "
        "--net.width 8 --net.depth 1 --training.batch-size 16 --training.warmup 0 "
        "--training.log-every 2 --training.validate-every 4"
    )

    def run(flags):
        words = f"{tiny} {flags}".split()
        settings = parse(module.Mixture2D, words, defaults=vars(module.EXPERIMENT))
        return module.run(settings)

    assert run("--training.steps 4") == 0
    slower = "--training.steps 8 --training.learning-rate 1e-4"
    with pytest.raises(ValueError, match="made with other settings") as refused:
        run(slower)
    flag = re.search(r"--[a-z-]+", str(refused.value))[0]
    assert run(f"{slower} {flag}") == 0

    rows = (tmp_path / "mixture_2d" / "metrics.jsonl").read_text().splitlines()
    assert json.loads(rows[-1])["step"] == 8
    assert json.loads(rows[-1])["learning_rate"] < 1e-4
    page = (tmp_path / "mixture_2d" / "report.html").read_text()
    assert "learning_rate 0.002 → 0.0001, steps 4 → 8 at step 4" in page

    # Without the flag, and where the run's version did not have a setting yet, it is finished.
    config = tmp_path / "mixture_2d" / "config.yaml"
    stored = load_yaml(config)
    del stored["training"]["optimizer"]
    save_yaml(stored, config)
    capsys.readouterr()
    assert run(slower) == 0
    assert "is finished" in capsys.readouterr().out


@pytest.mark.parametrize("name", ["digits_ncsn", "fashion_ve", "celeba64_ve", "mixture_2d"])
def test_the_options_of_a_script_default_to_its_experiment(monkeypatch, name):
    """Without options a script runs its own object, from the folder of its own name."""
    settings = experiment(monkeypatch, name).EXPERIMENT
    assert settings.name == name

    found = parse(type(settings), ["--seed", "3"], defaults=vars(settings))
    assert found == dataclasses.replace(settings, seed=3)


# --- DDPM and NCSN ---


@pytest.mark.parametrize("name", ["digits_ddpm", "digits_ncsn"])
def test_the_ancestors_train_and_sample_at_the_same_levels(monkeypatch, name):
    """The label, the training times, the sampler and the likelihood share their levels."""
    module = experiment(monkeypatch, name)
    settings = module.EXPERIMENT
    n = settings.parameterization.label.num_steps
    assert n == settings.training.times.num_steps == settings.sampler.num_steps == module.LEVELS
    assert settings.likelihood_t_min == pytest.approx(settings.sde.level_times(n)[0], abs=1e-4)
    assert all(
        sampler.t_min is None or sampler.t_min <= 1 / n for sampler in module.OTHERS.values()
    )


def test_ddpm_from_scratch_has_the_librarys_objective(monkeypatch):
    """Its loss is that of Algorithm 1 with the same draws, and `DDPM.loss` per pixel."""
    module = experiment(monkeypatch, "ddpm_from_scratch")
    assert len(Path(module.__file__).read_text().splitlines()) <= 200
    x0, key = jax.random.uniform(jax.random.key(0), (4, 8, 8, 1), minval=-1.0), jax.random.key(1)
    network = jax.jit(lambda x, i: module.noise(module.params, x, i))
    key_level, key_noise = jax.random.split(key)
    i = jax.random.randint(key_level, (4,), 0, module.NUM_LEVELS)
    mean, std = module.chain.marginal(x0, i)
    eps = jax.random.normal(key_noise, x0.shape)
    want = jnp.mean((eps - network(mean + std[:, None, None, None] * eps, i)) ** 2)
    assert float(module.loss(module.params, key, x0)) == pytest.approx(float(want), rel=1e-5)
    per_example = module.chain.loss(key, network, x0, i)
    assert float(per_example.mean()) / 64 == pytest.approx(
        float(want), rel=0.5
    )  # other draws of 256 pixels


@pytest.mark.slow
def test_ddpm_from_scratch_beats_the_fitted_gaussian(tmp_path):
    """2.96 bits/dim; 300 steps and 40 digits, about 3 minutes."""
    picture = tmp_path / "samples.png"
    command = [
        sys.executable,
        str(ROOT / "experiments" / "ddpm_from_scratch.py"),
        "--steps",
        "300",
        "--held-out",
        "40",
    ]
    done = subprocess.run(
        [*command, "--picture", str(picture)], capture_output=True, text=True, check=True
    )
    assert float(done.stdout.split("samples; ")[1].split()[0]) < 2.8
    assert picture.stat().st_size > 1000


def figures_of(tmp_path, name, *flags):
    """Of a finished run of one of the digits experiments."""
    command = [
        sys.executable,
        str(ROOT / "experiments" / f"{name}.py"),
        "--runs",
        str(tmp_path),
        *flags,
    ]
    subprocess.run(
        command, check=True, timeout=3600, capture_output=True, env=os.environ | {"COLUMNS": "200"}
    )
    figures = json.loads((tmp_path / name / "results.json").read_text())["figures"]
    print(name, *flags, figures)
    return figures


@pytest.mark.slow
@pytest.mark.parametrize("seed", ["0", "1", "2"])
def test_the_ancestors_reach_their_figures(tmp_path, seed):
    """DDPM's distance is within 20 % of VP's, by 300 ancestral steps. Half an hour per seed."""
    ancestral = ["sampler:ancestral", "--sampler.num-steps", "300"]
    vp = figures_of(tmp_path, "digits_vp", "--seed", seed, *ancestral)
    ddpm = figures_of(tmp_path, "digits_ddpm", "--seed", seed)
    assert ddpm["sampling_evaluations"] == vp["sampling_evaluations"] == 300
    assert ddpm["fd"] < 1.2 * vp["fd"]
    ncsn = figures_of(tmp_path, "digits_ncsn", "--seed", seed)
    assert ncsn["fd"] < ncsn["fd_gaussian"]
    for figures in (ddpm, ncsn):
        assert figures["bits_per_dim"] < figures["bits_per_dim_gaussian"] - 0.9


@pytest.mark.slow
@pytest.mark.parametrize("seed", [0, 1, 2])
def test_digits_reach_their_figures(tmp_path, seed):
    """The README's figures at the experiment's own settings, about 5 minutes a seed."""
    code, _, err = finish(start(tmp_path, "--seed", str(seed)), timeout=1800)
    assert code == 0, err
    figures = json.loads((tmp_path / "digits_vp" / "results.json").read_text())["figures"]
    print(seed, figures)
    assert figures["bits_per_dim"] < figures["bits_per_dim_gaussian"] - 0.9
    assert figures["bits_per_dim_gaussian"] == pytest.approx(2.94, abs=0.1)
    assert figures["fd"] < figures["fd_gaussian"] / 3
    assert figures["sure"] >= 0.80
    assert figures["sure_real"] > 0.9


# --- Fashion-MNIST ---


@pytest.mark.slow  # the photographs' smoke test runs the same pipeline
@pytest.mark.parametrize("name", ["fashion_vp", "fashion_ve"])
def test_fashion_smoke(tmp_path, name):
    """Idx files of noise pass through everything, and nothing is written outside the run's folder.

    After two steps EDM's network is as good as untrained, and its model is N(0, 0.7^2) exactly. On
    uniform pixels in [-1, 1] that gives 7 + log2(0.7 sqrt(2 pi)) + log2(e) (1/3) / (2 0.49) = 8.30
    bits/dim; the error over 8 x 36 pixels is 0.03.
    """
    environment = os.environ | {
        "SCORESDE_CACHE": str(tmp_path / "none"),
        "JAX_DISABLE_MOST_OPTIMIZATIONS": "1",
    }
    command = [
        sys.executable,
        str(ROOT / "experiments" / f"{name}.py"),
        "--smoke",
        "--runs",
        str(tmp_path),
    ]
    done = subprocess.run(command, capture_output=True, text=True, env=environment, timeout=400)
    assert done.returncode == 0, done.stderr
    run = tmp_path / f"{name}_smoke"
    figures = json.loads((run / "results.json").read_text())["figures"]
    want = 7 + math.log2(0.7 * math.sqrt(2 * math.pi)) + math.log2(math.e) / 3 / (2 * 0.49)
    assert figures["bits_per_dim"] == pytest.approx(want, abs=0.15)
    assert figures["likelihood_failures"] == figures["sampling_failures"] == 0
    rows = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    assert [row["step"] for row in rows] == [1, 2]
    speed = 4 * np.mean([row["steps_per_second"] for row in rows])  # two rows, batches of 4
    assert figures["examples/s in training"] == pytest.approx(speed)
    assert 0.1 < figures["peak memory of the process, GiB"] < 100
    assert [row["bits_per_dim"] for row in rows] == pytest.approx([want] * 2, abs=0.2)
    assert "While training" in (run / "report.html").read_text()
    assert not (tmp_path / "none").exists()


# --- Photographs ---


@pytest.mark.parametrize(
    "name",  # the slow ones run the code of another, with other numbers
    [
        "cifar10_vp",
        pytest.param("cifar10_subvp", marks=pytest.mark.slow),
        pytest.param("cifar10_ve", marks=pytest.mark.slow),
        pytest.param("celeba64_ve", marks=pytest.mark.slow),
        pytest.param("ffhq256_ve", marks=pytest.mark.slow),
    ],
)
def test_photographs_smoke(monkeypatch, tmp_path, name):
    """From images through training, sampling and likelihood to the page, with a small network.

    In the first two steps of warm-up its output stays at nearly 0, so the score is 0. From t_min to
    1 the flow takes x to a x, a = alpha(1) / alpha(t_min), and log p(x) = log prior(a x) + D log a.
    E|x_i|^2 = 1/3 for uniform pixels, on [-1, 1] as on [0, 1].
    """
    module = experiment(monkeypatch, name)
    settings = dataclasses.replace(module.EXPERIMENT, smoke=True, runs=str(tmp_path))
    assert module.photographs.run(settings) == 0
    run = tmp_path / f"{name}_smoke"
    figures = json.loads((run / "results.json").read_text())["figures"]
    low, sde = 0.0 if isinstance(settings.sde, sd.VE) else -1.0, settings.sde
    scale = float(sde.alpha(1.0) / sde.alpha(1e-2))
    prior = 0.5 * math.log(2.0 * math.pi * float(sde.variance(1.0))) + scale**2 / 3.0 / (
        2.0 * float(sde.variance(1.0))
    )
    want = (prior - math.log(scale)) / math.log(2.0) + math.log2(256 / (1.0 - low))
    assert figures["bits_per_dim"] == pytest.approx(want, abs=0.02)
    assert figures["likelihood_failures"] == figures["sampling_failures"] == 0
    page = (run / "report.html").read_text()
    assert "not FID" in page
    assert len(list((run / "samples").iterdir())) == 1
    assert isinstance(sd.load(run).net, NCSNpp)


@pytest.mark.slow
@pytest.mark.parametrize("name", ["cifar10_subvp", "celeba64_ve"])
def test_photographs_train(monkeypatch, tmp_path, name):
    """Training alone, for experiments whose smoke test is slow.

    The loss of a network that gives nearly 0 is the mean of noise^2. Its error over two batches of
    3 x 8 x 8 x 3 entries is sqrt(2 / 1152) = 0.042; five of them are allowed.
    """
    module = experiment(monkeypatch, name)
    smoke = dataclasses.replace(module.EXPERIMENT, smoke=True)
    settings = module.photographs.reduced(smoke)
    task = module.photographs.build(settings)
    model = ModelSettings(settings.sde, settings.net, settings.parameterization).build(
        jax.random.key(0), task.shape
    )
    fit = sd.fit(
        jax.random.key(1),
        model,
        task.train,
        prepare=task.prepare,
        training=settings.training,
        run=tmp_path,
    )
    assert [row["step"] for row in fit.history] == [1, 2]
    assert np.mean([row["loss"] for row in fit.history]) == pytest.approx(1.0, abs=0.21)


def test_photographs_are_the_papers(monkeypatch):
    """Sizes and optimisation are those of Song et al. 2021, App. H, and of their configurations."""
    want = {
        "cifar10_vp": (61_804_419, 0.9999, 128, 1_300_000, 32),
        "cifar10_subvp": (61_804_419, 0.9999, 128, 1_300_000, 32),
        "cifar10_ve": (62_758_915, 0.999, 128, 1_300_000, 32),
        "celeba64_ve": (62_758_915, 0.999, 128, 1_300_000, 64),
        "ffhq256_ve": (None, 0.999, 64, 2_400_000, 256),
    }
    for name, (count, ema, batch, steps, size) in want.items():
        module = experiment(monkeypatch, name)
        found = module.EXPERIMENT
        t = found.training
        assert (t.ema, t.batch_size, t.steps, found.size) == (ema, batch, steps, size), name
        sampler, sde = found.sampler, found.sde
        if isinstance(sde, sd.VE):
            about = (
                sde.sigma_min,
                sde.sigma_max,
                sampler.corrector.rule.snr,
                sampler.num_steps,
                sampler.t_min,
            )
            end = {
                "cifar10_ve": (50.0, 0.16, 1000),
                "celeba64_ve": (90.0, 0.17, 1000),
                "ffhq256_ve": (348.0, 0.075, 2000),
            }
            assert about == (0.01, *end[name], 1e-5)
        else:
            assert (sde.beta_min, sde.beta_max, sampler.num_steps, sampler.t_min) == (
                0.1,
                20.0,
                1000,
                1e-3,
            )
        scale = (
            2 / (3 * size**2) if isinstance(found.sde, sd.VE) else 1.0
        )  # clips the gradient of half the sum to 1
        assert (t.learning_rate, t.warmup, t.final_rate) == (2e-4, 5_000, 1.0)
        assert (t.clip, t.epsilon) == pytest.approx((scale, 1e-8 * scale), rel=1e-12)
        net = nnx.eval_shape(
            lambda net=found.net, size=size: net.build((size, size, 3), rngs=nnx.Rngs(0))
        )
        leaves = jax.tree.leaves(nnx.state(net, nnx.Not(nnx.RngState)))
        assert count is None or sum(leaf.size for leaf in leaves) == count


def test_adam_of_the_mean_takes_the_steps_of_half_the_sum(monkeypatch):
    """Gradients lie above the clip, and far below it, where epsilon decides; D = 3072."""
    base = sd.Training(warmup=0)
    ours = experiment(monkeypatch, "photographs").of_half_sum(base, 32)
    rng = np.random.default_rng(0)
    gradients = [
        jnp.asarray(scale * rng.normal(size=50), jnp.float32) for scale in (3.0, 1e-7, 1e-8, 1e-2)
    ]
    steps = []
    for training, factor in ((base, 1.0), (ours, 2 / 3072)):
        optimizer = training.transformation()
        state = optimizer.init(jnp.zeros(50))
        for gradient in gradients:
            step, state = optimizer.update(factor * gradient, state)
        steps.append(step)
    assert float(jnp.abs(steps[0]).max()) > 1e-6
    np.testing.assert_allclose(steps[1], steps[0], rtol=1e-4)


def test_photographs_take_the_flags_they_recommend(monkeypatch):
    """Smoke settings follow from any settings, missing data are named, and docstrings are right."""
    photographs = experiment(monkeypatch, "photographs")
    training = dataclasses.replace(photographs.ADAM, accumulate=4)
    small = photographs.reduced(
        photographs.Photographs(training=training, sampler=sd.ProbabilityFlow())
    )
    assert small.training.batch_size == 12
    with pytest.raises(ValueError, match="--data FOLDER"):
        photographs.load(photographs.Photographs(data=""))
    with pytest.raises(FileNotFoundError, match="--download"):
        photographs.load(photographs.Photographs(data_dir="/nowhere"))
    with pytest.raises(
        FileNotFoundError, match="there is no folder /misspelt: write --data FOLDER"
    ):
        photographs.load(photographs.Photographs(data="/misspelt"))
    for name in ("cifar10_vp", "cifar10_subvp", "cifar10_ve", "celeba64_ve", "ffhq256_ve"):
        module = experiment(monkeypatch, name)
        flags = set(re.findall(r"--[a-z][a-z.-]*[a-z]", module.__doc__))
        assert flags <= {"--help", "--smoke", "--download", "--name", "--data"} | options(
            module.EXPERIMENT
        ), name


def options(settings, prefix="--"):
    """Returns the flags of settings and of the settings inside them."""
    found = set()
    for field in dataclasses.fields(settings):
        flag = f"{prefix}{field.name.replace('_', '-')}"
        found.add(flag)
        value = getattr(settings, field.name)
        if dataclasses.is_dataclass(value):
            found |= options(value, f"{flag}.")
    return found


def test_photographs_from_a_folder_hold_some_out(monkeypatch, tmp_path):
    """Each image is in one of the two sets, once; too few images are refused before any work."""
    photographs = experiment(monkeypatch, "photographs")
    values = np.arange(10, dtype=np.uint8)
    for value in values:
        Image.fromarray(np.full((12, 9, 3), 10 * value, np.uint8)).save(tmp_path / f"{value}.png")
    settings = photographs.Photographs(data=str(tmp_path), size=4, held_out=3)
    monkeypatch.setattr("scoresde.data.cache.LARGEST_IN_MEMORY", 0)
    train, test = photographs.load(settings)
    assert train.shape == test.shape[1:] == (4, 4, 3)
    assert sorted([*train.batch(np.arange(7))[:, 0, 0, 0], *test[:, 0, 0, 0]]) == [*(10 * values)]
    assert isinstance(train.source.pixels, np.memmap)  # not copied into memory
    assert len(test) == 3
    task = photographs.build(settings)
    assert task.reference.shape == (7, 4, 4, 3)
    with pytest.raises(ValueError, match="held_out is 10"):
        photographs.load(dataclasses.replace(settings, held_out=10))
