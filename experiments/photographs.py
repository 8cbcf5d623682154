"""Photographs: settings, data and evaluation that the CIFAR-10, CelebA and FFHQ experiments share.

Networks, processes and samplers are `ORIGINALS` of `scoresde.originals`, the continuous configurations of Song
et al. 2021; the optimisation is that of the same files. What differs: theirs trains on images without noise, ours on
dequantised ones, which a likelihood needs; the moving average's decay is min(ema, (1 + n) / (10 + n)) after n steps
here, constant there. For VE theirs clips the gradient of half the sum over pixels, ours that of the mean: see
`of_half_sum`. The Langevin corrector's step here follows sigma(t), theirs the norms of the batch at hand, with which
the published FIDs were found: `sampler.corrector.rule:batch-mean-step --sampler.corrector.rule.snr 0.16`.

FID is not computed here: it needs Inception's weights. Distances are in the space of the training images' principal
components: comparable between runs of one experiment, not with a paper.
"""

from __future__ import annotations

import dataclasses
import math
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pipeline
from image_task import ImageExperiment, drawn

import scoresde as sd
from scoresde.data import images, prepare
from scoresde.data.source import Source, Subset, take
from scoresde.evaluation.comparison import Comparison, compare
from scoresde.evaluation.features import PCAFeatures
from scoresde.nets.ncsnpp import NCSNppConfig
from scoresde.runs.plots import image_grid
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
"""configs/default_cifar10_configs.py; the moving average is that of the VP and sub-VP files, the VE ones have 0.999."""
COMPONENTS = 64


def of_half_sum(training: sd.Training, size: int) -> sd.Training:
    """As if the loss were half the sum over size × size × 3 entries, and not their mean, as theirs is for VE.

    With c = 2 / D the mean's gradient is c times the other's. Clipped at c, with c epsilon, it gives the same steps:
    Adam of (c g, c epsilon) is Adam of (g, epsilon).
    """
    c = 2.0 / (3 * size**2)
    return dataclasses.replace(training, clip=c * training.clip, epsilon=c * training.epsilon)


@dataclasses.dataclass(frozen=True)
class Photographs(ImageExperiment):
    """Settings of an experiment on photographs."""

    name: str = "photographs"
    """The run's folder is <runs>/<name>."""
    sde: AnySDE = sd.VP()
    net: AnyNet = NCSNppConfig.ddpmpp()
    parameterization: AnyParameterization = sd.Noise(label=sd.labels.Scaled(999.0))
    training: sd.Training = ADAM
    sampler: AnySampler = sd.EulerMaruyama(1000)
    num_samples: int = 1000
    """Samples for the distances; the picture shows the first 64."""
    likelihood_tolerance: float = 1e-5
    """Relative and absolute tolerance of the likelihood's solver."""
    evaluation_batch: int = 100
    """Examples at a time in sampling and likelihoods: fewer need less memory."""
    likelihood_t_min: float = 1e-5
    """Where the likelihood starts."""
    data: str = "cifar10"
    """A data set of TFDS by name, or a folder of images."""
    data_dir: str = ""
    """Where TFDS prepared it; empty: $TFDS_DATA_DIR, or tensorflow_datasets in your home."""
    download: bool = False
    """Let TFDS prepare it if it is not there; needs the network."""
    size: int = 32
    """Height and width."""
    crop: int = 0
    """Side of the central square that is cut out before resizing; 0: none."""
    held_out: int = 1000
    """Test images for validation, likelihoods and distances; of a folder some drawn at random, and not trained on."""
    references: int = 5_000
    """Training images that distances are measured to."""
    seed: int = 0
    """Decides the initial weights, every batch, and every draw."""
    runs: str = "runs"
    """Where runs' folders stand."""
    smoke: bool = False
    """2 steps of a tiny network of the same kind on images of noise, through everything: does it run at all."""


