"""Training: it learns what is known, resumes to the bit, skips what is not finite, and refuses what does not fit."""

import dataclasses
import json
import signal

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

import scoresde as sd
from scoresde.data.images import Images
from scoresde.data.prepare import RandomFlip
from scoresde.parallel.mesh import data_mesh
from scoresde.train.ema import ema_decay, ema_update
from scoresde.train.state import Skeleton

KEY = jax.random.key(0)
SMALL = sd.Training(steps=40, batch_size=32, warmup=5, validate_every=20, log_every=10)


def mlp(seed=0, dropout=0.0, width=32, **config):
    net = sd.MLPConfig(width=width, depth=1, dropout=dropout, **config).build(
        (2,), rngs=nnx.Rngs(seed)
    )
    return sd.ScoreModel(sd.VP(), net, sd.EDM(1.0))


def weights(model):
    return [
        np.asarray(leaf)
        for leaf in jax.tree.leaves(nnx.to_pure_dict(nnx.state(model.net, nnx.Param)))
    ]


def data(mixture, n=512):
    return np.asarray(mixture.sample(jax.random.key(5), n))


def test_training_approaches_the_exact_score(mixture):
    """On held-out points the trained score is far nearer to the exact one than the untrained, and the loss says so."""
    model, sde = mlp(width=64), sd.VP()
    training = sd.Training(
        steps=600, batch_size=256, learning_rate=4e-3, final_rate=0.02, validate_every=600
    )
    fit = sd.fit(KEY, model, data(mixture, 4096), training=training, progress=False)
    x0, t = mixture.sample(jax.random.key(6), 4000), jax.random.uniform(KEY, (4000,), minval=0.02)
    mean, std = sde.marginal_prob(x0, t)
    x = mean + std[:, None] * jax.random.normal(jax.random.key(7), x0.shape)
    exact = mixture.score(sde)(x, t)
    error = {
        name: float(jnp.mean((std[:, None] * (m(x, t) - exact)) ** 2))
        for name, m in (("trained", fit.model), ("untrained", model))
    }
    assert (
        error["trained"] < 0.2 * error["untrained"]
    )  # EDM starts as the best Gaussian: not easy to beat
    assert fit.history[-1]["valid_loss"] < fit.history[0]["loss"]
    assert len(jax.tree.leaves(fit.model)) == len(jax.tree.leaves(model))


@pytest.mark.parametrize("dropout", [pytest.param(0.0, marks=pytest.mark.slow), 0.3])
def test_resumed_training_is_the_same_to_the_bit(mixture, tmp_path, dropout):
    """40 steps equal 20 + a new process's 20: parameters, EMA and the optimiser's moments, dropout included."""
    x = data(mixture)
    whole = sd.fit(
        KEY, mlp(dropout=dropout), x, training=SMALL, run=tmp_path / "whole", progress=False
    )
    short = dataclasses.replace(SMALL, steps=20)
    sd.fit(KEY, mlp(dropout=dropout), x, training=short, run=tmp_path / "parts", progress=False)
    parts = sd.fit(
        KEY, mlp(dropout=dropout), x, training=SMALL, run=tmp_path / "parts", progress=False
    )
    states = []
    for name in ("whole", "parts"):
        loop_state = _final_state(mlp(dropout=dropout), tmp_path / name)
        states.append([np.asarray(leaf) for leaf in jax.tree.leaves(loop_state)])
    for a, b in zip(*states, strict=True):
        np.testing.assert_array_equal(a, b)
    for a, b in zip(weights(whole.model), weights(parts.model), strict=True):
        np.testing.assert_array_equal(a, b)
    assert [row["step"] for row in parts.history] == [row["step"] for row in whole.history]
    again = sd.fit(
        KEY, mlp(dropout=dropout), x, training=SMALL, run=tmp_path / "parts", progress=False
    )
    assert again.step == 40  # finished: nothing is trained


