"""The digits pipeline that the digits experiments share: train, sample, evaluate against what is known, report."""

from __future__ import annotations

import dataclasses
import importlib.metadata
import json
import platform
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

import scoresde as sd
from scoresde.config import load_yaml, to_dict
from scoresde.data.arrays import Arrays, digits
from scoresde.evaluation import ClassifierFeatures, GaussianFit, frechet_distance
from scoresde.files import write_atomically
from scoresde.model import AnyNet, AnyParameterization, AnySDE, ModelSettings
from scoresde.plots import image_grid
from scoresde.report import write_report
from scoresde.sampling.choices import AnySampler
from scoresde.train.run import RunFolder

SHAPE = (8, 8, 1)
DIM = 64


@dataclasses.dataclass(frozen=True)
class Digits:
    """Settings of a digits experiment."""

    name: str
    """The run's folder is <runs>/<name>."""
    sde: AnySDE
    net: AnyNet = sd.UNetConfig(channels=32, num_blocks=1)
    parameterization: AnyParameterization = sd.EDM(sigma_data=0.6)
    training: sd.Training = sd.Training(steps=1800, learning_rate=2e-3, final_rate=0.02, validate_every=600)
    sampler: AnySampler = sd.ProbabilityFlow(rtol=1e-3, atol=1e-3)
    num_samples: int = 1000
    """Samples for the distances; the picture shows the first 64."""
    likelihood_tolerance: float = 1e-4
    """Relative and absolute tolerance of the likelihood's solver."""
    seed: int = 0
    """Decides the initial weights, every batch, and every draw."""
    runs: str = "runs"
    """Where runs' folders stand."""


def run(settings: Digits) -> int:
    """Train or resume, sample, evaluate, report; the exit code."""
    folder = Path(settings.runs).expanduser() / settings.name
    command = "python " + " ".join(sys.argv)
    if _is_finished(folder, settings):
        print(f"{folder} is finished: {folder / 'report.html'} shows it. For another run: --name NAME or --seed N.")
        return 0
    RunFolder(folder)  # a place that cannot be written is said before any work
    sd.use_cpu_cores()
    clock = Clock()
    with clock("data, reference classifier, baseline"):
        reference = Reference.build()
    results: dict[str, Any] = {"command": command, "total_steps": settings.training.steps, "device": device(),
                               "versions": versions(), "timings": clock.seconds}  # fmt: skip

    def show(step: int, model: sd.ScoreModel) -> None:
        with clock("pictures while training"):
            out = sd.sample(jax.random.key(settings.seed), settings.sampler, model.sde, model, (64, *SHAPE))
            image_grid(np.asarray(out.x), folder / "samples" / f"step_{step:06d}.png")
            write(folder, results | {"status": "running", "step": step})

    key_init, key_fit, key_sample, key_dequantize, key_probes = jax.random.split(jax.random.key(settings.seed), 5)
    with clock("initialisation"):
        model = ModelSettings(settings.sde, settings.net, settings.parameterization).build(key_init, SHAPE)
    with clock("training"):
        fit = sd.fit(key_fit, model, reference.data.train, validation=reference.data.test, prepare=reference.dequantize,
                     training=settings.training, run=folder, config=settings, callbacks=[show])  # fmt: skip
    clock.seconds["training"] -= clock.seconds.get("pictures while training", 0.0)
    if fit.interrupted:
        write(folder, results | {"status": "interrupted", "step": fit.step})
        print(f"stopped at step {fit.step} of {settings.training.steps}, saved in {folder}. To go on: {command}")
        return 130

    with clock("sampling"):
        samples = sd.sample(key_sample, settings.sampler, model.sde, fit.model, (settings.num_samples, *SHAPE),
                            batch_size=250, progress=True)  # fmt: skip
        image_grid(np.asarray(samples.x[:64]), folder / "samples" / f"step_{fit.step:06d}.png")
    with clock("likelihood"):
        x = reference.dequantize(key_dequantize, jnp.asarray(reference.data.test))
        tolerance = settings.likelihood_tolerance
        likelihood = sd.log_likelihood(key_probes, model.sde, fit.model, x, rtol=tolerance, atol=tolerance,
                                       batch_size=99, progress=True)  # fmt: skip
    figures = reference.figures(samples, likelihood, np.asarray(x))
    results |= {"status": "finished", "step": fit.step, "figures": figures, **tables(figures, likelihood, settings)}
    write(folder, results)
    print(summary(settings, figures, sum(clock.seconds.values()), folder))
    return 0


