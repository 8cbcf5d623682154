"""The loop over steps: it resumes to the bit, stops when asked, and gives up when it diverges."""

import contextlib
import dataclasses
import json
import os
import signal
import time

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax import nnx
from scipy.integrate import quad
from small_training import KEY, SMALL, data, final_state, mlp, train_small, weights

import scoresde as sd
from scoresde.train import trainer
from scoresde.train.examples import as_source
from scoresde.train.trainer import Trainer


@pytest.mark.parametrize("dropout", [pytest.param(0.0, marks=pytest.mark.slow), 0.3])
def test_resumed_training_is_the_same_to_the_bit(mixture, tmp_path, dropout):
    """40 steps equal 20 and another 20 from the checkpoint: the whole state, dropout included."""

    def train(name, training=SMALL):
        return sd.fit(
            KEY,
            mlp(dropout=dropout),
            data(mixture),
            training=training,
            run=tmp_path / name,
            progress=False,
        )

    whole = train("whole")
    train("parts", dataclasses.replace(SMALL, steps=20))
    parts = train("parts")

    states = []
    for name in ("whole", "parts"):
        state = final_state(mlp(dropout=dropout), tmp_path / name)
        states.append([np.asarray(leaf) for leaf in jax.tree.leaves(state)])
    for a, b in zip(*states, strict=True):
        np.testing.assert_array_equal(a, b)
    for a, b in zip(weights(whole.model), weights(parts.model), strict=True):
        np.testing.assert_array_equal(a, b)
    assert [row["step"] for row in parts.history] == [row["step"] for row in whole.history]

    again = train("parts")
    assert again.step == 40  # finished: nothing is trained


def test_several_steps_a_dispatch_are_the_same_steps(mixture):
    one = train_small(mixture)
    four = dataclasses.replace(SMALL, steps_per_dispatch=4)
    several = train_small(mixture, training=four)
    for a, b in zip(weights(one.model), weights(several.model), strict=True):
        np.testing.assert_allclose(a, b, rtol=2e-4, atol=2e-6)
    assert several.step == 40


def test_two_devices_give_one_devices_losses(mixture):
    """A batch of 32 is cut over both devices, and the losses stay those of one."""
    assert jax.local_device_count() == 2
    model = mlp()
    x = data(mixture)
    losses = []
    for devices in (jax.local_devices(), jax.local_devices()[:1]):
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(jax, "local_devices", lambda devices=devices: devices)
            fit = sd.fit(KEY, model, x, training=SMALL, progress=False)
        losses.append([row["loss"] for row in fit.history])
    np.testing.assert_allclose(*losses, rtol=1e-4)


@pytest.mark.parametrize("step", [2, 4])
def test_a_signal_stops_at_any_step_even_the_last(mixture, tmp_path, step):
    """SIGINT at a validation stops there, with a checkpoint; the same call then finishes."""

    def interrupt(now, model):
        if now == step:
            signal.raise_signal(signal.SIGINT)

    training = dataclasses.replace(SMALL, steps=4, log_every=1, validate_every=1)

    def train(callbacks):
        return train_small(mixture, training, run=tmp_path / "run", callbacks=callbacks)

    stopped = train([interrupt])
    assert (stopped.step, stopped.interrupted) == (step, True)
    assert sd.runs.Checkpoints(tmp_path / "run" / "checkpoints").steps()[-1] == step

    whole = train([])
    assert (whole.step, whole.interrupted) == (4, False)


def test_bad_steps_change_nothing_and_push_out_no_checkpoint(mixture, tmp_path):
    """Data that turn bad after step 20: each attempt to resume stops, and leaves what there is."""
    run = tmp_path / "run"

    class Turning:
        fingerprint = "the same data"
        shape = (2,)
        bad = False
        x = data(mixture)

        def __len__(self):
            return len(self.x)

        def batch(self, indices):
            bad = self.bad and 2 < len(indices) < len(self)  # a batch, not what fit looks at first
            return self.x[indices] * (np.nan if bad else 1.0), None

    source = Turning()

    def train(steps):
        training = dataclasses.replace(SMALL, steps=steps, max_skipped=3, validate_every=2)
        return sd.fit(
            KEY, mlp(), source, validation=0.0, training=training, run=run, progress=False
        )

    good = train(20).model
    steps = sd.runs.Checkpoints(run / "checkpoints").steps()
    source.bad = True
    for _ in range(4):
        with pytest.raises(sd.TrainingDiverged, match=r"not finite.*checkpoint is of step 20"):
            train(40)
    assert sd.runs.Checkpoints(run / "checkpoints").steps() == steps
    for a, b in zip(weights(sd.load(run)), weights(good), strict=True):
        np.testing.assert_array_equal(a, b)


