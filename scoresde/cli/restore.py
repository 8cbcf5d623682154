"""`scoresde inpaint` and `scoresde restore`: a picture from a part, or a worse version, of it.

y = A(x) + noise_std n
"""

from __future__ import annotations

import dataclasses
import math
import time
from pathlib import Path
from typing import Any, Literal

import jax
import jax.numpy as jnp
import numpy as np

from scoresde import checks
from scoresde.cli.given_picture import check_gray, read_image, read_mask
from scoresde.cli.output import as_json
from scoresde.cli.place import check_writable
from scoresde.cli.with_model import (
    ModelCommand,
    in_python,
    labels_in_turn,
    takes_more_than_a_label,
)
from scoresde.inverse.linear_operator import LinearOperator
from scoresde.inverse.operators import Blur, Downsample, Gray, Mask
from scoresde.inverse.posterior import DPS, MMPS, PiGDM
from scoresde.inverse.replacement import Replacement, remembers
from scoresde.runs.restoration import plot_restoration
from scoresde.runs.settings import to_dict
from scoresde.sampling.choices import AnySampler
from scoresde.sampling.ddim import DDIM
from scoresde.sampling.grid_sampler import GridSampler
from scoresde.sampling.sample import sample
from scoresde.train.load import Trained
from scoresde.writing import write_atomically

DEFAULT_NUM = 8
DEFAULT_SAMPLER = DDIM(num_steps=100, eta=1.0)
FAR = 5.0
"""In widths of the data's range: samples beyond have failed."""
RESAMPLINGS = 10
"""The times that repaint takes each step, as in its paper."""
Method = Literal["mmps", "pigdm", "dps", "repaint", "replacement"]


