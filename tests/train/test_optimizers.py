"""Optimisers: their updates, from Python and from the command line, and what is refused."""

import dataclasses
import re

import jax.numpy as jnp
import numpy as np
import optax
import pytest
from small_training import KEY, SMALL, data, mlp

import scoresde as sd
from scoresde.cli.flags import parse
from scoresde.runs.settings import from_dict, to_dict

PLAIN = sd.Training(steps=20, batch_size=32, validate_every=20, log_every=10)
"""Settings with the default learning rate, which an optax transformation asks for."""


@dataclasses.dataclass(frozen=True)
class Settings:
    """What an experiment has."""

    training: sd.Training = sd.Training()


def test_the_command_line_names_the_optimiser():
    flags = ["training.optimizer:adamw", "--training.optimizer.weight-decay", "1e-2"]
    chosen = parse(Settings, flags).training
    assert chosen.optimizer == sd.optimizers.AdamW(weight_decay=1e-2)

    b1 = parse(Settings, ["--training.optimizer.b1", "0.8"]).training
    assert b1.optimizer == sd.optimizers.Adam(b1=0.8)
    assert from_dict(to_dict(chosen), sd.Training) == chosen


def test_settings_written_before_there_was_a_choice_are_adams():
    settings = to_dict(sd.Training(epsilon=1e-6))
    del settings["optimizer"]
    found = from_dict(settings, sd.Training)
    assert (found.optimizer, found.epsilon) == (sd.optimizers.Adam(), 1e-6)


@pytest.mark.parametrize(
    "optimizer", [sd.optimizers.Adam(0.8, 0.9), sd.optimizers.AdamW(0.8, 0.9, 0.5)]
)
def test_two_updates_are_those_of_the_equation(optimizer):
    """Eq. 1 in float64, by hand."""
    rate, epsilon = 0.1, 0.3
    theta = np.array([1.0, -2.0])
    gradients = [np.array([0.3, 0.2]), np.array([-0.1, 0.4])]

    settings = sd.Training(
        learning_rate=rate, warmup=0, clip=1e3, epsilon=epsilon, optimizer=optimizer
    )
    transformation = settings.transformation()
    params = jnp.asarray(theta)
    state = transformation.init(params)

    m = v = 0.0
    for k, g in enumerate(gradients):
        update, state = transformation.update(jnp.asarray(g), state, params)
        params = optax.apply_updates(params, update)

        m = 0.8 * m + 0.2 * g
        v = 0.9 * v + 0.1 * g**2
        step = m / (1 - 0.8 ** (k + 1)) / (np.sqrt(v / (1 - 0.9 ** (k + 1))) + epsilon)
        decay = getattr(optimizer, "weight_decay", 0.0)
        theta = theta - rate * (step + decay * theta)
    np.testing.assert_allclose(params, theta, rtol=1e-5)


def test_an_optax_transformation_trains_after_clipping(mixture, tmp_path, unchecked):
    """Its rows have no learning rate, and its run resumes."""
    clipped = dataclasses.replace(PLAIN, clip=0.5, optimizer=optax.sgd(1.0)).transformation()
    gradient = jnp.asarray([3.0, 4.0])
    update, _ = clipped.update(gradient, clipped.init(gradient), gradient)
    np.testing.assert_allclose(update, [-0.3, -0.4], rtol=1e-6)

    run = tmp_path / "run"
    for steps in (20, 40):
        training = dataclasses.replace(PLAIN, steps=steps, optimizer=optax.lion(1e-4))
        fit = sd.fit(KEY, mlp(), data(mixture), training=training, run=run, progress=False)
    assert [row["step"] for row in fit.history] == [10, 20, 30, 40]
    assert "learning_rate" not in fit.history[-1]
    assert "kind: GradientTransformation" in (run / "config.yaml").read_text()
    sd.load(run)

    # Its name cannot tell it from another one, but the form of its state can.
    other = dataclasses.replace(training, steps=60, optimizer=optax.adam(1e-4))
    with pytest.raises(sd.runs.CheckpointError, match="opt_state"):
        sd.fit(KEY, mlp(), data(mixture), training=other, run=run, progress=False)
    with pytest.raises(ValueError, match="made with other settings"):
        adam = dataclasses.replace(PLAIN, steps=60)
        sd.fit(KEY, mlp(), data(mixture), training=adam, run=run, progress=False)


def test_a_transformation_that_reads_the_loss_gets_it(mixture, unchecked):
    optimizer = optax.chain(optax.adam(1e-3), optax.contrib.reduce_on_plateau(patience=1))
    training = dataclasses.replace(PLAIN, steps=4, log_every=4, optimizer=optimizer)
    fit = sd.fit(KEY, mlp(), data(mixture), training=training, progress=False)
    assert fit.history[-1]["skipped"] == 0


def test_a_wrapper_is_refused_with_the_line_to_write(unchecked):
    optimizer = optax.MultiSteps(optax.adam(1e-3), 2)
    with pytest.raises(ValueError, match="write optimizer") as caught:
        sd.Training(optimizer=optimizer)
    line = re.search(r"write (.*)\.", str(caught.value))[1]
    sd.Training(optimizer=eval(line, {"optimizer": optimizer}))


def test_settings_that_a_transformation_would_ignore_are_refused(unchecked):
    with pytest.raises(ValueError, match=r"learning_rate = 0\.01, epsilon = 1e-06") as refused:
        sd.Training(steps=70, learning_rate=0.01, epsilon=1e-6, optimizer=optax.lion(1e-4))
    advised = re.search(r"such as (optax\.lion\(.*\))\.", str(refused.value))
    sd.Training(steps=70, optimizer=eval(advised[1]))


@pytest.mark.parametrize("wrong", ["adamw", optax.lion, sd.optimizers.Adam])
def test_what_is_no_optimiser_is_refused(wrong, unchecked):
    with pytest.raises(ValueError, match=r"wanted sd\.optimizers\.Adam") as refused:
        dataclasses.replace(SMALL, optimizer=wrong)
    for line in re.findall(r"sd\.optimizers\.\w+\(\)|optax\.\w+\(.*?\)", str(refused.value)):
        sd.Training(optimizer=eval(line))


@pytest.mark.parametrize(
    "build",
    [
        lambda: sd.optimizers.Adam(b1=1.0),
        lambda: sd.optimizers.AdamW(b2=-0.1),
        lambda: sd.optimizers.AdamW(weight_decay=-1.0),
    ],
)
def test_settings_out_of_range_are_refused(build):
    with pytest.raises(ValueError, match="out of range"):
        build()
