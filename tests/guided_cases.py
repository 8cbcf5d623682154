"""Conditional scores whose answer is known: well-separated components of a mixture as classes."""

import jax.numpy as jnp
import numpy as np

import scoresde as sd
from scoresde.types import right_pad

MEANS = np.array([[1.5, 0.0], [0.0, 1.5], [-1.5, 0.0], [0.0, -1.5]])
STD = 0.2
MIXTURE = sd.GaussianMixture(MEANS, np.full(4, STD**2), np.array([0.4, 0.3, 0.2, 0.1]))
NO_LABEL = 4


def of_vectors(sde):
    """The score of N(y, STD^2 I), given the vector y of each example."""

    def score(x, t, y):
        alpha = right_pad(sde.alpha(t), x)
        variance = right_pad(sde.alpha(t) ** 2 * STD**2 + sde.variance(t), x)
        return -(x - alpha * y["mean"].astype(x.dtype)) / variance

    return score


def guided(name, sde, labels):
    """A score that samples the component of each example's label, and the condition to pass."""
    classes = sd.MixtureClassScore(sde, MIXTURE)
    whole = MIXTURE.score(sde)
    classifier = sd.MixtureClassifier(sde, MIXTURE)
    means = {"mean": jnp.asarray(MEANS[labels], jnp.float32)}
    match name:
        case "labels":
            return classes, labels
        case "vectors":
            return of_vectors(sde), means
        case "held labels":
            return sd.conditioned(classes, labels), None
        case "held vectors":
            return sd.conditioned(of_vectors(sde), means), None
        case "classifier":
            return sd.ClassifierGuidance(whole, classifier, labels), None
        case "classifier-free":
            return sd.ClassifierFreeGuidance(classes, np.ones(len(labels))), labels
        case "held classifier-free":
            guided = sd.ClassifierFreeGuidance(classes, 1.0, interval=(0.1, 10.0))
            return sd.conditioned(guided, labels), None
        case "auto":
            bad = sd.conditioned(classes, NO_LABEL)
            return sd.Autoguidance(sd.conditioned(classes, labels), bad), None
        case "classifier around classifier-free":
            # Weight 0 is the whole mixture, which the classifier then guides.
            free = sd.ClassifierFreeGuidance(classes, 0.0, interval=(0.0, 1e6))
            return sd.ClassifierGuidance(free, classifier, labels), np.zeros_like(labels)
        case "classifier-free around classifier":
            # The classifier's labels must follow each example into the doubled batch.
            inner = sd.ClassifierGuidance(classes, classifier, labels)
            return sd.ClassifierFreeGuidance(inner, 0.0), np.zeros_like(labels)
    raise ValueError(name)


GUIDED = (
    "labels",
    "vectors",
    "held labels",
    "held vectors",
    "classifier",
    "classifier-free",
    "held classifier-free",
    "auto",
    "classifier around classifier-free",
    "classifier-free around classifier",
)
