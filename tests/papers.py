"""The papers' formulas, each written once, in NumPy: what the tests hold the library against.

Nothing here asks the library for a coefficient, a time or a level. A sampler's formula works on a
`Model`: the scales of a process, a score with its denoiser, and noise. What a state is belongs to
the model: an array, or the linear function of start and noise that it is on Gaussian data.

Papers: DDPM, Ho et al. 2020 (arXiv:2006.11239). Improved DDPM, Nichol & Dhariwal 2021 (2102.09672).
NCSN, Song & Ermon 2019 (1907.05600). Score SDE, Song et al. 2021 (2011.13456). DDIM, Song et al.
2021 (2010.02502). DPM-Solver++, Lu et al. 2022 (2211.01095). UniPC, Zhao et al. 2023 (2302.04867).
EDM, Karras et al. 2022 (2206.00364). Restart, Xu et al. 2023 (2306.14878).
"""

import itertools
import math

import numpy as np
from scipy.integrate import quad

# --- Processes: signal, noise, f and g² (Song et al. 2021, Eq. 30 to 33) ---


def linear_beta(t, beta_min=0.1, beta_max=20.0):
    """The noise rate beta(t), linear in t, and its integral B(t) from 0, by quadrature."""

    def beta(t):
        return beta_min + t * (beta_max - beta_min)

    integral = [quad(beta, 0.0, s)[0] for s in np.atleast_1d(t)]
    return beta(t), np.reshape(integral, np.shape(t))


def vp(t, beta_min=0.1, beta_max=20.0):
    """(alpha, sigma, f, g²) of VP; Song et al. 2021, Eq. 11 and 33."""
    beta, integral = linear_beta(t, beta_min, beta_max)
    return np.exp(-integral / 2), np.sqrt(-np.expm1(-integral)), -beta / 2, beta


def sub_vp(t, beta_min=0.1, beta_max=20.0):
    """(alpha, sigma, f, g²) of sub-VP; Song et al. 2021, Eq. 12 and 29."""
    beta, integral = linear_beta(t, beta_min, beta_max)
    g2 = -beta * np.expm1(-2 * integral)
    return np.exp(-integral / 2), -np.expm1(-integral), -beta / 2, g2


def ve(t, sigma_min=0.01, sigma_max=50.0):
    """(alpha, sigma, f, g²) of VE; Song et al. 2021, Eq. 9 and 30."""
    ratio = sigma_max / sigma_min
    sigma = sigma_min * ratio**t
    return np.ones_like(t), sigma, np.zeros_like(t), 2.0 * sigma**2 * np.log(ratio)


def cosine(t, offset=0.008):
    """(alpha, sigma, f, g²) of the cosine schedule; Nichol & Dhariwal 2021, Eq. 17, for t < 1."""
    a = np.pi / 2 / (1 + offset)
    alpha = np.cos(a * (t + offset)) / np.cos(a * offset)
    rate = 2 * a * np.tan(a * (t + offset))  # beta = -d log alpha² / dt
    return alpha, np.sqrt(1 - alpha**2), -rate / 2, rate


def edm(t, sigma_min=0.002, sigma_max=80.0, rho=7.0):
    """(alpha, sigma, f, g²) of EDM's path; Karras et al. 2022, Eq. 5, with i / (N - 1) = 1 - t."""
    low, high = sigma_min ** (1 / rho), sigma_max ** (1 / rho)
    sigma = (high + (1 - t) * (low - high)) ** rho
    rate = rho * (high + (1 - t) * (low - high)) ** (rho - 1) * (high - low)
    return np.ones_like(t), sigma, np.zeros_like(t), 2 * sigma * rate  # their Eq. 1


def rectified_flow(t):
    """(alpha, sigma, f, g²) of straight paths; Lipman et al. 2023, Eq. 20, for t < 1."""
    f = -1 / (1 - t)
    return 1 - t, t, f, 2 * t - 2 * f * t**2  # g² = dsigma²/dt - 2 f sigma²


PROCESSES = {"vp": vp, "subvp": sub_vp, "ve": ve}


# --- Discrete chains ---


