"""Networks, as NNX modules, each built by its settings."""

from scoresde.nets.dit import DiT as DiT
from scoresde.nets.dit import DiTConfig as DiTConfig
from scoresde.nets.mlp import MLP as MLP
from scoresde.nets.mlp import MLPConfig as MLPConfig
from scoresde.nets.ncsnpp import NCSNpp as NCSNpp
from scoresde.nets.ncsnpp import NCSNppConfig as NCSNppConfig
from scoresde.nets.unet import UNet as UNet
from scoresde.nets.unet import UNetConfig as UNetConfig
