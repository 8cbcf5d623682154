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
from scoresde.cli.exit import UsageError
from scoresde.cli.output import as_json
from scoresde.cli.with_model import (
    ModelCommand,
    in_python,
    labels_in_turn,
    takes_more_than_a_label,
)
from scoresde.inverse.linear_operator import LinearOperator
from scoresde.inverse.operators import Blur, Downsample, Gray, Mask
from scoresde.inverse.posterior import DPS, MMPS, PiGDM
from scoresde.inverse.replacement import Replacement
from scoresde.runs.files import write_atomically
from scoresde.runs.restoration import plot_restoration
from scoresde.runs.settings import to_dict
from scoresde.sampling.choices import AnySampler
from scoresde.sampling.ddim import DDIM
from scoresde.sampling.grid_sampler import GridSampler
from scoresde.sampling.sample import sample
from scoresde.train.load import Trained

DEFAULT_NUM = 8
DEFAULT_SAMPLER = DDIM(num_steps=100, eta=1.0)
RESAMPLINGS = 10
"""Of repaint, its paper's."""
Method = Literal["mmps", "pigdm", "dps", "repaint", "replacement"]


@dataclasses.dataclass(frozen=True)
class RestorationCommand(ModelCommand):
    """What both commands share: the image, the method, the samples, and what is written."""

    num: int | None = None
    """Number of samples, 8 if not given."""
    image: str = ""
    """The picture, such as in.png."""
    method: Method = "mmps"
    """From the most exact on; the last two take the picture to be free of noise."""
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
        if self.method in ("repaint", "replacement"):
            self._check_grid()

    def _check_grid(self) -> None:
        """Refuses samplers that replacement cannot work between the steps of."""
        if not isinstance(self.sampler, GridSampler):
            raise ValueError(
                f"{self.method} works between the steps of a sampler on a grid, and "
                f"{type(self.sampler).__name__} has none: write sampler:ddim, or --method mmps."
            )

    def measurement(self, trained: Trained) -> LinearOperator:
        """Returns A."""
        raise NotImplementedError

    def stem(self) -> str:
        """Returns the beginning of the files' names."""
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
        path.parent.mkdir(parents=True, exist_ok=True)

        start = time.perf_counter()
        out = self._draw(trained, operator, y)
        seconds = time.perf_counter() - start
        x = np.asarray(out.x)[np.asarray(out.success)]
        if len(x) < 2:
            raise ValueError(
                f"{self._num - len(x)} of {self._num} samples failed: try more steps, or a larger "
                f"--noise-std."
            )

        known = np.asarray(operator.observed(jnp.ones_like(y))[0]) > 0 if self._hides else None
        low, high = trained.range
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
        wanted = trained.shape
        if not self.degrade:
            wanted = jax.eval_shape(operator, np.zeros((1, *trained.shape), np.float32)).shape[1:]
        image = read_image(self.image, wanted, trained.range)
        if not self.degrade:
            return image[None], None

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
        gap = np.asarray(operator.observed(operator(x) - y))
        measured = int(operator.num_observed(jnp.asarray(y))[0])
        figures = {
            "measured": measured,
            "misfit": float(np.sqrt(np.sum(gap**2) / (len(x) * measured))),
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

    def stem(self) -> str:
        return f"inpaint-{Path(self.mask).stem}"

    def measurement(self, trained: Trained) -> LinearOperator:
        height, width, channels = trained.shape
        gray = read_image(self.mask, (height, width, 1), (0.0, 255.0)) > 127.0
        return Mask(np.broadcast_to(gray, (height, width, channels))[None])


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
        parse_operator(self.operator)

    def stem(self) -> str:
        return self.operator.replace(":", "-")

    def measurement(self, trained: Trained) -> LinearOperator:
        return parse_operator(self.operator)


def parse_operator(text: str) -> LinearOperator:
    """Returns the operator that a text such as "downsample:2" names.

    Raises:
        ValueError: if it names none.
    """
    name, _, value = text.partition(":")
    try:
        match name:
            case "downsample" if value:
                return Downsample(int(value))
            case "blur" if value:
                std = float(value)
                return Blur.gaussian(std, 2 * math.ceil(3.0 * std) + 1, "reflect")
            case "gray" if not value:
                return Gray()
    except ValueError as error:
        raise ValueError(f"operator = {text}: {error}") from error
    raise ValueError(f"operator = {text!r}: wanted downsample:2, blur:1.5 or gray.")


def read_image(file: str, shape: tuple[int, ...], value_range: tuple[float, float]) -> np.ndarray:
    """Returns a picture of this shape, its levels 0 … 255 mapped to the range.

    Raises:
        UsageError: if it cannot be read, or has another size.
    """
    from PIL import Image, UnidentifiedImageError

    height, width, channels = shape
    try:
        with Image.open(Path(file).expanduser()) as opened:
            picture = opened.convert("L" if channels == 1 else "RGB")
    except (OSError, UnidentifiedImageError) as error:
        raise UsageError(f"{file} cannot be read as a picture: {error}") from error

    if picture.size != (width, height):
        raise UsageError(
            f"{file} has {picture.size[0]} × {picture.size[1]} pixels: wanted {width} × {height}. "
            f"Resize it first, e.g. PIL.Image.open({file!r}).resize(({width}, {height}))."
        )
    low, high = value_range
    pixels = np.asarray(picture, np.float32).reshape(shape)
    return low + (high - low) * pixels / 255.0
