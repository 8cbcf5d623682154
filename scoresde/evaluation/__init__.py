"""How far samples are from data: distances with standard errors, and a Gaussian baseline."""

from scoresde.evaluation.comparison import Comparison as Comparison
from scoresde.evaluation.comparison import compare as compare
from scoresde.evaluation.distances import frechet_distance as frechet_distance
from scoresde.evaluation.distances import sliced_wasserstein as sliced_wasserstein
from scoresde.evaluation.features import ClassifierFeatures as ClassifierFeatures
from scoresde.evaluation.features import PCAFeatures as PCAFeatures
from scoresde.evaluation.features import RawFeatures as RawFeatures
from scoresde.evaluation.gaussian import GaussianFit as GaussianFit
from scoresde.evaluation.kernel import kernel_distance as kernel_distance
from scoresde.evaluation.standard_error import Estimate as Estimate
from scoresde.evaluation.standard_error import jackknife as jackknife
