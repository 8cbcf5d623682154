"""The commands on a run's folder: settings objects that do their work when called, and return what they found."""

from __future__ import annotations

import dataclasses
import hashlib
import io
import json
import math
import os
import time
import zipfile
import zlib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, Literal

import jax
import numpy as np

from scoresde.checkpoint import MANIFEST, CheckpointError, Checkpoints
from scoresde.config import load_yaml, to_dict
from scoresde.data.source import digest
from scoresde.dequantization import TruncatedNormalDequantization
from scoresde.divergence import ExactDivergence, Hutchinson
from scoresde.files import read_results, read_rows, write_atomically
from scoresde.likelihood_set import Dequantization, likelihood_of_set, split_error
from scoresde.plots import image_grid, path_gif, scatter_2d
from scoresde.report import write_report
from scoresde.sampling.base import sample
from scoresde.sampling.choices import AnySampler
from scoresde.sampling.probability_flow import ProbabilityFlow
from scoresde.sharding import use_cpu_cores
from scoresde.train.run import HELD_OUT, Trained, open_run
from scoresde.train.state import Skeleton
from scoresde.types import Cond, check_count, check_numbers, check_setting

PICTURED = 400
ANIMATED = 36
"""Images that a picture shows, at most."""


@dataclasses.dataclass(frozen=True)
class OfModel:
    """What the commands that use a run's model have in common."""

    run: str
    """The run's folder."""
    num: int | None = None
    """Examples; by default 64 samples, or all examples there are."""
    seed: int = 0
    """Decides every draw; example i depends on the seed and i alone."""
    step: int | None = None
    """The checkpoint of this step, instead of the newest good one."""
    ema: bool = True
    """The moving average of the weights, or the weights themselves."""
    label: int | None = None
    """The class of every example, for a conditional network."""
    batch_size: int = 64
    """Examples at a time."""

    def __post_init__(self):
        check_count("batch_size", self.batch_size)
        check_count("num", 1 if self.num is None else self.num)
        if not 0 <= self.seed < 2**32:
            raise ValueError(f"seed = {self.seed}: wanted 0 … {2**32 - 1}.")

    def open(self) -> Trained:
        """The trained model.

        Raises:
            ValueError: if the label is none of them.
        """
        use_cpu_cores()  # before anything else of JAX
        trained = open_run(self.run, step=self.step, ema=self.ema)
        classes = trained.model.num_classes
        if self.label is not None and not 0 <= self.label < (classes or 0):
            wanted = f"0 … {classes - 1}" if classes else "none, the network is unconditional"
            raise ValueError(f"label = {self.label}: wanted {wanted}.")
        return trained

    def about(self, trained: Trained) -> dict[str, Any]:
        """Which model it was."""
        return {"run": str(trained.path), "step": trained.step, "ema": self.ema, "seed": self.seed}


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
            raise ValueError("a sampler that starts below t = 1 needs data to start from: sd.sample(..., x0=data).")

    def __call__(self) -> dict[str, Any]:
        trained = self.open()
        num = self.num or 64
        about = {**self.about(trained), "num": num, "label": self.label, "sampler": to_dict(self.sampler, AnySampler)}
        path = Path(self.out).expanduser() if self.out else trained.path / "samples" / f"{self._name(about)}.npz"
        path.parent.mkdir(parents=True, exist_ok=True)
        if not os.access(path.parent, os.W_OK):  # said before the work
            raise OSError(f"{path.parent} cannot be written: name another place, --out NAME.npz.")
        if self.gif and not _is_drawn(trained.shape):
            raise ValueError(f"examples of shape {trained.shape}: a GIF is drawn of images and points of the plane.")
        start = time.perf_counter()
        label: dict[str, Any] = {}
        if classes := trained.model.num_classes:
            label = {"label": np.arange(num) % classes if self.label is None else np.full(num, self.label)}
        out = sample(jax.random.key(self.seed), self.sampler, trained.model.sde, trained.model, (num, *trained.shape),
                     label.get("label"), self.batch_size, progress=True)  # fmt: skip
        x, success = np.asarray(out.x), np.asarray(out.success)
        nfe = np.broadcast_to(out.nfe, success.shape)
        if not success.any():
            raise ValueError(f"all {num} samples failed: try another sampler, more steps or a looser tolerance.")
        buffer = io.BytesIO()
        np.savez_compressed(buffer, x=x, nfe=nfe, success=success, **label)
        write_atomically(path, buffer.getvalue())
        picture = _picture(x, path.with_suffix(".png"), trained)
        animation = self._animation(trained, label.get("label"), path.with_suffix(".gif")) if self.gif else None
        return about | {
            "samples": str(path),
            "picture": picture and str(picture),
            **({"animation": str(animation)} if animation else {}),
            "failed": int((~success).sum()),
            "evaluations": _mean(nfe[success])[0],
            "seconds": time.perf_counter() - start,
        }

    def _animation(self, trained: Trained, label: np.ndarray | None, path: Path) -> Path:
        """The first samples once more, with their paths: example i is the same, whatever the number."""
        few = min(self.num or 64, ANIMATED)
        sampler = dataclasses.replace(self.sampler, save_path=True)
        out = sample(jax.random.key(self.seed), sampler, trained.model.sde, trained.model, (few, *trained.shape),
                     None if label is None else label[:few], self.batch_size)  # fmt: skip
        assert out.path is not None
        path_gif(np.median(out.path.t, axis=0), out.path.x, out.path.denoised, path, *_ends(trained))
        return path

    def _name(self, about: dict[str, Any]) -> str:
        """Tells apart what other settings would draw."""
        usual = {*_flat(to_dict(type(self.sampler)()))}
        settings = [entry for entry in _flat(to_dict(self.sampler)) if entry not in usual]
        draws = [f"{name}={about[name]}" for name in ("label", "num", "seed", "step") if about[name] is not None]
        name = "_".join((type(self.sampler).__name__, *settings, *draws, *(() if self.ema else ("raw",))))
        if len(name) <= 150 and not set(name) & set(" '[]{}"):
            return name
        digest = hashlib.sha256(name.encode()).hexdigest()[:12]  # long or odd settings: a file's name has its limits
        return "_".join((type(self.sampler).__name__, digest, *draws, *(() if self.ema else ("raw",))))


