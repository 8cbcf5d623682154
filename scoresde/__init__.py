"""scoresde: diffusion models as stochastic differential equations.

sde         VP, SubVP, VE: two functions of time, log alpha and the variance (sde/); the rest follows
mixture     GaussianMixture: data whose exact score is known, to learn with and to test against (mixture.py)
score       a network and what it predicts make a ScoreModel, a function score(x, t, cond) (score.py, nets/)
loss        denoising score matching (loss.py)
train       fit: arrays in, an EMA model and a run's folder out (train/, checkpoint.py); load brings it back
sampling    EulerMaruyama, PredictorCorrector, DDIM, Heun, ProbabilityFlow, …: from the prior to data (sampling/)
discrete    DDPM and NCSN: the chains that VP and VE are the limits of (discrete/)
likelihood  exact log-likelihoods off the probability-flow ODE, and bits per dimension (likelihood.py)
evaluation  distances between samples and data (evaluation.py)
"""

import importlib
from typing import TYPE_CHECKING, Any

from scoresde.data.dequantization import UniformDequantization
from scoresde.discrete.ddpm import DDPM
from scoresde.discrete.ncsn import NCSN
from scoresde.likelihood.bits import bits_per_dim, discrete_bits_per_dim
from scoresde.likelihood.bound import Bound, variational_bound
from scoresde.likelihood.codes import decode, encode, interpolate
from scoresde.likelihood.divergence import (
    ExactDivergence,
    Gaussian,
    Hutchinson,
    HutchPlusPlus,
    Rademacher,
)
from scoresde.likelihood.exact import Likelihood, LikelihoodSettings, log_likelihood
from scoresde.likelihood.gaps import Gaps, gaps
from scoresde.likelihood.truncated_normal import TruncatedNormalDequantization
from scoresde.loss.dsm import dsm_loss
from scoresde.loss.times import (
    LevelTimes,
    LogNormalSigma,
    LogSNRTime,
    LowDiscrepancyTime,
    TimeMixture,
    UniformTime,
)
from scoresde.loss.weighting import EDMWeighting, LikelihoodWeighting, VarianceWeighting
from scoresde.parallel.cpu import use_cpu_cores
from scoresde.sampling.adaptive_sde import AdaptiveSDE
from scoresde.sampling.ancestral import Ancestral
from scoresde.sampling.annealed_langevin import AnnealedLangevin
from scoresde.sampling.base import Path, Sample
from scoresde.sampling.correctors import BatchNorms, LangevinCorrector, NoCorrector, NoiseLevel
from scoresde.sampling.ddim import DDIM
from scoresde.sampling.dpm_solver import DPMSolverPP
from scoresde.sampling.euler_maruyama import EulerMaruyama
from scoresde.sampling.exponential import Exponential
from scoresde.sampling.flow_solver import InLogSNR, InTime
from scoresde.sampling.heun import Heun
from scoresde.sampling.langevin import Langevin
from scoresde.sampling.predictor_corrector import PredictorCorrector
from scoresde.sampling.predictors import (
    EulerMaruyamaPredictor,
    NoPredictor,
    ProbabilityFlowPredictor,
    ReverseDiffusionPredictor,
)
from scoresde.sampling.probability_flow import ProbabilityFlow
from scoresde.sampling.restart import Interval, Restart
from scoresde.sampling.sample import sample
from scoresde.sampling.time_grid import GivenTimes, Karras, Quadratic, Uniform, UniformLogSNR
from scoresde.sampling.unipc import UniPC
from scoresde.score.labels import Index, Scaled, Sigma
from scoresde.score.model import ScoreModel
from scoresde.score.parameterization import EDM, Data, Noise, Score, Velocity, convert
from scoresde.sde.base import SDE, denoise
from scoresde.sde.mixture import GaussianMixture
from scoresde.sde.ve import VE
from scoresde.sde.vp import VP, SubVP, TabulatedVP
from scoresde.types import ScoreFn