def _final_state(model, run):
    from scoresde.train.state import init_state

    _, params, constants = Skeleton.split(model)
    like = jax.eval_shape(lambda: init_state(params, constants, SMALL.optimizer()))
    with sd.runs.Checkpoints(run / "checkpoints") as checkpoints:
        return checkpoints.restore(like, 40).state


def test_several_steps_a_dispatch_are_the_same_steps(mixture):
    one = sd.fit(KEY, mlp(), data(mixture), training=SMALL, progress=False)
    four = dataclasses.replace(SMALL, steps_per_dispatch=4)
    several = sd.fit(KEY, mlp(), data(mixture), training=four, progress=False)
    for a, b in zip(weights(one.model), weights(several.model), strict=True):
        np.testing.assert_allclose(a, b, rtol=2e-4, atol=2e-6)
    assert several.step == 40


def test_a_batch_in_parts_is_the_same_step(mixture):
    """Dequantised data, labels, times and noise do not know the parts: gradient, loss and weights are the batch's."""
    labels = np.arange(512, dtype=np.int32) % 3
    integers = np.clip(np.round(4.0 * data(mixture) + 8.0), 0, 16).astype(np.int32)
    short = dataclasses.replace(SMALL, steps=5, log_every=5, validate_every=5)
    fits = [
        sd.fit(
            KEY,
            mlp(num_classes=3),
            integers,
            cond=labels,
            prepare=sd.UniformDequantization(17),
            training=dataclasses.replace(short, accumulate=parts),
            progress=False,
        )
        for parts in (1, 4)
    ]
    for a, b in zip(*(weights(fit.model) for fit in fits), strict=True):
        np.testing.assert_allclose(a, b, rtol=2e-4, atol=2e-6)
    np.testing.assert_allclose(
        *([fit.history[0][name] for name in ("loss", "grad_norm")] for fit in fits), rtol=1e-4
    )
    assert np.abs(weights(fits[0].model)[0] - weights(mlp(num_classes=3))[0]).max() > 1e-4


def test_parts_draw_dropout_each_for_itself():
    """Two equal halves: with one mask for both, their mean gradient would be a half's, and a batch's loss differs."""
    from scoresde.train.state import init_state
    from scoresde.train.step import make_step

    model = mlp(dropout=0.5)
    for kernel in (
        model.net.output.kernel,
        model.net.blocks[0].dense2.kernel,
    ):  # they start at zero
        kernel[...] = jax.random.normal(jax.random.key(1), kernel.shape)
    skeleton, params, constants = Skeleton.split(model)
    seen = []
    for parts in (1, 2, 4):
        training = sd.Training(batch_size=8, accumulate=parts)
        step = jax.jit(make_step(skeleton, training, None))
        state = init_state(params, constants, training.optimizer())
        seen.append(
            [
                float(step(state, jax.random.key(seed), (jnp.ones((8, 2)), None))[1]["loss"])
                for seed in (0, 0, 1)
            ]
        )
    assert all(a == b != c for a, b, c in seen)  # by the key alone
    assert len({losses[0] for losses in seen}) == 3
    with pytest.raises(ValueError, match="does not divide"):
        sd.Training(batch_size=8, accumulate=3)


def test_two_devices_give_one_devices_losses(mixture):
    """A batch of 32 is cut over both devices; one of 31 runs on one: the mesh takes as many as divide the batch."""
    assert jax.local_device_count() == 2
    assert data_mesh(32).size == 2
    assert data_mesh(31).size == 1
    model, x = mlp(), data(mixture)
    losses = []
    for devices in (jax.local_devices(), jax.local_devices()[:1]):
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(jax, "local_devices", lambda devices=devices: devices)
            losses.append(
                [
                    row["loss"]
                    for row in sd.fit(KEY, model, x, training=SMALL, progress=False).history
                ]
            )
    np.testing.assert_allclose(*losses, rtol=1e-4)


