"""Gaussian data and mixtures: exact scores, and states as linear functions of start and noise."""

import jax
import jax.numpy as jnp
import numpy as np
import papers

import scoresde as sd
from scoresde.keys import fold_in_examples, normal_like
from scoresde.types import right_pad


def gaussian_score(sde, mean, variance):
    """The exact score of N(mean, variance I) data, with its denoiser where x_1 is pure noise."""

    def score(x, t):
        alpha = right_pad(sde.alpha(t), x)
        return -(x - alpha * mean) / right_pad(sde.alpha(t) ** 2 * variance + sde.variance(t), x)

    def denoise(x, t):
        alpha = right_pad(sde.alpha(t), x)
        return mean - alpha * variance * score(x, t)

    if sde.ends_in_noise:  # otherwise the library's own formula is tried
        score.denoise = denoise
    return score


def exact_loss(dim, sde, t, variance):
    """The exact score's loss on N(0, v I): D alpha^2 v / (alpha^2 v + sigma^2)."""
    signal = sde.alpha(t) ** 2 * variance
    return dim * signal / (signal + sde.variance(t))


def mixture_in(dim: int, dtype=None) -> sd.GaussianMixture:
    """Three components with full covariances in any dimension."""
    rng = np.random.default_rng(dim)
    root = 0.3 * rng.normal(size=(3, dim, dim)) / np.sqrt(dim)
    covs = root @ np.swapaxes(root, 1, 2) + 0.05 * np.eye(dim)
    return sd.GaussianMixture(
        jnp.asarray(rng.normal(size=(3, dim)), dtype), jnp.asarray(covs, dtype)
    )


def end_marginal(mixture, sde):
    """The log density of the mixture's own marginal at t = 1, in place of the prior's."""
    return lambda x: mixture.log_prob(sde, x, 1.0)


class Linear:
    """A linear function of start and noises: a sampler's state on Gaussian data."""

    __array_ufunc__ = None  # so that NumPy's numbers leave the arithmetic to this class

    def __init__(self, mean, of_start, of_noise):
        self.mean = mean
        self.of_start = of_start
        self.of_noise = np.asarray(of_noise)

    @classmethod
    def start(cls, steps):
        return cls(0.0, 1.0, np.zeros(steps))

    @classmethod
    def noise(cls, steps, i):
        of_noise = np.zeros(steps)
        of_noise[i] = 1.0
        return cls(0.0, 0.0, of_noise)

    def __add__(self, other):
        if not isinstance(other, Linear):
            other = Linear(other, 0.0, np.zeros_like(self.of_noise))
        return Linear(
            self.mean + other.mean, self.of_start + other.of_start, self.of_noise + other.of_noise
        )

    def __mul__(self, scale):
        return Linear(scale * self.mean, scale * self.of_start, scale * self.of_noise)

    __radd__ = __add__
    __rmul__ = __mul__

    def __sub__(self, other):
        return self + -1.0 * other

    def __truediv__(self, scale):
        return (1.0 / scale) * self

    def variance(self, start_std):
        """The state's variance, where the start and the noises are independent normal."""
        return (self.of_start * start_std) ** 2 + np.sum(self.of_noise**2)

    def at(self, x1, noises):
        """The state for this start and these noises."""
        state = self.mean + self.of_start * x1
        return state + sum(a * z for a, z in zip(self.of_noise, noises, strict=False))


class UnderSDE(papers.Model):
    """An SDE of the library as the papers' formulas take it, its scales in float64."""

    def __init__(self, sde):
        self.sde = sde

        self.known = {}

    def _of(self, function, t):
        if np.ndim(t):
            return self._in_float64(function, t)
        place = function.__name__, float(t)
        if place not in self.known:
            self.known[place] = float(self._in_float64(function, t))
        return self.known[place]

    @staticmethod
    def _in_float64(function, t):
        with jax.enable_x64(True):
            return np.asarray(function(jnp.asarray(t, jnp.float64)), np.float64)

    def alpha(self, t):
        return self._of(self.sde.alpha, t)

    def sigma(self, t):
        return self._of(self.sde.sigma, t)

    def half_log_snr(self, t):
        return 0.5 * self._of(self.sde.log_snr, t)

    def drift_and_squared_diffusion(self, t):
        return self._of(self.sde.drift_rate, t), self._of(self.sde.squared_diffusion, t)


class OnGaussianData(UnderSDE):
    """N(mean, variance I) data: every state is a `Linear` function of the start and the noises."""

    def __init__(self, sde, mean, variance, num_noises):
        super().__init__(sde)
        self.data_mean = mean
        self.data_variance = variance
        self.num_noises = num_noises
        self.drawn = 0

    def start(self):
        return Linear.start(self.num_noises)

    def noise(self):
        self.drawn += 1
        return Linear.noise(self.num_noises, self.drawn - 1)

    def variance_at(self, t):
        """The variance of p_t."""
        return self.alpha(t) ** 2 * self.data_variance + self.sigma(t) ** 2

    def score(self, x, t):
        return -1.0 / self.variance_at(t) * (x - self.alpha(t) * self.data_mean)

    def denoised(self, x, t):
        weighted = self.alpha(t) * self.data_variance * x + self.sigma(t) ** 2 * self.data_mean
        return weighted / self.variance_at(t)

    def denoised_at_level(self, y, v):
        """E[x_0 | x_0 + v noise = y]."""
        weighted = self.data_variance * y + v**2 * self.data_mean
        return weighted / (self.data_variance + v**2)


class OfScore(UnderSDE):
    """Any score: states are arrays, and noise is given, one draw after the other."""

    def __init__(self, sde, score, noises=()):
        super().__init__(sde)
        self.exact_score = score
        self.noises = iter(noises)

    def noise(self):
        return next(self.noises)

    def score(self, x, t):
        return self.exact_score(x, t)

    def denoised(self, x, t):
        return sd.denoise(self.sde, self.exact_score, x, t)


def step_noises(keys, like, steps):
    """The noise that a sampler on a grid draws at each step from one key per example."""
    return [normal_like(fold_in_examples(keys, i), like) for i in range(steps)]


def exponential_states(solver, sde, times, mean, variance):
    """Each state of `sd.Exponential` on Gaussian data, its weights by quadrature."""
    model = OnGaussianData(sde, mean, variance, len(times))
    states = papers.exponential(
        model,
        model.start(),
        times,
        solver.order,
        solver.eta,
        solver.corrector,
        midpoint=solver.weights == "midpoint",
        weights=papers.adams_by_quadrature,
    )
    return list(states)


def heun_state(sde, times, jumps, mean, variance, noise_scale=1.0):
    """The last state on Gaussian data of Heun's steps, each of which starts with a jump up."""
    model = OnGaussianData(sde, mean, variance, len(times))
    return papers.heun_with_jumps(model, model.start(), times, jumps, noise_scale)
