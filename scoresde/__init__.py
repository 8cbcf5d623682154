"""Diffusion models as stochastic differential equations.

    sde         VP, SubVP, VE, Cosine, EDMProcess, RectifiedFlow, LearntVP: two functions of time
                define a process; the rest follows
    discrete    DDPM, NCSN: the two chains that VP and VE are the limits of
    score       ScoreModel: a network, and what its output means, as a function score(x, t, cond)
    loss        dsm_loss: denoising score matching
    train       fit trains a model on arrays; load brings back what a run trained
    weights     pretrained: trained models of digits that come with the package
    sampling    sample, with EulerMaruyama, DDIM, Heun, ProbabilityFlow and the others
    guidance    conditioned, ClassifierFreeGuidance and the others: from score to score
    inverse     y = A(x) + noise: from the score of p(x) to that of p(x | y)
    likelihood  log_likelihood: exact, from the probability-flow ODE; elbo: the bound on integers
    evaluation  distances between samples and data

A family's further members are in its namespace: grids, times, weightings, labels, predictors,
correctors, variables, divergences, optimizers, inverse, nets, data, evaluation, runs, plots.

Every name is imported at its first use, so that a command can answer Ctrl-C before the seconds that
importing JAX takes (cli/start.py).
"""

from __future__ import annotations

import importlib

TYPE_CHECKING = False  # that of `typing`, whose import takes longer than all of this file
if TYPE_CHECKING:
    from typing import Any

    from scoresde import data, evaluation, inverse, nets, runs
    from scoresde.names import *
    from scoresde.nets.dit import DiTConfig
    from scoresde.nets.mlp import MLPConfig
    from scoresde.nets.ncsnpp import NCSNppConfig
    from scoresde.nets.unet import UNetConfig
    from scoresde.runs import plots
    from scoresde.train import optimizers as optimizers
    from scoresde.train.load import load
    from scoresde.train.loop import fit
    from scoresde.train.settings import Training
    from scoresde.train.trainer import TrainingDiverged
    from scoresde.weights.pretrained import pretrained

_LATE = {
    "DiTConfig": "scoresde.nets.dit",
    "MLPConfig": "scoresde.nets.mlp",
    "NCSNppConfig": "scoresde.nets.ncsnpp",
    "UNetConfig": "scoresde.nets.unet",
    "load": "scoresde.train.load",
    "fit": "scoresde.train.loop",
    "Training": "scoresde.train.settings",
    "TrainingDiverged": "scoresde.train.trainer",
    "pretrained": "scoresde.weights.pretrained",
}
"""Names with a module of their own, because flax.nnx takes longer to import than all the rest."""

_LATE_MODULES = {
    "data": "scoresde.data",
    "evaluation": "scoresde.evaluation",
    "inverse": "scoresde.inverse",
    "nets": "scoresde.nets",
    "optimizers": "scoresde.train.optimizers",
    "plots": "scoresde.runs.plots",
    "runs": "scoresde.runs",
}


def __getattr__(name: str) -> Any:
    if name not in __all__:
        raise AttributeError(f"module 'scoresde' has no attribute {name!r}")

    if name in _LATE_MODULES:
        value = importlib.import_module(_LATE_MODULES[name])
    else:
        value = getattr(importlib.import_module(_LATE.get(name, "scoresde.names")), name)

    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return __all__


__version__ = "0.1.0"

__all__ = [
    "DDIM",
    "DDPM",
    "EDM",
    "ELBO",
    "NCSN",
    "SDE",
    "VE",
    "VP",
    "AdaptiveSDE",
    "Ancestral",
    "AnnealedLangevin",
    "Autoguidance",
    "BatchMeanStep",
    "ClassifierFreeGuidance",
    "ClassifierGuidance",
    "ClassifierModel",
    "Cosine",
    "DPMSolverPP",
    "Data",
    "DiTConfig",
    "EDMProcess",
    "EulerMaruyama",
    "ExactDivergence",
    "Exponential",
    "Flow",
    "GaussianMixture",
    "Heun",
    "Hutchinson",
    "Interval",
    "Langevin",
    "LearntVP",
    "Likelihood",
    "LinearGamma",
    "MLPConfig",
    "MixtureClassScore",
    "MixtureClassifier",
    "MonotoneGamma",
    "NCSNppConfig",
    "Noise",
    "PredictorCorrector",
    "ProbabilityFlow",
    "RectifiedFlow",
    "Restart",
    "Sample",
    "Score",
    "ScoreFn",
    "ScoreModel",
    "Standardization",
    "SubVP",
    "Training",
    "TrainingDiverged",
    "TruncatedNormalDequantization",
    "UNetConfig",
    "UniPC",
    "UniformDequantization",
    "Velocity",
    "bits_per_dim",
    "classifier_accuracy",
    "conditioned",
    "convert",
    "correctors",
    "data",
    "decode",
    "denoise",
    "discrete_bits_per_dim",
    "divergences",
    "dsm_loss",
    "elbo",
    "encode",
    "evaluation",
    "fit",
    "gaps",
    "grids",
    "hierarchical_bound",
    "interpolate",
    "inverse",
    "join_processes",
    "label_information",
    "labels",
    "load",
    "log_likelihood",
    "nets",
    "objectives",
    "one_process",
    "optimizers",
    "plots",
    "predictors",
    "pretrained",
    "runs",
    "sample",
    "times",
    "use_cpu_cores",
    "variables",
    "variational_bound",
    "weightings",
]
