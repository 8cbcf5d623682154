"""The exact law of every fixed-grid sampler on Gaussian data with a full covariance, from the papers' formulas.

There each step is affine in the start and the noises. States are (2, columns) arrays: what multiplies 1, the two
entries of x1 and those of each noise; the formulas below, in NumPy and with processes written out, push these columns
through. Nothing here asks the library for a coefficient, a time or a level.
"""

import itertools
import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import scoresde as sd

KEY, N = jax.random.key(0), 20_000
MEAN, COV = np.array([0.7, -0.3]), np.array([[0.3, 0.12], [0.12, 0.1]])
TIMES = np.linspace(1.0, 0.1, 13) ** 2  # unequal in t and in log SNR
SNR, DRAWS = 0.3, 40


class Process:
    """VP, sub-VP or VE with their published constants, and states under it."""

    def __init__(self, name):
        self.name, self.drawn = name, 0

    def log_alpha(self, t):
        return 0.0 * t if self.name == "ve" else -(0.1 * t / 2 + 19.9 * t**2 / 4)

    def sigma(self, t):
        if self.name == "ve":
            return 0.01 * 5000.0**t
        variance = -np.expm1(2 * self.log_alpha(t))
        return variance if self.name == "subvp" else np.sqrt(variance)

    def drift_and_squared_diffusion(self, t):
        beta = 0.1 + 19.9 * t
        if self.name == "ve":
            return 0.0, 2 * math.log(5000.0) * self.sigma(t) ** 2
        return -beta / 2, beta * (
            1 - math.exp(4 * self.log_alpha(t)) if self.name == "subvp" else 1.0
        )

    def alpha(self, t):
        return np.exp(self.log_alpha(t))

    def level(self, t):
        """EDM's sigma."""
        return self.sigma(t) / self.alpha(t)

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
        return -np.linalg.solve(
            self.alpha(t) ** 2 * COV + self.sigma(t) ** 2 * np.eye(2),
            self.centred(x, self.alpha(t)),
        )

    def expected(self, y, v):
        """E[x_0 | x_0 + v noise = y]."""
        centred = self.centred(y)
        return y - centred + COV @ np.linalg.solve(COV + v**2 * np.eye(2), centred)

    def denoised(self, x, t):
        return self.expected(x / self.alpha(t), self.level(t))


# --- The papers' steps ---


def euler_maruyama(p, x, t, s):
    f, g2 = p.drift_and_squared_diffusion(t)
    return x + (f * x - g2 * p.score(x, t)) * (s - t) + math.sqrt(g2 * (t - s)) * p.noise()


def transition(p, t, s):
    """c and variance of p(x_t | x_s)."""
    c = p.alpha(t) / p.alpha(s)
    return c, p.sigma(t) ** 2 - c**2 * p.sigma(s) ** 2


def reverse_diffusion(p, x, t, s):
    c, variance = transition(p, t, s)
    return x - (c - 1) * x + variance * p.score(x, t) + math.sqrt(variance) * p.noise()


def flow_step(p, x, t, s):
    c, variance = transition(p, t, s)
    return x - (c - 1) * x + 0.5 * variance * p.score(x, t)


def langevin(p, x, t, size):
    return x + size * p.score(x, t) + math.sqrt(2 * size) * p.noise()


# --- The samplers ---


def steps(step, corrected=False):
    """A predictor, corrected at t first where wanted."""

    def law(p):
        x = p.start()
        for t, s in itertools.pairwise(TIMES):
            size = 2 * (p.alpha(t) / p.alpha(s)) ** 2 * SNR**2 * p.sigma(t) ** 2
            x = step(p, langevin(p, x, t, size) if corrected else x, t, s)
        return x

    return law


def corrector_alone(p):
    x = p.start()
    for t, s in itertools.pairwise(TIMES):
        x = langevin(p, x, s, 2 * (p.alpha(t) / p.alpha(s)) ** 2 * SNR**2 * p.sigma(s) ** 2)
    return x


def ancestral(variance):
    """The mean of q(x_s | x_t, x_0) at x_0 = E[x_0 | x_t]."""

    def step(p, x, t, s):
        c, added = transition(p, t, s)
        mean = (c * p.sigma(s) ** 2 * x + p.alpha(s) * added * p.denoised(x, t)) / p.sigma(t) ** 2
        return (
            mean
            + math.sqrt(added)
            * (p.sigma(s) / p.sigma(t) if variance == "posterior" else 1.0)
            * p.noise()
        )

    return steps(step)


def ddim(eta):
    def step(p, x, t, s):
        denoised = p.denoised(x, t)
        noise = (x - p.alpha(t) * denoised) / p.sigma(t)
        v = eta**2 * (1 - (p.level(s) / p.level(t)) ** 2) * p.sigma(s) ** 2
        moved = p.alpha(s) * denoised + math.sqrt(p.sigma(s) ** 2 - v) * noise
        return moved + math.sqrt(v) * p.noise() if eta else moved

    return steps(step)


def integrals(start, end, rate, nodes):
    """Weights of Lagrange's polynomials under rate e^{-rate (end - u)}: from its moments, by parts."""
    moments = [-math.expm1(-rate * (end - start))]
    for k in range(1, len(nodes)):
        moments.append((end - start) ** k - k / rate * moments[-1])
    return np.linalg.solve(np.vander(np.array(nodes) - start, increasing=True).T, moments)


