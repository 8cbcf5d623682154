"""Grids of times: EDM's is the published one, and a caller's own is checked."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from papers import edm_levels

import scoresde as sd

KEY = jax.random.key(0)


EDM_SDE = sd.VE(0.002, 80.0)


def test_the_grid_is_edms(x64):
    """EDM's published sigmas, .002 … 80 in 18 levels.

    Under VP, the same formula for sigma / alpha between the grid's own ends.
    """
    times = np.asarray(sd.grids.Karras()(EDM_SDE, 17, 0.0))
    np.testing.assert_allclose(EDM_SDE.sigma(times), edm_levels(), rtol=1e-10)
    np.testing.assert_allclose(
        np.asarray(EDM_SDE.sigma(times))[[0, 1, -1]], [80.0, 57.586, 0.002], rtol=1e-4
    )
    sde = sd.VP()
    times = np.asarray(sd.grids.Karras(rho=3.0)(sde, 9, 1e-3, 0.8))
    ratio = np.asarray(sde.sigma(times) / sde.alpha(times))
    np.testing.assert_allclose(ratio, edm_levels(10, ratio[-1], ratio[0], 3.0), rtol=1e-10)
    assert times[0] == 0.8
    assert times[-1] == 1e-3


@pytest.mark.parametrize(
    ("grid", "message"),
    [
        (lambda sde, n, t_min: np.linspace(1.0, 0.3, n + 1), "falling from 1 to 0.001"),
        (lambda sde, n, t_min: np.linspace(t_min, 1.0, n + 1), "falling from 1"),
        (lambda sde, n, t_min: np.linspace(1.0, t_min, n), "need 6 times"),
    ],
)
def test_own_grids_are_checked(grid, message, mixture, unchecked):
    with pytest.raises(ValueError, match=message):
        sd.sample(KEY, sd.EulerMaruyama(5, grid=grid), sd.VP(), mixture.score(sd.VP()), (3, 2))


@pytest.mark.usefixtures("unchecked")
def test_grids_of_ones_own_in_jax_or_lists_are_checked(mixture):
    sde = sd.VP()
    score = mixture.score(sd.VP())

    def draw(grid, **settings):
        sampler = sd.DDIM(0.0, 4, grid=grid, **settings)
        return sd.sample(KEY, sampler, sde, score, (2, 2)).x

    want = draw(sd.grids.Uniform())
    for grid in (
        lambda sde, n, t_min: jnp.linspace(1.0, t_min, n + 1),
        lambda sde, n, t_min, start: np.linspace(start, t_min, n + 1),
        lambda sde, n, t_min: [1.0, *np.linspace(1.0, t_min, n + 1)[1:]],
    ):
        np.testing.assert_allclose(draw(grid), want, rtol=1e-4, atol=1e-5)
    with pytest.raises(ValueError, match="falling from 1"):
        draw(lambda sde, n, t_min: jnp.linspace(t_min, 1.0, n + 1))
    with pytest.raises(TypeError, match="add `start`"):
        sd.DDIM(0.0, 4, start=0.5, grid=lambda sde, n, t_min: np.linspace(0.5, t_min, n + 1))(
            KEY, sde, score, jnp.ones((2, 2))
        )


@pytest.mark.usefixtures("unchecked")
@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: sd.grids.GivenTimes((1.0, 0.2, 0.5)), "falling"),
        (lambda: sd.grids.GivenTimes((1.5, 0.1)), r"times lie in \[0, 1\]"),
        (
            lambda: sd.DDIM(grid=sd.grids.GivenTimes((1.0, 0.5, 1e-3)))(
                KEY, sd.VP(), lambda x, t: -x, jnp.ones((2, 2))
            ),
            "num_steps=2",
        ),
        (lambda: sd.grids.Karras(rho=0.0), "rho"),
    ],
)
def test_bad_settings_are_refused_with_the_reason(call, message):
    with pytest.raises(ValueError, match=message):
        call()