def linear_betas(num_steps):
    """DDPM's variances of the noise added per step (Ho et al. 2020, Section 4)."""
    return np.linspace(1e-4, 0.02, num_steps)


def cosine_alpha_bar(t, offset=0.008):
    """Improved DDPM's alphas_bar at t in [0, 1] (Nichol & Dhariwal 2021, Eq. 17)."""

    def f(t):
        return np.cos((t + offset) / (1 + offset) * np.pi / 2) ** 2

    return f(t) / f(0)


def ddpm_alphas_bar(betas):
    """(alphas_bar_i, alphas_bar_{i-1}), the latter 1 at the first step (Ho et al. 2020, Eq. 4)."""
    alphas_bar = np.cumprod(1 - betas)
    return alphas_bar, np.concatenate([[1], alphas_bar[:-1]])


def ddpm_posterior_variances(betas):
    """The variance of q(x_{i-1} | x_i, x_0) (Ho et al. 2020, Eq. 7)."""
    alphas_bar, before = ddpm_alphas_bar(betas)
    return betas * (1 - before) / (1 - alphas_bar)


def ddpm_mean(x, noise, betas, i):
    """The mean of p(x_{i-1} | x_i) for the predicted noise (Ho et al. 2020, Eq. 11)."""
    alphas_bar, _ = ddpm_alphas_bar(betas)
    return (x - betas[i] / np.sqrt(1 - alphas_bar[i]) * noise) / np.sqrt(1 - betas[i])


def ncsn_step(x, score, sigmas, i):
    """Mean and standard deviation of SMLD's ancestral step (Song et al. 2021, Eq. 47)."""
    sigma = sigmas[i]
    before = sigmas[i - 1] if i else 0.0
    gap = sigma**2 - before**2
    return x + gap * score, np.sqrt(before**2 * gap / sigma**2)


# --- What networks predict ---


def predictions(alpha, sigma, x0, noise, data_std, rates):
    """What each parameterisation's network should output for (x0, noise), and the noisy state x.

    rates: the derivatives of alpha and sigma.
    """
    x = alpha * x0 + sigma * noise
    norm = np.sqrt((alpha * data_std) ** 2 + sigma**2)
    return x, {
        "score": -noise / sigma,
        "noise": noise,
        "data": x0,
        "velocity": alpha * noise - sigma * x0,  # Salimans & Ho 2022, Section 4
        # Karras et al. 2022, Eq. 7, solved for F
        "edm": (x0 - alpha * data_std**2 / norm**2 * x) / (sigma * data_std / norm),
        "flow": rates[0] * x0 + rates[1] * noise,  # Lipman et al. 2023, Eq. 9
        "own": noise - x0,  # rectified flow, Liu et al. 2022
    }


# --- What a sampler's formula works on ---


class Model:
    """The scales of a process, a score, and noise; subclasses say what a state is."""

    def alpha(self, t):
        raise NotImplementedError

    def sigma(self, t):
        raise NotImplementedError

    def drift_and_squared_diffusion(self, t):
        raise NotImplementedError

    def score(self, x, t):
        raise NotImplementedError

    def denoised(self, x, t):
        """E[x_0 | x_t = x]."""
        raise NotImplementedError

    def noise(self):
        """The next standard normal draw."""
        raise NotImplementedError

    def level(self, t):
        """EDM's noise level, sigma / alpha."""
        return self.sigma(t) / self.alpha(t)

    def half_log_snr(self, t):
        """DPM-Solver's lambda, log(alpha / sigma)."""
        return -np.log(self.level(t))


def transition(p, t, s):
    """Coefficient and variance of p(x_t | x_s) for s < t."""
    coefficient = p.alpha(t) / p.alpha(s)
    return coefficient, p.sigma(t) ** 2 - coefficient**2 * p.sigma(s) ** 2


# --- One step from t down to s ---


def euler_maruyama(p, x, t, s):
    """The reverse-time SDE (Song et al. 2021, Eq. 6) by Euler-Maruyama."""
    f, g2 = p.drift_and_squared_diffusion(t)
    drift = f * x - g2 * p.score(x, t)
    return x + drift * (s - t) + math.sqrt(g2 * (t - s)) * p.noise()