@pytest.mark.parametrize("validate_every", [1, 5], ids=["at the step", "after more steps"])
def test_weights_that_an_update_made_infinite_are_not_saved(
    mixture, tmp_path, unchecked, validate_every
):
    """The gradient is finite, so the step is taken; what it leaves is never a checkpoint."""
    training = sd.Training(
        optimizer=optax.chain(optax.sgd(1e38), optax.scale(1e38)),
        max_skipped=3,
        log_every=1,
        validate_every=validate_every,
    )
    x = data(mixture)
    with pytest.raises(sd.TrainingDiverged, match="not finite"):
        sd.fit(KEY, mlp(), x, training=training, run=tmp_path, progress=False)
    assert sd.runs.Checkpoints(tmp_path / "checkpoints").steps() == []


def test_weights_that_are_not_finite_are_refused_before_the_first_step(mixture, tmp_path):
    model = mlp()
    layer = jax.tree.leaves(nnx.state(model.net, nnx.Param))[0]
    broken = jax.tree.map(lambda a: a * jnp.nan if a is layer else a, nnx.state(model.net))
    nnx.update(model.net, broken)
    with pytest.raises(ValueError, match="the model holds values that are not finite, in "):
        sd.fit(KEY, model, data(mixture), training=SMALL, run=tmp_path, progress=False)
    assert not (tmp_path / "checkpoints").exists()


def test_a_callback_that_takes_long_is_given_up_after_a_signal(mixture, tmp_path, monkeypatch):
    """The checkpoint comes before it; what was given up is done when the run resumes."""
    monkeypatch.setattr(trainer, "GRACE", 0.2)
    run = tmp_path / "run"
    called = []

    def train(callback):
        return train_small(mixture, run=run, callbacks=[callback])

    def slow(step, model):
        assert sd.runs.Checkpoints(run / "checkpoints").steps()[-1:] in ([step], [])
        signal.raise_signal(signal.SIGTERM)
        time.sleep(60)

    start = time.monotonic()
    stopped = train(slow)
    assert time.monotonic() - start < 30
    assert (stopped.step, stopped.interrupted) == (20, True)
    assert "valid_loss" not in stopped.history[-1]

    def stubborn(step, model):
        signal.raise_signal(signal.SIGTERM)
        with contextlib.suppress(KeyboardInterrupt):
            time.sleep(60)

    assert train(stubborn).step == 20

    def quick(step, model):
        called.append(step)

    whole = train(quick)
    assert called == [20, 40]
    uninterrupted = train_small(mixture)
    for row, want in zip(whole.history, uninterrupted.history, strict=True):
        assert (row["step"], row["loss"]) == (want["step"], want["loss"])
        assert row.get("valid_loss") == want.get("valid_loss")


def test_callbacks_see_the_ema_model(mixture):
    """Once per validation, and each time with the weights of that step."""
    seen = []

    def callback(step, model):
        seen.append((step, float(jnp.abs(model(jnp.ones((1, 2)), 0.5)).sum())))
        return {"mine": np.float32(step)}

    fit = train_small(mixture, callbacks=[callback])
    assert [step for step, _ in seen] == [20, 40]
    assert seen[0][1] != seen[1][1]
    assert fit.history[-1]["mine"] == 40.0


