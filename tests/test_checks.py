"""The checks at the edges name what is wrong."""

import jax.numpy as jnp
import pytest

from scoresde import checks


def test_conditions_without_a_batch_axis_are_named():
    with pytest.raises(ValueError, match=r"cond\['label'\] has shape \(\)"):
        checks.condition({"label": jnp.asarray(1)}, 4)