def reverse_diffusion(p, x, t, s):
    """The forward kernel's own discretisation, reversed (Song et al. 2021, Eq. 46)."""
    c, variance = transition(p, t, s)
    return x - (c - 1) * x + variance * p.score(x, t) + math.sqrt(variance) * p.noise()


def flow_step(p, x, t, s):
    """The same for the probability flow (Song et al. 2021, Eq. 13)."""
    c, variance = transition(p, t, s)
    return x - (c - 1) * x + 0.5 * variance * p.score(x, t)


PREDICTORS = {
    "reverse_diffusion": reverse_diffusion,
    "euler_maruyama": euler_maruyama,
    "probability_flow": flow_step,
    "none": lambda p, x, t, s: x,
}


def langevin(p, x, t, size):
    """One step of Langevin dynamics on p_t (Song & Ermon 2019, Eq. 4, with size = half theirs)."""
    return x + size * p.score(x, t) + math.sqrt(2 * size) * p.noise()


def corrector_size(p, t, s, at, snr):
    """The corrector's step for a known noise level (Song et al. 2021, Algorithms 4 and 5)."""
    return 2 * (p.alpha(t) / p.alpha(s)) ** 2 * snr**2 * p.sigma(at) ** 2


def ancestral(p, x, t, s, variance="posterior"):
    """q(x_s | x_t, x_0) at x_0 = E[x_0 | x_t] (Ho et al. 2020, Eq. 6 and 7), for any process."""
    c, added = transition(p, t, s)
    mean = (c * p.sigma(s) ** 2 * x + p.alpha(s) * added * p.denoised(x, t)) / p.sigma(t) ** 2
    scale = p.sigma(s) / p.sigma(t) if variance == "posterior" else 1.0
    return mean + math.sqrt(added) * scale * p.noise()


def ddim(p, x, t, s, eta=0.0):
    """DDIM (Song et al. 2021, Eq. 12), with its sigma_tau² = v for any process."""
    denoised = p.denoised(x, t)
    noise = (x - p.alpha(t) * denoised) / p.sigma(t)
    v = eta**2 * (1 - (p.level(s) / p.level(t)) ** 2) * p.sigma(s) ** 2
    moved = p.alpha(s) * denoised + math.sqrt(p.sigma(s) ** 2 - v) * noise
    return moved + math.sqrt(v) * p.noise() if eta else moved


# --- Multistep solvers in lambda = log(alpha / sigma) ---


def adams_by_moments(start, end, rate, nodes):
    """∫ rate e^{-rate (end - u)} l_j(u) du for Lagrange's l_j, from the moments, by parts."""
    moments = [-math.expm1(-rate * (end - start))]
    for k in range(1, len(nodes)):
        moments.append((end - start) ** k - k / rate * moments[-1])
    return np.linalg.solve(np.vander(np.array(nodes) - start, increasing=True).T, moments)


def adams_by_quadrature(start, end, rate, nodes):
    """The same weights by SciPy's adaptive quadrature."""

    def lagrange(j, u):
        others = [node for m, node in enumerate(nodes) if m != j]
        return math.prod((u - node) / (nodes[j] - node) for node in others)

    def weight(j):
        integrand = lambda u: rate * math.exp(-rate * (end - u)) * lagrange(j, u)  # noqa: E731
        return quad(integrand, start, end, epsabs=1e-13)[0]

    return [weight(j) for j in range(len(nodes))]


