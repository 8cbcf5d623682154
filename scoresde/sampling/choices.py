"""The samplers that settings choose from: what an experiment or the command line can name."""

from scoresde.sampling.ancestral import Ancestral
from scoresde.sampling.annealed_langevin import AnnealedLangevin
from scoresde.sampling.euler_maruyama import EulerMaruyama
from scoresde.sampling.predictor_corrector import PredictorCorrector
from scoresde.sampling.probability_flow import ProbabilityFlow

AnySampler = ProbabilityFlow | EulerMaruyama | PredictorCorrector | Ancestral | AnnealedLangevin
