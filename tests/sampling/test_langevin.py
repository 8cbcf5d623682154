"""Langevin dynamics on a fixed density."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import scoresde as sd
from scoresde.evaluation.distances import sliced_wasserstein
from scoresde.sde.mixture import ring

KEY = jax.random.key(0)


def test_langevin_on_a_fixed_score():
    """Stationary variance v / (1 - eps / 2v), a mean that forgets the start, and the path."""
    v = 0.5
    mean = 2.0
    eps = 0.2
    out = sd.Langevin(200, eps)(KEY, lambda x: -(x - mean) / v, jnp.full((20_000, 2), -5.0))
    want = v / (1 - eps / (2 * v))
    assert abs(float(out.x.var()) / want - 1) < 5 * np.sqrt(2 / out.x.size)
    assert abs(float(out.x.mean()) - mean) < 5 * np.sqrt(want / out.x.size)
    assert out.nfe == 200
    assert out.path is None
    path = sd.Langevin(3, eps, save_path=True)(
        KEY, lambda x, c: c - x, jnp.zeros((2, 2)), cond=jnp.ones((2, 1))
    ).path
    assert path.x.shape == (2, 4, 2)
    np.testing.assert_allclose(path.t[0], [0, 1 / 3, 2 / 3, 1], rtol=1e-6)


def test_the_langevin_sde_leaves_a_density_unchanged():
    """Exact draws of p_t stay exact draws under 400 steps of 1e-3.

    They are no farther from other draws than they were.
    """
    mixture = ring()
    sde = sd.VP()
    t = 0.1
    n = 6000
    score = mixture.score(sde)

    def exact(seed):
        key_data, key_noise = jax.random.split(jax.random.key(seed))
        return sde.alpha(t) * mixture.sample(key_data, n) + sde.sigma(t) * jax.random.normal(
            key_noise, (n, 2)
        )

    start = exact(0)
    others = [exact(i) for i in range(1, 9)]
    moved = sd.Langevin(400, 1e-3)(KEY, lambda x: score(x, t), start).x
    assert float(jnp.mean((moved - start) ** 2)) > 0.01
    before, after = (np.array([sliced_wasserstein(x, y) for y in others]) for x in (start, moved))
    assert after.mean() < before.mean() + 5 * before.std(ddof=1)


@pytest.mark.parametrize(
    ("call", "error", "message"),
    [
        (lambda: sd.Langevin(step_size=0.0), ValueError, "step_size"),
        (
            lambda: sd.Langevin()(KEY, lambda x: x[:, 0], jnp.ones((3, 2))),
            ValueError,
            "the score returned",
        ),
    ],
)
def test_bad_settings_are_refused_with_the_reason(call, error, message, unchecked):
    with pytest.raises(error, match=message):
        call()
