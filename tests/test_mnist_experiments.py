"""The experiments on MNIST: the lecture's recipe is that of Ho et al. 2020, and short runs."""

import dataclasses
import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from PIL import Image
from scipy.stats import norm
from test_experiments import experiment

import scoresde as sd
from scoresde.cli.exit import UsageError

# The lecture's table, written out.
T = 300
BETA = 1e-4 + (0.02 - 1e-4) * np.arange(T) / (T - 1)  # β_1 … β_T
ALPHA_BAR = np.cumprod(1.0 - BETA)


@pytest.fixture
def lecture(monkeypatch):
    return experiment(monkeypatch, "lecture")


def model_of(lecture, net):
    return sd.ScoreModel(lecture.Betas().sde(), net, sd.Noise())


def test_the_lectures_loss_is_that_of_algorithm_1(lecture):
    """mean |ε - ε̂(sqrt(ᾱ_t) x_0 + sqrt(1 - ᾱ_t) ε, t / T)|², t uniform in 1 … T.

    The network sees x_t and t / T; from them ε follows, and from ε the loss. t is uniform: each of
    300 values within 5 standard errors, sqrt(n p), of n / 300 in n draws.
    """
    seen = {}

    def net(x, time):
        seen.update(x=x, time=time)
        return 0.3 * x

    settings = lecture.Lecture()
    model = model_of(lecture, net)
    x0 = jax.random.uniform(jax.random.key(0), (6000, 4, 4, 1), minval=-1.0)
    t = settings.training.times.sample(jax.random.key(1), model.sde, len(x0))
    step = np.rint(np.asarray(t) * T).astype(int)
    np.testing.assert_allclose(t, step / T, rtol=1e-6)
    counts = np.bincount(step, minlength=T + 1)
    assert counts[0] == 0 and len(counts) == T + 1
    assert np.all(np.abs(counts[1:] - 20) < 5 * np.sqrt(20))

    loss = sd.dsm_loss(
        jax.random.key(2), model.sde, model, x0, t, weighting=settings.training.weighting
    )
    np.testing.assert_allclose(seen["time"], step / T, rtol=1e-6)
    alpha_bar = ALPHA_BAR[step - 1][:, None, None, None]
    x_t = np.asarray(seen["x"], np.float64)
    noise = (x_t - np.sqrt(alpha_bar) * np.asarray(x0)) / np.sqrt(1.0 - alpha_bar)
    assert abs(noise.mean()) < 5 / np.sqrt(noise.size)
    assert abs(noise.var() - 1.0) < 5 * np.sqrt(2 / noise.size)
    want = np.sum((noise - 0.3 * x_t) ** 2, axis=(1, 2, 3))
    np.testing.assert_allclose(loss, want, rtol=2e-4)


def test_the_lectures_step_is_that_of_algorithm_2(lecture):
    """x_{t-1} = (x_t - β_t / sqrt(1 - ᾱ_t) ε̂) / sqrt(1 - β_t) + sqrt(β_t) z, z = 0 at t = 1.

    Every step of one path is undone: what is left of it must be z. Its mean and variance over
    299 × 3200 numbers are 0 and 1 within 5 standard errors; the last step leaves nothing.
    """
    sampler = dataclasses.replace(lecture.Lecture().sampler, save_path=True)
    net = lambda x, time: jnp.tanh(x) * time[:, None]  # noqa: E731
    model = model_of(lecture, net)
    out = sd.sample(jax.random.key(0), sampler, model.sde, model, (1600, 2))

    assert out.path is not None
    states = np.concatenate([np.asarray(out.path.x, np.float64), out.x[:, None]], axis=1)
    assert states.shape == (1600, T + 1, 2)  # x_T … x_0
    assert abs(states[:, 0].var() - 1.0) < 5 * np.sqrt(2 / 3200)
    left = []
    for t in range(T, 0, -1):
        x, beta = states[:, T - t], BETA[t - 1]
        noise = np.tanh(x) * t / T
        mean = (x - beta / np.sqrt(1.0 - ALPHA_BAR[t - 1]) * noise) / np.sqrt(1.0 - beta)
        left.append((states[:, T - t + 1] - mean) / np.sqrt(beta))
    z = np.asarray(left[:-1])
    assert abs(z.mean()) < 5 / np.sqrt(z.size)
    assert abs(z.var() - 1.0) < 5 * np.sqrt(2 / z.size)
    # Float32 against a step of size sqrt(β_1) = 0.01.
    np.testing.assert_allclose(left[-1], 0.0, atol=5e-4)


def test_the_lectures_network_and_training(lecture):
    """By layers: 3×3 convolutions 1 → 64 → 128 → 64 → 1, and 1 → 64 → 64 for the time."""
    net = lecture.LectureNetConfig().build((28, 28, 1), rngs=nnx.Rngs(0))
    conv = [9 * a * b + b for a, b in ((1, 64), (64, 128), (128, 64), (64, 1))]
    time = [1 * 64 + 64, 64 * 64 + 64]
    found = sum(leaf.size for leaf in jax.tree.leaves(nnx.state(net, nnx.Param)))
    assert found == sum(conv) + sum(time)

    training = lecture.Lecture().training
    assert (training.steps, training.batch_size, training.ema) == (5 * 469, 128, 0.0)
    assert [training.rate(step) for step in (0, 2344)] == pytest.approx([2e-4] * 2)
    gap = lecture.prior_gap(model_of(lecture, net), jnp.ones((2, 3)))
    want = 0.5 * (ALPHA_BAR[-1] + (1 - ALPHA_BAR[-1]) - 1 - np.log(1 - ALPHA_BAR[-1])) / np.log(2)
    assert gap == pytest.approx(want, rel=1e-3)


