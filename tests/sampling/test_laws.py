"""The exact law of every fixed-grid sampler on Gaussian data with a full covariance.

Each step is affine in the start and the noises. A state is an array (2, columns): what multiplies
1, the two entries of x1 and those of each noise. The papers' formulas push these columns through.
Nothing here asks the library for a coefficient, a time or a level.
"""

import itertools

import jax
import jax.numpy as jnp
import numpy as np
import papers
import pytest

import scoresde as sd

KEY = jax.random.key(0)
N = 20_000
MEAN = np.array([0.7, -0.3])
COV = np.array([[0.3, 0.12], [0.12, 0.1]])
TIMES = np.linspace(1.0, 0.1, 13) ** 2  # unequal in t and in log SNR
SNR = 0.3
DRAWS = 40


class Process(papers.Model):
    """VP, sub-VP or VE with their published constants, and states under it."""

    def __init__(self, name):
        self.scales = papers.PROCESSES[name]
        self.drawn = 0

    def alpha(self, t):
        return self.scales(t)[0]

    def sigma(self, t):
        return self.scales(t)[1]

    def drift_and_squared_diffusion(self, t):
        return self.scales(t)[2:]

    # --- States ---

    def start(self):
        self.drawn = 0
        return np.eye(2, 3 + 2 * DRAWS, k=1)

    def noise(self):
        self.drawn += 1
        return np.eye(2, 3 + 2 * DRAWS, k=1 + 2 * self.drawn)

    def centred(self, x, scale=1.0):
        """x - scale MEAN."""
        return x - scale * np.outer(MEAN, np.eye(1, x.shape[1]))

    def score(self, x, t):
        covariance = self.alpha(t) ** 2 * COV + self.sigma(t) ** 2 * np.eye(2)
        return -np.linalg.solve(covariance, self.centred(x, self.alpha(t)))

    def expected(self, y, v):
        """E[x_0 | x_0 + v noise = y]."""
        centred = self.centred(y)
        return y - centred + COV @ np.linalg.solve(COV + v**2 * np.eye(2), centred)

    def denoised(self, x, t):
        return self.expected(x / self.alpha(t), self.level(t))


# --- The samplers ---


def steps(step, corrected=False, **settings):
    """A predictor, corrected at t first where wanted."""

    def law(p):
        x = p.start()
        for t, s in itertools.pairwise(TIMES):
            if corrected:
                x = papers.langevin(p, x, t, papers.corrector_size(p, t, s, t, SNR))
            x = step(p, x, t, s, **settings)
        return x

    return law


def corrector_alone(p):
    x = p.start()
    for t, s in itertools.pairwise(TIMES):
        x = papers.langevin(p, x, s, papers.corrector_size(p, t, s, s, SNR))
    return x


def exponential(*settings, **options):
    def law(p):
        *_, last = papers.exponential(p, p.start(), TIMES, *settings, **options)
        return last

    return law


def heun(churn=0.0, noise_scale=1.0, intervals=()):
    """EDM's Algorithm 2, or Restart's Algorithm 1 with intervals (level, v, M, K)."""

    def law(p):
        levels = papers.edm_levels(13, p.level(TIMES[-1]), p.level(1.0))
        y = p.start() / p.alpha(1.0)
        if intervals:
            y = papers.restart(p.expected, y, levels, intervals, p.noise)
        else:
            y = papers.edm_algorithm_2(
                p.expected, y, levels, lambda i: p.noise(), churn, noise_scale=noise_scale
            )
        return p.alpha(TIMES[-1]) * y

    return law


def annealed_langevin(p):
    return papers.annealed_langevin(p, p.start(), (1.0, 2 / 3, 1 / 3, 0.0), 3, 2e-5)


# --- All of them ---

GRID = {
    "num_steps": 12,
    "t_min": float(TIMES[-1]),
    "grid": sd.grids.GivenTimes(tuple(TIMES)),
    "denoise": False,
}
DOWN = {"num_steps": 12, "t_min": float(TIMES[-1])}
LEVELS = {"num_steps": 13, "t_min": float(TIMES[-1]), "grid": sd.grids.GivenTimes(tuple(TIMES))}
CORRECTOR = sd.correctors.Langevin(1, sd.correctors.NoiseLevelStep(SNR))


def pair(predictor, corrector=CORRECTOR):
    return sd.PredictorCorrector(predictor, corrector, **GRID)


