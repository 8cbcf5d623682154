"""Photographs: the settings that the CIFAR-10, CelebA and FFHQ experiments share.

Networks, processes and samplers are those of the continuous configurations of Song et al. 2021
(`ORIGINALS` in `scoresde.originals`), and the optimisation is that of the same files.
Differences:

- They train on images without noise. Here images are dequantised, which a likelihood needs.
- Their moving average has a constant decay. Here it is min(ema, (1 + n) / (10 + n)) after n steps.
- For VE they clip the gradient of half the sum over pixels, here it is that of the mean: see
  `of_half_sum`.
- The step of their Langevin corrector follows the norms of the batch at hand, and the published
  FIDs were found with it. Here it follows sigma(t). For theirs write
  `sampler.corrector.rule:batch-mean-step --sampler.corrector.rule.snr 0.16`.

FID is not computed here, because it needs the weights of Inception. Distances are taken on the
principal components of the training images: they compare runs of one experiment, not papers.
"""

from __future__ import annotations

import dataclasses

import numpy as np
import photograph_data
import pipeline
from image_experiment import ImageExperiment
from photograph_task import PhotographTask

import scoresde as sd
from scoresde.data.source import Source
from scoresde.sampling.choices import AnySampler
from scoresde.train.model_settings import AnyNet, AnyParameterization, AnySDE

ADAM = sd.Training(
    steps=1_300_000,
    batch_size=128,
    learning_rate=2e-4,
    warmup=5_000,
    clip=1.0,
    ema=0.9999,
    times=sd.times.Uniform(),
    log_every=50,
    validate_every=10_000,
)
"""configs/default_cifar10_configs.py, with the ema of its VP and sub-VP files; VE has 0.999."""


def of_half_sum(training: sd.Training, size: int) -> sd.Training:
    """Returns settings whose steps are those of half the sum over pixels, their loss for VE.

    The loss here is the mean over D = size × size × 3 entries, so its gradient is c = 2 / D times
    that of half the sum. Clipped at c and with c epsilon, Adam takes the same steps: Adam of
    (c g, c epsilon) is Adam of (g, epsilon).
    """
    c = 2.0 / (3 * size**2)
    return dataclasses.replace(training, clip=c * training.clip, epsilon=c * training.epsilon)


@dataclasses.dataclass(frozen=True)
class Photographs(ImageExperiment):
    """Settings of an experiment on photographs."""

    name: str = "photographs"
    sde: AnySDE = sd.VP()
    net: AnyNet = sd.NCSNppConfig.ddpmpp()
    parameterization: AnyParameterization = sd.Noise(label=sd.labels.Scaled(999.0))
    training: sd.Training = ADAM
    sampler: AnySampler = sd.EulerMaruyama(1000)
    num_samples: int = 1000
    likelihood_tolerance: float = 1e-5
    evaluation_batch: int = 100
    data: str = "cifar10"
    """The name of a TFDS data set, or a folder of images."""
    data_dir: str = ""
    """Where TFDS prepared it; empty: $TFDS_DATA_DIR, or tensorflow_datasets in your home."""
    download: bool = False
    """Let TFDS prepare the data set if it is missing; needs the network."""
    size: int = 32
    """Height and width."""
    crop: int = 0
    """Side of the central square that is cut out before resizing; 0: none."""
    held_out: int = 1000
    """Test images for validation, likelihoods and distances. From a folder they are drawn at
    random, and not trained on."""
    references: int = 5_000
    """Training images that distances are measured to."""
    smoke: bool = False
    """Run 2 steps of a tiny network on images of noise, only to check that everything runs."""


def run(settings: Photographs) -> int:
    """Trains or resumes, draws samples, evaluates and reports; returns the exit code."""
    if settings.smoke:
        settings = reduced(settings)
    return pipeline.run(settings, lambda: build(settings))


def build(settings: Photographs) -> PhotographTask:
    """Returns the task on the images that the settings name, or on noise for --smoke."""
    train, test = photograph_data.noise() if settings.smoke else load(settings)
    centered = not isinstance(settings.net, sd.NCSNppConfig) or settings.net.centered
    return PhotographTask.build(
        train, test, low=-1.0 if centered else 0.0, references=settings.references
    )


def load(settings: Photographs) -> tuple[Source, np.ndarray]:
    """Returns the training images that the settings name, and the pixels of the held-out ones."""
    crop = settings.crop or None
    folder = photograph_data.folder_of(settings.data)
    if folder is not None:
        return photograph_data.from_folder(folder, settings.held_out, settings.size, crop)

    return photograph_data.from_tfds(
        settings.data,
        settings.held_out,
        settings.size,
        crop,
        data_dir=settings.data_dir or None,
        download=settings.download,
    )


def reduced(settings: Photographs) -> Photographs:
    """Returns settings with the same process and kind of network, the rest as small as possible."""
    net = settings.net
    if isinstance(net, sd.NCSNppConfig):
        net = dataclasses.replace(net, channels=4, multipliers=(1, 1), num_blocks=1, attention=(8,))

    sampler = settings.sampler
    if hasattr(sampler, "num_steps"):
        sampler = dataclasses.replace(sampler, num_steps=2)

    training = dataclasses.replace(
        settings.training,
        steps=2,
        batch_size=3 * settings.training.accumulate,
        log_every=1,
        validate_every=2,
    )
    return dataclasses.replace(
        settings,
        name=f"{settings.name}_smoke",
        net=net,
        training=training,
        sampler=sampler,
        num_samples=64,  # as many as the pictures during training show: one compilation
        likelihood_tolerance=1e-1,
        likelihood_t_min=1e-2,
        held_out=7,  # odd, as the batch: on one device, which compiles faster
    )
