"""What experiments on images share: settings, likelihoods, and the samples that count."""

from __future__ import annotations

import dataclasses
from typing import Any

import jax
import numpy as np
import pipeline

import scoresde as sd


@dataclasses.dataclass(frozen=True)
class ImageExperiment(pipeline.Experiment):
    """Settings that experiments on images have in addition."""

    num_samples: int
    """Samples for the distances; the picture shows the first 64."""
    likelihood_t_min: float = 1e-5
    """Where the likelihood starts: for a network of discrete levels, at its lowest, below which it
    has learnt nothing."""
    likelihood_probes: int = 1
    """Rademacher probes per example that estimate the likelihood's divergence."""


def log_likelihood(
    settings: ImageExperiment, key: jax.Array, model: Any, x: jax.Array, **options: Any
) -> sd.Likelihood:
    """Returns the likelihood of dequantised images, by the settings' tolerance, t_min and probes.

    model: a score that holds its SDE.
    """
    return sd.log_likelihood(
        key,
        model.sde,
        model,
        x,
        divergence=sd.divergences.Hutchinson(settings.likelihood_probes),
        rtol=settings.likelihood_tolerance,
        atol=settings.likelihood_tolerance,
        t_min=settings.likelihood_t_min,
        **options,
    )


def succeeded(samples: sd.Sample) -> np.ndarray:
    """Returns the samples that did not fail."""
    return np.asarray(samples.x)[np.asarray(samples.success)]
