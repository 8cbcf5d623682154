"""Padding and immutable pytrees."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import scoresde as sd
from scoresde.types import pytree_dataclass, right_pad


def test_right_pad_multiplies_example_by_example():
    a = jnp.arange(2.0)
    x = jnp.ones((2, 2, 2))
    np.testing.assert_array_equal(
        (right_pad(a, x) * x)[1], jnp.ones((2, 2))
    )  # a square batch would broadcast silently
    assert right_pad(jnp.asarray(2.0), x).ndim == 0


def test_pytree_dataclasses_check_people_and_not_jax():
    @pytree_dataclass("name")
    class Positive:
        value: float
        name: str = "x"

        def __post_init__(self):
            if not isinstance(self.value, jax.core.Tracer) and self.value < 0:
                raise ValueError("negative")

    with pytest.raises(ValueError, match="negative"):
        Positive(-1.0)
    mapped = jax.tree.map(lambda v: -v, Positive(1.0, "y"))
    assert (mapped.value, mapped.name) == (-1.0, "y")
    with pytest.raises(AttributeError):
        mapped.value = 2.0
    paths = jax.tree_util.tree_leaves_with_path(mapped)
    assert jax.tree_util.keystr(paths[0][0]) == ".value"


def test_large_arrays_are_shown_by_their_shape():
    mask = np.ones((1, 8, 8, 1))
    mask[0, 0] = 0.0
    assert repr(sd.inverse.Mask(mask)) == "Mask(mask=float32[1,8,8,1])"
    y = np.ones((1, 2), np.float32)
    around = sd.inverse.Replacement(sd.DDIM(), sd.inverse.Mask(mask), y)
    assert "Mask(mask=float32[1,8,8,1]), y=array([[1., 1.]], dtype=float32)" in repr(around)
