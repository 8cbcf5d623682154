"""Pairs of a predictor and a corrector, against closed-form recursions and exact draws."""

import dataclasses

import jax
import numpy as np
import pytest
from families import PREDICTORS, PROCESSES, each_under_one
from gaussian import gaussian_score

import scoresde as sd
from scoresde.evaluation.distances import sliced_wasserstein
from scoresde.sde.mixture import ring

KEY, DRAWS = jax.random.key(0), 2000


ORDERS = [
    (name, (i + j) % 2 == 0) for i, name in enumerate(PREDICTORS) for j in range(len(PROCESSES))
]


EACH_UNDER_TWO = pytest.mark.parametrize(
    ("predictor", "corrector_first", "process"),
    [
        pytest.param(*order, p, marks=[pytest.mark.slow] if (i // 4 + i // 2) % 2 else [])
        for i, (order, p) in enumerate(zip(ORDERS, 4 * list(PROCESSES), strict=True))
    ],
)
"""The same, two SDEs of each predictor `slow`."""


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


# --- Every pair draws the mixture ---


@pytest.fixture(scope="module")
def exact_distances():
    """Distances between repeated pairs of exact draws: the floor a perfect sampler has."""
    mixture = ring()
    draws = [mixture.sample(jax.random.key(100 + i), DRAWS) for i in range(12)]
    return draws[0], np.array(
        [sliced_wasserstein(a, b) for a, b in zip(draws[::2], draws[1::2], strict=True)]
    )


RULES = {"noise_level": sd.correctors.NoiseLevelStep(), "batch_norms": sd.BatchMeanStep()}


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
    ],
)
def test_bad_settings_are_refused_with_the_reason(call, error, message, unchecked):
    with pytest.raises(error, match=message):
        call()
