"""`scoresde sample`: draws samples from a run's model, and a picture of them."""

from __future__ import annotations

import dataclasses
import hashlib
import io
import time
import warnings
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any, ClassVar

import jax
import numpy as np

from scoresde import checks
from scoresde.cli.chunks import Chunks
from scoresde.cli.pictures import (
    ANIMATED,
    can_draw,
    columns_by_class,
    draw_animation,
    draw_picture,
)
from scoresde.cli.place import check_writable, kept_in
from scoresde.cli.results import identity_of, weights_and_version
from scoresde.cli.with_model import (
    ModelCommand,
    in_python,
    labels_in_turn,
    takes_more_than_a_label,
)
from scoresde.guidance.classifier_free import ClassifierFreeGuidance
from scoresde.keys import example_keys
from scoresde.parallel.processes import by_first
from scoresde.runs.settings import to_dict
from scoresde.sampling.choices import AnySampler
from scoresde.sampling.sample import sample
from scoresde.sampling.unipc import UniPC
from scoresde.train.load import Trained
from scoresde.types import ScoreFn
from scoresde.writing import write_atomically

DEFAULT_NUM = 64
DEFAULT_SAMPLER = UniPC(order=3, num_steps=20)
"""The best at 20 evaluations in docs/results.md, as good there as 1000 ancestral steps."""
LONGEST_NAME = 150
NAMES = ("x", "nfe", "success")
"""What is stored of every sample."""


