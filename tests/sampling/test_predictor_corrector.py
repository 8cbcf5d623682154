"""Predictors and correctors, alone and in pairs, against stationary laws, closed-form recursions and exact draws."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from families import PROCESSES, each_under_one
from gaussian import gaussian_score

import scoresde as sd
from scoresde.evaluation.distances import sliced_wasserstein
from scoresde.keys import example_keys, fold_in_examples, normal_like
from scoresde.sde.mixture import ring
from scoresde.types import right_pad

KEY, DRAWS = jax.random.key(0), 2000
PREDICTORS = {
    "reverse_diffusion": sd.predictors.ReverseDiffusion(),
    "euler_maruyama": sd.predictors.EulerMaruyama(),
    "probability_flow": sd.predictors.ProbabilityFlow(),
    "none": sd.predictors.Identity(),
}
RULES = {"noise_level": sd.correctors.NoiseLevelStep(), "batch_norms": sd.BatchMeanStep()}


# --- Langevin dynamics and the corrector alone ---


def gaussian(variance):
    return lambda x, t: -x / variance


@pytest.mark.parametrize(
    "rule", [sd.correctors.NoiseLevelStep, sd.BatchMeanStep], ids=["noise_level", "batch_norms"]
)
def test_stationary_variance_of_each_rule(rule, snr=0.6):
    """On N(0, sigma^2): sigma^2 / (1 - r^2) for a step fixed by sigma, sigma^2 (1 + r^2) for batch-mean norms.

    At r = .6 these are 1.56 and 1.36 sigma^2: a chain of 8 × 4000 entries is within 5 standard errors of its own after
    200 steps, and far from the other's and from its start.
    """
    sde, t, shape = sd.SubVP(), 0.3, (4000, 8)
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


def test_the_last_chunk_keeps_its_neighbours():
    """65 examples in chunks of at most 64 are 33 and 32: batch norms of the last are no single example's own.

    VE, 8 dimensions, r = .4, pooled over the rows of the last chunk: the law of batch means, not the 2.07 of own norms.
    """
    sde, snr = sd.VE(), 0.4
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


def test_known_data_scale_lengthens_the_step_by_its_variance():
    """With data of std d, p_t = N(0, alpha^2 d^2 + sigma^2) and the stationary variance is that over 1 - r^2."""
    sde, t, data_std, snr = sd.VP(), 0.1, 0.7, 0.4
    variance = float(sde.variance(t) + (sde.alpha(t) * data_std) ** 2)
    corrector = sd.correctors.Langevin(200, sd.correctors.NoiseLevelStep(snr, data_std))
    x = jax.jit(lambda x: corrector(KEY, sde, gaussian(variance), x, t))(jnp.zeros((4000, 8)))
    assert abs(float(jnp.mean(x**2)) * (1 - snr**2) / variance - 1) < 5 * np.sqrt(2 / x.size)


def test_langevin_on_a_fixed_score():
    """Stationary variance v / (1 - eps / 2v), a mean that forgets the start, and the path."""
    v, mean, eps = 0.5, 2.0, 0.2
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


@pytest.mark.parametrize(("name", "any_sde"), each_under_one(["level", "batch"]))
def test_corrector_alone_converges_from_a_wrong_start(name, any_sde):
    """1000 steps at the time where log SNR is 0, from one far point: as close to p_t as exact draws are to each other.

    Bias r^2 = 1 % of the variance, below the floor of as many draws.
    """
    rule = {
        "level": sd.correctors.NoiseLevelStep(0.1, data_std=0.2),
        "batch": sd.BatchMeanStep(0.1),
    }[name]
    mixture, n = ring(), DRAWS
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


def test_examples_of_the_noise_level_rule_are_independent():
    """The same example among others, or alone: the same draw. With batch norms it moves: that is what parity costs."""
    sde, mixture = sd.VP(), ring()
    score, x1 = mixture.score(sde), sde.prior_sample(KEY, (8, 2))
    for rule, same in ((sd.correctors.NoiseLevelStep(), True), (sd.BatchMeanStep(), False)):
        sampler = sd.PredictorCorrector(corrector=sd.correctors.Langevin(rule=rule), num_steps=20)
        whole, one = (sampler(KEY, sde, score, x1[:n]).x[0] for n in (8, 1))
        assert np.allclose(whole, one, atol=1e-5) == same


# --- Steps against their formulas, in float64 ---


ORDERS = [
    (name, (i + j) % 2 == 0) for i, name in enumerate(PREDICTORS) for j in range(len(PROCESSES))
]
EACH = pytest.mark.parametrize(
    ("predictor", "corrector_first", "process"),
    [(*order, p) for order, p in zip(ORDERS, 4 * list(PROCESSES), strict=True)],
)
"""Every predictor under every SDE, in each order under half of them."""
EACH_UNDER_TWO = pytest.mark.parametrize(
    ("predictor", "corrector_first", "process"),
    [
        pytest.param(*order, p, marks=[pytest.mark.slow] if (i // 4 + i // 2) % 2 else [])
        for i, (order, p) in enumerate(zip(ORDERS, 4 * list(PROCESSES), strict=True))
    ],
)
"""The same, two SDEs of each predictor `slow`."""


@EACH
def test_one_step_is_its_formula(predictor, corrector_first, process, x64):
    """The paper's lines, written out with the noise that the keys give: from t_i to t_{i-1}, i = N - 1, N // 2 and 1.

    One run visits the three pairs of times of N = 1000; each step is taken from the state it had. Every predictor meets
    both rules, each under half of the SDEs.
    """
    any_sde, r = PROCESSES[process], 0.3
    levels = any_sde.level_times(1000)[[999, 998, 500, 499, 1, 0]].tolist()
    rule = (
        sd.BatchMeanStep
        if (process in ("vp", "subvp")) == corrector_first
        else sd.correctors.NoiseLevelStep
    )(r)
    score, x1 = ring().score(any_sde), any_sde.prior_sample(KEY, (6, 2))
    sampler = sd.PredictorCorrector(
        PREDICTORS[predictor],
        sd.correctors.Langevin(1, rule),
        num_steps=5,
        corrector_first=corrector_first,
        t_min=levels[-1],
        grid=sd.grids.GivenTimes(tuple(levels)),
        save_path=True,
    )
    path = sampler(KEY, any_sde, score, x1).path.x
    for k in (0, 2, 4):
        want = written_out(
            any_sde, score, predictor, corrector_first, rule, path[:, k], levels[k : k + 2], k
        )
        np.testing.assert_allclose(path[:, k + 1], want, rtol=1e-12, atol=1e-12)


def written_out(any_sde, score, predictor, corrector_first, rule, x1, t, k):
    """Step k, from x1 at t[0] to t[1]."""
    keys = fold_in_examples(example_keys(KEY, 6), k)
    key_correct, key_predict = fold_in_examples(keys, 0), fold_in_examples(keys, 1)
    z_predict = normal_like(key_predict, x1)
    z_correct = normal_like(fold_in_examples(example_keys(key_correct, 6), 0), x1)
    alpha, sigma2 = (np.asarray(f(jnp.asarray(t))) for f in (any_sde.alpha, any_sde.variance))
    c = alpha[0] / alpha[1]
    G2 = sigma2[0] - c**2 * sigma2[1]
    norm = lambda v: np.mean(np.linalg.norm(v, axis=1))  # noqa: E731

    def correct(x, k):
        s = score(x, t[k])
        size = (norm(z_correct) / norm(s)) ** 2 if isinstance(rule, sd.BatchMeanStep) else sigma2[k]
        eps = 2 * c**2 * rule.snr**2 * size
        return x + eps * s + np.sqrt(2 * eps) * z_correct

    def predict(x):
        s, f = score(x, t[0]), any_sde.drift_rate(t[0])
        g2, dt = any_sde.squared_diffusion(t[0]), t[0] - t[1]
        return {
            "reverse_diffusion": x - (c - 1) * x + G2 * s + np.sqrt(G2) * z_predict,
            "probability_flow": x - (c - 1) * x + 0.5 * G2 * s,
            "euler_maruyama": x - (f * x - g2 * s) * dt + np.sqrt(g2 * dt) * z_predict,
            "none": x,
        }[predictor]

    return (
        predict(correct(x1, 0))
        if corrector_first and predictor != "none"
        else correct(predict(x1), 1)
    )


# --- Pairs, against what is known ---


@EACH_UNDER_TWO
def test_pairs_follow_their_closed_form_recursion(predictor, corrector_first, process):
    """Gaussian data, 30 coarse steps: every step is linear, so mean and variance are known, bias included."""
    any_sde = PROCESSES[process]
    m, v, steps, t_min, r, n = 0.7, 0.25, 30, 1e-2, 0.3, 20_000
    t = np.asarray(sd.grids.UniformLogSNR()(any_sde, steps, t_min), np.float64)
    with jax.enable_x64(True):
        f, g2, alpha, sigma2 = (
            np.asarray(fn(t))
            for fn in (
                any_sde.drift_rate,
                any_sde.squared_diffusion,
                any_sde.alpha,
                any_sde.variance,
            )
        )
    total = alpha**2 * v + sigma2
    mean, variance = 0.0, float(any_sde.prior_std()) ** 2

    def move(
        keep, pull, spread2, i
    ):  # x ← keep x + pull s_i + spread z, s_i = -(x - alpha_i m) / total_i
        nonlocal mean, variance
        mean = (keep - pull / total[i]) * mean + pull * alpha[i] * m / total[i]
        variance = (keep - pull / total[i]) ** 2 * variance + spread2

    first = corrector_first and predictor != "none"
    for i in range(steps):
        dt, c = t[i + 1] - t[i], alpha[i] / alpha[i + 1]
        G2 = sigma2[i] - c**2 * sigma2[i + 1]
        eps = 2 * c**2 * r**2 * sigma2[i if first else i + 1]
        if first:
            move(1.0, eps, 2 * eps, i)
        match predictor:
            case "reverse_diffusion":
                move(2 - c, G2, G2, i)
            case "probability_flow":
                move(2 - c, 0.5 * G2, 0.0, i)
            case "euler_maruyama":
                move(1 + f[i] * dt, -g2[i] * dt, -g2[i] * dt, i)
        if not first:
            move(1.0, eps, 2 * eps, i + 1)
    corrector = sd.correctors.Langevin(1, sd.correctors.NoiseLevelStep(r))
    sampler = sd.PredictorCorrector(
        PREDICTORS[predictor],
        corrector,
        steps,
        corrector_first,
        t_min=t_min,
        grid=sd.grids.UniformLogSNR(),
        denoise=False,
    )
    x = sd.sample(KEY, sampler, any_sde, gaussian_score(any_sde, m, v), (n, 1)).x
    assert abs(float(x.mean()) - mean) < 5 * np.sqrt(variance / n)
    assert abs(float(x.var()) / variance - 1) < 5 * np.sqrt(2 / n)


@pytest.fixture(scope="module")
def exact_distances():
    """Distances between repeated pairs of exact draws: the floor a perfect sampler has."""
    mixture = ring()
    draws = [mixture.sample(jax.random.key(100 + i), DRAWS) for i in range(12)]
    return draws[0], np.array(
        [sliced_wasserstein(a, b) for a, b in zip(draws[::2], draws[1::2], strict=True)]
    )


CORRECTORS = {"none": sd.correctors.Identity()} | {
    name: sd.correctors.Langevin(rule=rule) for name, rule in RULES.items()
}
PAIRS = [(p, c) for p in PREDICTORS for c in CORRECTORS if (p, c) != ("none", "none")]


@pytest.mark.parametrize(("pair", "any_sde"), each_under_one([f"{p}+{c}" for p, c in PAIRS]))
def test_samples_of_every_pair_are_the_mixtures(pair, any_sde, mixture, exact_distances):
    """Within the mean + 5 standard deviations of the floor, under every SDE."""
    predictor, corrector = pair.split("+")
    settings = CORRECTORS[corrector]
    steps = (
        1000 if (predictor, corrector) == ("probability_flow", "none") else 200
    )  # Euler's error, first order
    if predictor == "none":  # the corrector must do all the way
        rule = (
            sd.correctors.NoiseLevelStep(0.3, data_std=0.2)
            if corrector == "noise_level"
            else sd.BatchMeanStep()
        )
        settings = sd.correctors.Langevin(5, rule)
    sampler = sd.PredictorCorrector(
        PREDICTORS[predictor], settings, steps, grid=sd.grids.UniformLogSNR()
    )
    draw, floor = exact_distances
    score, start = mixture.score(any_sde), any_sde.prior_sample(jax.random.key(1), draw.shape)
    x = jax.jit(lambda x: sampler(KEY, any_sde, score, x).x)(start)
    assert sliced_wasserstein(x, draw) < floor.mean() + 5 * floor.std(ddof=1)


def test_a_corrector_repairs_a_coarse_predictor(mixture):
    """40 Euler steps of the flow are visibly off the mixture; two corrector steps each bring it closer."""
    sde, draw = sd.VP(), mixture.sample(jax.random.key(5), 6000)
    plain = sd.PredictorCorrector(
        sd.predictors.ProbabilityFlow(), sd.correctors.Identity(), 40, grid=sd.grids.UniformLogSNR()
    )
    corrected = dataclasses.replace(plain, corrector=sd.correctors.Langevin(2))
    far, near = (
        sliced_wasserstein(sd.sample(KEY, s, sde, mixture.score(sde), draw.shape).x, draw)
        for s in (plain, corrected)
    )
    assert near < 0.5 * far


@pytest.mark.parametrize(
    ("call", "error", "message"),
    [
        (
            lambda: sd.PredictorCorrector(sd.predictors.Identity(), sd.correctors.Identity()),
            ValueError,
            "nothing would move",
        ),
        (lambda: sd.PredictorCorrector(sd.EulerMaruyama), TypeError, "predictor is"),
        (lambda: sd.PredictorCorrector(corrector="langevin"), TypeError, "corrector is"),
        (lambda: sd.PredictorCorrector(num_steps=0), ValueError, "num_steps"),
        (lambda: sd.correctors.Langevin(0), ValueError, "num_steps"),
        (lambda: sd.correctors.Langevin(rule=sd.correctors.NoiseLevelStep), TypeError, "rule is"),
        (lambda: sd.correctors.NoiseLevelStep(snr=1.0), ValueError, "snr"),
        (lambda: sd.BatchMeanStep(snr=0.0), ValueError, "snr"),
        (lambda: sd.correctors.NoiseLevelStep(data_std=-1.0), ValueError, "data_std"),
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
