"""Nearest training examples, against all distances, and what remembering does to them."""

import numpy as np
import pytest

from scoresde.evaluation.memorisation import nearest, remembered

RNG = np.random.default_rng(0)


def test_they_are_the_least_of_all_distances():
    x, train = RNG.normal(size=(300, 2, 3)), RNG.normal(size=(500, 2, 3))
    found = nearest(x, train)
    distances = np.linalg.norm((x[:, None] - train[None]).reshape(300, 500, -1), axis=2)
    np.testing.assert_array_equal(found.index, distances.argmin(axis=1))
    np.testing.assert_allclose(found.distance, distances.min(axis=1), rtol=1e-12)


@pytest.mark.usefixtures("unchecked")
def test_other_spaces_are_refused():
    with pytest.raises(ValueError, match="that is 6 and 3 dimensions"):
        nearest(RNG.normal(size=(3, 2, 3)), RNG.normal(size=(5, 3)))


def test_a_training_example_is_its_own_nearest():
    """Also far from 0, where |x - y|^2 by squares loses digits."""
    train = 1e4 + RNG.normal(size=(100, 5))
    found = nearest(train[::-1], train)
    np.testing.assert_array_equal(found.index, np.arange(100)[::-1])
    assert not found.distance.any()


def test_fresh_draws_are_remembered_as_often_as_held_out_ones_and_copies_always():
    """Of 2000 fresh draws a tenth; standard error sqrt(.1 × .9 (1/2000 + 1/2000)) = .0095."""
    train, held_out, fresh = RNG.normal(size=(3, 2000, 4))
    reference = nearest(held_out, train)
    assert abs(remembered(nearest(fresh, train), reference, 0.1) - 0.1) < 5 * 0.0095
    copies = train[RNG.integers(0, 2000, 500)] + 1e-3
    assert remembered(nearest(copies, train), reference) == 1.0