def run(settings: Photographs) -> int:
    """Train or resume, sample, evaluate, report; the exit code."""
    if settings.smoke:
        settings = reduced(settings)
    return pipeline.run(settings, lambda: PhotographTask.build(settings))


@dataclasses.dataclass(frozen=True)
class PhotographTask:
    """The data, and what samples and likelihoods are held against."""

    train: Source
    test: np.ndarray
    prepare: prepare.RandomFlip
    dequantize: sd.UniformDequantization
    reference: np.ndarray
    """Dequantised training images."""
    draws: int = 64
    """Samples at every checkpoint, for its picture."""

    @classmethod
    def build(cls, settings: Photographs) -> PhotographTask:
        """Decoded once, then from the cache."""
        train, test = noise(settings) if settings.smoke else load(settings)
        low = 0.0 if isinstance(settings.net, NCSNppConfig) and not settings.net.centered else -1.0
        dequantize = sd.UniformDequantization(256, low, 1.0)
        some = np.sort(np.random.default_rng(0).permutation(len(train))[: settings.references])
        reference = np.asarray(dequantize(jax.random.key(0), jnp.asarray(take(train, some)[0])))
        return cls(train, np.asarray(test), prepare.RandomFlip(dequantize), dequantize, reference)

    @property
    def shape(self) -> tuple[int, ...]:
        """Of one image."""
        return self.test.shape[1:]

    def picture(self, x: np.ndarray, path: Path) -> None:
        """The first 64 as a grid."""
        image_grid(x[:64], path, low=self.dequantize.low)

    def watch(
        self, settings: Photographs, model: sd.ScoreModel, samples: sd.Sample
    ) -> dict[str, float]:
        """The mean and spread of the pixels drawn: a network that diverges shows here first."""
        x = drawn(samples)
        return {"pixel_mean": float(x.mean()), "pixel_std": float(x.std())} if len(x) else {}

    def evaluate(
        self,
        settings: Photographs,
        key: jax.Array,
        model: sd.ScoreModel,
        samples: sd.Sample,
        folder: Path,
        clock: pipeline.Clock,
    ) -> pipeline.Outcome:
        """Exact likelihoods of the held-out images, and distances of the samples beside those of held-out images."""
        key_dequantize, key_probes = jax.random.split(key)
        tolerance, dim = settings.likelihood_tolerance, math.prod(self.shape)
        x = self.dequantize(key_dequantize, jnp.asarray(self.test))
        with clock("likelihood"):
            likelihood = sd.log_likelihood(
                key_probes,
                model.sde,
                model,
                x,
                rtol=tolerance,
                atol=tolerance,
                t_min=settings.likelihood_t_min,
                batch_size=settings.evaluation_batch,
                progress=True,
            )
        with clock("distances"):
            space = PCAFeatures.fit(self.reference, min(COMPONENTS, len(self.reference) - 1, dim))
            comparisons = compare(drawn(samples), self.reference, np.asarray(x), [space])
        good = np.asarray(likelihood.success)
        bits = np.asarray(
            sd.bits_per_dim(likelihood.log_prob, dim, levels=256, low=self.dequantize.low)
        )[good]
        distance = comparisons[0]
        f = {
            "bits_per_dim": float(bits.mean()) if len(bits) else math.nan,
            "bits_per_dim_stderr": float(bits.std(ddof=1) / np.sqrt(len(bits)))
            if len(bits) > 1
            else math.nan,
            "likelihood_evaluations": float(np.mean(likelihood.nfe)),
            "likelihood_failures": float((~good).sum()),
            "fd_pca": distance.value,
            "fd_pca_real": distance.floor,
            "sampling_evaluations": float(np.mean(samples.nfe)),
            "sampling_failures": float(len(samples.x) - len(drawn(samples))),
        }
        headline = [
            [
                "bits/dim, held out",
                f"{f['bits_per_dim']:.3f} ± {f['bits_per_dim_stderr']:.3f}",
                f"{len(self.test)} images; uniform dequantisation of 256 levels, 1 Rademacher probe, t_min "
                f"{settings.likelihood_t_min:.2g}, tolerance {tolerance:g}; ± one standard error over images",
            ],
            [
                "Fréchet distance, PCA",
                f"{distance.value:.2f} ± {distance.stderr:.2f}",
                "not FID: "
                f"{space.basis.shape[1]} principal components of {len(self.reference)} training images; held-out images "
                f"{distance.floor:.2f}",
            ],
        ]
        tables = [
            {
                "title": "Distances to the training set, samples and held-out images in equal numbers",
                "columns": list(Comparison.COLUMNS),
                "rows": [c.row() for c in comparisons],
            },
            {
                "title": "Solver",
                "columns": ["", "evaluations per example", "failed examples"],
                "rows": [
                    ["sampling", f["sampling_evaluations"], int(f["sampling_failures"])],
                    ["likelihood", f["likelihood_evaluations"], int(f["likelihood_failures"])],
                ],
            },
        ]
        summary = [f"{label:<22} {value}   ({note})" for label, value, note in headline]
        return pipeline.Outcome(f, headline, tables, summary)


