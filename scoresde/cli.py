"""What a run's folder holds, put to use from the command line.

    scoresde sample RUN --num 64      draw samples: an .npz file and a picture in RUN/samples
    scoresde likelihood RUN           nats and bits/dim of the examples that the run held out
    scoresde info RUN                 what was trained, how far it is, whether its checkpoints are sound
    scoresde report RUN               write RUN/report.html anew
    scoresde import-checkpoint FILE   make a run's folder of a checkpoint of Song et al.'s Flax release
    scoresde --version

RUN is the folder of a run, such as runs/digits_vp: sd.fit(..., run=RUN) or a script under experiments/ makes one.
`scoresde COMMAND --help` lists the options of a command. Every command takes --json, for one JSON object and nothing
else on standard output, and --debug, for the traceback of an error.
Exit codes: 0 done, 1 failed, 2 wrong use, 130 interrupted.
"""

from __future__ import annotations

import contextlib
import dataclasses
import difflib
import hashlib
import io
import json
import math
import os
import sys
import time
import warnings
import zipfile
import zlib
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from scoresde.checkpoint import MANIFEST, CheckpointError, Checkpoints
from scoresde.config import ConfigError, from_dict, load_yaml, to_dict
from scoresde.files import read_rows, write_atomically
from scoresde.flags import UsageError, exit_code, parse
from scoresde.likelihood import ExactDivergence, Hutchinson, bits_per_dim, log_likelihood
from scoresde.plots import image_grid, path_gif, scatter_2d
from scoresde.report import write_report
from scoresde.sampling.base import sample
from scoresde.sampling.choices import AnySampler
from scoresde.sampling.probability_flow import ProbabilityFlow
from scoresde.sharding import use_cpu_cores
from scoresde.train.run import HELD_OUT, Trained, open_run
from scoresde.types import Cond, check_count, check_setting

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

    def open(self) -> tuple[Trained, int | None]:
        """The trained model, and the number of its classes.

        Raises:
            ValueError: if the label is none of them.
        """
        use_cpu_cores()  # before anything else of JAX
        trained = open_run(self.run, step=self.step, ema=self.ema)
        classes = getattr(getattr(trained.model.net, "config", None), "num_classes", None)
        if self.label is not None and not 0 <= self.label < (classes or 0):
            wanted = f"0 … {classes - 1}" if classes else "none, the network is unconditional"
            raise ValueError(f"label = {self.label}: wanted {wanted}.")
        return trained, classes

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
        trained, classes = self.open()
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
        if classes:
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
    """Exact log-likelihoods under the model of a run, in nats and bits/dim: means over examples ± standard error.

    Integers are dequantised as in training. An example whose solver fails is counted, and left out of the means.
    """

    data: str | None = None
    """A .npy file of examples as training took them, instead of those that the run held out."""
    probes: int = 1
    """Rademacher probes of the divergence, per example."""
    exact: bool = False
    """No probes but the divergence itself, one derivative per data dimension."""
    tolerance: float = 1e-4
    """Relative and absolute tolerance of a solver's step."""
    t_min: float = 1e-5
    """The time at which the data are taken to lie."""

    def __post_init__(self):
        super().__post_init__()
        check_count("probes", self.probes)
        check_setting("tolerance", self.tolerance, 0.0, 1.0, inclusive=False)
        check_setting("t_min", self.t_min, 0.0, 1.0)
        if self.exact and self.probes != 1:
            raise ValueError("--exact uses no probes: leave out --exact or --probes.")

    def __call__(self) -> dict[str, Any]:
        trained, classes = self.open()
        path = Path(self.data).expanduser() if self.data else trained.path / HELD_OUT
        examples, cond = self._examples(trained, path, classes)
        key_dequantize, key_probes = jax.random.split(jax.random.key(self.seed))
        x, prepare = jnp.asarray(examples), trained.prepare
        x = x.astype(jnp.float32) if prepare is None else prepare(key_dequantize, x)
        divergence = ExactDivergence() if self.exact else Hutchinson(num_probes=self.probes)
        start = time.perf_counter()
        out = log_likelihood(key_probes, trained.model.sde, trained.model, x, cond, divergence, self.tolerance,
                             self.tolerance, self.t_min, batch_size=self.batch_size, progress=True)  # fmt: skip
        good = np.asarray(out.success)
        if not good.any():
            raise ValueError(f"all {len(good)} likelihoods failed: try --tolerance {10 * self.tolerance:g}.")
        levels: dict[str, Any] = {"levels": None} if prepare is None else dataclasses.asdict(prepare)
        nats, nats_stderr = _mean(np.asarray(out.log_prob)[good])
        bits, bits_stderr = _mean(np.asarray(bits_per_dim(out.log_prob, math.prod(trained.shape), **levels))[good])
        return {
            **self.about(trained),
            "data": str(path),
            "examples": len(good),
            "shape": list(trained.shape),
            "bits_per_dim": bits,
            "bits_per_dim_stderr": bits_stderr,
            "nats": nats,
            "nats_stderr": nats_stderr,
            "failed": int((~good).sum()),
            "evaluations": _mean(np.asarray(out.nfe)[good])[0],
            "dequantization": {"kind": "UniformDequantization", **levels} if prepare else "none: real-valued data",
            "divergence": {"kind": type(divergence).__name__, **to_dict(divergence)},
            "t_min": self.t_min,
            "tolerance": self.tolerance,
            "seconds": time.perf_counter() - start,
        }

    def _examples(self, trained: Trained, path: Path, classes: int | None) -> tuple[np.ndarray, Cond]:
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
        if classes and (cond is None) == (self.label is None):
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

        config, results = read("config.yaml", load_yaml), read("results.json", lambda p: json.loads(p.read_bytes()))
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
        return {
            "run": str(path),
            "status": results.get("status"),
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


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command; the exit code. Help, and flags that cannot be parsed, raise SystemExit with theirs."""
    return exit_code(_run, sys.argv[1:] if arguments is None else arguments, interrupted="interrupted.")


COMMANDS = {
    "sample": Sample,
    "likelihood": Likelihood,
    "info": Info,
    "report": Report,
    "import-checkpoint": ImportCheckpoint,
}


def _run(arguments: list[str]) -> int:
    name, *flags = [argument for argument in arguments if argument != "--json"] or [""]
    if name in ("-h", "--help", "--version"):
        from scoresde import __version__

        print(f"scoresde {__version__}" if name == "--version" else (__doc__ or "").strip())
        return 0
    if name not in COMMANDS:
        near = difflib.get_close_matches(name, COMMANDS, n=1)
        meant = f"did you mean {near[0]!r}?" if near else f"wanted one of {', '.join(COMMANDS)}; see scoresde --help."
        raise UsageError(f"no command {name!r}: {meant}" if name else f"no command: {meant}")
    command = _parse(name, flags)
    with contextlib.redirect_stdout(sys.stderr), warnings.catch_warnings():
        warnings.showwarning = lambda message, *_, **__: print(f"warning: {message}", file=sys.stderr)
        about = command()
    print(json.dumps(_json(about)) if "--json" in arguments else _text(about))
    return 0


def _parse(name: str, flags: list[str]) -> Any:
    if name != "sample":
        return parse(COMMANDS[name], flags, prog=f"scoresde {name}")
    chosen = any(flag.startswith("sampler:") for flag in flags)
    folder = next((flag for flag in flags if os.path.isdir(os.path.expanduser(flag))), None)
    defaults = {} if folder is None else _own_sampler(folder, chosen)
    brief = {"-h", "--help"} & {*flags} and not chosen  # the options of a sampler would fill the screen
    command = parse(Sample, flags, prog="scoresde sample", defaults=defaults, hidden=["sampler"] if brief else ())
    if folder not in (None, command.run):  # the sampler would be another run's
        raise UsageError(f"{folder} is a folder too: write the run first, scoresde sample {command.run} ...")
    return command


def _own_sampler(run: str, chosen: bool) -> dict[str, Any]:
    """The sampler that a run's config.yaml names, if any; where another is chosen, it need not be readable."""
    path = Path(run).expanduser() / "config.yaml"
    try:
        sampler = load_yaml(path).get("sampler") if path.exists() else None
        return {} if sampler is None else {"sampler": from_dict(sampler, AnySampler, f"{path}: sampler")}
    except ConfigError:
        if chosen:
            return {}
        raise


# --- Pieces ---


def _run_folder(run: str) -> Path:
    path = Path(run).expanduser()
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


def _json(value: Any) -> Any:
    """Without NaN and infinity, which are not JSON."""
    if isinstance(value, dict):
        return {name: _json(entry) for name, entry in value.items()}
    if isinstance(value, list):
        return [_json(entry) for entry in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


def _text(about: dict[str, Any]) -> str:
    """One line for each entry; "x" and "x_stderr" on one."""
    lines = []
    for name, value in about.items():
        error = about.get(f"{name}_stderr", math.nan)
        if not name.endswith("_stderr"):
            lines.append(f"{name.replace('_', ' '):<17}{_words(value)}" + (f" ± {error:.2g}" if error == error else ""))
    return "\n".join(lines)


def _words(value: Any) -> str:
    if isinstance(value, dict):
        inner = ", ".join(f"{name}={_words(entry)}" for name, entry in value.items() if name != "kind")
        return f"{value['kind']}({inner})" if "kind" in value else inner or "none"
    if isinstance(value, list):
        sizes = f"({', '.join(map(_words, value))})"
        return "none" if not value else "; ".join(value) if isinstance(value[0], str) else sizes
    return "none" if value is None else f"{value:.5g}" if isinstance(value, float) else str(value)