if TYPE_CHECKING:
    from scoresde.nets.dit import DiT, DiTConfig
    from scoresde.nets.mlp import MLP, MLPConfig
    from scoresde.nets.ncsnpp import NCSNpp, NCSNppConfig
    from scoresde.nets.unet import UNet, UNetConfig
    from scoresde.runs.checkpoint import CheckpointError, Checkpoints
    from scoresde.runs.settings import ConfigError
    from scoresde.train.load import load
    from scoresde.train.loop import Fit, fit
    from scoresde.train.settings import Training
    from scoresde.train.trainer import TrainingDiverged

_LATE = {
    "scoresde.runs.checkpoint": ("CheckpointError", "Checkpoints"),
    "scoresde.runs.settings": ("ConfigError",),
    "scoresde.nets.dit": ("DiT", "DiTConfig"),
    "scoresde.nets.mlp": ("MLP", "MLPConfig"),
    "scoresde.nets.ncsnpp": ("NCSNpp", "NCSNppConfig"),
    "scoresde.nets.unet": ("UNet", "UNetConfig"),
    "scoresde.train.loop": ("Fit", "fit"),
    "scoresde.train.trainer": ("TrainingDiverged",),
    "scoresde.train.load": ("load",),
    "scoresde.train.settings": ("Training",),
}
"""Names whose modules are imported at their first use: flax.nnx alone takes longer than all the rest."""


def __getattr__(name: str) -> Any:
    for module, names in _LATE.items():
        if name in names:
            globals()[name] = value = getattr(importlib.import_module(module), name)
            return value
    raise AttributeError(f"module 'scoresde' has no attribute {name!r}")


def __dir__() -> list[str]:
    return __all__


__version__ = "0.1.0"

__all__ = [
    "DDIM",
    "DDPM",
    "EDM",
    "MLP",
    "NCSN",
    "SDE",
    "VE",
    "VP",
    "AdaptiveSDE",
    "Ancestral",
    "AnnealedLangevin",
    "BatchNorms",
    "Bound",
    "CheckpointError",
    "Checkpoints",
    "ConfigError",
    "DPMSolverPP",
    "Data",
    "DiT",
    "DiTConfig",
    "EDMWeighting",
    "EulerMaruyama",
    "EulerMaruyamaPredictor",
    "ExactDivergence",
    "Exponential",
    "Fit",
    "Gaps",
    "Gaussian",
    "GaussianMixture",
    "GivenTimes",
    "Heun",
    "HutchPlusPlus",
    "Hutchinson",
    "InLogSNR",
    "InTime",
    "Index",
    "Interval",
    "Karras",
    "Langevin",
    "LangevinCorrector",
    "LevelTimes",
    "Likelihood",
    "LikelihoodSettings",
    "LikelihoodWeighting",
    "LogNormalSigma",
    "LogSNRTime",
    "LowDiscrepancyTime",
    "MLPConfig",
    "NCSNpp",
    "NCSNppConfig",
    "NoCorrector",
    "NoPredictor",
    "Noise",
    "NoiseLevel",
    "Path",
    "PredictorCorrector",
    "ProbabilityFlow",
    "ProbabilityFlowPredictor",
    "Quadratic",
    "Rademacher",
    "Restart",
    "ReverseDiffusionPredictor",
    "Sample",
    "Scaled",
    "Score",
    "ScoreFn",
    "ScoreModel",
    "Sigma",
    "SubVP",
    "TabulatedVP",
    "TimeMixture",
    "Training",
    "TrainingDiverged",
    "TruncatedNormalDequantization",
    "UNet",
    "UNetConfig",
    "UniPC",
    "Uniform",
    "UniformDequantization",
    "UniformLogSNR",
    "UniformTime",
    "VarianceWeighting",
    "Velocity",
    "bits_per_dim",
    "convert",
    "decode",
    "denoise",
    "discrete_bits_per_dim",
    "dsm_loss",
    "encode",
    "fit",
    "gaps",
    "interpolate",
    "load",
    "log_likelihood",
    "sample",
    "use_cpu_cores",
    "variational_bound",
]
