"""The samplers that settings choose from: what an experiment or the command line can name."""

from scoresde.sampling.adaptive_sde import AdaptiveSDE
from scoresde.sampling.ancestral import Ancestral
from scoresde.sampling.annealed_langevin import AnnealedLangevin
from scoresde.sampling.ddim import DDIM
from scoresde.sampling.dpm_solver import DPMSolverPP
from scoresde.sampling.euler_maruyama import EulerMaruyama
from scoresde.sampling.exponential import Exponential
from scoresde.sampling.heun import Heun
from scoresde.sampling.predictor_corrector import PredictorCorrector
from scoresde.sampling.probability_flow import ProbabilityFlow
from scoresde.sampling.restart import Restart
from scoresde.sampling.unipc import UniPC

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