# --- Data ---


def load(settings: Photographs) -> tuple[Source, np.ndarray]:
    """Training images without their labels, and held-out pixels."""
    if not settings.data:
        raise ValueError("no data are named: write --data FOLDER, a folder with the images.")
    geometry: dict[str, Any] = {"size": settings.size, "crop": settings.crop or None, "channels": 3}
    folder = Path(settings.data).expanduser()
    if settings.data[0] in "/.~" and not folder.is_dir():  # no name of TFDS
        raise FileNotFoundError(
            f"there is no folder {folder}: write --data FOLDER, or the name of a TFDS data set."
        )
    if folder.is_dir():
        found = images.from_folder(settings.data, **geometry)
        if len(found) <= settings.held_out:
            raise ValueError(
                f"{settings.data} holds {len(found)} images, held_out is {settings.held_out}: nothing would be left to "
                f"train on. Write --held-out N with fewer."
            )
        order = np.random.default_rng(0).permutation(
            len(found)
        )  # folders are sorted, often by class
        kept, test = np.sort(order[settings.held_out :]), np.sort(order[: settings.held_out])
        return Subset(found, kept), found.pixels[test]  # no copy of what is memory mapped
    options = {"data_dir": settings.data_dir or None, "download": settings.download, **geometry}
    try:
        train, test = (
            images.from_tfds(settings.data, split, **options) for split in ("train", "test")
        )
    except FileNotFoundError as error:
        raise FileNotFoundError(
            f"{error} For this experiment: --download, --data-dir, or --data FOLDER."
        ) from error
    return train.without_labels(), test.pixels[: settings.held_out]


# --- Smoke ---


def reduced(settings: Photographs) -> Photographs:
    """The same process and kind of network, everything else as small as it can be."""
    net, sampler = settings.net, settings.sampler
    if isinstance(net, NCSNppConfig):
        net = dataclasses.replace(net, channels=4, multipliers=(1, 1), num_blocks=1, attention=(8,))
    return dataclasses.replace(
        settings,
        name=f"{settings.name}_smoke",
        net=net,
        training=dataclasses.replace(
            settings.training,
            steps=2,
            batch_size=3 * settings.training.accumulate,
            log_every=1,
            validate_every=2,
        ),
        sampler=dataclasses.replace(sampler, num_steps=2)
        if hasattr(sampler, "num_steps")
        else sampler,
        num_samples=64,  # as many as the pictures while training show: compiled once
        likelihood_tolerance=1e-1,
        likelihood_t_min=1e-2,
        held_out=7,  # odd, as the batch: on one device, which compiles faster
    )


def noise(settings: Photographs) -> tuple[images.Images, np.ndarray]:
    """65 and 7 images of 8×8 random pixels."""
    pixels = np.random.default_rng(0).integers(0, 256, (72, 8, 8, 3)).astype(np.uint8)
    return images.Images(pixels[7:]), pixels[:7]
