"""Annealed Langevin dynamics: the paper's lines, its closed-form recursion, and the mixture."""

import jax
import numpy as np
import papers
from gaussian import OnGaussianData, gaussian_score

import scoresde as sd
from scoresde.evaluation.distances import sliced_wasserstein
from scoresde.keys import example_keys, fold_in_examples, normal_like
from scoresde.sde.mixture import ring

KEY = jax.random.key(0)


N = 20_000


def test_annealed_langevin_is_the_papers_lines(x64):
    """At each level, a = eps sigma^2 / sigma_0^2 and T times x += a s + sqrt(2 a) z."""
    published = sd.AnnealedLangevin()  # Song & Ermon 2019
    assert (published.num_steps, published.steps_per_level, published.step_size) == (10, 100, 2e-5)
    sde = sd.VE(0.1, 2.0)
    ncsn = sd.NCSN.geometric(4, 0.1, 2.0)
    score = ring().score(sde)
    x1 = sde.prior_sample(KEY, (5, 2))
    out = sd.AnnealedLangevin(4, 2, 1e-3, save_path=True)(KEY, sde, score, x1)
    keys = example_keys(KEY, 5)
    for level, (sigma, t) in enumerate(
        zip(ncsn.sigmas[::-1], [1.0, 2 / 3, 1 / 3, 0.0], strict=True)
    ):
        a = 1e-3 * sigma**2 / ncsn.sigmas[0] ** 2
        x = out.path.x[:, level]
        for k in range(2):
            z = normal_like(fold_in_examples(fold_in_examples(keys, level), k), x)
            x = x + a * score(x, t) + np.sqrt(2 * a) * z
        np.testing.assert_allclose(out.path.x[:, level + 1], x, rtol=1e-12, atol=1e-12)
    np.testing.assert_allclose(out.x, x + 0.1**2 * score(x, 0.0), rtol=1e-12, atol=1e-12)


def test_annealed_langevin_follows_its_closed_form_recursion():
    """NCSN's published settings on N(m, v) data, within 5 standard errors."""
    m = 0.5
    v = 0.04
    eps = 2e-5
    sde = sd.NCSN.geometric(10, 0.01, 1.0).to_sde()

    # What the paper's steps make of the start and the noises.
    model = OnGaussianData(sde, m, v, 1000)
    times = sde.level_times(10)[::-1].tolist()
    x = papers.annealed_langevin(model, model.start(), times, 100, eps)
    spread = x.variance(1.0)

    sampler = sd.AnnealedLangevin(10, 100, eps, denoise=False)
    out = sd.sample(KEY, sampler, sde, gaussian_score(sde, m, v), (N, 1))
    assert abs(float(out.x.mean()) - x.mean) < 5 * np.sqrt(spread / N)
    assert abs(float(out.x.var()) / spread - 1.0) < 5 * np.sqrt(2.0 / N)


def test_annealed_langevin_draws_the_mixture():
    """With enough steps, samples are as close to exact draws as those are to each other."""
    mixture = ring()
    sde = sd.VE(0.02, 10.0)
    n = 6000
    sampler = sd.AnnealedLangevin(60, 40, 0.05 * 0.02**2)
    out = sd.sample(KEY, sampler, sde, mixture.score(sde), (n, 2))
    draws = [mixture.sample(jax.random.key(50 + i), n) for i in range(12)]
    floor = np.array(
        [sliced_wasserstein(a, b) for a, b in zip(draws[::2], draws[1::2], strict=True)]
    )
    assert sliced_wasserstein(out.x, draws[0]) < floor.mean() + 5 * floor.std(ddof=1)
