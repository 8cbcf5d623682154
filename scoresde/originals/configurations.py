"""The continuous configurations of the authors' release of Song et al. 2021, as settings of ours."""

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
    """One of the original's configurations, as settings of ours."""

    sde: AnySDE
    net: AnyNet
    parameterization: AnyParameterization
    sampler: AnySampler
    side: int = 32
    """Height and width of the images, which have three channels."""
    channels: int = 3
    """Of the images."""

    @property
    def shape(self) -> tuple[int, int, int]:
        """Of one image."""
        return self.side, self.side, self.channels

    @property
    def prepare(self) -> UniformDequantization:
        """How integers 0 … 255 become the network's data."""
        return UniformDequantization(256, -1.0 if getattr(self.net, "centered", True) else 0.0, 1.0)


def _ve(
    net: NCSNppConfig,
    sigma_max: float = 50.0,
    snr: float = 0.16,
    num_steps: int = 1000,
    side: int = 32,
):
    """Data in [0, 1], the network sees sigma and gives the score."""
    corrector = correctors.Langevin(1, correctors.NoiseLevelStep(snr=snr))
    sampler = PredictorCorrector(predictors.ReverseDiffusion(), corrector, num_steps, t_min=1e-5)
    net = dataclasses.replace(net, centered=False)
    return Original(VE(0.01, sigma_max), net, Score(label=Sigma()), sampler, side)


def _vp(sde: AnySDE, net: NCSNppConfig):
    """Data in [-1, 1], the network sees 999 t and gives the noise."""
    return Original(sde, net, Noise(label=Scaled(999.0)), EulerMaruyama(1000, t_min=1e-3))


def _originals() -> dict[str, Original]:
    ncsnpp, ncsnpp_deep, large = (
        NCSNppConfig.ncsnpp(),
        NCSNppConfig.ncsnpp_deep(),
        NCSNppConfig.ncsnpp_256(),
    )
    positional = {"embedding": "positional", "scale_by_sigma": False}
    faces_1024 = {"channels": 16, "multipliers": (1, 2, 4, 8, 16, 32, 32, 32), "num_blocks": 1}
    at_1024 = _ve(NCSNppConfig.ncsnpp_256(**faces_1024), 1348.0, 0.15, 2000, 1024)
    return {
        "ve/cifar10_ncsnpp_continuous": _ve(ncsnpp),
        "ve/cifar10_ncsnpp_deep_continuous": _ve(ncsnpp_deep),
        "ve/celebahq_256_ncsnpp_continuous": _ve(large, 348.0, 0.075, 2000, 256),
        "ve/ffhq_256_ncsnpp_continuous": _ve(large, 348.0, 0.075, 2000, 256),
        "ve/bedroom_ncsnpp_continuous": _ve(large, 378.0, 0.075, 2000, 256),
        "ve/church_ncsnpp_continuous": _ve(large, 380.0, 0.075, 2000, 256),
        "ve/celebahq_ncsnpp_continuous": at_1024,
        "ve/ffhq_ncsnpp_continuous": at_1024,
        **{
            f"{kind}/{name}": _vp(sde, net)
            for kind, sde in (("vp", VP()), ("subvp", SubVP()))
            for name, net in (
                ("cifar10_ddpmpp_continuous", NCSNppConfig.ddpmpp()),
                ("cifar10_ddpmpp_deep_continuous", NCSNppConfig.ddpmpp_deep()),
                ("cifar10_ncsnpp_continuous", NCSNppConfig.ncsnpp(**positional)),
                ("cifar10_ncsnpp_deep_continuous", NCSNppConfig.ncsnpp_deep(**positional)),
            )
        },
        "vp/ddpm/cifar10_continuous": _vp(VP(), NCSNppConfig.ddpm()),
        "subvp/cifar10_ddpm_continuous": _vp(SubVP(), NCSNppConfig.ddpm()),
    }


ORIGINALS = _originals()
"""The original's continuous configurations, by the names of its files under configs/."""
