"""Methods for inverse problems side by side: how far the mean is off, how wide the samples are, and
whether they agree with what was measured.

Every image is measured once, and `draws` samples of it are drawn by every method. With 19 draws of
the posterior, the truth lies between the smallest and the largest of them in 18 of 20 cases: the
coverage of a 90 % interval, pixel by pixel.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from bookkeeping import Clock, Page, is_finished
from image_task import ImageTask

import scoresde as sd
from scoresde.inverse.linear_operator import LinearOperator
from scoresde.runs.folder import RunFolder
from scoresde.runs.pictures import save_picture
from scoresde.runs.restoration import UNKNOWN
from scoresde.runs.yaml_files import save_yaml


@dataclasses.dataclass(frozen=True)
class InverseStudy:
    """Settings of an experiment that compares methods."""

    name: str = "inverse"
    score: str = ""
    """The run of the score; empty: the one that the experiment names."""
    images: int = 20
    """Held-out images that are measured."""
    draws: int = 19
    """Samples of each; 19 make the interval of 90 %."""
    steps: tuple[int, ...] = (20, 100)
    """Steps of the sampler to compare."""
    particles: int = 64
    """Particles of the twisted SMC for each image, the reference."""
    noise_std: float = 0.1
    """Noise in what is measured, of pixels in [-1, 1]."""
    data_std: float = 0.6
    """Of the pixels, for PiGDM."""
    step_size: float = 0.5
    """Of the rule of DPS's paper, which does not ask for noise_std."""
    evaluation_batch: int = 380
    """Samples in a batch."""
    seed: int = 0
    """Decides the noise, and every draw."""
    runs: str = "runs"
    """The folder that holds the folders of runs."""


Sampled = tuple[np.ndarray, float]
"""Samples (images, draws, *data), and evaluations of the network for each of them."""


@dataclasses.dataclass(frozen=True)
class Found:
    """What is found of one method on one problem."""

    problem: str
    method: str
    steps: int
    evaluations: float
    """Of the network, for one sample."""
    error: float
    """Root mean squared error of the mean of an image's samples, over the hidden pixels."""
    misfit: float
    """Root mean squared y - A(x), over noise_std: 1 for draws of the posterior."""
    coverage: float
    """Share of hidden pixels between the smallest and the largest of the samples."""
    stderr: float
    """The standard error of the coverage over images."""
    accuracy: float
    """Share of samples that the classifier finds to be of their image's class."""
    seconds: float


def run(
    settings: InverseStudy,
    task: ImageTask,
    labels: np.ndarray,
    score: sd.ScoreModel,
    problems: Mapping[str, LinearOperator],
) -> int:
    """Compares the methods on every problem, writes the page, and returns the exit code.

    labels: the classes of the held-out images of the task.
    """
    folder = Path(settings.runs).expanduser() / settings.name
    if is_finished(folder, settings):
        print(f"{folder} is finished: {folder / 'report.html'} shows it.")
        return 0
    with RunFolder(folder):  # whose only writer this process is
        return _compare(settings, task, labels, score, problems, folder)


def _compare(
    settings: InverseStudy,
    task: ImageTask,
    labels: np.ndarray,
    score: sd.ScoreModel,
    problems: Mapping[str, LinearOperator],
    folder: Path,
) -> int:
    """Does the work of `run`, in a folder that this process holds."""
    (folder / "figures").mkdir(exist_ok=True)
    clock = Clock()
    page = Page(folder, 0, clock)
    save_yaml(settings, folder / "config.yaml")

    key_truth, key_draw = jax.random.split(jax.random.key(settings.seed))
    x = np.asarray(task.dequantize(key_truth, jnp.asarray(task.test[: settings.images])))
    found: list[Found] = []
    pictures: dict[str, dict[str, np.ndarray]] = {}
    for problem, operator in problems.items():
        y = measure(operator, x, settings)
        known = np.asarray(operator.observed(jnp.ones_like(y)))[0] > 0.0
        shown = {"truth": x[0], "given": np.where(known, y[0], np.nan)}
        for method, steps, draw in methods(settings, score, operator, y, key_draw):
            name = f"{problem}, {method}, {steps} steps"
            print(name, flush=True)
            before = clock.seconds.get(name, 0.0)
            with clock(name):
                samples, evaluations = draw()
            seconds = clock.seconds[name] - before
            row = judge(task, operator, problem, method, steps, x, y, samples, labels, settings)
            row = dataclasses.replace(row, evaluations=evaluations, seconds=seconds)
            found.append(row)
            if steps == max(settings.steps):
                shown[method] = samples[0, 0]
            page.write(status="running", tables=tables(found), figures={})
        pictures[problem] = shown

    plot(pictures, folder / "figures" / "one sample by every method.png", task)
    best = {problem: _named(found, problem, "MMPS", max(settings.steps)) for problem in problems}
    page.write(
        status="finished",
        figures=_figures(found),
        headline=[
            [
                f"coverage, {problem}",
                f"{100 * row.coverage:.0f} ± {100 * row.stderr:.0f} %",
                f"of 90 % intervals by MMPS; misfit {row.misfit:.2f} of 1",
            ]
            for problem, row in best.items()
        ],
        tables=tables(found),
    )
    print(as_text(found))
    print(f"look at {folder / 'report.html'}")
    return 0