def exponential(
    p, x, times, order, eta=0.0, corrector=False, midpoint=False, weights=adams_by_moments
):
    """The exponential Adams method (SEEDS, SA-Solver; UniPC with a corrector): yields each state.

    x_s = sigma_s/sigma_t e^{-eta h} x_t + alpha_s Σ_j c_j D_j + sigma_s sqrt(1 - e^{-2 eta h}) z,
    where h is the step of lambda and c_j integrates the polynomial through the last `order` D.
    """
    lam = [float(p.half_log_snr(t)) for t in times]
    known, base = [], None
    yield x

    for i, (t, s) in enumerate(itertools.pairwise(times)):
        known = [p.denoised(x, t), *known]

        # Correct the state at t, now that D is known there.
        if corrector and base is not None:
            nodes = [lam[i], *lam[max(0, i - order) : i][::-1]]
            c = weights(lam[i - 1], lam[i], 1 + eta, nodes)
            x = base + p.alpha(t) * sum(a * b for a, b in zip(c, known, strict=False))

        # Predict the state at s.
        h = lam[i + 1] - lam[i]
        if midpoint and i > 0:  # DPM-Solver++'s 2M
            r = (lam[i] - lam[i - 1]) / h
            c = [-math.expm1(-(1 + eta) * h) * a for a in (1 + 1 / (2 * r), -1 / (2 * r))]
        else:
            c = weights(lam[i], lam[i + 1], 1 + eta, lam[max(0, i + 1 - order) : i + 1][::-1])
        base = p.sigma(s) / p.sigma(t) * math.exp(-eta * h) * x
        if eta:
            base = base + p.sigma(s) * math.sqrt(-math.expm1(-2 * eta * h)) * p.noise()
        x = base + p.alpha(s) * sum(a * b for a, b in zip(c, known, strict=False))
        yield x


def dpm_solver_pp_2m(p, x, times):
    """DPM-Solver++(2M), as Lu et al. 2022 write their Algorithm 2.

    D = (1 + 1/2r) D_i - 1/2r D_{i-1}, x_s = sigma_s/sigma_t x_t - alpha_s (e^{-h} - 1) D.
    """
    before = last = None
    for t, s in itertools.pairwise(times):
        h = p.half_log_snr(s) - p.half_log_snr(t)
        new = p.denoised(x, t)
        used = new if before is None else (1 + h / (2 * last)) * new - h / (2 * last) * before
        x = p.sigma(s) / p.sigma(t) * x - p.alpha(s) * np.expm1(-h) * used
        before, last = new, h
    return x


def sde_dpm_solver_pp_2m(p, x, times):
    """SDE-DPM-Solver++(2M) (Lu et al. 2022, Section 5).

    sigma_s/sigma_t e^{-h} x + C D + C (D - D_prev) / 2r + sigma_s sqrt(1 - e^{-2h}) z,
    where C = alpha_s (1 - e^{-2h}).
    """
    before = last = None
    for t, s in itertools.pairwise(times):
        h = p.half_log_snr(s) - p.half_log_snr(t)
        c = -p.alpha(s) * np.expm1(-2 * h)
        new = p.denoised(x, t)
        moved = p.sigma(s) / p.sigma(t) * np.exp(-h) * x + c * new
        if before is not None:
            moved = moved + 0.5 * c * (new - before) / (last / h)
        x = moved + p.sigma(s) * np.sqrt(-np.expm1(-2 * h)) * p.noise()
        before, last = new, h
    return x


def unipc_update(p, x, times, i, order, known, new=None):
    """UniP from t_i, or UniC where D at t_{i+1} is given (Zhao et al. 2023, Section 3).

    With data prediction the weights are a = R^-1 g / B(h), B = e^{-h} - 1.
    """
    t, s = times[i], times[i + 1]
    lam = [p.half_log_snr(time) for time in times]
    h = lam[i + 1] - lam[i]
    b = np.expm1(-h)

    # Differences of D to its value at t_i, at the relative steps r.
    r = [(lam[i - m] - lam[i]) / h for m in range(1, order)]
    differences = [(known[m] - known[0]) / r[m - 1] for m in range(1, order)]
    if new is not None:
        r, differences = [*r, 1.0], [*differences, new - known[0]]
    moved = p.sigma(s) / p.sigma(t) * x - p.alpha(s) * b * known[0]
    if not r:
        return moved

    # Solve R a = g for the weights.
    rows, g = [], []
    phi, factorial = b / -h - 1.0, 1
    for k in range(1, len(r) + 1):
        rows.append(np.array(r) ** (k - 1))
        g.append(phi * factorial / b)
        factorial *= k + 1
        phi = phi / -h - 1.0 / factorial
    a = np.linalg.solve(np.array(rows), np.array(g))
    return moved - p.alpha(s) * b * sum(a[m] * differences[m] for m in range(len(r)))


