"""Ancestral and annealed Langevin sampling: step for step the chains' own, and in law their closed-form recursions."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from counting import counting
from gaussian import gaussian_score

import scoresde as sd
from scoresde.evaluation.distances import sliced_wasserstein
from scoresde.keys import example_keys, fold_in_examples, normal_like
from scoresde.sde.mixture import ring

KEY = jax.random.key(0)
N = 20_000


EXACT, LINEAR, COSINE = (
    sd.DDPM.from_sde(sd.VP(), 30, exact=True),
    sd.DDPM.linear(40),
    sd.DDPM.cosine(15),
)
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
    """From each state to the next, with the noise that the keys give: the table's own step to 1e-12, at every index."""
    score, n = ring().score(sde), chain.num_steps
    x1 = sde.prior_sample(KEY, (5, 2))
    out = sd.Ancestral(n, variance, save_path=True)(KEY, sde, score, x1)
    assert out.nfe == 2 * n - 1  # the path takes one more a state, the last of which is the sample
    assert out.path.x.shape == (5, n, 2)
    states = jnp.moveaxis(out.path.x, 1, 0)  # from level N - 1 to 0
    np.testing.assert_array_equal(states[0], x1)
    i, x, keys = np.repeat(np.arange(n)[::-1], 5), states.reshape(-1, 2), example_keys(KEY, 5)
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
def test_ancestral_follows_its_closed_form_recursion(any_sde, variance):
    """Mean and variance of 25 coarse steps on Gaussian data, under any SDE, within 5 standard errors."""
    m, v, steps = 0.7, 0.25, 25
    t = any_sde.level_times(steps)[::-1]
    with jax.enable_x64(True):
        alpha, sigma2 = (np.asarray(f(jnp.asarray(t))) for f in (any_sde.alpha, any_sde.variance))
    total = alpha**2 * v + sigma2
    mean, spread = 0.0, float(any_sde.prior_std()) ** 2
    for i in range(steps):
        a, s2 = (alpha[i + 1], sigma2[i + 1]) if i + 1 < steps else (1.0, 0.0)
        c = alpha[i] / a
        added = sigma2[i] - c**2 * s2
        pull = (1 - added / total[i]) / c
        mean = pull * mean + added * alpha[i] * m / total[i] / c
        noise = added * (s2 / sigma2[i] if variance == "posterior" else 1.0)
        spread = pull**2 * spread + (noise if i + 1 < steps else 0.0)
    out = sd.sample(
        KEY, sd.Ancestral(steps, variance), any_sde, gaussian_score(any_sde, m, v), (N, 1)
    )
    assert abs(float(out.x.mean()) - mean) < 5 * np.sqrt(spread / N)
    assert abs(float(out.x.var()) / spread - 1.0) < 5 * np.sqrt(2.0 / N)


def test_the_right_variance_for_each_data():
    """One step from the prior is exact with "posterior" for data at a point, with "beta" for unit-variance data."""
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
    sde, score = sd.VP(), gaussian_score(sd.VP(), 0.3, 0.04)
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


SETTINGS = [
    sd.Ancestral(6),
    sd.Ancestral(6, denoise=False, t_min=0.01, grid=sd.grids.UniformLogSNR()),
    sd.AnnealedLangevin(3, 4, 1e-3),
    sd.AnnealedLangevin(3, 4, 1e-3, denoise=False),
]


@pytest.mark.parametrize("settings", SETTINGS, ids=repr)
def test_evaluations_are_counted(settings, mixture):
    sde = sd.VP()
    score, count = counting(mixture.score(sde))
    out = settings(KEY, sde, score, sde.prior_sample(KEY, (1, 2)))
    jax.effects_barrier()
    assert out.nfe == count[0] > 0


# --- Annealed Langevin ---


