"""The samplers that settings choose from: what an experiment or the command line can name."""

from scoresde.sampling.adaptive_sde import AdaptiveSDE
from scoresde.sampling.ancestral import Ancestral
from scoresde.sampling.annealed_langevin import AnnealedLangevin
from scoresde.sampling.euler_maruyama import EulerMaruyama
from scoresde.sampling.exponential import DDIM, DPMSolverPP, Exponential, UniPC
from scoresde.sampling.heun import Heun, Restart
from scoresde.sampling.predictor_corrector import PredictorCorrector
from scoresde.sampling.probability_flow import ProbabilityFlow

AnySampler = (
    ProbabilityFlow
    | EulerMaruyama
    | PredictorCorrector
    | Ancestral
    | AnnealedLangevin
    | Exponential
    | DDIM
    | DPMSolverPP
    | UniPC
    | Heun
    | Restart
    | AdaptiveSDE
)
