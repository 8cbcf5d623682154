"""Settings of training: what they mean for the optimiser, and which are refused."""

import dataclasses

import jax.numpy as jnp
import numpy as np
import pytest
from small_training import SMALL

import scoresde as sd


def test_the_learning_rate_warms_up_and_decays():
    training = sd.Training(steps=100, warmup=10, learning_rate=1e-2, final_rate=0.1)
    rate = training.schedule()
    np.testing.assert_allclose([rate(0), rate(10), rate(100)], [1e-2 / 11, 1e-2, 1e-3], rtol=1e-5)


def test_large_gradients_are_clipped():
    """Gradients of norm 5 and 5000 are both clipped to 1, so they update alike."""
    optimizer = sd.Training(clip=1.0, warmup=0, learning_rate=1.0).transformation()
    updates = []
    for scale in (1.0, 1e3):
        gradient = {"w": jnp.asarray([3.0, 4.0]) * scale}
        update, _ = optimizer.update(gradient, optimizer.init(gradient))
        updates.append(update["w"])
    np.testing.assert_allclose(updates[0], updates[1], rtol=1e-5)


@pytest.mark.parametrize("setting", ["steps", "batch_size", "learning_rate", "clip", "log_every"])
def test_settings_out_of_range_are_refused(setting, unchecked):
    with pytest.raises(ValueError, match=setting):
        sd.Training(**{setting: 0})


def test_a_batch_that_does_not_divide_into_parts_is_refused():
    with pytest.raises(ValueError, match="does not divide"):
        sd.Training(batch_size=8, accumulate=3)


def test_a_weighting_given_by_name_is_refused(unchecked):
    with pytest.raises(ValueError, match="weighting is 'edm'"):
        dataclasses.replace(SMALL, weighting="edm")
