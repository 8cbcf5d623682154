"""Tables are read-only float64, and are read at known and traced indices alike."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from scoresde.discrete.table import entries, padded_entries, shifted, table_of

TABLE = np.array([2.0, 3.0, 5.0])


def test_a_table_is_a_read_only_copy_in_float64():
    values = np.array([1, 2], np.float32)
    table = table_of("betas", values)
    values[0] = 7.0

    np.testing.assert_array_equal(table, [1.0, 2.0])
    assert table.dtype == np.float64
    with pytest.raises(ValueError, match="read-only"):
        table[0] = 7.0


@pytest.mark.usefixtures("unchecked")
@pytest.mark.parametrize("values", [[], 1.0, [[1.0]], [1.0, np.inf]], ids=repr)
def test_a_table_holds_finite_numbers_one_per_step(values):
    with pytest.raises(ValueError, match=r"betas has shape .* wanted finite numbers"):
        table_of("betas", np.asarray(values))


def test_a_shifted_table_holds_the_entries_before():
    np.testing.assert_array_equal(shifted(TABLE, 0.0), [0.0, 2.0, 3.0])


def test_entries_are_the_same_at_known_and_traced_indices():
    i = jnp.asarray([2, 0])
    x = jnp.zeros((2, 4, 4))

    np.testing.assert_array_equal(entries(TABLE, i, x), [5.0, 2.0])
    np.testing.assert_array_equal(jax.jit(lambda i: entries(TABLE, i, x))(i), [5.0, 2.0])
    assert padded_entries(TABLE, i, x).shape == (2, 1, 1)
