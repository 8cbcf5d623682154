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
"""

import importlib
from typing import TYPE_CHECKING, Any

from scoresde.data.dequantization import UniformDequantization
from scoresde.discrete.ddpm import DDPM
from scoresde.discrete.ncsn import NCSN
from scoresde.guidance.auto import Autoguidance
from scoresde.guidance.classifier import ClassifierGuidance
from scoresde.guidance.classifier_free import ClassifierFreeGuidance
from scoresde.guidance.conditioned import conditioned
from scoresde.likelihood import divergence as divergences
from scoresde.likelihood.bits import bits_per_dim, discrete_bits_per_dim
from scoresde.likelihood.bound import variational_bound
from scoresde.likelihood.codes import decode, encode, interpolate
from scoresde.likelihood.divergence import ExactDivergence, Hutchinson
from scoresde.likelihood.elbo import ELBO, elbo
from scoresde.likelihood.exact import Likelihood, log_likelihood
from scoresde.likelihood.gaps import gaps
from scoresde.likelihood.hierarchical_bound import hierarchical_bound
from scoresde.likelihood.label_information import label_information
from scoresde.likelihood.truncated_normal import TruncatedNormalDequantization
from scoresde.loss import objectives as objectives
from scoresde.loss import times as times
from scoresde.loss import weighting as weightings
from scoresde.loss.dsm import dsm_loss
from scoresde.parallel.cpu import use_cpu_cores
from scoresde.sampling import correctors as correctors
from scoresde.sampling import predictors as predictors
from scoresde.sampling import time_grid as grids
from scoresde.sampling import variables as variables
from scoresde.sampling.adaptive_sde import AdaptiveSDE
from scoresde.sampling.ancestral import Ancestral
from scoresde.sampling.annealed_langevin import AnnealedLangevin
from scoresde.sampling.base import Sample
from scoresde.sampling.correctors import BatchMeanStep
from scoresde.sampling.ddim import DDIM
from scoresde.sampling.dpm_solver import DPMSolverPP
from scoresde.sampling.euler_maruyama import EulerMaruyama
from scoresde.sampling.exponential import Exponential
from scoresde.sampling.heun import Heun
from scoresde.sampling.langevin import Langevin
from scoresde.sampling.predictor_corrector import PredictorCorrector
from scoresde.sampling.probability_flow import ProbabilityFlow
from scoresde.sampling.restart import Interval, Restart
from scoresde.sampling.sample import sample
from scoresde.sampling.unipc import UniPC
from scoresde.score import labels as labels
from scoresde.score.classifier import ClassifierModel, classifier_accuracy
from scoresde.score.model import ScoreModel
from scoresde.score.parameterization import EDM, Data, Flow, Noise, Score, Velocity, convert
from scoresde.sde.base import SDE, denoise
from scoresde.sde.cosine import Cosine
from scoresde.sde.edm_process import EDMProcess
from scoresde.sde.learnt_vp import LearntVP
from scoresde.sde.mixture import GaussianMixture
from scoresde.sde.mixture_classes import MixtureClassifier, MixtureClassScore
from scoresde.sde.rectified_flow import RectifiedFlow
from scoresde.sde.schedule import LinearGamma, MonotoneGamma
from scoresde.sde.sub_vp import SubVP
from scoresde.sde.ve import VE
from scoresde.sde.vp import VP
from scoresde.standardization import Standardization
from scoresde.types import ScoreFn

if TYPE_CHECKING:
    from scoresde import data, evaluation, inverse, nets, runs
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
"""Names that are imported at their first use, because flax.nnx takes longer to import than all the
rest."""

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
    if name in _LATE:
        value = getattr(importlib.import_module(_LATE[name]), name)
    elif name in _LATE_MODULES:
        value = importlib.import_module(_LATE_MODULES[name])
    else:
        raise AttributeError(f"module 'scoresde' has no attribute {name!r}")

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
    "label_information",
    "labels",
    "load",
    "log_likelihood",
    "nets",
    "objectives",
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