def test_ema_follows_its_recursion_and_forgets_the_start():
    """Closed form: the weight of the initial value after n updates is the product of the decays."""
    start, value = {"w": jnp.asarray(1.0)}, {"w": jnp.asarray(0.0)}
    ema, weight = start, 1.0
    for n in range(50):
        decay = ema_decay(0.999, jnp.asarray(n))
        ema, weight = ema_update(ema, value, decay), weight * min(0.999, (1 + n) / (10 + n))
    assert float(ema["w"]) == pytest.approx(weight, rel=1e-5)
    total = np.prod([min(0.999, (1 + n) / (10 + n)) for n in range(1500)])
    assert total < 1e-3 < 0.999**1500  # 22 % without warm-up


def test_the_models_weights_are_the_emas(mixture, tmp_path):
    fit = sd.fit(KEY, mlp(), data(mixture), training=SMALL, run=tmp_path / "run", progress=False)
    state = _final_state(mlp(), tmp_path / "run")
    for a, b in zip(weights(fit.model), jax.tree.leaves(state["ema"]), strict=True):
        np.testing.assert_array_equal(a, b)
    loaded = sd.load(tmp_path / "run")
    for a, b in zip(weights(loaded), jax.tree.leaves(state["ema"]), strict=True):
        np.testing.assert_array_equal(a, b)
    raw = sd.load(tmp_path / "run", ema=False)
    for a, b in zip(weights(raw), jax.tree.leaves(state["params"]), strict=True):
        np.testing.assert_array_equal(a, b)
    x = jnp.ones((3, 2))
    np.testing.assert_allclose(loaded(x, 0.5), fit.model(x, 0.5), rtol=1e-5)
    assert sd.load(tmp_path / "run", step=20).sde == sd.VP()


def test_schedule_and_clipping():
    training = sd.Training(steps=100, warmup=10, learning_rate=1e-2, final_rate=0.1)
    rate = training.schedule()
    np.testing.assert_allclose([rate(0), rate(10), rate(100)], [1e-2 / 11, 1e-2, 1e-3], rtol=1e-5)
    optimizer = sd.Training(clip=1.0, warmup=0, learning_rate=1.0).optimizer()
    small, large = (
        {"w": jnp.asarray([3.0, 4.0]) * s} for s in (1.0, 1e3)
    )  # norms 5 and 5000: both clipped to 1
    states = [optimizer.update(g, optimizer.init(g))[0]["w"] for g in (small, large)]
    np.testing.assert_allclose(states[0], states[1], rtol=1e-5)


def test_conditions_are_learnt_per_example():
    """Label c has its data at ±1: the trained denoiser separates them, from one and the same noisy point."""
    rng = np.random.default_rng(0)
    labels = rng.integers(0, 2, 1024).astype(np.int32)
    x = np.where(labels[:, None] == 1, 1.0, -1.0) + 0.1 * rng.normal(size=(1024, 2))
    training = sd.Training(
        steps=400, batch_size=64, learning_rate=3e-3, final_rate=0.05, warmup=10, validate_every=400
    )
    fit = sd.fit(
        KEY,
        mlp(num_classes=2),
        x.astype(np.float32),
        cond=labels,
        training=training,
        progress=False,
    )
    guess = fit.model.denoise(jnp.zeros((2, 2)), 0.5, jnp.asarray([0, 1]))
    np.testing.assert_allclose(guess, [[-1, -1], [1, 1]], atol=0.4)


@pytest.mark.usefixtures("unchecked")
@pytest.mark.parametrize(
    ("cond", "message"),
    [
        (None, "the network has 2 classes and the data no labels"),
        ({"y": np.zeros(12, int)}, "cond is a dict: wanted one integer label an example"),
        (np.zeros(12), r"cond is float64 \(12,\)"),
        (np.array(["a"] * 12), "cond is <U1"),
        ([0] * 11 + [2], "cond holds 0 … 2"),
    ],
)
def test_labels_that_do_not_fit_are_refused_before_training(cond, message):
    with pytest.raises(ValueError, match=message):
        sd.fit(
            KEY,
            mlp(num_classes=2),
            np.full((12, 2), 0.5),
            cond=cond,
            validation=0.0,
            training=SMALL,
        )


