"""Which data are integers in disguise, and have no density?"""

import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import scoresde as sd
from scoresde.data.real_valued import check_real_valued

KEY = jax.random.key(0)


def test_the_line_to_write_is_one_that_works(unchecked):
    """Also below zero."""
    k = np.random.default_rng(0).integers(-128, 128, (4, 8, 8, 1))
    k[0] = -128
    x = jnp.asarray(k, jnp.float32)
    with pytest.raises(ValueError, match=r"levels=256\)\(key, x0 \+ 128\)"):
        sd.log_likelihood(KEY, sd.VP(), lambda x, t: x, x)
    assert float(jnp.abs(sd.UniformDequantization(levels=256)(KEY, x + 128)).max()) <= 1.0


@pytest.mark.parametrize(("top", "line"), [(255, r"levels=256\)"), (16, r"levels=17\)")])
def test_integers_in_disguise_are_refused_with_the_line_to_write(top, line, unchecked):
    """Raw pixels as float32 have no density; so for the bound and for training."""
    k = np.random.default_rng(0).integers(0, top + 1, (4, 8, 8, 1))
    k[0] = top
    x = jnp.asarray(k, jnp.float32)
    for call in (
        lambda: sd.log_likelihood(KEY, sd.VP(), lambda x, t: x, x),
        lambda: sd.variational_bound(KEY, sd.VP(), lambda x, t: x, x),
    ):
        with pytest.raises(ValueError, match=line):
            call()


@pytest.mark.parametrize(
    ("of", "levels"),
    [
        (lambda k: k / 127.5 - 1, 256),
        (lambda k: k / 255, 256),
        (lambda k: (k % 17) / 16, 17),
        (lambda k: k % 2, 2),
        (lambda k: 2 * (k % 2) - 1, 2),
        (lambda k: k // 8 / 127.5 - 1, 256),
    ],
    ids=["[-1, 1]", "[0, 1]", "17 levels", "0 and 1", "-1 and 1", "dark"],
)
def test_scaled_integers_are_refused_with_the_line_to_write(of, levels, unchecked):
    """The line gives the integers back, in bins of the right width; training only warns."""
    k = np.random.default_rng(0).integers(0, 256, (4, 8, 8, 1))
    x = jnp.asarray(of(k), jnp.float32)
    with pytest.raises(ValueError, match=rf"nothing between.*levels={levels}\)") as caught:
        sd.log_likelihood(KEY, sd.VP(), lambda x, t: x, x)
    line = re.search(r"k = (.*\.round\(\))", str(caught.value)).group(1)
    found = np.asarray(eval(line, {"x0": np.asarray(x)}))
    assert found.min() >= 0 and found.max() <= levels - 1
    np.testing.assert_allclose(np.unique(np.diff(np.unique(found))).min(), 1.0)
    with pytest.warns(UserWarning, match="For likelihoods use"):
        check_real_valued(x, "data", training=True)


def test_real_numbers_are_no_grid(unchecked):
    """The grid of a plot, one point many times, values that bfloat16 rounded, an image's border."""
    rng = np.random.default_rng(0)
    side = np.linspace(-3, 3, 100)
    check_real_valued(np.stack(np.meshgrid(side, side), -1).reshape(-1, 2), "x0")
    check_real_valued(np.tile(rng.normal(size=64), (50, 1)), "x0")
    check_real_valued(
        np.asarray(jnp.asarray(rng.normal(size=(100, 64)), jnp.bfloat16).astype(jnp.float32)), "x0"
    )
    check_real_valued(np.pad(rng.normal(size=(20, 8, 8)), ((0, 0), (4, 4), (4, 4))), "x0")
    check_real_valued(np.zeros((20, 64)), "x0")