def unipc(p, x, times, order):
    """UniPC: UniP of this order, then UniC once D at the new time is known (Zhao et al. 2023)."""
    corrected, known = x, []
    for i in range(len(times) - 1):
        new = p.denoised(x, times[i])
        if i > 0:
            corrected = unipc_update(p, corrected, times, i - 1, min(order, i), known, new)
        known = [new, *known][:order]
        x = unipc_update(p, corrected, times, i, min(order, i + 1), known)
    return x


# --- EDM and Restart, in y = x / alpha at the noise levels v = sigma / alpha ---


def edm_levels(num_levels=18, low=0.002, high=80.0, rho=7.0):
    """EDM's noise levels, falling (Karras et al. 2022, Eq. 5)."""
    i = np.arange(num_levels)
    return (
        high ** (1 / rho) + i / (num_levels - 1) * (low ** (1 / rho) - high ** (1 / rho))
    ) ** rho


def heun_step(denoiser, y, v, v_next):
    """Heun's method on dy/dv = (y - D(y; v)) / v; to v_next = 0 by Euler's."""
    slope = (y - denoiser(y, v)) / v
    moved = y + (v_next - v) * slope
    if v_next == 0:
        return moved
    return y + (v_next - v) * 0.5 * (slope + (moved - denoiser(moved, v_next)) / v_next)


def edm_algorithm_2(
    denoiser, y, levels, noise, churn=0.0, churn_min=0.0, churn_max=math.inf, noise_scale=1.0
):
    """EDM's stochastic sampler (Karras et al. 2022, Algorithm 2); noise(i) is drawn at step i.

    Two choices are the library's: no churn above the highest level, and none in the step to 0.
    """
    num_levels = sum(level > 0 for level in levels)
    for i, (v, v_next) in enumerate(itertools.pairwise(levels)):
        gamma = min(churn / num_levels, math.sqrt(2) - 1) if churn_min <= v <= churn_max else 0.0
        raised = v * (1 + gamma)
        if gamma > 0 and v_next > 0 and raised <= levels[0]:
            y = y + math.sqrt(raised**2 - v**2) * noise_scale * noise(i)
            v = raised
        y = heun_step(denoiser, y, v, v_next)
    return y


def restart(denoiser, y, levels, intervals, noise):
    """Restart (Xu et al. 2023, Algorithm 1) with Heun's steps; intervals (low, high, M, K).

    At the level nearest `low`, K times: noise up to `high`, then M steps down again.
    """
    for i, (v, v_next) in enumerate(itertools.pairwise(levels)):
        y = heun_step(denoiser, y, v, v_next)
        for low, high, num_steps, repeats in intervals:
            if i + 1 != np.argmin(np.abs(levels - low)):
                continue
            for _ in range(repeats):
                y = y + math.sqrt(high**2 - v_next**2) * noise()
                for a, b in itertools.pairwise(edm_levels(num_steps + 1, v_next, high)):
                    y = heun_step(denoiser, y, a, b)
    return y


def heun_with_jumps(p, x, times, jumps, noise_scale=1.0):
    """From each time noise up to its jump by the forward kernel, then a Heun step down to the next.

    The form that churn and Restart share, in x.
    """
    denoiser = p.denoised_at_level
    for t, up, s in zip(times[:-1], jumps, times[1:], strict=True):
        c, added = transition(p, up, t)
        x = c * x + noise_scale * math.sqrt(max(added, 0.0)) * p.noise()
        x = p.alpha(s) * heun_step(denoiser, x / p.alpha(up), p.level(up), p.level(s))
    return x


# --- NCSN ---


def annealed_langevin(p, x, times, repeats, eps):
    """Langevin steps at each level, from high to low (Song & Ermon 2019, Algorithm 1)."""
    for t in times:
        for _ in range(repeats):
            x = langevin(p, x, t, eps * (p.sigma(t) / p.sigma(times[-1])) ** 2)
    return x
