"""The names that `import scoresde as sd` offers from modules without flax.nnx.

`scoresde/__init__.py` imports this module at the first use of any of them, and lists them all.
"""

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
from scoresde.parallel.join import join_processes
from scoresde.parallel.processes import one_process
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