def test_integers_where_reals_are_wanted_are_refused_before_training(mixture):
    pixels = np.random.default_rng(0).integers(0, 256, (40, 2))
    with pytest.raises(
        ValueError, match=r"data holds whole numbers .*UniformDequantization\(levels=256\)"
    ):
        sd.fit(KEY, mlp(), pixels.astype(np.float32), training=SMALL)
    with pytest.raises(
        ValueError, match=r"prepare=sd.UniformDequantization\(levels=256\), drawn anew"
    ):
        sd.fit(KEY, mlp(), pixels.astype(np.uint8), training=SMALL)
    source = Images(np.zeros((8, 2, 2, 1), np.uint8))
    with pytest.raises(TypeError, match=r"data are integers, uint8: write prepare="):
        sd.fit(KEY, mlp(), source, validation=0.0, training=SMALL)
    with pytest.raises(TypeError, match=r"data are integers, uint8: write prepare="):
        sd.fit(
            KEY, mlp(), source, validation=0.0, training=SMALL, prepare=RandomFlip()
        )  # flipped ones are still
    with pytest.raises(ValueError, match="wanted integers both, or reals both"):
        sd.fit(KEY, mlp(), data(mixture), validation=pixels, training=SMALL)


# --- What is not finite ---


@pytest.mark.parametrize("step", [2, 4])
def test_a_signal_stops_at_any_step_even_the_last(mixture, tmp_path, step):
    """SIGINT at a validation: stopped there, saved, and said; the same call goes on to the end."""

    def interrupt(now, model):
        if now == step:
            signal.raise_signal(signal.SIGINT)

    training = dataclasses.replace(SMALL, steps=4, log_every=1, validate_every=1)
    call = lambda callbacks: sd.fit(
        KEY,
        mlp(),
        data(mixture),
        training=training,
        run=tmp_path / "run",  # noqa: E731
        callbacks=callbacks,
        progress=False,
    )
    stopped = call([interrupt])
    assert (stopped.step, stopped.interrupted) == (step, True)
    assert sd.runs.Checkpoints(tmp_path / "run" / "checkpoints").steps()[-1] == step
    whole = call([])
    assert (whole.step, whole.interrupted) == (4, False)


def test_bad_batches_are_skipped_and_counted(mixture):
    """Every row is finite, but `prepare` makes some batches overflow: their steps leave everything as it was."""

    def prepare(key, x):
        return jnp.where(jax.random.bernoulli(key, 0.3), jnp.inf, 1.0) * x

    fit = sd.fit(
        KEY, mlp(), data(mixture), prepare=prepare, training=SMALL, validation=0.0, progress=False
    )
    skipped = fit.history[-1]["skipped"]
    assert 3 <= skipped <= 22  # 40 draws at 0.3: mean 12, standard deviation 2.9
    assert all(np.all(np.isfinite(w)) for w in weights(fit.model))
    assert all(np.isfinite(row["loss"]) for row in fit.history)


def test_training_stops_after_several_bad_steps_with_the_last_finite_state(mixture, tmp_path):
    def prepare(key, x):
        return x * jnp.nan

    before = weights(mlp())
    with pytest.raises(sd.TrainingDiverged, match="not finite"):
        sd.fit(
            KEY,
            mlp(),
            data(mixture),
            prepare=prepare,
            training=SMALL,
            run=tmp_path / "run",
            progress=False,
        )
    for a, b in zip(weights(sd.load(tmp_path / "run")), before, strict=True):
        np.testing.assert_array_equal(a, b)


# --- Wrong turns ---


