"""The checks at the edges name what is wrong."""

import jax
import jax.numpy as jnp
import numpy as np
import numpy.lib.recfunctions
import pytest
from small_training import mlp

import scoresde as sd
from scoresde import checks


def test_conditions_without_a_batch_axis_are_named():
    with pytest.raises(ValueError, match=r"cond\['label'\] has shape \(\)"):
        checks.condition({"label": jnp.asarray(1)}, 4)


# --- What NumPy holds beside plain numbers ---

MASKED = np.ma.masked_less(np.array([[1.0, 2.0], [-9999.0, 3.0], [4.0, 5.0]]), 0.0)
LOST = {
    "masked": (MASKED, "masked array with 1 masked entries"),
    "structured": (np.zeros(3, [("a", "f4"), ("b", "f4")]), "fields a, b"),
    "complex": (np.full((3, 2), 1.0 + 2.0j), "complex: wanted real numbers"),
    "objects": (np.array([[1.0, None]] * 3, object), "array of Python objects"),
    "long double": (np.full((3, 2), np.nextafter(np.longdouble(1), 2)), "does not hold"),
}


@pytest.mark.parametrize("name", LOST)
def test_what_plain_numbers_would_lose_is_refused_everywhere(name, unchecked):
    """Where data, conditions and states come in: training, likelihood, evaluation, the loss."""
    value, message = LOST[name]
    sde = sd.VP()
    good = np.zeros((len(value), 2), np.float32)

    def score(x, t, cond=None):
        return -x

    calls = {
        "fit": lambda: sd.fit(jax.random.key(0), mlp(), value, progress=False),
        "cond": lambda: sd.fit(jax.random.key(0), mlp(), good, cond=value, progress=False),
        "likelihood": lambda: sd.log_likelihood(jax.random.key(0), sde, score, value),
        "loss": lambda: sd.dsm_loss(
            jax.random.key(0), sde, score, good, good[:, 0] + 0.5, cond=value
        ),
        "evaluation": lambda: sd.evaluation.GaussianFit.fit(value),
    }
    if name in ("masked", "complex"):
        calls["levels"] = lambda: sd.UniformDequantization(256)(jax.random.key(0), value)
    for call in calls.values():
        with pytest.raises(ValueError, match=message):
            call()


def test_the_advice_keeps_the_numbers():
    """Each line that an error tells to write, executed."""
    x = MASKED
    rows = np.ma.compress_rows(x.reshape(len(x), -1)).reshape(-1, *x.shape[1:])
    np.testing.assert_array_equal(checks.plain_array(rows, "x"), [[1.0, 2.0], [4.0, 5.0]])
    np.testing.assert_array_equal(checks.plain_array(x.filled(0.0), "x")[1], [0.0, 3.0])

    x = LOST["complex"][0]
    parts = checks.plain_array(np.stack([x.real, x.imag], axis=-1), "x")
    np.testing.assert_array_equal(parts[..., 1], 2.0)

    x = np.array([(1.0, 2.0)] * 3, [("a", "f4"), ("b", "f4")])
    plain = np.lib.recfunctions.structured_to_unstructured(x)
    np.testing.assert_array_equal(checks.plain_array(plain, "x"), [[1.0, 2.0]] * 3)

    x = np.empty(2, object)
    x[:] = [[1, 2], [3, 4]]
    rows = np.stack([np.asarray(row, np.float32) for row in x])
    np.testing.assert_array_equal(checks.plain_array(rows, "x"), [[1.0, 2.0], [3.0, 4.0]])


def test_what_loses_nothing_is_converted():
    """A mask without entries, another byte order, and long doubles that float64 holds."""
    want = np.array([[1.0, 2.5]])
    for value in (np.ma.masked_array(want), want.astype(">f8"), want.astype(np.longdouble)):
        got = checks.plain_array(value, "x")
        assert type(got) is np.ndarray
        assert got.dtype == np.dtype("float64") and got.dtype.isnative
        np.testing.assert_array_equal(got, want)
