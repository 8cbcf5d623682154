"""Toy data whose law is known: for first experiments, and for tests of everything."""

from __future__ import annotations

import numpy as np

from scoresde.mixture import GaussianMixture


def ring(components: int = 5, radius: float = 1.5) -> GaussianMixture:
    """Gaussians of unequal weight and width on a ring in the plane: well separated, no symmetry.

    Component k of K has standard deviation 0.2 … 0.4 and weight 1/2 … 3/2 of 1/K, rising with k.
    """
    angle = 2.0 * np.pi * np.arange(components) / components
    means = radius * np.stack([np.cos(angle), np.sin(angle)], axis=1)
    return GaussianMixture(
        means, np.linspace(0.2, 0.4, components) ** 2, np.linspace(0.5, 1.5, components)
    )