def test_a_run_resumes_only_with_its_own_settings(mixture, tmp_path):
    x, run = data(mixture), tmp_path / "run"
    sd.fit(KEY, mlp(), x, training=SMALL, run=run, progress=False)
    before = (run / "config.yaml").read_text()
    for change in (
        {"training": dataclasses.replace(SMALL, learning_rate=0.5)},
        {"model": dataclasses.replace(mlp(), sde=sd.VP(beta_max=15.0))},
        {"key": jax.random.key(1)},
        {"data": x[:100]},
        {"data": x[::-1]},
    ):
        arguments = {"key": KEY, "model": mlp(), "data": x, "training": SMALL} | change
        with pytest.raises(ValueError, match="made with other settings"):
            sd.fit(**arguments, run=run, progress=False)
    assert (run / "config.yaml").read_text() == before
    assert sd.load(run).sde == sd.VP()


def test_damaged_checkpoints_are_named_and_the_previous_one_used(mixture, tmp_path):
    run = tmp_path / "run"
    sd.fit(KEY, mlp(), data(mixture), training=SMALL, run=run, progress=False)
    largest = max(
        (p for p in (run / "checkpoints" / "40").rglob("*") if p.is_file()),
        key=lambda p: p.stat().st_size,
    )
    content = bytearray(largest.read_bytes())
    content[len(content) // 2] ^= 1
    largest.write_bytes(bytes(content))
    with pytest.warns(UserWarning, match="40"):
        older = sd.load(run)
    for a, b in zip(weights(older), weights(sd.load(run, step=20)), strict=True):
        np.testing.assert_array_equal(a, b)


def test_metrics_are_one_json_object_a_line(mixture, tmp_path):
    fit = sd.fit(KEY, mlp(), data(mixture), training=SMALL, run=tmp_path / "run", progress=False)
    rows = [
        json.loads(line) for line in (tmp_path / "run" / "metrics.jsonl").read_text().splitlines()
    ]
    assert rows == fit.history
    assert [row["step"] for row in rows] == [10, 20, 30, 40]
    assert [row["step"] for row in rows if "valid_loss" in row] == [20, 40]


def test_own_networks_load_with_their_model(mixture, tmp_path):
    class Own(nnx.Module):
        def __init__(self, rngs):
            self.linear = nnx.Linear(2, 2, rngs=rngs)

        def __call__(self, x, t):
            return self.linear(x)

    build = lambda: sd.ScoreModel(sd.VP(), Own(nnx.Rngs(0)), sd.Noise())  # noqa: E731
    fit = sd.fit(KEY, build(), data(mixture), training=SMALL, run=tmp_path / "run", progress=False)
    with pytest.raises(sd.runs.ConfigError, match="model=model"):
        sd.load(tmp_path / "run")
    loaded = sd.load(tmp_path / "run", model=build())
    np.testing.assert_array_equal(weights(loaded)[0], weights(fit.model)[0])


def test_callbacks_see_the_ema_model_and_their_metrics_are_logged(mixture, tmp_path):
    seen = []

    def callback(step, model):
        seen.append((step, float(jnp.abs(model(jnp.ones((1, 2)), 0.5)).sum())))
        return {"mine": np.float32(step), "nothing": np.float32(np.nan)}

    run = tmp_path / "run"
    fit = sd.fit(
        KEY, mlp(), data(mixture), training=SMALL, callbacks=[callback], run=run, progress=False
    )
    last = json.loads((run / "metrics.jsonl").read_text().splitlines()[-1])
    assert (last["mine"], last["nothing"]) == (40.0, None)  # NaN is not JSON
    assert [step for step, _ in seen] == [20, 40]
    assert seen[0][1] != seen[1][1]
    assert fit.history[-1]["mine"] == 40.0


@pytest.mark.parametrize(
    ("change", "error", "message"),
    [
        ({"data": np.zeros((0, 2))}, ValueError, "not empty"),
        ({"data": np.zeros(5)}, ValueError, "wanted .examples"),
        ({"data": np.array([[1.0, np.nan], [0.0, 0.0]])}, ValueError, "1 of 2 examples"),
        ({"data": np.array([["a", "b"]])}, ValueError, "dtype"),
        ({"data": np.zeros((64, 3), np.float32)}, ValueError, "examples of shape"),
        ({"validation": np.zeros((4, 3))}, ValueError, "validation has examples of shape"),
        ({"validation": 1.5}, ValueError, "validation"),
        ({"validation": 0.999}, ValueError, "leaves none"),
        ({"validation": (np.zeros((4, 2)), None)}, ValueError, "validation_cond="),
        ({"validation_cond": np.zeros(6)}, ValueError, "validation=array"),
        (
            {"cond": np.zeros(64, np.int32), "validation": np.zeros((4, 2))},
            ValueError,
            "come together",
        ),
        ({"cond": np.full(64, 3), "model": mlp(num_classes=3)}, ValueError, "labels 0 … 2"),
        ({"cond": np.zeros(3, np.int32)}, ValueError, "per example"),
        ({"model": "unet"}, TypeError, "wanted sd.ScoreModel"),
        (
            {"model": sd.ScoreModel(sd.VP(), lambda x, t: x, sd.Noise())},
            TypeError,
            "fit trains NNX modules",
        ),
        ({"key": 0}, TypeError, "random key"),
    ],
)
def test_bad_input_is_refused_with_the_reason(change, error, message, unchecked):
    arguments = {
        "key": KEY,
        "model": mlp(),
        "data": np.zeros((64, 2), np.float32),
        "training": SMALL,
    } | change
    with pytest.raises(error, match=message):
        sd.fit(**arguments, progress=False)


@pytest.mark.parametrize("setting", ["steps", "batch_size", "learning_rate", "clip", "log_every"])
def test_bad_settings_are_refused(setting, unchecked):
    with pytest.raises(ValueError, match=setting):
        sd.Training(**{setting: 0})


def test_a_folder_that_cannot_be_written_is_said_before_any_work(mixture, tmp_path):
    (tmp_path / "file").write_text("in the way")
    with pytest.raises(OSError, match="cannot be written"):
        sd.fit(
            KEY, mlp(), data(mixture), training=SMALL, run=tmp_path / "file" / "run", progress=False
        )
    with pytest.raises(FileNotFoundError, match="not a run's folder"):
        sd.load(tmp_path / "nothing")


def test_a_subclass_of_a_library_network_is_not_taken_for_its_parent(mixture, tmp_path):
    class Mine(sd.nets.MLP):
        def __call__(self, x, t, cond=None):
            return super().__call__(x, t, cond) + 5.0

    build = lambda: sd.ScoreModel(
        sd.VP(), Mine(sd.MLPConfig(width=8), (2,), rngs=nnx.Rngs(0)), sd.EDM()
    )  # noqa: E731
    fit = sd.fit(KEY, build(), data(mixture), training=SMALL, run=tmp_path / "run", progress=False)
    with pytest.raises(sd.runs.ConfigError, match="not the library's"):
        sd.load(tmp_path / "run")
    x = jnp.ones((2, 2))
    np.testing.assert_allclose(
        sd.load(tmp_path / "run", model=build())(x, 0.5), fit.model(x, 0.5), rtol=1e-5
    )
    other = dataclasses.replace(build(), sde=sd.VP(beta_max=10.0))
    with pytest.raises(ValueError, match="beta_max=10"):
        sd.fit(KEY, other, data(mixture), training=SMALL, run=tmp_path / "run", progress=False)


def test_own_weightings_and_times_train(mixture, tmp_path, unchecked):
    class Early:
        def sample(self, key, sde, n):
            return jax.random.uniform(key, (n,), minval=0.01, maxval=0.2)

    training = dataclasses.replace(SMALL, weighting=lambda sde, t: jnp.ones_like(t), times=Early())
    fit = sd.fit(KEY, mlp(), data(mixture), training=training, run=tmp_path / "run", progress=False)
    assert fit.step == 40
    with pytest.raises(ValueError, match="weighting is 'edm'"):
        dataclasses.replace(SMALL, weighting="edm")