@pytest.mark.parametrize("n", [8, 70])
def test_validation_is_unbiased_whatever_the_batch(n):
    """A network that predicts x_0 = 0 has the loss SNR(t) |x_0|^2 / D, whose mean is an integral.

    Times are evenly spread over all examples and repeats, so the estimates of 20 keys scatter by
    less than 1 / 10 of it; they are the same for any batch size, the last batch full or not.
    """
    sde = sd.VP()
    zero = jax.tree.map(jnp.zeros_like, mlp())
    model = sd.ScoreModel(sde, zero.net, sd.Data())
    signs = np.where(np.arange(2 * n).reshape(n, 2) % 3 == 0, -1.0, 1.0).astype(np.float32)

    def snr(t):
        return float(jnp.exp(sde.log_snr(t)))

    truth = quad(snr, 0.2, 1.0)[0] / 0.8
    source = as_source(signs, None, "validation")
    estimates = {}
    for batch_size in (3, 64):
        training = sd.Training(batch_size=batch_size, times=sd.times.LowDiscrepancy(t_min=0.2))
        trainer = Trainer(
            KEY, model, source, source, None, training, sd.objectives.DenoisingScoreMatching()
        )
        trainer.place()

        found = []
        for seed in range(20):  # another key, and the same compiled program
            trainer._key_validation = jax.random.key(seed)
            trainer._validation_times = None
            found.append(trainer.validation_loss())
        estimates[batch_size] = np.array(found)

    spread = estimates[64].std(ddof=1)
    assert spread < 0.1 * truth
    assert abs(estimates[64].mean() - truth) < 5 * spread / np.sqrt(20)
    np.testing.assert_allclose(estimates[3], estimates[64], rtol=1e-5)


def test_callbacks_receive_the_row_and_return_whatever_json_holds(mixture, tmp_path, monkeypatch):
    """Texts, arrays and numbers that are not finite; one that takes three arguments sees the row.

    A callback that changes the working directory does not move the run's relative folder.
    """
    monkeypatch.chdir(tmp_path)
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    rows = []

    def plain(step, model, own="a third parameter with a default"):
        assert isinstance(own, str)
        os.chdir(elsewhere)
        return {"note": "fine", "values": np.arange(2), "bad": float("nan")}

    def with_row(step, model, row):
        rows.append(row)

    training = dataclasses.replace(SMALL, steps=4, log_every=2, validate_every=2)
    fit = sd.fit(
        KEY,
        mlp(),
        data(mixture),
        training=training,
        run="run",
        callbacks=[plain, with_row],
        progress=False,
    )
    assert [row["step"] for row in rows] == [2, 4]
    assert {"loss", "valid_loss", "learning_rate", "note"} <= rows[0].keys()
    assert not list(elsewhere.iterdir())

    written = [json.loads(line) for line in (tmp_path / "run/metrics.jsonl").open()]
    assert written[-1]["note"] == fit.history[-1]["note"] == "fine"
    assert written[-1]["values"] == [0, 1]
    assert written[-1]["bad"] is None


@pytest.mark.parametrize(
    ("returned", "message"),
    [
        (
            {"model": object()},
            "callback bad returned 'model': .* is of type object: wanted a number",
        ),
        ([1.0], "callback bad returned a list: wanted a dictionary"),
        ({"step": 99}, "callback bad returned 'step', which the row holds .* such as 'my_step'"),
    ],
)
def test_what_a_callback_may_not_return_is_named(mixture, returned, message):
    def bad(step, model):
        return returned

    training = dataclasses.replace(SMALL, steps=1, log_every=1, validate_every=1)
    with pytest.raises((TypeError, ValueError), match=message):
        train_small(mixture, training, callbacks=[bad])


def test_a_batch_in_parts_trains_float32_data_under_x64(mixture, x64):
    """The sum over parts takes the dtypes of the gradient, whatever those of data and weights."""
    training = dataclasses.replace(
        SMALL, steps=2, log_every=1, validate_every=2, accumulate=2, warmup=1
    )
    x = data(mixture).astype(np.float32)
    losses = []
    for accumulate in (1, 2):
        settings = dataclasses.replace(training, accumulate=accumulate)
        fit = sd.fit(KEY, mlp(), x, training=settings, progress=False)
        losses.append([row["loss"] for row in fit.history])
    np.testing.assert_allclose(*losses, rtol=1e-4)
