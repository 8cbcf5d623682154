"""The moving average follows its recursion."""

import jax.numpy as jnp
import numpy as np
import pytest

from scoresde.train.ema import ema_decay, ema_update


def test_ema_follows_its_recursion_and_forgets_the_start():
    """Closed form: after n updates, the initial value is weighted by the product of decays."""
    value = {"w": jnp.asarray(0.0)}
    ema = {"w": jnp.asarray(1.0)}
    weight = 1.0
    for n in range(50):
        ema = ema_update(ema, value, ema_decay(0.999, jnp.asarray(n)))
        weight *= min(0.999, (1 + n) / (10 + n))
    assert float(ema["w"]) == pytest.approx(weight, rel=1e-5)

    total = np.prod([min(0.999, (1 + n) / (10 + n)) for n in range(1500)])
    assert total < 1e-3 < 0.999**1500  # 22 % without warm-up
