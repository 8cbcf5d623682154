"""The page of an `ImageTask`: its figures as tables, and as the lines printed last."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from image_experiment import ImageExperiment
from pipeline import Outcome

from scoresde.evaluation.comparison import Comparison

if TYPE_CHECKING:
    from image_task import ImageTask


def outcome(
    task: ImageTask,
    settings: ImageExperiment,
    figures: dict[str, float],
    comparisons: list[Comparison],
) -> Outcome:
    """Returns the figures of an evaluation as a page and a summary."""
    in_equal_numbers = distances_in_equal_numbers(task, comparisons)
    return Outcome(
        figures,
        headline(task, settings, figures, in_equal_numbers),
        [
            table_of_baselines(task, settings, figures),
            table_of_distances(f"held-out {task.noun}", comparisons),
            table_of_solvers(figures),
        ],
        summary(task, figures, in_equal_numbers),
    )


def distances_in_equal_numbers(task: ImageTask, comparisons: list[Comparison]) -> str:
    """Returns the Fréchet distances of as many samples as held-out images, as text."""
    for found in comparisons:
        if found.distance == "Fréchet distance" and found.features == task.classifier.name:
            return (
                f"{found.rows} each: samples {found.value:.2f} ± {found.stderr:.2f}, "
                f"real {found.floor:.2f} ± {found.floor_stderr:.2f}"
            )
    raise ValueError("comparisons lack the Fréchet distance on the features of the classifier.")


# --- Tables ---


def headline(
    task: ImageTask, settings: ImageExperiment, f: dict[str, float], in_equal_numbers: str
) -> list[list[str]]:
    """Returns the page's first table: the three figures of the model and their conditions."""
    levels = task.dequantize.levels
    return [
        [
            "bits/dim, held out",
            f"{f['bits_per_dim']:.3f} ± {f['bits_per_dim_stderr']:.3f}",
            f"{len(task.test)} {task.noun}; "
            f"{likelihood_conditions(settings, levels, task.dequantization_name)}; "
            f"± one standard error over {task.noun}",
        ],
        [
            "Fréchet distance",
            f"{f['fd']:.2f}",
            f"hidden features of a small classifier, {settings.num_samples} samples against "
            f"{len(task.real)} training {task.noun}; fewer read higher: {in_equal_numbers}",
        ],
        [
            "recognised",
            f"{100 * f['sure']:.0f} %",
            "samples of which that classifier is at least 95 % sure",
        ],
    ]


def likelihood_conditions(
    settings: ImageExperiment, levels: int, dequantization: str = "uniform"
) -> str:
    """Returns how bits/dim were computed, as text."""
    count = settings.likelihood_probes
    probes = "1 Rademacher probe" if count == 1 else f"{count} Rademacher probes"
    return (
        f"{dequantization} dequantisation of {levels} levels, {probes}, "
        f"t_min {settings.likelihood_t_min:.2g}, tolerance {settings.likelihood_tolerance:g}"
    )


def table_of_baselines(
    task: ImageTask, settings: ImageExperiment, f: dict[str, float]
) -> dict[str, Any]:
    """Returns the table of the model beside the fitted Gaussian and the held-out images."""
    model = [
        "this model",
        f"{f['bits_per_dim']:.3f}",
        f"{f['fd']:.2f}",
        f"{100 * f['sure']:.0f} %",
        settings.num_samples,
    ]
    gaussian = [
        "fitted Gaussian",
        f"{f['bits_per_dim_gaussian']:.3f}",
        f"{f['fd_gaussian']:.2f}",
        f"{100 * f['sure_gaussian']:.0f} %",
        settings.num_samples,
    ]
    real = [
        f"real held-out {task.noun}",
        "–",
        f"{f['fd_real']:.2f}",
        f"{100 * f['sure_real']:.0f} %",
        len(task.test),
    ]
    return {
        "title": "Against what is known",
        "rows": [model, gaussian, real],
        "columns": ["", "bits/dim", "Fréchet distance", "recognised", "examples"],
    }


def table_of_distances(held_out: str, comparisons: list[Comparison]) -> dict[str, Any]:
    """Returns the table of all distances; `held_out` names what the samples are compared with."""
    return {
        "title": f"Distances to the training set, samples and {held_out} in equal numbers",
        "columns": list(Comparison.COLUMNS),
        "rows": [found.row() for found in comparisons],
    }


def table_of_solvers(f: dict[str, float]) -> dict[str, Any]:
    """Returns the table of evaluations and failures."""
    return {
        "title": "Solver",
        "columns": ["", "evaluations per example", "failed examples"],
        "rows": [
            ["sampling", f["sampling_evaluations"], int(f["sampling_failures"])],
            ["likelihood", f["likelihood_evaluations"], int(f["likelihood_failures"])],
        ],
    }


def table_while_training(task: ImageTask, rows: list[dict[str, Any]]) -> dict[str, Any]:
    """Returns the table of the figures that were logged at every checkpoint."""
    names = ["step", "valid_loss", "bits_per_dim", "frechet_distance"]
    return {
        "title": f"While training: bits/dim of {task.watched} held-out {task.noun}, "
        f"distance of {task.draws} samples",
        "columns": ["step", "held-out loss", "bits/dim", "Fréchet distance"],
        "rows": [[row[name] for name in names] for row in rows],
    }


# --- Summary ---


def summary(task: ImageTask, f: dict[str, float], in_equal_numbers: str) -> list[str]:
    """Returns the lines printed last."""
    bits = f"{f['bits_per_dim']:.3f} ± {f['bits_per_dim_stderr']:.3f}"
    recognised = f"{100 * f['sure']:.0f} %"
    recognised_gaussian = f"{100 * f['sure_gaussian']:.0f} %"
    recognised_real = f"{100 * f['sure_real']:.0f} %"
    return [
        f"bits/dim on held-out {task.noun}  {bits}   "
        f"(fitted Gaussian {f['bits_per_dim_gaussian']:.2f})",
        f"Fréchet distance             {f['fd']:.2f}            "
        f"(fitted Gaussian {f['fd_gaussian']:.2f}; {in_equal_numbers})",
        f"recognised with 95 %         {recognised}            "
        f"(fitted Gaussian {recognised_gaussian}, real {task.noun} {recognised_real})",
    ]