def exponential(order, eta=0.0, corrector=False, midpoint=False):
    def law(p):
        x, known, base, lam = p.start(), [], None, -np.log(p.level(TIMES))
        for i, (t, s) in enumerate(itertools.pairwise(TIMES)):
            known, h = [p.denoised(x, t), *known], lam[i + 1] - lam[i]
            if corrector and i > 0:
                c = integrals(
                    lam[i - 1], lam[i], 1 + eta, [lam[i], *lam[max(0, i - order) : i][::-1]]
                )
                x = base + p.alpha(t) * sum(a * b for a, b in zip(c, known, strict=False))
            c = integrals(lam[i], lam[i + 1], 1 + eta, lam[max(0, i + 1 - order) : i + 1][::-1])
            if midpoint and i > 0:
                r = (lam[i] - lam[i - 1]) / h
                c = -math.expm1(-(1 + eta) * h) * np.array([1 + 1 / (2 * r), -1 / (2 * r)])
            base = p.sigma(s) / p.sigma(t) * math.exp(-eta * h) * x
            if eta:
                base = base + p.sigma(s) * math.sqrt(-math.expm1(-2 * eta * h)) * p.noise()
            x = base + p.alpha(s) * sum(a * b for a, b in zip(c, known, strict=False))
        return x

    return law


def karras(high, low, num_steps):
    return np.linspace(high ** (1 / 7), low ** (1 / 7), num_steps + 1) ** 7


def heun_step(p, y, v, v_next):
    d = (y - p.expected(y, v)) / v
    moved = y + (v_next - v) * d
    return y + (v_next - v) * 0.5 * (d + (moved - p.expected(moved, v_next)) / v_next)


def heun(churn=0.0, noise_scale=1.0, intervals=()):
    """EDM's Algorithm 2 in y = x / alpha, v = sigma / alpha; Restart's Algorithm 1 with intervals (level, v, M, K)."""

    def law(p):
        levels = karras(p.level(1.0), p.level(TIMES[-1]), 12)
        y = p.start() / p.alpha(1.0)
        for i, (v, v_next) in enumerate(itertools.pairwise(levels)):
            raised = v * (1 + min(churn / 13, math.sqrt(2) - 1))
            if churn and raised < levels[0]:
                y, v = y + noise_scale * math.sqrt(raised**2 - v**2) * p.noise(), raised
            y = heun_step(p, y, v, v_next)
            for low, high, num_steps, repeats in intervals:
                if i + 1 == np.argmin(np.abs(levels - low)):
                    for _ in range(repeats):
                        y = y + math.sqrt(high**2 - v_next**2) * p.noise()
                        for a, b in itertools.pairwise(karras(high, v_next, num_steps)):
                            y = heun_step(p, y, a, b)
        return p.alpha(TIMES[-1]) * y

    return law


def annealed_langevin(p):
    x = p.start()
    for t in (1.0, 2 / 3, 1 / 3, 0.0):
        for _ in range(3):
            x = langevin(p, x, t, 2e-5 * (p.sigma(t) / p.sigma(0.0)) ** 2)
    return x


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
    "DDIM": ("subvp", sd.DDIM(**GRID), ddim(0.0)),
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
        steps(flow_step),
    ),
}
INTERVALS = ((0.3, 1.0, 2, 2), (0.1, 0.5, 3, 1))
STOCHASTIC = {
    "Euler-Maruyama": ("subvp", sd.EulerMaruyama(**GRID), steps(euler_maruyama)),
    "Euler-Maruyama, VE": (
        "ve",
        sd.EulerMaruyama(**GRID | {"denoise": True}),
        steps(euler_maruyama),
    ),
    "ancestral": ("subvp", sd.Ancestral(**LEVELS), ancestral("posterior")),
    "ancestral, beta": ("vp", sd.Ancestral(variance="beta", **LEVELS), ancestral("beta")),
    "reverse diffusion": (
        "ve",
        pair(sd.predictors.ReverseDiffusion(), sd.correctors.Identity()),
        steps(reverse_diffusion),
    ),
    "reverse diffusion, corrected": (
        "vp",
        pair(sd.predictors.ReverseDiffusion()),
        steps(reverse_diffusion, True),
    ),
    "Euler-Maruyama, corrected": (
        "vp",
        pair(sd.predictors.EulerMaruyama()),
        steps(euler_maruyama, True),
    ),
    "flow, corrected": ("subvp", pair(sd.predictors.ProbabilityFlow()), steps(flow_step, True)),
    "corrector alone": ("ve", pair(sd.predictors.Identity()), corrector_alone),
    "DDIM(.5)": ("vp", sd.DDIM(0.5, **GRID), ddim(0.5)),
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
    mean, spread = columns[:, 0], np.concatenate([prior * columns[:, 1:3], columns[:, 3:]], axis=1)
    cov = spread @ spread.T
    variances = np.diag(cov)
    np.testing.assert_array_less(np.abs(out.mean(axis=0) - mean), 5 * np.sqrt(variances / N))
    np.testing.assert_array_less(
        np.abs(np.cov(out.T) - cov), 5 * np.sqrt((np.outer(variances, variances) + cov**2) / N)
    )