@dataclasses.dataclass(frozen=True)
class Reference:
    """What samples and likelihoods are held against: the data, a classifier's eye, and a fitted Gaussian."""

    data: Arrays
    dequantize: sd.UniformDequantization
    classifier: ClassifierFeatures
    gaussian: GaussianFit
    train: np.ndarray

    @classmethod
    def build(cls) -> Reference:
        """1500 training and 297 held-out digits, dequantised once for the classifier and the Gaussian."""
        data = digits()
        dequantize = sd.UniformDequantization(levels=data.levels)
        train = np.asarray(dequantize(jax.random.key(0), jnp.asarray(data.train)))
        return cls(data, dequantize, ClassifierFeatures.fit(train, data.train_labels), GaussianFit.fit(train), train)

    def figures(self, samples: sd.Sample, likelihood: sd.Likelihood, x: np.ndarray) -> dict[str, float]:
        """Every figure of the report; x is the dequantised test set. Failed examples are counted, not averaged in."""
        good = np.asarray(likelihood.success)
        bits = np.asarray(sd.bits_per_dim(likelihood.log_prob, DIM, levels=self.data.levels))[good]
        drawn = np.asarray(samples.x)[np.asarray(samples.success)]
        gaussian = self.gaussian.sample(seed=0, n=len(drawn))
        features = {name: self.classifier.features(rows) for name, rows in
                    (("train", self.train), ("model", drawn), ("gaussian", gaussian), ("real", x))}  # fmt: skip
        sure = lambda rows: float(np.mean(self.classifier.confidence(rows) >= 0.95))  # noqa: E731
        baseline = sd.bits_per_dim(jnp.asarray(self.gaussian.log_prob(x)), DIM, levels=self.data.levels)
        return {
            "bits_per_dim": float(bits.mean()),
            "bits_per_dim_stderr": float(bits.std(ddof=1) / np.sqrt(len(bits))),
            "bits_per_dim_gaussian": float(baseline.mean()),
            "likelihood_evaluations": float(np.mean(np.asarray(likelihood.nfe)[good])),
            "likelihood_failures": float((~good).sum()),
            "fd": frechet_distance(features["model"], features["train"]),
            "fd_gaussian": frechet_distance(features["gaussian"], features["train"]),
            "fd_real": frechet_distance(features["real"], features["train"]),
            "sure": sure(drawn),
            "sure_gaussian": sure(gaussian),
            "sure_real": sure(x),
            "sampling_evaluations": float(np.mean(samples.nfe)),
            "sampling_failures": float(len(samples.x) - len(drawn)),
        }


def tables(figures: dict[str, float], likelihood: sd.Likelihood, settings: Digits) -> dict[str, Any]:
    """The report's headline and its comparison with the references."""
    f = figures
    headline = [
        ["bits/dim, held out", f"{f['bits_per_dim']:.3f} ± {f['bits_per_dim_stderr']:.3f}",
         f"{len(likelihood.log_prob)} digits; uniform dequantisation of 17 levels, 1 Rademacher probe, t_min 1e-5, "
         f"tolerance {settings.likelihood_tolerance:g}; ± one standard error over digits"],
        ["Fréchet distance", f"{f['fd']:.2f}", f"hidden features of a small classifier, {settings.num_samples} samples "
         "against 1500 training digits; fewer examples read higher"],
        ["recognised", f"{100 * f['sure']:.0f} %", "samples of which that classifier is at least 95 % sure"],
    ]  # fmt: skip
    rows = [
        ["this model", f"{f['bits_per_dim']:.3f}", f"{f['fd']:.2f}", f"{100 * f['sure']:.0f} %",
         settings.num_samples],
        ["fitted Gaussian", f"{f['bits_per_dim_gaussian']:.3f}", f"{f['fd_gaussian']:.2f}",
         f"{100 * f['sure_gaussian']:.0f} %", settings.num_samples],
        ["real held-out digits", "–", f"{f['fd_real']:.2f}", f"{100 * f['sure_real']:.0f} %",
         len(likelihood.log_prob)],
    ]  # fmt: skip
    cost = [
        ["sampling", f["sampling_evaluations"], int(f["sampling_failures"])],
        ["likelihood", f["likelihood_evaluations"], int(f["likelihood_failures"])],
    ]
    return {
        "headline": headline,
        "tables": [
            {"title": "Against what is known", "rows": rows,
             "columns": ["", "bits/dim", "Fréchet distance", "recognised", "examples"]},
            {"title": "Solver", "columns": ["", "evaluations per example", "failed examples"], "rows": cost},
        ],
    }  # fmt: skip


def summary(settings: Digits, f: dict[str, float], seconds: float, folder: Path) -> str:
    """The last lines printed: what was reached and where to look."""
    return (
        f"\n{settings.name}: {settings.training.steps} steps, finished in {seconds / 60:.1f} minutes\n"
        f"  bits/dim on held-out digits  {f['bits_per_dim']:.3f} ± {f['bits_per_dim_stderr']:.3f}   "
        f"(fitted Gaussian {f['bits_per_dim_gaussian']:.2f})\n"
        f"  Fréchet distance             {f['fd']:.2f}            "
        f"(fitted Gaussian {f['fd_gaussian']:.2f}, real digits {f['fd_real']:.2f})\n"
        f"  recognised with 95 %         {100 * f['sure']:.0f} %            "
        f"(fitted Gaussian {100 * f['sure_gaussian']:.0f} %, real digits {100 * f['sure_real']:.0f} %)\n"
        f"look at {folder / 'report.html'}; in Python: model = sd.load({str(folder)!r})"
    )


# --- Bookkeeping ---


class Clock:
    """Seconds spent in each named part."""

    def __init__(self):
        self.seconds: dict[str, float] = {}

    @contextmanager
    def __call__(self, name: str) -> Iterator[None]:
        start = time.perf_counter()
        try:
            yield
        finally:
            self.seconds[name] = self.seconds.get(name, 0.0) + time.perf_counter() - start


def write(folder: Path, results: dict[str, Any]) -> None:
    """results.json and the page made of it."""
    write_atomically(folder / "results.json", json.dumps(results, indent=1).encode())
    write_report(folder)


def device() -> str:
    """The device that JAX runs on."""
    devices = jax.local_devices()
    return f"{len(devices)} × {devices[0].device_kind}, {platform.machine()} {platform.system()}"


def versions() -> dict[str, str]:
    """Python's and the main libraries'."""
    names = ("scoresde", "jax", "flax", "optax", "diffrax", "orbax-checkpoint", "numpy")
    return {"python": platform.python_version()} | {name: importlib.metadata.version(name) for name in names}


def _is_finished(folder: Path, settings: Digits) -> bool:
    try:
        finished = json.loads((folder / "results.json").read_text()).get("status") == "finished"
        return finished and load_yaml(folder / "config.yaml") == to_dict(settings)
    except (OSError, ValueError):
        return False