@dataclasses.dataclass(frozen=True)
class RestorationCommand(ModelCommand):
    """What both commands share: the image, the method, the samples, and what is written."""

    num: int | None = None
    """Number of samples, 8 if not given."""
    image: str = ""
    """The picture, such as in.png."""
    method: Method = "mmps"
    """mmps, exact on Gaussian data, is the dearest; the last two take the picture for clean."""
    noise_std: float = 0.05
    """Noise in the picture, in the data's units, often [-1, 1]."""
    degrade: bool = False
    """The picture is whole: degrade it first, and report errors."""
    out: str | None = None
    """Picture to write, NAME.png, beside NAME.json and NAME.npz."""
    sampler: AnySampler = DEFAULT_SAMPLER
    """The sampler."""

    def __post_init__(self):
        super().__post_init__()
        if not self.image:
            raise ValueError("there is no picture: write --image in.png.")
        if self.out is not None and not self.out.endswith(".png"):
            raise ValueError(f"out = {self.out}: wanted a name that ends in .png.")
        checks.setting("noise_std", self.noise_std, "[0, inf)")
        if self._num < 2:
            raise ValueError(f"num = {self.num}: wanted at least 2, whose spread is shown.")
        if self.method == "dps" and self.noise_std == 0.0:
            raise ValueError(
                "dps divides by the variance of the noise: write --noise-std 0.01, or --method "
                "mmps."
            )
        if self.method in ("repaint", "replacement"):
            self._check_grid()

    def _check_grid(self) -> None:
        """Refuses samplers that replacement cannot work between the steps of."""
        if not isinstance(self.sampler, GridSampler):
            raise ValueError(
                f"{self.method} works between the steps of a sampler on a grid, and "
                f"{type(self.sampler).__name__} has none: write sampler:ddim, or --method mmps."
            )
        if self.method == "repaint" and remembers(self.sampler):
            raise ValueError(
                f"repaint takes steps again, which makes what {type(self.sampler).__name__} "
                f"remembers of earlier ones useless: write sampler:ddim, or --method mmps."
            )

    def measurement(self, trained: Trained) -> LinearOperator:
        """Returns A."""
        raise NotImplementedError

    def stem(self) -> str:
        """Returns the beginning of the files' names."""
        raise NotImplementedError

    def measured_by(self) -> dict[str, Any]:
        """Returns the options that say what A is."""
        raise NotImplementedError

    @property
    def _num(self) -> int:
        return self.num or DEFAULT_NUM

    def __call__(self) -> dict[str, Any]:
        """Draws samples of the picture, writes the files, and returns what the command prints."""
        trained = self.open()
        self._check_model(trained)
        operator = self.measurement(trained)
        y, truth = self._measured(trained, operator)
        path = self._path(trained)
        check_writable(path.parent, "name another picture to write, --out NAME.png.")

        start = time.perf_counter()
        out = self._draw(trained, operator, y)
        seconds = time.perf_counter() - start
        low, high = trained.range
        near = np.abs(np.asarray(out.x) - 0.5 * (low + high)) < FAR * (high - low)  # NaN is not
        x = np.asarray(out.x)[np.all(near, axis=(1, 2, 3)) & np.asarray(out.success)]
        if len(x) < 2:
            raise ValueError(
                f"{self._num - len(x)} of {self._num} samples failed, or flew far out of the range "
                f"of the data: take more steps, sampler:ddim --sampler.eta 1 --sampler.num-steps "
                f"400, a larger --noise-std, or --method mmps."
            )

        known = np.asarray(operator.observed(jnp.ones_like(y))[0]) > 0 if self._hides else None
        plot_restoration(y[0], x, path, low, high, known, truth)
        files = {
            "picture": str(path),
            "samples": str(path.with_suffix(".npz")),
            "json": str(path.with_suffix(".json")),
        }
        np.savez_compressed(path.with_suffix(".npz"), x=x, y=y[0])
        about = {
            **self.about(trained),
            **self._figures(operator, y, x, truth),
            "failed": self._num - len(x),
            "evaluations": float(np.mean(out.nfe)),
            "seconds": seconds,
            **files,
        }
        write_atomically(path.with_suffix(".json"), (as_json(about) + "\n").encode())
        return about

    _hides = False
    """Whether A hides pixels."""

    unlisted = ("model", "batch_size")
    """Options that --help leaves out, so that it fits a screen."""

    def about(self, trained: Trained) -> dict[str, Any]:
        return {
            **super().about(trained),
            "num": self._num,
            "label": self.label,
            "image": self.image,
            **self.measured_by(),
            "degrade": self.degrade,
            "method": self.method,
            "noise_std": self.noise_std,
            "sampler": to_dict(self.sampler, AnySampler),
        }

    # --- The picture ---

    def _check_model(self, trained: Trained) -> None:
        """Refuses models of other data than images, and conditions that no option names."""
        shape = trained.shape
        if len(shape) != 3 or shape[-1] not in (1, 3):
            raise ValueError(
                f"the examples of {trained.path} have shape {shape}, which are no images: "
                + in_python(trained.path, "sd.inverse.MMPS(model, model.sde, operator, y, 0.1)")
            )
        if takes_more_than_a_label(trained.model):
            raise ValueError(
                f"{trained.path} is conditioned on {trained.model.conditions}, which a command "
                f"cannot name: "
                + in_python(trained.path, "sd.inverse.MMPS(model, model.sde, operator, y, 0.1)")
            )

    def _measured(
        self, trained: Trained, operator: LinearOperator
    ) -> tuple[np.ndarray, np.ndarray | None]:
        """Returns y (1, *measured), and the image itself where it was given whole."""
        if not self.degrade:
            whole = np.zeros((1, *trained.shape), np.float32)
            wanted = jax.eval_shape(operator, whole).shape[1:]
            advice = "" if wanted == trained.shape else "If it is whole, add --degrade."
            image = read_image(self.image, wanted, trained.range, advice)
            if wanted[-1] < trained.shape[-1]:
                check_gray(self.image)
            return image[None], None
        image = read_image(self.image, trained.shape, trained.range)

        measured = np.asarray(operator(image[None]))
        noise = np.random.default_rng(self.seed).normal(size=measured.shape)
        y = measured + self.noise_std * noise.astype(np.float32)
        return np.asarray(operator.observed(jnp.asarray(y))), image

    # --- Samples ---

    def _draw(self, trained: Trained, operator: LinearOperator, y: np.ndarray) -> Any:
        """Draws the samples."""
        model = trained.model
        sampler: Any = self.sampler
        score: Any = model
        arguments = (model, model.sde, operator, y, self.noise_std)
        match self.method:
            case "mmps":
                score = MMPS(*arguments)
            case "pigdm":
                low, high = trained.range
                data_std = 1.0 if model.standardization is not None else 0.25 * (high - low)
                score = PiGDM(*arguments, data_std=data_std)
            case "dps":
                score = DPS(*arguments)
            case "repaint" | "replacement":
                assert isinstance(self.sampler, GridSampler)
                times = RESAMPLINGS if self.method == "repaint" else 1
                sampler = Replacement(self.sampler, operator, y, resamplings=times)

        labels = labels_in_turn(model.num_classes, self.label, self._num)
        shape = (self._num, *trained.shape)
        key = jax.random.key(self.seed)
        return sample(key, sampler, model.sde, score, shape, labels, self.batch_size, progress=True)

    def _figures(
        self,
        operator: LinearOperator,
        y: np.ndarray,
        x: np.ndarray,
        truth: np.ndarray | None,
    ) -> dict[str, Any]:
        """Returns how well samples agree with y, with one another and with the image itself."""
        misfit = np.asarray(operator.misfit(x, y))
        figures = {
            "measured": int(operator.num_observed(jnp.asarray(y))[0]),
            "misfit": float(np.sqrt(np.mean(misfit**2))),
            "spread": float(np.mean(x.std(axis=0, ddof=1))),
        }
        if truth is None:
            return figures
        return figures | {
            "error_of_mean": float(np.sqrt(np.mean((x.mean(axis=0) - truth) ** 2))),
            "error_of_samples": float(np.sqrt(np.mean((x - truth) ** 2))),
        }

    def _path(self, trained: Trained) -> Path:
        if self.out is not None:
            return Path(self.out).expanduser()
        parts = [Path(self.image).stem, self.stem(), self.method, f"noise={self.noise_std:g}"]
        if self.degrade:
            parts.append("degraded")
        parts += [f"num={self._num}", f"seed={self.seed}"]
        if self.label is not None:
            parts.append(f"label={self.label}")
        return trained.path / "restored" / ("_".join(parts) + ".png")


