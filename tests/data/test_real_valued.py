"""Which data are integers in disguise, and have no density?"""

import re
import warnings

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import scoresde as sd
from scoresde.data.real_valued import check_real_valued

KEY = jax.random.key(0)
RNG = np.random.default_rng(0)
PIXELS = RNG.integers(0, 256, (4, 8, 8, 1))

CERTAIN = {
    "raw": (PIXELS, 256),
    "raw, few": (PIXELS % 17, 17),
    "[-1, 1]": (PIXELS / 127.5 - 1, 256),
    "[0, 1]": (PIXELS / 255, 256),
    "dark": (PIXELS // 8 / 127.5 - 1, 256),
    "raw vectors": (RNG.integers(0, 256, (50, 2)), 256),
}
LIKELY = {
    "17 levels": ((PIXELS % 17) / 16, 17),
    "0 and 1": (PIXELS % 2, 2),
    "-1 and 1": (2 * (PIXELS % 2) - 1, 2),
    "below zero": (PIXELS - 128, 256),
    "vectors below zero": (RNG.integers(-5, 6, (50, 2)), 11),
    "16 bits": (257 * RNG.permutation(256).reshape(1, 16, 16, 1), 65536),
}


def real(x):
    return jnp.asarray(x, jnp.float32)


def line_of(message):
    """Returns the line that a message advises, as it stands there."""
    k = re.search(r"k = (\(.*?\.round\(\))", message)
    dequantize = re.search(r"sd\.UniformDequantization\(levels=\d+\)\(key, (.*?)\), which", message)
    line = dequantize[0].removesuffix(", which")
    return line.replace("(key, k)", f"(key, {k[1]})") if k else line


def said_of(x, name="x0", training=False):
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        check_real_valued(x, name, training)
    return [str(warning.message) for warning in caught]


@pytest.mark.parametrize("name", CERTAIN)
def test_pixels_in_disguise_are_refused_and_the_line_to_write_works(name, unchecked):
    data, levels = CERTAIN[name]
    x0 = real(data)
    for function in (sd.log_likelihood, sd.variational_bound):
        with pytest.raises(ValueError, match=rf"no density.*levels={levels}\)") as caught:
            function(KEY, sd.VP(), lambda x, t: -x, x0)
    _assert_advice_works(str(caught.value), x0, levels)


@pytest.mark.parametrize("name", LIKELY)
def test_other_grids_are_warned_of_once_and_the_line_to_write_works(name):
    data, levels = LIKELY[name]
    x0 = real(data)
    (message,) = said_of(x0)
    _assert_advice_works(message, x0, levels)


def _assert_advice_works(message, x0, levels):
    """The line gives real numbers in [-1, 1], one bin for each value, of which nothing is said."""
    out = eval(line_of(message), {"sd": sd, "key": KEY, "x0": x0})
    assert float(jnp.abs(out).max()) <= 1.0
    assert said_of(out) == []
    bins = np.floor((np.asarray(out, np.float64) + 1.0) / 2.0 * levels)
    order = np.argsort(np.asarray(x0), axis=None)
    assert np.all(np.diff(bins.reshape(-1)[order]) >= 0.0)
    assert len(np.unique(bins)) == len(np.unique(x0))


@pytest.mark.parametrize("name", [*CERTAIN, *LIKELY])
def test_training_refuses_raw_integers_and_warns_of_scaled_ones(name):
    data, levels = (CERTAIN | LIKELY)[name]
    if name.startswith("raw"):
        with pytest.raises(ValueError, match=rf"prepare=sd.Uniform.*levels={levels}\)"):
            check_real_valued(real(data), "data", training=True)
        return
    (message,) = said_of(real(data), "data", training=True)
    assert f"levels={levels})" in message


@pytest.mark.parametrize(
    ("k", "levels"),
    [(PIXELS - 128, 256), (np.arange(6).reshape(3, 2), 6), (np.zeros((3, 2), int), 2)],
)
def test_integer_dtypes_are_refused(k, levels):
    with pytest.raises(ValueError, match=rf"prepare=sd.*levels={levels}\)"):
        check_real_valued(k, "data", training=True)


def test_real_numbers_are_no_grid(unchecked):
    """The grid of a plot, one point many times, values that bfloat16 rounded, an image's border,
    and numbers so large that float32 has no fractions."""
    side = np.linspace(-3, 3, 100)
    normal = RNG.normal(size=(100, 64))
    for x in (
        np.stack(np.meshgrid(side, side), -1).reshape(-1, 2),
        np.stack(np.meshgrid(np.linspace(0, 1, 256), np.linspace(0, 1, 256)), -1).reshape(-1, 2),
        np.tile(RNG.normal(size=64), (50, 1)),
        jnp.asarray(normal, jnp.bfloat16).astype(jnp.float32),
        np.pad(RNG.normal(size=(20, 8, 8)), ((0, 0), (4, 4), (4, 4))),
        np.zeros((20, 64)),
        (5e8 + 1e8 * normal).astype(np.float32),
        (3e7 * normal).astype(np.float32),
        np.round(normal[:3, :2]),
    ):
        assert said_of(x) == []


def test_what_is_not_finite_is_dropped_as_advised():
    x0 = np.array(RNG.normal(size=(5, 3)))
    x0[2, 1] = np.nan
    with pytest.raises(ValueError, match="in 1 of 5 examples, the first in row 2") as caught:
        check_real_valued(x0, "x0")
    kept = eval(re.search(r"x0\[np\..*\]", str(caught.value))[0], {"np": np, "x0": x0})
    np.testing.assert_array_equal(kept, x0[[0, 1, 3, 4]])
