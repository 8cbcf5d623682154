"""Networks, as Flax NNX modules; the `build` method of its settings makes each."""

from scoresde.nets.classifier import Classifier as Classifier
from scoresde.nets.classifier import ClassifierConfig as ClassifierConfig
from scoresde.nets.classifier import MLPClassifier as MLPClassifier
from scoresde.nets.classifier import MLPClassifierConfig as MLPClassifierConfig
from scoresde.nets.conditions import Dropped as Dropped
from scoresde.nets.dit import DiT as DiT
from scoresde.nets.dit import DiTConfig as DiTConfig
from scoresde.nets.mlp import MLP as MLP
from scoresde.nets.mlp import MLPConfig as MLPConfig
from scoresde.nets.ncsnpp import NCSNpp as NCSNpp
from scoresde.nets.ncsnpp import NCSNppConfig as NCSNppConfig
from scoresde.nets.unet import UNet as UNet
from scoresde.nets.unet import UNetConfig as UNetConfig