def measure(operator: LinearOperator, x: np.ndarray, settings: InverseStudy) -> jax.Array:
    """Returns y = A(x) + noise of each image."""
    measured = operator(x)
    noise = np.random.default_rng(settings.seed).normal(size=measured.shape)
    return operator.observed(measured + settings.noise_std * jnp.asarray(noise, jnp.float32))


def methods(
    settings: InverseStudy,
    score: sd.ScoreModel,
    operator: LinearOperator,
    y: jax.Array,
    key: jax.Array,
) -> list[tuple[str, int, Callable[[], Sampled]]]:
    """Returns the methods: their names, the steps of the sampler, and what draws samples."""
    sde = score.sde
    shape = (settings.images * settings.draws, *score_shape(operator, y))
    rows = jnp.repeat(y, settings.draws, axis=0)
    arguments = (score, sde, operator, rows, settings.noise_std)
    posteriors = {
        "MMPS": sd.inverse.MMPS(*arguments, iterations=3),
        "PiGDM": sd.inverse.PiGDM(*arguments, data_std=settings.data_std),
        "DPS": sd.inverse.DPS(*arguments),
    }

    def draw(sampler: Any, of: Any) -> Sampled:
        out = sd.sample(
            key, sampler, sde, of, shape, batch_size=settings.evaluation_batch, progress=True
        )
        samples = np.asarray(out.x).reshape(settings.images, settings.draws, *shape[1:])
        return samples, float(np.mean(out.nfe))

    def particles(steps: int) -> Sampled:
        posterior = sd.inverse.PiGDM(
            score, sde, operator, y, settings.noise_std, data_std=settings.data_std
        )
        out = sd.inverse.twisted_smc(
            key,
            posterior,
            (settings.images, *shape[1:]),
            settings.particles,
            num_steps=steps,
            batch_size=max(1, settings.evaluation_batch // settings.particles),
            progress=True,
        )
        smallest = np.mean(np.min(out.ess, axis=1))
        print(f"smallest effective sample size {smallest:.1f} of {settings.particles}")
        evaluations = settings.particles * (steps + 1) / settings.draws
        return np.asarray(out.sample(jax.random.key(1), settings.draws)), evaluations

    listed: list[tuple[str, int, Callable[[], Sampled]]] = []
    for steps in settings.steps:
        grid = sd.grids.UniformLogSNR()
        sampler = sd.DDIM(num_steps=steps, eta=1.0, grid=grid)
        for name, posterior in posteriors.items():
            listed.append((name, steps, lambda s=sampler, p=posterior: draw(s, p)))
        steps_to_y = sd.inverse.GradientSteps(sampler, operator, rows, size=settings.step_size)
        listed.append(("DPS, its paper's rule", steps, lambda r=steps_to_y: draw(r, score)))
        if not operator.ill_posed:
            once = sd.inverse.Replacement(sampler, operator, rows)
            again = sd.inverse.Replacement(sampler, operator, rows, resamplings=5)
            listed.append(("replacement", steps, lambda r=once: draw(r, score)))
            listed.append(("RePaint, 5 times", steps, lambda r=again: draw(r, score)))
    steps = max(settings.steps)
    listed.append((f"SMC, {settings.particles} particles", steps, lambda: particles(steps)))
    return listed


def score_shape(operator: LinearOperator, y: jax.Array) -> tuple[int, ...]:
    """Returns the shape of an image from that of what was measured of it."""
    factor = operator.factor if isinstance(operator, sd.inverse.Downsample) else 1
    height, width, channels = y.shape[1:]
    return height * factor, width * factor, channels


def judge(
    task: ImageTask,
    operator: LinearOperator,
    problem: str,
    method: str,
    steps: int,
    x: np.ndarray,
    y: jax.Array,
    samples: np.ndarray,
    labels: np.ndarray,
    settings: InverseStudy,
) -> Found:
    """Returns what is found of samples (images, draws, *data) of images x."""
    hidden = np.ones(x.shape, bool)
    if isinstance(operator, sd.inverse.Mask):
        hidden = np.asarray(operator(np.ones_like(x))) == 0.0
    square = ((samples.mean(axis=1) - x) ** 2)[hidden]

    flat = samples.reshape(-1, *x.shape[1:])
    repeated = jnp.repeat(y, samples.shape[1], axis=0)
    misfit = np.asarray(operator.misfit(flat, repeated))

    inside = (samples.min(axis=1) <= x) & (x <= samples.max(axis=1))
    shares = np.array([row[own].mean() for row, own in zip(inside, hidden, strict=True)])
    classes = task.classifier.predict(np.nan_to_num(flat))
    right = classes == np.repeat(labels[: len(x)], samples.shape[1])
    return Found(
        problem=problem,
        method=method,
        steps=steps,
        evaluations=0.0,
        error=float(np.sqrt(square.mean())),
        misfit=float(np.sqrt(np.mean(misfit**2)) / settings.noise_std),
        coverage=float(shares.mean()),
        stderr=float(shares.std(ddof=1) / np.sqrt(len(shares))),
        accuracy=float(right.mean()),
        seconds=0.0,
    )


# --- What people look at ---


def tables(found: list[Found]) -> list[dict[str, Any]]:
    """Returns the page's tables, one per problem."""
    columns = ["method", "steps", "evaluations", "error of the mean", "misfit / noise"]
    columns += ["coverage of 90 %", "of its class", "seconds"]
    problems = list(dict.fromkeys(row.problem for row in found))
    return [
        {
            "title": problem,
            "columns": columns,
            "rows": [_cells(row) for row in found if row.problem == problem],
        }
        for problem in problems
    ]


def _cells(row: Found) -> list[str]:
    return [
        row.method,
        f"{row.steps}",
        f"{row.evaluations:.0f}",
        f"{row.error:.3f}",
        f"{row.misfit:.2f}",
        f"{100 * row.coverage:.0f} ± {100 * row.stderr:.0f} %",
        f"{100 * row.accuracy:.0f} %",
        f"{row.seconds:.0f}",
    ]


def as_text(found: list[Found]) -> str:
    """Returns the tables as lines of Markdown."""
    lines = []
    for table in tables(found):
        lines += ["", f"**{table['title']}**", "", "| " + " | ".join(table["columns"]) + " |"]
        lines += ["|" + "---|" * len(table["columns"])]
        lines += ["| " + " | ".join(row) + " |" for row in table["rows"]]
    return "\n".join(lines)


def _named(found: list[Found], problem: str, method: str, steps: int) -> Found:
    wanted = (problem, method, steps)
    return next(row for row in found if (row.problem, row.method, row.steps) == wanted)


def _figures(found: list[Found]) -> dict[str, float]:
    figures = {}
    for row in found:
        name = f"{row.problem}, {row.method}, {row.steps} steps"
        for field in ("error", "misfit", "coverage", "stderr", "accuracy"):
            figures[f"{name}: {field}"] = getattr(row, field)
    return figures


def plot(pictures: dict[str, dict[str, np.ndarray]], path: Path, task: ImageTask) -> None:
    """Draws the first image: what was given of it, pink where nothing was, and one sample by every
    method, a problem a row."""
    from matplotlib.figure import Figure

    columns = list(dict.fromkeys(name for shown in pictures.values() for name in shown))
    rows = len(pictures)
    fig = Figure(figsize=(1.25 * len(columns), 1.4 * rows + 0.3), dpi=160, layout="constrained")
    axes = fig.subplots(rows, len(columns), squeeze=False)
    for i, (problem, shown) in enumerate(pictures.items()):
        for ax, name in zip(axes[i], columns, strict=True):
            ax.set(xticks=[], yticks=[])
            if name not in shown:
                ax.set_axis_off()
                continue
            low, high = task.dequantize.low, task.dequantize.high
            unit = np.clip((shown[name] - low) / (high - low), 0.0, 1.0)
            ax.imshow(np.where(np.isnan(unit), UNKNOWN, unit), interpolation="nearest")
        axes[i, 0].set_ylabel(problem, fontsize=8.0)
    for ax, name in zip(axes[0], columns, strict=True):
        ax.set_title(name, fontsize=7.5)
    save_picture(fig.savefig, path)