@dataclasses.dataclass(frozen=True)
class Likelihood(OfModel):
    """Exact log-likelihoods under the model of a run, in nats and bits/dim: means ± standard error.

    Every example once in each repeat. Rows are kept as they come, in RUN/likelihood: the same command goes on with
    them. An example whose solver fails is named, and in no mean.
    """

    split: Literal["test"] = "test"
    """Which examples: those that the run held out."""
    data: str | None = None
    """A .npy file of examples as training took them, instead."""
    dequantization: Literal["uniform", "truncated-normal"] = "uniform"
    """Of integers: as in training, or the SDE's own noise cut to the bins."""
    repeats: int = 1
    """Draws of dequantisation and probes an example; more split the error."""
    probes: int = 1
    """Rademacher probes of the divergence, per example."""
    exact: bool = False
    """The divergence itself, a derivative for each data dimension."""
    tolerance: float = 1e-4
    """Relative and absolute tolerance of a solver's step."""
    t_min: float = 1e-5
    """The time at which the data are taken to lie."""

    def __post_init__(self):
        super().__post_init__()
        check_count("probes", self.probes)
        check_count("repeats", self.repeats)
        check_setting("tolerance", self.tolerance, 0.0, 1.0, inclusive=False)
        check_setting("t_min", self.t_min, 0.0, 1.0)
        if self.exact and self.probes != 1:
            raise ValueError("--exact uses no probes: leave out --exact or --probes.")

    def __call__(self) -> dict[str, Any]:
        from scoresde import __version__

        trained = self.open()
        path = Path(self.data).expanduser() if self.data else trained.path / HELD_OUT
        x, cond = self._examples(trained, path)
        sde, dequantization = trained.model.sde, self._dequantization(trained)
        divergence = ExactDivergence() if self.exact else Hutchinson(num_probes=self.probes)
        bins = {name: getattr(dequantization, name, None) for name in ("levels", "low", "high")}
        about = {
            **self.about(trained),
            "data": str(path),
            "examples": len(x),
            "repeats": self.repeats,
            "shape": list(trained.shape),
            "dequantization": {"kind": type(dequantization).__name__} | bins
            if dequantization
            else "none: real-valued data",
            "divergence": {"kind": type(divergence).__name__, **to_dict(divergence)},
            "t_min": self.t_min,
            "tolerance": self.tolerance,
        }
        weights = digest(*map(np.asarray, jax.tree.leaves(Skeleton.split(trained.model)[1:])))
        about |= {"weights": weights, "version": __version__}
        held = {**about, "content": digest(*map(np.asarray, jax.tree.leaves((x, cond)))), "label": self.label}
        name = digest(json.dumps(held, sort_keys=True).encode())
        rows, start = trained.path / "likelihood" / f"{name}.jsonl", time.perf_counter()
        out = likelihood_of_set(
            jax.random.key(self.seed), sde, trained.model, x, cond, dequantization=dequantization, path=rows,
            about=held, divergence=divergence, tolerance=self.tolerance, t_min=self.t_min, repeats=self.repeats,
            batch_size=self.batch_size)  # fmt: skip
        failed = out.failed
        if len(failed) == len(x):
            raise ValueError(f"all {len(x)} likelihoods failed: try --tolerance {min(0.5, 10 * self.tolerance):g}.")
        good = np.setdiff1d(np.arange(len(x)), failed)
        bits = out.bits_per_dim(math.prod(trained.shape), dequantization)
        nats, split = (split_error(of.nats[good], of.stderr[good], dequantization is not None) for of in (out, bits))
        return about | {
            "bits_per_dim": split.mean,
            "bits_per_dim_stderr": split.stderr,
            "error_split": {name: getattr(split, name) for name in ("examples", "dequantization", "probes")},
            "nats": nats.mean,
            "nats_stderr": nats.stderr,
            "failed": len(failed),
            "failed_examples": failed.tolist(),
            "evaluations": float(out.nfe[good].mean()),
            "rows": str(rows),
            "seconds": time.perf_counter() - start,
        }

    def _dequantization(self, trained: Trained) -> Dequantization | None:
        """The one asked for, of the levels and the range that training had."""
        prepare = trained.prepare
        if self.dequantization == "uniform":
            return prepare
        if prepare is None:
            raise ValueError(f"{trained.path} trained on real-valued data: there is nothing to dequantise.")
        return TruncatedNormalDequantization(trained.model.sde, self.t_min, **dataclasses.asdict(prepare))

    def _examples(self, trained: Trained, path: Path) -> tuple[np.ndarray, Cond]:
        """Examples as training took them, and their conditions."""
        if own := (trained.about.get("prepare") or {}).get("own"):
            raise ValueError(f"{trained.path} prepared its data by {own}, which its folder does not hold: prepare them "
                             f"in Python and call sd.log_likelihood with sd.load({str(trained.path)!r}).")  # fmt: skip
        try:
            found = (np.load(path, allow_pickle=False), None) if self.data else trained.held_out()
        except (ValueError, EOFError, zipfile.BadZipFile, zlib.error) as error:
            raise ValueError(f"{path} is not an array that NumPy can read: {error}") from error
        if found is None:
            raise ValueError(f"{trained.path} keeps no {HELD_OUT} that can be used: name examples by --data FILE.npy.")
        x, cond = found
        if not isinstance(x, np.ndarray) or x.shape[1:] != trained.shape or len(x) == 0:
            raise ValueError(f"{path} holds {getattr(x, 'shape', 'several arrays')}: wanted one array of shape "
                             f"(n, {', '.join(map(str, trained.shape))}), n > 0.")  # fmt: skip
        check_numbers(x, str(path))
        if (classes := trained.model.num_classes) and (cond is None) == (self.label is None):
            have = "no labels: name their class" if cond is None else "labels of their own: leave out"
            raise ValueError(f"the network has {classes} classes, and the examples of {path} have {have}, --label K.")
        cond = cond if self.label is None else np.full(len(x), self.label)
        return x[: self.num], jax.tree.map(lambda leaf: leaf[: self.num], cond)


