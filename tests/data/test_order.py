"""The order of examples: a function of seed and step, the same for any number of processes."""

import numpy as np
import pytest

from scoresde.data.order import Order


def test_order_depends_on_seed_and_step_and_is_divided_between_processes():
    """An epoch holds every example once; several processes' rows are one process's, in order."""
    order = Order(seed=3, n=24, batch_size=8)
    epochs = np.array([order(step) for step in range(6)]).reshape(2, 24)
    np.testing.assert_array_equal(np.sort(epochs), [np.arange(24)] * 2)
    assert (epochs[0] != epochs[1]).any()

    fresh = Order(3, 24, 8)  # no step needs the one before it
    np.testing.assert_array_equal(fresh(4), epochs.reshape(6, 8)[4])
    assert (Order(4, 24, 8)(0) != order(0)).any()

    for step in (0, 5):
        parts = [Order(3, 24, 8, process, 4)(step) for process in range(4)]
        np.testing.assert_array_equal(np.concatenate(parts), order(step))
    for wrong in ({"process": 4, "processes": 4}, {"processes": 3}, {"n": 0}):
        with pytest.raises(ValueError, match="wanted"):
            Order(**{"seed": 0, "n": 24, "batch_size": 8} | wrong)
