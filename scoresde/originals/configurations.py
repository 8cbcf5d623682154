"""The continuous configurations of the authors' release of Song et al. 2021, as our settings."""

from __future__ import annotations

import dataclasses

from scoresde.data.dequantization import UniformDequantization
from scoresde.nets.ncsnpp import NCSNppConfig
from scoresde.sampling import correctors, predictors
from scoresde.sampling.choices import AnySampler
from scoresde.sampling.euler_maruyama import EulerMaruyama
from scoresde.sampling.predictor_corrector import PredictorCorrector
from scoresde.score.labels import Scaled, Sigma
from scoresde.score.parameterization import Noise, Score
from scoresde.sde.sub_vp import SubVP
from scoresde.sde.ve import VE
from scoresde.sde.vp import VP
from scoresde.train.model_settings import AnyNet, AnyParameterization, AnySDE


@dataclasses.dataclass(frozen=True)
class Original:
    """One of the original's configurations, as our settings."""

    sde: AnySDE
    net: AnyNet
    parameterization: AnyParameterization
    sampler: AnySampler
    side: int = 32
    """Height and width of the images."""
    channels: int = 3
    """Channels of the images."""

    @property
    def shape(self) -> tuple[int, int, int]:
        """The shape of one image, (height, width, channels)."""
        return self.side, self.side, self.channels

    @property
    def prepare(self) -> UniformDequantization:
        """The step that maps integers 0 … 255 to the network's data, in [0, 1] or [-1, 1]."""
        centered = getattr(self.net, "centered", True)
        return UniformDequantization(256, -1.0 if centered else 0.0, 1.0)


def _originals() -> dict[str, Original]:
    """Returns the table of all configurations."""
    table: dict[str, Original] = {}

    # VE, images of 32×32
    table["ve/cifar10_ncsnpp_continuous"] = _ve(NCSNppConfig.ncsnpp())
    table["ve/cifar10_ncsnpp_deep_continuous"] = _ve(NCSNppConfig.ncsnpp_deep())

    # VE, images of 256×256
    for name, sigma_max in (
        ("celebahq_256", 348.0),
        ("ffhq_256", 348.0),
        ("bedroom", 378.0),
        ("church", 380.0),
    ):
        table[f"ve/{name}_ncsnpp_continuous"] = _ve(
            NCSNppConfig.ncsnpp_256(), sigma_max, snr=0.075, num_steps=2000, side=256
        )

    # VE, images of 1024×1024
    net_1024 = NCSNppConfig.ncsnpp_256(
        channels=16, multipliers=(1, 2, 4, 8, 16, 32, 32, 32), num_blocks=1
    )
    for name in ("celebahq", "ffhq"):
        table[f"ve/{name}_ncsnpp_continuous"] = _ve(
            net_1024, 1348.0, snr=0.15, num_steps=2000, side=1024
        )

    # VP and sub-VP, images of 32×32; here NCSN++ sees 999 t and gives the noise, like DDPM++
    positional = {"embedding": "positional", "scale_by_sigma": False}
    nets = {
        "cifar10_ddpmpp_continuous": NCSNppConfig.ddpmpp(),
        "cifar10_ddpmpp_deep_continuous": NCSNppConfig.ddpmpp_deep(),
        "cifar10_ncsnpp_continuous": NCSNppConfig.ncsnpp(**positional),
        "cifar10_ncsnpp_deep_continuous": NCSNppConfig.ncsnpp_deep(**positional),
    }
    for kind, sde in (("vp", VP()), ("subvp", SubVP())):
        for name, net in nets.items():
            table[f"{kind}/{name}"] = _vp(sde, net)
    table["vp/ddpm/cifar10_continuous"] = _vp(VP(), NCSNppConfig.ddpm())
    table["subvp/cifar10_ddpm_continuous"] = _vp(SubVP(), NCSNppConfig.ddpm())
    return table


def _ve(
    net: NCSNppConfig,
    sigma_max: float = 50.0,
    snr: float = 0.16,
    num_steps: int = 1000,
    side: int = 32,
) -> Original:
    """Returns a configuration with VE: data in [0, 1]; from sigma, the network gives the score."""
    corrector = correctors.Langevin(1, correctors.NoiseLevelStep(snr=snr))
    sampler = PredictorCorrector(predictors.ReverseDiffusion(), corrector, num_steps, t_min=1e-5)
    net = dataclasses.replace(net, centered=False)
    return Original(VE(0.01, sigma_max), net, Score(label=Sigma()), sampler, side)


def _vp(sde: AnySDE, net: NCSNppConfig) -> Original:
    """Returns one with VP or sub-VP: data in [-1, 1]; from 999 t, the network gives the noise."""
    return Original(sde, net, Noise(label=Scaled(999.0)), EulerMaruyama(1000, t_min=1e-3))


ORIGINALS = _originals()
"""The original's continuous configurations, by the names of its files in configs/."""
