"""Pairs of a predictor and a corrector, against closed-form recursions and exact draws."""

import dataclasses
import itertools

import jax
import numpy as np
import papers
import pytest
from families import FINITE, PREDICTORS, begin, each_under_one
from gaussian import OnGaussianData, gaussian_score

import scoresde as sd
from scoresde.evaluation.distances import sliced_wasserstein
from scoresde.sde.mixture import ring

KEY = jax.random.key(0)
DRAWS = 2000


ORDERS = [(name, (i + j) % 2 == 0) for i, name in enumerate(PREDICTORS) for j in range(len(FINITE))]


EACH_UNDER_TWO = pytest.mark.parametrize(
    ("predictor", "corrector_first", "process"),
    [
        pytest.param(*order, p, marks=[pytest.mark.slow] if (i // 4 + i // 2) % 2 else [])
        for i, (order, p) in enumerate(zip(ORDERS, 4 * list(FINITE), strict=True))
    ],
)
"""The same, half of the pairs `slow`."""


@EACH_UNDER_TWO
def test_pairs_follow_their_closed_form_recursion(predictor, corrector_first, process):
    """On Gaussian data every step is linear, so mean and variance of 30 coarse steps are known."""
    any_sde = FINITE[process]
    m = 0.7
    v = 0.25
    steps = 30
    t_min = 1e-2
    r = 0.3
    n = 20_000
    times = np.asarray(sd.grids.UniformLogSNR()(any_sde, steps, t_min), np.float64)

    # What the paper's steps make of the start and the noises.
    model = OnGaussianData(any_sde, m, v, 2 * steps)
    x = model.start()
    for t, s in itertools.pairwise(times):
        if corrector_first and predictor != "none":
            x = papers.langevin(model, x, t, papers.corrector_size(model, t, s, t, r))
            x = papers.PREDICTORS[predictor](model, x, t, s)
        else:
            x = papers.PREDICTORS[predictor](model, x, t, s)
            x = papers.langevin(model, x, s, papers.corrector_size(model, t, s, s, r))
    mean = x.mean
    variance = x.variance(float(any_sde.prior_std()))

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
    score = mixture.score(any_sde)
    sampler, start = begin(sampler, any_sde, jax.random.key(1), draw.shape)
    x = jax.jit(lambda x: sampler(KEY, any_sde, score, x).x)(start)
    assert sliced_wasserstein(x, draw) < floor.mean() + 5 * floor.std(ddof=1)


def test_a_corrector_repairs_a_coarse_predictor(mixture):
    """40 Euler steps of the flow are visibly off the mixture; two corrector steps each bring them
    closer.
    """
    sde = sd.VP()
    draw = mixture.sample(jax.random.key(5), 6000)
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