def test_annealed_langevin_is_the_papers_lines(x64):
    """for sigma high to low: a = eps sigma^2 / sigma_0^2; T times x += a s + sqrt(2 a) z. Each level from its state."""
    published = sd.AnnealedLangevin()  # Song & Ermon 2019
    assert (published.num_steps, published.steps_per_level, published.step_size) == (10, 100, 2e-5)
    sde, ncsn = sd.VE(0.1, 2.0), sd.NCSN.geometric(4, 0.1, 2.0)
    score, x1 = ring().score(sde), sde.prior_sample(KEY, (5, 2))
    out = sd.AnnealedLangevin(4, 2, 1e-3, save_path=True)(KEY, sde, score, x1)
    keys = example_keys(KEY, 5)
    for level, (sigma, t) in enumerate(
        zip(ncsn.sigmas[::-1], [1.0, 2 / 3, 1 / 3, 0.0], strict=True)
    ):
        a, x = 1e-3 * sigma**2 / ncsn.sigmas[0] ** 2, out.path.x[:, level]
        for k in range(2):
            z = normal_like(fold_in_examples(fold_in_examples(keys, level), k), x)
            x = x + a * score(x, t) + np.sqrt(2 * a) * z
        np.testing.assert_allclose(out.path.x[:, level + 1], x, rtol=1e-12, atol=1e-12)
    np.testing.assert_allclose(out.x, x + 0.1**2 * score(x, 0.0), rtol=1e-12, atol=1e-12)


def test_annealed_langevin_follows_its_closed_form_recursion():
    """On N(m, v) data with NCSN's published settings: mean and variance after 10 × 100 steps, 5 standard errors."""
    m, v, ncsn, eps = 0.5, 0.04, sd.NCSN.geometric(10, 0.01, 1.0), 2e-5
    sde = ncsn.to_sde()
    mean, spread = 0.0, 1.0
    for sigma in ncsn.sigmas[::-1]:
        a, total = eps * sigma**2 / 0.01**2, v + sigma**2
        for _ in range(100):
            mean = mean - a * (mean - m) / total
            spread = (1 - a / total) ** 2 * spread + 2 * a
    sampler = sd.AnnealedLangevin(10, 100, eps, denoise=False)
    out = sd.sample(KEY, sampler, sde, gaussian_score(sde, m, v), (N, 1))
    assert abs(float(out.x.mean()) - mean) < 5 * np.sqrt(spread / N)
    assert abs(float(out.x.var()) / spread - 1.0) < 5 * np.sqrt(2.0 / N)


def test_annealed_langevin_draws_the_mixture():
    """Levels and steps enough: as close to exact draws as they are to each other, shares of components included."""
    mixture, sde, n = ring(), sd.VE(0.02, 10.0), 6000
    sampler = sd.AnnealedLangevin(60, 40, 0.05 * 0.02**2)
    out = sd.sample(KEY, sampler, sde, mixture.score(sde), (n, 2))
    draws = [mixture.sample(jax.random.key(50 + i), n) for i in range(12)]
    floor = np.array(
        [sliced_wasserstein(a, b) for a, b in zip(draws[::2], draws[1::2], strict=True)]
    )
    assert sliced_wasserstein(out.x, draws[0]) < floor.mean() + 5 * floor.std(ddof=1)


def test_the_langevin_sde_leaves_a_density_unchanged():
    """Exact draws of p_t moved by 400 steps of 1e-3 stay exact draws: no farther from others than those from these."""
    mixture, sde, t, n = ring(), sd.VP(), 0.1, 6000
    score = mixture.score(sde)

    def exact(seed):
        key_data, key_noise = jax.random.split(jax.random.key(seed))
        return sde.alpha(t) * mixture.sample(key_data, n) + sde.sigma(t) * jax.random.normal(
            key_noise, (n, 2)
        )

    start, others = exact(0), [exact(i) for i in range(1, 9)]
    moved = sd.Langevin(400, 1e-3)(KEY, lambda x: score(x, t), start).x
    assert float(jnp.mean((moved - start) ** 2)) > 0.01
    before, after = (np.array([sliced_wasserstein(x, y) for y in others]) for x in (start, moved))
    assert after.mean() < before.mean() + 5 * before.std(ddof=1)


def test_learnt_schedules_differentiate_through_ancestral_sampling(mixture):
    """Coefficients move into the trace when the SDE's settings are traced: the gradient is the finite difference's."""
    x1, sampler = jnp.ones((2, 2)), sd.Ancestral(8)
    score = mixture.score(sd.VP())
    run = jax.jit(lambda b: jnp.sum(sampler(KEY, sd.VP(beta_max=b), score, x1).x))
    gradient, h = float(jax.grad(run)(10.0)), 0.05
    assert gradient == pytest.approx(
        (float(run(10.0 + h)) - float(run(10.0 - h))) / (2 * h), rel=2e-2
    )
    np.testing.assert_allclose(
        run(10.0), jnp.sum(sampler(KEY, sd.VP(beta_max=10.0), score, x1).x), rtol=1e-4
    )
    assert dataclasses.replace(sampler, num_steps=9).num_steps == 9
