"""How far samples are from data: distances with standard errors, and a Gaussian baseline."""

from scoresde.evaluation.calibration import RankTest as RankTest
from scoresde.evaluation.calibration import rank_test as rank_test
from scoresde.evaluation.calibration import ranks as ranks
from scoresde.evaluation.comparison import Comparison as Comparison
from scoresde.evaluation.comparison import compare as compare
from scoresde.evaluation.distances import frechet_distance as frechet_distance
from scoresde.evaluation.distances import sliced_wasserstein as sliced_wasserstein
from scoresde.evaluation.diversity import class_spread as class_spread
from scoresde.evaluation.diversity import coverage as coverage
from scoresde.evaluation.diversity import expected_coverage as expected_coverage
from scoresde.evaluation.features import ClassifierFeatures as ClassifierFeatures
from scoresde.evaluation.features import PCAFeatures as PCAFeatures
from scoresde.evaluation.features import RawFeatures as RawFeatures
from scoresde.evaluation.gaussian import GaussianFit as GaussianFit
from scoresde.evaluation.kernel import kernel_distance as kernel_distance
from scoresde.evaluation.memorisation import nearest as nearest
from scoresde.evaluation.memorisation import remembered as remembered
from scoresde.evaluation.standard_error import Estimate as Estimate
from scoresde.evaluation.standard_error import jackknife as jackknife
from scoresde.evaluation.two_sample import two_sample_accuracy as two_sample_accuracy