@dataclasses.dataclass(frozen=True)
class SampleCommand(ModelCommand):
    """Draw samples from the model of a run.

    The sampler is the one in the run's config.yaml (or UniPC of order 3 in 20 steps), unless you
    choose another; `scoresde sample sampler:NAME --help` lists its options. A class-conditional
    network draws its classes in turn, one to a column of the picture, unless --label names one.
    """

    num: int | None = None
    """Number of samples, 64 if not given."""
    out: str | None = None
    """File to write, NAME.npz (x, nfe, success), beside a picture; by default in RUN/samples."""
    gif: bool = False
    """Also animate the first samples: images or points of the plane."""
    guidance: float | None = None
    """Weight of classifier-free guidance; 1 is the plain model."""
    guidance_interval: tuple[float, float] | None = None
    """LOW HIGH of sigma / alpha: outside, the weight is 1."""
    sampler: AnySampler = DEFAULT_SAMPLER
    """The sampler."""

    in_processes: ClassVar[bool] = True

    def __post_init__(self):
        super().__post_init__()
        if self.out is not None and not self.out.endswith(".npz"):
            raise ValueError(f"out = {self.out}: wanted a name that ends in .npz.")

        start = getattr(self.sampler, "start", 1.0)
        if start < 1.0:
            raise ValueError(
                f"sampler.start = {start}: a sampler that starts below t = 1 needs data to start "
                f"from. Write in Python sd.sample(..., x0=data)."
            )
        self._check_guidance()

    def _check_guidance(self) -> None:
        """Refuses weights and intervals that are no guidance."""
        if self.guidance is not None:
            checks.setting("guidance", self.guidance, "(-inf, inf)")
        if self.guidance_interval is None:
            return
        low, high = self.guidance_interval
        if self.guidance is None:
            raise ValueError(
                f"guidance_interval = {low:g} {high:g}, but there is no guidance: write --guidance "
                f"W too, or leave out --guidance-interval."
            )
        if not 0.0 <= low < high:
            raise ValueError(
                f"guidance_interval = {low:g} {high:g}: wanted 0 <= LOW < HIGH, values of sigma / "
                f"alpha, such as --guidance-interval 0.2 5."
            )

    def __call__(self) -> dict[str, Any]:
        """Draws the samples, writes them, and returns what `scoresde sample` prints."""
        trained = self.open()
        score = self._score(trained)
        about = self.about(trained)
        path = self._writable_path(trained, about)
        if self.gif and not can_draw(trained.shape):
            raise ValueError(
                f"examples have shape {trained.shape}: only images and points of the plane can be "
                f"animated. Leave out --gif."
            )

        start = time.perf_counter()
        classes = trained.model.num_classes
        labels = labels_in_turn(classes, self.label, self._num)
        chunks = self._chunks(trained, about, path)
        with kept_in(chunks.path):
            arrays = self._draw(trained, score, labels, chunks)
        x, nfe, success = (arrays[name] for name in NAMES)

        # Failed samples are stored too, marked by `success`, and left out of the means.
        if labels is not None:
            arrays["label"] = labels
        by_first(partial(_write_npz, path, arrays))
        chunks.remove()

        columns = None if self.label is not None else columns_by_class(classes, self._num)
        draw = partial(draw_picture, x, path.with_suffix(".png"), trained, columns)
        picture = by_first(draw)
        files = {"samples": str(path), "picture": picture and str(picture)}
        if self.gif:
            gif = path.with_suffix(".gif")
            by_first(partial(self._animate, trained, score, labels, gif))
            files["animation"] = str(gif)

        return {
            **about,
            **files,
            "failed": int((~success).sum()),
            "evaluations": float(np.mean(nfe[success])),
            "seconds": time.perf_counter() - start,
        }

    def about(self, trained: Trained) -> dict[str, Any]:
        return {
            **super().about(trained),
            "num": self._num,
            "label": self.label,
            "guidance": self.guidance,
            "guidance_interval": self.guidance_interval and [*self.guidance_interval],
            "sampler": to_dict(self.sampler, AnySampler),
        }

    @property
    def _num(self) -> int:
        return self.num or DEFAULT_NUM

    def _score(self, trained: Trained) -> ScoreFn:
        """Returns the run's model, guided if asked for.

        Raises:
            ValueError: if its condition cannot be named here, or it cannot be guided.
        """
        model = trained.model
        if takes_more_than_a_label(model):
            call = "sd.sample(key, sampler, model.sde, model, shape, cond)"
            raise ValueError(
                f"{trained.path} is conditioned on {model.conditions}, which a command cannot "
                f"name: {in_python(trained.path, call)}"
            )
        if self.guidance is None:
            return model

        if not model.num_classes:
            raise ValueError(
                f"guidance = {self.guidance:g}: {trained.path} has no classes to be guided by. "
                f"Leave out --guidance, or train on labels, with --training.drop-cond 0.1 of an "
                f"experiment."
            )
        if not model.null_is_trained:
            raise ValueError(
                f"guidance = {self.guidance:g}: {trained.path} was never trained without its "
                f"labels, which guidance needs. Leave out --guidance, or train again with "
                f"--training.drop-cond 0.1 of the experiment, or sd.Training(drop_cond=0.1)."
            )
        return ClassifierFreeGuidance(model, self.guidance, self.guidance_interval)

    def _chunks(self, trained: Trained, about: dict[str, Any], path: Path) -> Chunks:
        """Returns the chunks of the samples, which are kept beside the file until all are drawn."""
        identity = identity_of(about, shape=list(trained.shape), **weights_and_version(trained))
        return Chunks(path, identity, self._num, self.batch_size)

    def _draw(
        self, trained: Trained, score: ScoreFn, labels: np.ndarray | None, chunks: Chunks
    ) -> dict[str, np.ndarray]:
        """Draws the samples: x, nfe and success, one row each.

        Raises:
            ValueError: if all of them failed.
        """
        keys = example_keys(jax.random.key(self.seed), self._num)

        def draw(rows: np.ndarray) -> dict[str, np.ndarray]:
            """Draws these samples."""
            out = sample(
                keys[rows],
                self.sampler,
                trained.model.sde,
                score,
                (len(rows), *trained.shape),
                None if labels is None else labels[rows],
                len(rows),
                progress=False,
            )
            success = np.asarray(out.success)
            nfe = np.broadcast_to(out.nfe, success.shape)
            return {"x": np.asarray(out.x), "nfe": nfe, "success": success}

        with warnings.catch_warnings():
            # The warning counts rows of the chunk: one of all samples follows.
            warnings.filterwarnings("ignore", ".* samples did not reach")
            arrays = chunks.gather(draw, NAMES, "samples")
        if not np.any(arrays["success"]):
            chunks.remove()
            raise ValueError(
                f"all {self._num} samples failed: try another sampler, more steps or a looser "
                f"tolerance."
            )
        checks.warn_of_failures(arrays["success"], "samples", "t_min")
        return arrays

    def _animate(
        self, trained: Trained, score: ScoreFn, labels: np.ndarray | None, path: Path
    ) -> Path:
        """Draws the first samples again with their paths, and animates them.

        They are the same samples, since example i depends on the seed and on i alone.
        """
        few = min(self._num, ANIMATED)
        out = sample(
            jax.random.key(self.seed),
            dataclasses.replace(self.sampler, save_path=True),
            trained.model.sde,
            score,
            (few, *trained.shape),
            None if labels is None else labels[:few],
            self.batch_size,
        )
        classes = trained.model.num_classes
        columns = None if self.label is not None else columns_by_class(classes, few)
        return draw_animation(out, path, trained, columns)

    # --- The file's name ---

    def _writable_path(self, trained: Trained, about: dict[str, Any]) -> Path:
        """Returns the file to write, and makes its folder.

        Raises:
            OSError: if the folder cannot be written, before any sample is drawn.
        """
        if self.out:
            path = Path(self.out).expanduser()
        else:
            path = trained.path / "samples" / f"{self._name(about)}.npz"

        check_writable(path.parent, "name another file for the samples, --out NAME.npz.")
        return path

    def _name(self, about: dict[str, Any]) -> str:
        """Returns a file's name that differs wherever other settings would draw other samples."""
        sampler = type(self.sampler).__name__
        usual = {*_flat(to_dict(type(self.sampler)()))}
        settings = [entry for entry in _flat(to_dict(self.sampler)) if entry not in usual]

        draws = []
        for name in ("label", "guidance", "num", "seed", "step"):
            if about[name] is not None:
                draws.append(f"{name}={about[name]}")
        if self.guidance_interval is not None:
            draws.append("interval={}-{}".format(*self.guidance_interval))
        if not self.ema:
            draws.append("raw")

        name = "_".join([sampler, *settings, *draws])
        if len(name) <= LONGEST_NAME and not set(name) & set(" '[]{}"):
            return name

        # Long or odd settings do not fit in a file's name: a digest replaces them.
        digest = hashlib.sha256(name.encode()).hexdigest()[:12]
        return "_".join([sampler, digest, *draws])


def _flat(settings: dict[str, Any], place: str = "") -> Iterator[str]:
    """{"t_min": 0.1, "grid": {"kind": "Uniform"}} → "t_min=0.1", "grid.kind=Uniform"."""
    for name, value in settings.items():
        if isinstance(value, dict):
            yield from _flat(value, f"{place}{name}.")
        else:
            yield f"{place}{name}={value}"


def _write_npz(path: Path, arrays: dict[str, Any]) -> None:
    """Writes arrays to an .npz file that is never seen half-written."""
    buffer = io.BytesIO()
    np.savez_compressed(buffer, **arrays)
    write_atomically(path, buffer.getvalue())
