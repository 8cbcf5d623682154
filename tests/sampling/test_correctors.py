"""Correctors alone, against stationary laws and exact draws."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from families import each_under_one

import scoresde as sd
from scoresde.evaluation.distances import sliced_wasserstein
from scoresde.sde.mixture import ring
from scoresde.types import right_pad

KEY = jax.random.key(0)
DRAWS = 2000


def gaussian(variance):
    return lambda x, t: -x / variance


@pytest.mark.parametrize(
    "rule", [sd.correctors.NoiseLevelStep, sd.BatchMeanStep], ids=["noise_level", "batch_norms"]
)
def test_stationary_variance_of_each_rule(rule, snr=0.6):
    """On N(0, sigma^2): sigma^2 / (1 - r^2) for a step fixed by sigma, sigma^2 (1 + r^2) for batch
    norms.

    At r = .6 these are 1.56 and 1.36 sigma^2. After 200 steps a chain of 8 × 4000 entries is within
    5 standard errors of its own law, and far from the other's and from its start.
    """
    sde = sd.SubVP()
    t = 0.3
    shape = (4000, 8)
    variance = float(sde.variance(t))
    laws = {
        sd.correctors.NoiseLevelStep: 1 / (1 - snr**2),
        sd.BatchMeanStep: 1 + snr**2,
        "start": 1.0,
    }
    corrector = sd.correctors.Langevin(200, rule(snr))
    x = np.sqrt(variance) * jax.random.normal(jax.random.key(1), shape)
    x = jax.jit(lambda x: corrector(KEY, sde, gaussian(variance), x, t))(x)
    near = [
        law
        for law, want in laws.items()
        if abs(float(x.var()) / variance / want - 1) < 5 * np.sqrt(2 / x.size)
    ]
    assert near == [rule]


def test_known_data_scale_lengthens_the_step_by_its_variance():
    """For data of std d, p_t = N(0, alpha^2 d^2 + sigma^2), and the chain's variance is that / (1 -
    r^2).
    """
    sde = sd.VP()
    t = 0.1
    data_std = 0.7
    snr = 0.4
    variance = float(sde.variance(t) + (sde.alpha(t) * data_std) ** 2)
    corrector = sd.correctors.Langevin(200, sd.correctors.NoiseLevelStep(snr, data_std))
    x = jax.jit(lambda x: corrector(KEY, sde, gaussian(variance), x, t))(jnp.zeros((4000, 8)))
    assert abs(float(jnp.mean(x**2)) * (1 - snr**2) / variance - 1) < 5 * np.sqrt(2 / x.size)


@pytest.mark.parametrize(("name", "any_sde"), each_under_one(["level", "batch"]))
def test_corrector_alone_converges_from_a_wrong_start(name, any_sde):
    """1000 steps from one far point end as close to p_t as exact draws are to each other.

    At this time log SNR is 0. The bias, r^2 = 1 % of the variance, is below the floor of as many
    draws.
    """
    rule = {
        "level": sd.correctors.NoiseLevelStep(0.1, data_std=0.2),
        "batch": sd.BatchMeanStep(0.1),
    }[name]
    mixture = ring()
    n = DRAWS
    t = float(any_sde.time_from_log_snr(0.0))
    scale = float(any_sde.sigma(t))

    def exact(seed):
        key_data, key_noise = jax.random.split(jax.random.key(seed))
        x0 = mixture.sample(key_data, n)
        return any_sde.alpha(t) * x0 + scale * jax.random.normal(key_noise, x0.shape)

    score = mixture.score(any_sde)
    corrector = sd.correctors.Langevin(1000, rule)
    x = jax.jit(lambda x: corrector(KEY, any_sde, score, x, t))(jnp.full((n, 2), 4.0 * scale))
    floor = np.array([sliced_wasserstein(exact(2 * i), exact(2 * i + 1)) for i in range(1, 7)])
    assert sliced_wasserstein(x, exact(1)) < floor.mean() + 5 * floor.std(ddof=1)


# --- Neighbours in the batch ---


def test_the_last_chunk_keeps_its_neighbours():
    """65 examples in chunks of at most 64 are 33 and 32, so no example is alone in its batch norms.

    VE, 8 dimensions, r = .4, pooled over the last chunk's rows: the law of batch means holds, not
    the 2.07 of an example's own norms.
    """
    sde = sd.VE()
    snr = 0.4
    corrector = sd.correctors.Langevin(1, sd.BatchMeanStep(snr))
    sampler = sd.PredictorCorrector(
        sd.predictors.Identity(), corrector, 60, t_min=0.5, denoise=False
    )
    score = lambda x, t: -x / right_pad(sde.variance(t), x)  # noqa: E731
    last = [
        sd.sample(jax.random.key(i), sampler, sde, score, (65, 8), batch_size=64).x[-1]
        for i in range(60)
    ]
    whole = sd.sample(jax.random.key(0), sampler, sde, score, (1600, 8)).x
    ratio = float(jnp.mean(jnp.stack(last) ** 2) / jnp.mean(whole**2))
    assert ratio == pytest.approx(1.0, abs=5 * np.sqrt(2 / (60 * 8)))


def test_examples_of_the_noise_level_rule_are_independent():
    """An example is the same draw among others or alone, but not with the norms of its batch."""
    sde = sd.VP()
    mixture = ring()
    score = mixture.score(sde)
    x1 = sde.prior_sample(KEY, (8, 2))
    for rule, same in ((sd.correctors.NoiseLevelStep(), True), (sd.BatchMeanStep(), False)):
        sampler = sd.PredictorCorrector(corrector=sd.correctors.Langevin(rule=rule), num_steps=20)
        whole, one = (sampler(KEY, sde, score, x1[:n]).x[0] for n in (8, 1))
        assert np.allclose(whole, one, atol=1e-5) == same


@pytest.mark.parametrize(
    ("call", "error", "message"),
    [
        (lambda: sd.correctors.Langevin(0), ValueError, "num_steps"),
        (lambda: sd.correctors.Langevin(rule=sd.correctors.NoiseLevelStep), TypeError, "rule is"),
        (lambda: sd.correctors.NoiseLevelStep(snr=1.0), ValueError, "snr"),
        (lambda: sd.BatchMeanStep(snr=0.0), ValueError, "snr"),
        (lambda: sd.correctors.NoiseLevelStep(data_std=-1.0), ValueError, "data_std"),
    ],
)
def test_bad_settings_are_refused_with_the_reason(call, error, message, unchecked):
    with pytest.raises(error, match=message):
        call()