@pytest.mark.slow
def test_both_recipes_on_noise(monkeypatch, tmp_path):
    """2 steps each: all figures are there, and the table has both runs. About a minute."""
    module = experiment(monkeypatch, "mnist_ddpm")
    smoke = module.MnistDDPM(smoke=True, runs=str(tmp_path))
    assert module.run(dataclasses.replace(smoke, recipe="lecture")) == 0
    assert module.run(smoke) == 0

    theirs = results_of(tmp_path / "mnist_ddpm_lecture_smoke")
    ours = results_of(tmp_path / "mnist_ddpm_smoke")
    table = ours["tables"][0]
    assert table["columns"][1:] == ["the lecture's", "ours"]
    rows = {row[0]: row[1:] for row in table["rows"]}
    bits = [f"{run['figures']['bits_per_dim']:.3f}" for run in (theirs, ours)]
    assert rows["exact bits/dim, held out"] == bits
    assert rows["images trained on"] == ["8", "8"]  # 2 batches of 4
    assert 0.0 < theirs["figures"]["prior_gap"] < 0.1
    assert theirs["figures"]["nearest"] > 0.0
    figures = tmp_path / "mnist_ddpm_smoke" / "figures"
    assert (figures / "the lecture's samples (left) and ours.png").is_file()


def test_two_runs_side_by_side(monkeypatch, tmp_path):
    """Seconds are those of the metrics, and the picture holds the samples of both."""
    module = experiment(monkeypatch, "recipes_compared")
    figures = {name: 0.5 for _, name, _ in module.ROWS} | {"sure": 0.75, "sure_real": 1.0}
    for number, name in enumerate(("theirs", "ours")):
        run = tmp_path / name
        (run / "samples").mkdir(parents=True)
        x = np.full((100, 28, 28, 1), 2.0 * number - 1.0)
        np.savez(run / "samples" / module.DRAWN, x=x)
        (run / "config.yaml").write_text("training: {batch_size: 16}\n")
        rows = [(10, 2.0), (40, 1.0 + number)]  # step, steps per second
        lines = [json.dumps({"step": a, "steps_per_second": b}) for a, b in rows]
        (run / "metrics.jsonl").write_text("\n".join(lines) + "\n")

    assert module.table_of_recipes(tmp_path / "ours", figures, tmp_path / "theirs") is None
    results = {"status": "finished", "figures": figures | {"fd": 12.345}}
    (tmp_path / "theirs" / "results.json").write_text(json.dumps(results))
    table = module.table_of_recipes(tmp_path / "ours", figures, tmp_path / "theirs")
    rows = {row[0]: row[1:] for row in table["rows"]}
    assert rows["seconds of training"] == ["35", "20"]  # 10 / 2 + 30 / 1, 10 / 2 + 30 / 2
    assert rows["images trained on"] == ["640", "640"]
    assert rows["Fréchet distance"] == ["12.35", "0.50"]
    assert rows["not recognised, %"] == ["25.0", "25.0"]

    (picture,) = (tmp_path / "ours" / "figures").iterdir()
    pixels = np.asarray(Image.open(picture).convert("L"))
    third = pixels.shape[1] // 3
    assert np.median(pixels[:, :third]) == 0 and np.median(pixels[:, -third:]) == 255


@pytest.mark.slow
@pytest.mark.parametrize("name", ["mnist_likelihood", "mnist_conditional"])
def test_the_others_on_noise(monkeypatch, tmp_path, name):
    module = experiment(monkeypatch, name)
    kind = {"mnist_likelihood": "MnistLikelihood", "mnist_conditional": "MnistConditional"}[name]
    assert module.run(getattr(module, kind)(smoke=True, runs=str(tmp_path))) == 0
    results = results_of(tmp_path / f"{name}_smoke")
    assert results["figures"]["likelihood_failures"] == 0
    if name == "mnist_likelihood":
        rows = {row[0]: row[1] for row in results["tables"][0]["rows"]}
        assert rows["Glow (Kingma & Dhariwal 2018)"] == "1.05"
        exact, bound = (float(rows[key]) for key in rows if key.endswith("test images"))
        # The first figure is of two steps of training: nearly N(0, 0.6²) in both.
        assert bound == pytest.approx(exact, abs=1.0)


def test_noise_costs_uniform_pixels_what_the_likelihood_experiment_says():
    """1.38 sigma / w bits, with log2 of the blurred density taken over the interval: Eq. 1."""
    sigma = 0.02
    x = (np.arange(200_000) + 0.5) / 200_000  # of an interval of width 1
    density = norm.cdf(x / sigma) - norm.cdf((x - 1.0) / sigma)
    assert np.mean(-np.log2(density)) == pytest.approx(1.38 * sigma, rel=2e-3)


def test_the_lectures_recipe_has_its_own_settings(monkeypatch, tmp_path):
    module = experiment(monkeypatch, "mnist_ddpm")
    changed = module.MnistDDPM(recipe="lecture", net=sd.MLPConfig(), runs=str(tmp_path))
    with pytest.raises(UsageError, match="has its own --net: leave"):
        module.run(changed)


def results_of(run):
    return json.loads((run / "results.json").read_text())