DETERMINISTIC = {
    "DDIM": ("subvp", sd.DDIM(**GRID), steps(papers.ddim)),
    "DPM++2": ("vp", sd.DPMSolverPP(2, **GRID), exponential(2)),
    "DPM++2M": ("ve", sd.DPMSolverPP(2, weights="midpoint", **GRID), exponential(2, midpoint=True)),
    "DPM++3": ("subvp", sd.DPMSolverPP(3, **GRID), exponential(3)),
    "UniPC-1": ("vp", sd.UniPC(1, **GRID), exponential(1, corrector=True)),
    "UniPC-2": ("subvp", sd.UniPC(2, **GRID), exponential(2, corrector=True)),
    "UniPC-3": ("ve", sd.UniPC(3, **GRID), exponential(3, corrector=True)),
    "Heun": ("subvp", sd.Heun(**DOWN), heun()),
    "flow": (
        "ve",
        pair(sd.predictors.ProbabilityFlow(), sd.correctors.Identity()),
        steps(papers.flow_step),
    ),
}
INTERVALS = ((0.3, 1.0, 2, 2), (0.1, 0.5, 3, 1))
STOCHASTIC = {
    "Euler-Maruyama": ("subvp", sd.EulerMaruyama(**GRID), steps(papers.euler_maruyama)),
    "Euler-Maruyama, VE": (
        "ve",
        sd.EulerMaruyama(**GRID | {"denoise": True}),
        steps(papers.euler_maruyama),
    ),
    "ancestral": ("subvp", sd.Ancestral(**LEVELS), steps(papers.ancestral)),
    "ancestral, beta": (
        "vp",
        sd.Ancestral(variance="beta", **LEVELS),
        steps(papers.ancestral, variance="beta"),
    ),
    "reverse diffusion": (
        "ve",
        pair(sd.predictors.ReverseDiffusion(), sd.correctors.Identity()),
        steps(papers.reverse_diffusion),
    ),
    "reverse diffusion, corrected": (
        "vp",
        pair(sd.predictors.ReverseDiffusion()),
        steps(papers.reverse_diffusion, True),
    ),
    "Euler-Maruyama, corrected": (
        "vp",
        pair(sd.predictors.EulerMaruyama()),
        steps(papers.euler_maruyama, True),
    ),
    "flow, corrected": (
        "subvp",
        pair(sd.predictors.ProbabilityFlow()),
        steps(papers.flow_step, True),
    ),
    "corrector alone": ("ve", pair(sd.predictors.Identity()), corrector_alone),
    "DDIM(.5)": ("vp", sd.DDIM(0.5, **GRID), steps(papers.ddim, eta=0.5)),
    "exponential, 1, .5": ("ve", sd.Exponential(order=1, eta=0.5, **GRID), exponential(1, 0.5)),
    "exponential, 1, 1": ("vp", sd.Exponential(order=1, eta=1.0, **GRID), exponential(1, 1.0)),
    "exponential, 2, .5": ("subvp", sd.Exponential(order=2, eta=0.5, **GRID), exponential(2, 0.5)),
    "exponential, 2, 1": ("ve", sd.Exponential(order=2, eta=1.0, **GRID), exponential(2, 1.0)),
    "exponential, 3, .5": ("vp", sd.Exponential(order=3, eta=0.5, **GRID), exponential(3, 0.5)),
    "exponential, 3, 1": ("subvp", sd.Exponential(order=3, eta=1.0, **GRID), exponential(3, 1.0)),
    "exponential, 2, 1, corrected": (
        "vp",
        sd.Exponential(order=2, eta=1.0, corrector=True, **GRID),
        exponential(2, 1.0, True),
    ),
    "SDE-DPM++2M": (
        "ve",
        sd.DPMSolverPP(2, eta=1.0, weights="midpoint", **GRID),
        exponential(2, 1.0, midpoint=True),
    ),
    "Heun, churn": (
        "vp",
        sd.Heun(churn=4.0, noise_scale=1.01, denoise=False, **DOWN),
        heun(4.0, 1.01),
    ),
    "Restart": (
        "subvp",
        sd.Restart(intervals=tuple(sd.Interval(*i) for i in INTERVALS), denoise=False, **DOWN),
        heun(intervals=INTERVALS),
    ),
    "annealed Langevin": ("ve", sd.AnnealedLangevin(4, 3, 2e-5, denoise=False), annealed_langevin),
}
PROCESSES = {"vp": sd.VP(), "subvp": sd.SubVP(), "ve": sd.VE()}


def run(process, settings, law, x1):
    """Samples, and the columns of what they should be."""
    sde = PROCESSES[process]
    score = sd.GaussianMixture([MEAN], [COV]).score(sde)
    out = jax.jit(lambda x: settings(KEY, sde, score, x).x)(jnp.asarray(x1))
    p = Process(process)
    columns = law(p)
    return np.asarray(out), p.denoised(columns, TIMES[-1]) if settings.denoise else columns


@pytest.mark.filterwarnings("ignore:order")
@pytest.mark.parametrize("name", DETERMINISTIC)
def test_deterministic_samplers_are_the_affine_map(name, x64):
    """In float64, to 1e-9."""
    x1 = (50.0 if DETERMINISTIC[name][0] == "ve" else 1.0) * np.random.default_rng(0).normal(
        size=(3, 2)
    )
    out, columns = run(*DETERMINISTIC[name], x1)
    np.testing.assert_allclose(out, columns[:, 0] + x1 @ columns[:, 1:3].T, rtol=0.0, atol=1e-9)


@pytest.mark.filterwarnings("ignore:order")
@pytest.mark.parametrize("name", STOCHASTIC)
def test_stochastic_samplers_have_its_mean_and_covariance(name, x64):
    """Every entry within 5 standard errors at 20 000 samples, the steps' bias included."""
    prior = 50.0 if STOCHASTIC[name][0] == "ve" else 1.0
    out, columns = run(*STOCHASTIC[name], prior * np.random.default_rng(1).normal(size=(N, 2)))
    mean = columns[:, 0]
    spread = np.concatenate([prior * columns[:, 1:3], columns[:, 3:]], axis=1)
    cov = spread @ spread.T
    variances = np.diag(cov)
    np.testing.assert_array_less(np.abs(out.mean(axis=0) - mean), 5 * np.sqrt(variances / N))
    np.testing.assert_array_less(
        np.abs(np.cov(out.T) - cov), 5 * np.sqrt((np.outer(variances, variances) + cov**2) / N)
    )
