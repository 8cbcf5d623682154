"""`scoresde sample`: draw from a run's model, and picture what was drawn."""

from __future__ import annotations

import dataclasses
import hashlib
import io
import os
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import jax
import numpy as np

from scoresde.cli.with_model import OfModel
from scoresde.runs.files import write_atomically
from scoresde.runs.plots import image_grid, path_gif, scatter_2d
from scoresde.runs.settings import to_dict
from scoresde.sampling.choices import AnySampler
from scoresde.sampling.probability_flow import ProbabilityFlow
from scoresde.sampling.sample import sample
from scoresde.train.load import Trained

PICTURED = 400
ANIMATED = 36
"""Images that a picture shows, at most."""


@dataclasses.dataclass(frozen=True)
class Sample(OfModel):
    """Draw samples from the model of a run.

    The sampler is the one in the run's config.yaml, or ProbabilityFlow, unless one is chosen;
    `scoresde sample sampler:NAME --help` lists its options. A conditional network draws its classes in turn.
    """

    out: str | None = None
    """Where to write, NAME.npz: x, nfe, success; NAME.png is their picture. By default a name in RUN/samples."""
    gif: bool = False
    """Animate how the first samples come about, beside the picture: images, or points of the plane."""
    sampler: AnySampler = ProbabilityFlow()
    """How to draw."""

    def __post_init__(self):
        super().__post_init__()
        if self.out is not None and not self.out.endswith(".npz"):
            raise ValueError(f"out = {self.out}: wanted a name that ends in .npz.")
        if getattr(self.sampler, "start", 1.0) < 1.0:
            raise ValueError(
                "a sampler that starts below t = 1 needs data to start from: sd.sample(..., x0=data)."
            )

    def __call__(self) -> dict[str, Any]:
        trained = self.open()
        num = self.num or 64
        about = {
            **self.about(trained),
            "num": num,
            "label": self.label,
            "sampler": to_dict(self.sampler, AnySampler),
        }
        path = (
            Path(self.out).expanduser()
            if self.out
            else trained.path / "samples" / f"{self._name(about)}.npz"
        )
        path.parent.mkdir(parents=True, exist_ok=True)
        if not os.access(path.parent, os.W_OK):  # said before the work
            raise OSError(f"{path.parent} cannot be written: name another place, --out NAME.npz.")
        if self.gif and not _is_drawn(trained.shape):
            raise ValueError(
                f"examples of shape {trained.shape}: a GIF is drawn of images and points of the plane."
            )
        start = time.perf_counter()
        label: dict[str, Any] = {}
        if classes := trained.model.num_classes:
            label = {
                "label": np.arange(num) % classes
                if self.label is None
                else np.full(num, self.label)
            }
        out = sample(
            jax.random.key(self.seed),
            self.sampler,
            trained.model.sde,
            trained.model,
            (num, *trained.shape),
            label.get("label"),
            self.batch_size,
            progress=True,
        )
        x, success = np.asarray(out.x), np.asarray(out.success)
        nfe = np.broadcast_to(out.nfe, success.shape)
        if not success.any():
            raise ValueError(
                f"all {num} samples failed: try another sampler, more steps or a looser tolerance."
            )
        buffer = io.BytesIO()
        np.savez_compressed(buffer, x=x, nfe=nfe, success=success, **label)
        write_atomically(path, buffer.getvalue())
        picture = _picture(x, path.with_suffix(".png"), trained)
        animation = (
            self._animation(trained, label.get("label"), path.with_suffix(".gif"))
            if self.gif
            else None
        )
        return about | {
            "samples": str(path),
            "picture": picture and str(picture),
            **({"animation": str(animation)} if animation else {}),
            "failed": int((~success).sum()),
            "evaluations": float(np.mean(nfe[success])),
            "seconds": time.perf_counter() - start,
        }

    def _animation(self, trained: Trained, label: np.ndarray | None, path: Path) -> Path:
        """The first samples once more, with their paths: example i is the same, whatever the number."""
        few = min(self.num or 64, ANIMATED)
        sampler = dataclasses.replace(self.sampler, save_path=True)
        out = sample(
            jax.random.key(self.seed),
            sampler,
            trained.model.sde,
            trained.model,
            (few, *trained.shape),
            None if label is None else label[:few],
            self.batch_size,
        )
        assert out.path is not None
        path_gif(
            np.median(out.path.t, axis=0), out.path.x, out.path.denoised, path, *_ends(trained)
        )
        return path

    def _name(self, about: dict[str, Any]) -> str:
        """Tells apart what other settings would draw."""
        usual = {*_flat(to_dict(type(self.sampler)()))}
        settings = [entry for entry in _flat(to_dict(self.sampler)) if entry not in usual]
        draws = [
            f"{name}={about[name]}"
            for name in ("label", "num", "seed", "step")
            if about[name] is not None
        ]
        name = "_".join(
            (type(self.sampler).__name__, *settings, *draws, *(() if self.ema else ("raw",)))
        )
        if len(name) <= 150 and not set(name) & set(" '[]{}"):
            return name
        digest = hashlib.sha256(name.encode()).hexdigest()[
            :12
        ]  # long or odd settings: a file's name has its limits
        return "_".join(
            (type(self.sampler).__name__, digest, *draws, *(() if self.ema else ("raw",)))
        )


def _picture(x: np.ndarray, path: Path, trained: Trained) -> Path | None:
    """Draw images and points of the plane; of other examples there is no picture."""
    if not _is_drawn(x.shape[1:]):
        return None
    if x.ndim == 4:
        low, high = _ends(trained)
        image_grid(x[:PICTURED], path, low=low, high=high)
    else:
        scatter_2d({"samples": x}, path)
    return path


def _is_drawn(shape: tuple[int, ...]) -> bool:
    """Images of one or three channels, or points of the plane."""
    return shape == (2,) or (len(shape) == 3 and shape[-1] in (1, 3))


def _ends(trained: Trained) -> tuple[float, float]:
    """The data's range."""
    return (trained.prepare.low, trained.prepare.high) if trained.prepare else (-1.0, 1.0)


def _flat(settings: dict[str, Any], place: str = "") -> Iterator[str]:
    """{"t_min": 0.1, "grid": {"kind": "Uniform"}} → "t_min=0.1", "grid.kind=Uniform"."""
    for name, value in settings.items():
        if isinstance(value, dict):
            yield from _flat(value, f"{place}{name}.")
        else:
            yield f"{place}{name}={value}"
