"""Rows that a score holds: marked, moved into the condition, and back."""

import jax.numpy as jnp
import numpy as np
import pytest

import scoresde as sd
from scoresde.parallel.held import PerExample, held, move_out, num_rows, repeat_held, rows_for


def test_one_row_is_shared_and_several_are_marked():
    assert np.shape(held(3, "label")) == (1,)
    assert np.shape(held(np.zeros((1, 5)), "y")) == (1, 5)
    marked = held({"label": np.arange(4), "y": np.zeros((1, 2))}, "cond")
    assert isinstance(marked["label"], PerExample)
    assert num_rows(marked) == 4
    np.testing.assert_array_equal(rows_for(marked, 4, "cond")["label"], np.arange(4))
    assert rows_for(marked, 4, "cond")["y"].shape == (4, 2)
    with pytest.raises(ValueError, match=r"cond has 4 rows, and there are 3 examples"):
        rows_for(marked, 3, "cond")
    with pytest.raises(ValueError, match="leaves of 2, 3 rows"):
        held((np.zeros(2), np.zeros(3)), "cond")


def test_rows_move_into_the_condition_and_back():
    """The moved score is the same function, of the rows that arrive."""

    def score(x, t, cond):
        return x * cond["scale"][:, None] + cond["shift"]

    shift = np.random.default_rng(0).normal(size=(4, 2)).astype(np.float32)
    inner = sd.conditioned(score, {"scale": np.arange(4.0, dtype=np.float32), "shift": shift})
    outer = sd.Autoguidance(inner, inner, 2.0)
    x = jnp.ones((4, 2))
    t = jnp.asarray(0.5)
    moved, cond = move_out(outer, None, 4)
    np.testing.assert_array_equal(moved(x, t, cond), outer(x, t))

    # Taking some of the rows of x and of the condition takes those of the result.
    rows, inner_cond = cond
    some = ([row[1:3] for row in rows], inner_cond)
    np.testing.assert_array_equal(moved(x[1:3], t, some), outer(x, t)[1:3])

    again = move_out(moved, cond, 4)
    assert again[0] is moved  # an edge within an edge finds nothing more to move
    assert again[1] is cond


def test_rows_repeat_with_their_examples():
    score = sd.conditioned(lambda x, t, label: x * label[:, None], np.arange(3))
    twice = repeat_held(score, 2)
    x = jnp.ones((6, 1))
    np.testing.assert_array_equal(twice(x, 0.5)[:, 0], [0, 0, 1, 1, 2, 2])