@dataclasses.dataclass(frozen=True)
class InpaintCommand(RestorationCommand):
    """Fill in the pixels of a picture that a mask leaves out.

    Samples of the whole picture are drawn given the known pixels: their mean and spread show how
    sure it is. Also --model and --batch-size, as of scoresde sample.
    """

    mask: str = ""
    """The mask, such as mask.png: white is known, black is filled in."""

    _hides = True

    def __post_init__(self):
        super().__post_init__()
        if not self.mask:
            raise ValueError("there is no mask: write --mask mask.png, white where known.")

    def measured_by(self) -> dict[str, Any]:
        return {"mask": self.mask}

    def stem(self) -> str:
        return f"inpaint-{Path(self.mask).stem}"

    def measurement(self, trained: Trained) -> LinearOperator:
        height, width, channels = trained.shape
        known = read_mask(self.mask, height, width)
        return Mask(np.broadcast_to(known, (height, width, channels))[None])


@dataclasses.dataclass(frozen=True)
class RestoreCommand(RestorationCommand):
    """Draw the pictures that a small, blurred or gray one may be of.

    Operators: downsample:2 (means of 2 × 2 pixels), blur:1.5 (a Gaussian of that many pixels) and
    gray (the mean of the channels). Also --model and --batch-size, as of scoresde sample.
    """

    operator: str = ""
    """downsample:FACTOR, blur:STD or gray."""

    def __post_init__(self):
        super().__post_init__()
        operator = parse_operator(self.operator)
        if operator.ill_posed and self.method in ("repaint", "replacement"):
            raise ValueError(
                f"{self.method} inverts the operator, and the inverse of a blur magnifies noise "
                f"without bound: write --method mmps."
            )

    def measured_by(self) -> dict[str, Any]:
        return {"operator": self.operator}

    def stem(self) -> str:
        return self.operator.replace(":", "-")

    def measurement(self, trained: Trained) -> LinearOperator:
        return parse_operator(self.operator, min(trained.shape[:2]))


def parse_operator(text: str, most: int = 1001) -> LinearOperator:
    """Returns the operator that a text such as "downsample:2" names; most: pixels of a kernel.

    Raises:
        ValueError: if it names none.
    """
    name, _, value = text.partition(":")
    match name:
        case "downsample" if value.isdigit():
            return Downsample(int(value))
        case "blur" if _is_size(value):
            std = float(value)
            size = min(2 * math.ceil(3.0 * std) + 1, most - 1 + most % 2)
            return Blur.gaussian(std, size, "reflect")
        case "gray" if not value:
            return Gray()
    raise ValueError(
        f"operator = {text!r}: wanted downsample:2, blur:1.5 (at most 100 pixels) or gray."
    )


def _is_size(text: str) -> bool:
    """Whether a text is a standard deviation in pixels."""
    try:
        return 0.0 < float(text) <= 100.0
    except ValueError:
        return False
