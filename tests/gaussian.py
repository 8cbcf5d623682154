"""Gaussian data: the exact score, and states as linear functions of start and noise."""

import numpy as np

from scoresde.types import right_pad


def gaussian_score(sde, mean, variance):
    """The exact score of N(mean, variance I) data."""

    def score(x, t):
        alpha = right_pad(sde.alpha(t), x)
        return -(x - alpha * mean) / right_pad(sde.alpha(t) ** 2 * variance + sde.variance(t), x)

    return score


class Linear:
    """A linear function of the start x1 and of each step's noise: what a sampler's states are on Gaussian data."""

    def __init__(self, mean, of_start, of_noise):
        self.mean, self.of_start, self.of_noise = mean, of_start, np.asarray(of_noise)

    @classmethod
    def zero(cls, steps):
        return cls(0.0, 0.0, np.zeros(steps))

    @classmethod
    def start(cls, steps):
        return cls(0.0, 1.0, np.zeros(steps))

    @classmethod
    def noise(cls, steps, i):
        return cls(0.0, 0.0, np.eye(steps)[i])

    def __add__(self, other):
        other = (
            other if isinstance(other, Linear) else Linear(other, 0.0, np.zeros_like(self.of_noise))
        )
        return Linear(
            self.mean + other.mean, self.of_start + other.of_start, self.of_noise + other.of_noise
        )

    def __mul__(self, scale):
        return Linear(scale * self.mean, scale * self.of_start, scale * self.of_noise)

    __radd__, __rmul__ = __add__, __mul__

    def variance(self, start_std):
        """Of the state, the start and the noises independent normal."""
        return (self.of_start * start_std) ** 2 + np.sum(self.of_noise**2)

    def at(self, x1, noises):
        """The state for these."""
        return (
            self.mean
            + self.of_start * x1
            + sum(a * z for a, z in zip(self.of_noise, noises, strict=False))
        )
