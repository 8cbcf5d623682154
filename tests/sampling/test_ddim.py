"""DDIM is its paper's Equation 12, between the ancestral sampler and the probability flow."""

import itertools

import jax
import jax.numpy as jnp
import numpy as np
import papers
import pytest
from gaussian import OfScore, gaussian_score, step_noises

import scoresde as sd
from scoresde.keys import example_keys

KEY = jax.random.key(0)


M = 0.7
V = 0.25
T_MIN = 1e-2


@pytest.mark.parametrize("eta", [0.0, 0.3, 1.0])
def test_ddim_is_equation_12(finite_sde, mixture, eta, x64):
    """Step by step, with the same noise."""
    score = mixture.score(finite_sde)
    x = finite_sde.prior_sample(KEY, (4, 2))
    times = np.asarray(sd.grids.UniformLogSNR()(finite_sde, 10, 1e-2))
    out = sd.DDIM(eta, 10, t_min=1e-2, save_path=True)(KEY, finite_sde, score, x)
    model = OfScore(finite_sde, score, step_noises(example_keys(KEY, 4), x, 10))
    for i, (t, s) in enumerate(itertools.pairwise(times)):
        x = papers.ddim(model, x, t, s, eta)
        np.testing.assert_allclose(out.path.x[:, i + 1], x, atol=1e-11 * 50)
    np.testing.assert_allclose(
        out.path.denoised[:, -1], sd.denoise(finite_sde, score, x, times[-1]), atol=1e-9
    )
    np.testing.assert_array_equal(out.x, out.path.denoised[:, -1])


def test_ddim_interpolates_from_the_ancestral_to_the_deterministic_sampler(
    finite_sde, mixture, x64
):
    """eta = 1 is `Ancestral` on the same grid, to rounding."""
    score = mixture.score(finite_sde)
    x1 = finite_sde.prior_sample(KEY, (4, 2))
    grid = sd.grids.Uniform()
    ancestral = sd.Ancestral(21, t_min=1e-2, grid=grid)(KEY, finite_sde, score, x1)
    ddim = sd.DDIM(1.0, 20, t_min=1e-2, grid=grid)(KEY, finite_sde, score, x1)
    np.testing.assert_allclose(ddim.x, ancestral.x, atol=1e-9)
    assert ddim.nfe == ancestral.nfe == 21


@pytest.mark.parametrize("eta", [0.0, 0.5, 1.0])
def test_one_long_step_is_finite(eta):
    """Where e^{-2h} rounds away: in float32 traces, and from t_min = 1e-5."""
    for sde in (sd.SubVP(), sd.DDPM.linear(1000).to_sde(exact=True)):
        out = sd.sample(KEY, sd.DDIM(eta, 1, t_min=1e-5), sde, gaussian_score(sde, M, V), (4, 2))
        assert bool(jnp.isfinite(out.x).all())
    run = jax.jit(
        lambda b: (
            sd.DDIM(eta, 1, t_min=1e-5)(
                KEY, sd.VP(beta_max=b), gaussian_score(sd.VP(), M, V), jnp.ones((2, 2))
            ).x
        )
    )
    assert bool(jnp.isfinite(run(20.0)).all())


@pytest.mark.usefixtures("unchecked")
@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: sd.DDIM(eta=1.5), r"in \[0, 1\]"),
        (lambda: sd.DDIM(eta=-0.1), "eta"),
        (
            lambda: sd.DDIM(t_min=0.0)(KEY, sd.VP(), lambda x, t: -x, jnp.ones((2, 2))),
            "infinite log SNR",
        ),
    ],
)
def test_bad_settings_are_refused_with_the_reason(call, message):
    with pytest.raises(ValueError, match=message):
        call()