@dataclasses.dataclass(frozen=True)
class Info:
    """What a run trained, how far it is, whether its checkpoints are sound; at any time, also while it trains."""

    run: str
    """The run's folder."""

    def __call__(self) -> dict[str, Any]:
        path = _run_folder(self.run)
        notes: list[str] = []

        def read(name: str, reader: Callable[[Path], Any]) -> dict[str, Any]:
            try:
                return dict(reader(path / name))
            except (OSError, ValueError, TypeError) as error:
                notes.append(str(error) if (path / name).exists() else f"no {name}")
                return {}

        config = read("config.yaml", load_yaml)
        results, wrong = read_results(path / "results.json")
        notes += wrong if results or wrong else ["no results.json"]
        rows, faults = read_rows(path / "metrics.jsonl")
        notes += [f"metrics.jsonl: line {line} is no row" for line in faults]
        about, parameters, checkpoints = {}, None, {}
        with Checkpoints(path / "checkpoints") as stored:
            for step in sorted(int(entry.name) for entry in stored.directory.glob("*") if entry.name.isdecimal()):
                try:
                    about = stored.restore_subtree({}, step).about
                    parameters = _parameters(stored.directory / str(step) / MANIFEST)
                    checkpoints[step] = "good"
                except CheckpointError as error:
                    checkpoints[step] = str(error)
        pieces = about.get("model") or about.get("own") or config
        status, steps = results.get("status"), config.get("steps")  # of `fit` alone, config.yaml is its Training
        good = [step for step, state in checkpoints.items() if state == "good"]
        if status is None and good and isinstance(steps, int):
            status = "finished" if good[-1] >= steps else f"at step {good[-1]} of {steps}"
        return {
            "run": str(path),
            "status": status,
            **{name: pieces.get(name) for name in ("sde", "net", "parameterization")},
            "parameters": parameters,
            "shape": about.get("shape"),
            "examples": about.get("examples"),
            "prepare": about.get("prepare"),
            "checkpoints": checkpoints,
            "metrics": rows[-1] if rows else None,
            "results": {label: value for label, value, *_ in results.get("headline") or []},
            "notes": notes,
        }


