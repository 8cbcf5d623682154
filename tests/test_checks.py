"""The checks at the edges name what is wrong."""

import re

import jax
import jax.numpy as jnp
import numpy as np
import numpy.lib.recfunctions
import pytest
import scipy.sparse
from small_training import mlp

import scoresde as sd
from scoresde import checks
from scoresde.data import prepare
from scoresde.data.image_source import Images
from scoresde.data.source import take
from scoresde.train.examples import as_source


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


def test_floats_of_fewer_bits_are_converted():
    want = np.array([[1.0, 2.5]], np.float32)
    for dtype in (jnp.bfloat16, jnp.float8_e4m3fn, np.float16):
        np.testing.assert_array_equal(checks.plain_array(want.astype(dtype), "x"), want)


@pytest.mark.parametrize("kind", ["m8[s]", "M8[s]"])
def test_times_are_refused_with_the_line_to_write(kind):
    x = np.arange(6).reshape(3, 2).astype(kind)
    with pytest.raises(ValueError, match="x holds times") as caught:
        checks.plain_array(x, "x")
    line = re.search(r"they are (.*'s'\))\.", str(caught.value))[1]
    np.testing.assert_array_equal(eval(line, {"x": x, "np": np}), np.arange(6.0).reshape(3, 2))


def test_a_sparse_matrix_is_refused_with_the_line_to_write():
    x = scipy.sparse.csr_array(np.eye(3))
    with pytest.raises(ValueError, match=r"write x\.toarray\(\)"):
        checks.plain_array(x, "x")
    np.testing.assert_array_equal(checks.plain_array(x.toarray(), "x"), np.eye(3))


def test_masks_are_seen_wherever_data_come_in(unchecked):
    """In the rows of a list, in what a source returns later, in images and in what prepares
    them, in statistics and in the parameters of a mixture."""
    masked = np.ma.masked_equal(np.arange(32).reshape(2, 4, 4, 1), 5)

    class Later:
        shape = (4, 4, 1)

        def __len__(self):
            return 4

        def batch(self, indices):
            rows = np.ma.masked_array(np.ones((len(indices), 4, 4, 1)), False)
            return np.ma.masked_equal(rows * np.reshape(indices, (-1, 1, 1, 1)), 3)

    key = jax.random.key(0)
    calls = [
        lambda: as_source(list(masked), None, "data"),
        lambda: take(as_source(Later(), None, "data"), np.array([3])),
        lambda: Images(masked),
        lambda: prepare.Scale(256)(key, masked),
        lambda: prepare.RandomFlip()(key, masked),
        lambda: sd.Standardization.fit(masked),
        lambda: sd.GaussianMixture(masked[:, :, 1, 0], np.ones(2)),
    ]
    for call in calls:
        with pytest.raises(ValueError, match="masked entries: wanted a number in each"):
            call()

    mixture = sd.GaussianMixture(np.ma.masked_array(np.eye(2)), np.ones(2))
    np.testing.assert_array_equal(mixture.means, np.eye(2))
