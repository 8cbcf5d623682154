"""Ancestral sampling: step for step the chains' own, and in law its closed-form recursion."""

import dataclasses
import itertools

import jax
import jax.numpy as jnp
import numpy as np
import papers
import pytest
from gaussian import OnGaussianData, gaussian_score

import scoresde as sd
from scoresde.keys import example_keys, fold_in_examples, normal_like
from scoresde.sde.mixture import ring

KEY = jax.random.key(0)


N = 20_000


EXACT = sd.DDPM.from_sde(sd.VP(), 30, exact=True)
LINEAR = sd.DDPM.linear(40)
COSINE = sd.DDPM.cosine(15)


STEPS = {
    "vp": (sd.VP(), EXACT, "posterior"),
    "vp_beta": (sd.VP(), EXACT, "beta"),
    "linear": (LINEAR.to_sde(exact=True), LINEAR, "beta"),
    "cosine": (COSINE.to_sde(exact=True), COSINE, "posterior"),
    "ve": (sd.VE(), sd.NCSN.from_sde(sd.VE(), 30), "posterior"),
    "ve_beta": (sd.VE(), sd.NCSN.from_sde(sd.VE(), 30), "beta"),
}


@pytest.mark.parametrize(("sde", "chain", "variance"), STEPS.values(), ids=STEPS.keys())
def test_every_step_is_the_chains(sde, chain, variance, x64):
    """From each state to the next, with the same noise, at every index, to 1e-12."""
    score = ring().score(sde)
    n = chain.num_steps
    x1 = sde.prior_sample(KEY, (5, 2))
    out = sd.Ancestral(n, variance, save_path=True)(KEY, sde, score, x1)
    assert out.nfe == 2 * n - 1  # the path takes one more a state, the last of which is the sample
    assert out.path.x.shape == (5, n, 2)
    states = jnp.moveaxis(out.path.x, 1, 0)  # from level N - 1 to 0
    np.testing.assert_array_equal(states[0], x1)
    i = np.repeat(np.arange(n)[::-1], 5)
    x = states.reshape(-1, 2)
    keys = example_keys(KEY, 5)
    noise = -np.sqrt(chain.marginal_variances)[i, None] * score(
        x, jnp.asarray(sde.level_times(n)[i])
    )
    z = jax.jit(jax.vmap(lambda step: normal_like(fold_in_examples(keys, step), x1)))(jnp.arange(n))
    mean, std = chain.ancestral(x, noise, i, variance)
    want = (mean + std[:, None] * z.reshape(-1, 2)).reshape(states.shape)
    np.testing.assert_allclose(
        jnp.concatenate([states[1:], out.x[None]]), want, rtol=1e-12, atol=1e-12
    )


@pytest.mark.parametrize("variance", ["posterior", "beta"])
def test_ancestral_follows_its_closed_form_recursion(finite_sde, variance):
    """Mean and variance of 25 coarse steps on Gaussian data, within 5 standard errors."""
    m = 0.7
    v = 0.25
    steps = 25
    times = np.asarray(finite_sde.level_times(steps), np.float64)[::-1]

    # What the paper's steps make of the start and the noises.
    model = OnGaussianData(finite_sde, m, v, steps)
    x = model.start()
    for t, s in itertools.pairwise(times):
        x = papers.ancestral(model, x, t, s, variance)
    x = model.denoised(x, times[-1])
    spread = x.variance(float(finite_sde.prior_std()))

    out = sd.sample(
        KEY, sd.Ancestral(steps, variance), finite_sde, gaussian_score(finite_sde, m, v), (N, 1)
    )
    assert abs(float(out.x.mean()) - x.mean) < 5 * np.sqrt(spread / N)
    assert abs(float(out.x.var()) / spread - 1.0) < 5 * np.sqrt(2.0 / N)


def test_the_right_variance_for_each_data():
    """ "posterior" makes one step exact for data at a point, "beta" for data of unit variance."""
    sde = sd.VP(beta_max=3.0)
    for variance, v in (("posterior", 0.0), ("beta", 1.0)):
        score = gaussian_score(sde, 0.0, v)
        sampler = sd.Ancestral(2, variance, t_min=0.2, denoise=False)
        start = jnp.sqrt(sde.alpha(1.0) ** 2 * v + sde.variance(1.0)) * jax.random.normal(
            KEY, (N, 1)
        )
        out = sampler(jax.random.key(1), sde, score, start)
        want = float(sde.alpha(0.2) ** 2 * v + sde.variance(0.2))
        assert abs(float(out.x.var()) / want - 1) < 5 * np.sqrt(2 / N)


@pytest.mark.usefixtures("unchecked")
def test_few_and_wrong_settings():
    sde = sd.VP()
    score = gaussian_score(sd.VP(), 0.3, 0.04)
    one = sd.Ancestral(1)(KEY, sde, score, jnp.ones((3, 2)))
    np.testing.assert_allclose(one.x, sd.denoise(sde, score, jnp.ones((3, 2)), 1.0), rtol=1e-5)
    with pytest.raises(ValueError, match="num_steps"):
        sd.Ancestral(0)
    with pytest.raises(ValueError, match="'posterior' or 'beta'"):
        sd.Ancestral(variance="small")
    with pytest.raises(ValueError, match="t_min"):
        sd.Ancestral(t_min=1.0)
    for sampler in (sd.Ancestral, sd.AnnealedLangevin):  # a single level is x1's
        with pytest.raises(
            ValueError, match=r"the one level is start = 1, and t_min = 0\.1 would be another"
        ):
            sampler(1, t_min=0.1)
    with pytest.raises(ValueError, match="x1 would be the sample"):
        sd.Ancestral(1, denoise=False)
    with pytest.raises(ValueError, match="write num_steps=2"):
        sd.Ancestral(1, grid=sd.grids.GivenTimes((1.0, 0.5)))(KEY, sde, score, jnp.ones((3, 2)))
    with pytest.raises(ValueError, match="steps_per_level"):
        sd.AnnealedLangevin(steps_per_level=0)
    with pytest.raises(ValueError, match="step_size"):
        sd.AnnealedLangevin(step_size=0.0)


def test_learnt_schedules_differentiate_through_ancestral_sampling(mixture):
    """The gradient with respect to a traced setting of the SDE is the finite difference's."""
    x1 = jnp.ones((2, 2))
    sampler = sd.Ancestral(8)
    score = mixture.score(sd.VP())
    run = jax.jit(lambda b: jnp.sum(sampler(KEY, sd.VP(beta_max=b), score, x1).x))
    gradient = float(jax.grad(run)(10.0))
    h = 0.05
    assert gradient == pytest.approx(
        (float(run(10.0 + h)) - float(run(10.0 - h))) / (2 * h), rel=2e-2
    )
    np.testing.assert_allclose(
        run(10.0), jnp.sum(sampler(KEY, sd.VP(beta_max=10.0), score, x1).x), rtol=1e-4
    )
    assert dataclasses.replace(sampler, num_steps=9).num_steps == 9