@dataclasses.dataclass(frozen=True)
class Report:
    """Write the page of a run, report.html, anew from what its folder holds."""

    run: str
    """The run's folder."""

    def __call__(self) -> dict[str, Any]:
        return {"report": str(write_report(_run_folder(self.run)))}


@dataclasses.dataclass(frozen=True)
class ImportCheckpoint:
    """Make a run's folder of a checkpoint that the Flax release of Song et al. 2021 wrote; every leaf, or nothing.

    info, sample and likelihood (with --data FILE.npy of integers 0 ... 255) take the folder as they take any run's.
    """

    file: str
    """The checkpoint, such as checkpoint_26."""
    out: str | None = None
    """The folder to make; by default runs/NAME, the file's name."""
    config: str | None = None
    """The original's configuration, such as vp/cifar10_ddpmpp_continuous; not needed where the weights tell it."""

    def __call__(self) -> dict[str, Any]:
        from scoresde.import_checkpoint import import_checkpoint

        return import_checkpoint(self.file, self.out or Path("runs") / Path(self.file).name, self.config)


# --- Pieces ---


def _run_folder(run: str) -> Path:
    path = Path(run).expanduser()
    if not path.exists():
        raise FileNotFoundError(f"there is no folder {path}: wanted a run's, such as runs/digits_vp.")
    if not any((path / name).exists() for name in ("checkpoints", "config.yaml", "metrics.jsonl", "results.json")):
        raise FileNotFoundError(f"{path} is not a run's folder: it has neither checkpoints nor config.yaml.")
    return path


def _parameters(manifest: Path) -> int:
    """The number of weights in a checkpoint, from the shapes "float32[3,3,1,32]" that its manifest lists."""
    leaves = json.loads(manifest.read_bytes())["content"]["leaves"]
    shapes = (shape.partition("[")[2].rstrip("]") for name, shape in leaves.items() if name.startswith("ema/"))
    return sum(math.prod(int(size) for size in shape.split(",") if size) for shape in shapes)


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


def _mean(values: np.ndarray) -> tuple[float, float]:
    """The mean and its standard error, NaN for a single value."""
    stderr = float(np.std(values, ddof=1) / math.sqrt(len(values))) if len(values) > 1 else math.nan
    return float(np.mean(values)), stderr


def _flat(settings: dict[str, Any], place: str = "") -> Iterator[str]:
    """{"t_min": 0.1, "grid": {"kind": "Uniform"}} → "t_min=0.1", "grid.kind=Uniform"."""
    for name, value in settings.items():
        if isinstance(value, dict):
            yield from _flat(value, f"{place}{name}.")
        else:
            yield f"{place}{name}={value}"
