"""`scoresde likelihood`: log-likelihoods of a set of examples under a run's model.

The mean's standard error is split into its sources, see likelihood/error_split.py; for what labels
say, see likelihood/label_information.py.
"""

from __future__ import annotations

import dataclasses
import math
import time
from functools import partial
from pathlib import Path
from typing import Any, ClassVar, Literal

import jax
import numpy as np

from scoresde import checks
from scoresde.cli.bound import BoundSettings, bound_of_run
from scoresde.cli.label_information import given_each_label, given_own_label, label_summary
from scoresde.cli.place import kept_in, writing_to
from scoresde.cli.results import (
    described,
    digest_of_tree,
    identity_of,
    keep,
    results_folder,
    rows_of_label,
    rows_path,
    weights_and_version,
)
from scoresde.cli.with_model import ModelCommand, in_python, takes_more_than_a_label
from scoresde.data.dequantization import UniformDequantization
from scoresde.data.prepare import BinCentres
from scoresde.likelihood.dataset import Dequantization, SetLikelihood, likelihood_of_set
from scoresde.likelihood.divergence import AnyDivergence, ExactDivergence, Hutchinson
from scoresde.likelihood.error_split import split_error
from scoresde.likelihood.truncated_normal import TruncatedNormalDequantization
from scoresde.reading import map_npy
from scoresde.runs.folder import HELD_OUT
from scoresde.runs.settings import to_dict
from scoresde.train.load import Trained
from scoresde.types import Cond

ELSEWHERE = "name another folder for the results, --out FOLDER."


@dataclasses.dataclass(frozen=True)
class LikelihoodCommand(ModelCommand):
    """Compute log-likelihoods, in nats and bits/dim; the same command resumes in RUN/likelihood."""

    num: int | None = None
    """Number of examples, from the first; all if not given."""
    split: Literal["test"] = "test"
    """Examples to evaluate: those that the run held out."""
    data: str | None = None
    """Evaluate this .npy file instead: examples as for training."""
    out: str | None = None
    """Folder for the results, instead of RUN/likelihood."""
    bound: bool = False
    """The variational bound and its terms instead."""
    times: int = 100
    """Times per example at which --bound is evaluated."""
    steps: int | None = None
    """T, for the bound in steps; else in continuous time."""
    dequantization: Literal["uniform", "truncated-normal"] | None = None
    """Noise added to integers, if not what training asks for."""
    repeats: int = 1
    """Draws per example of noise and probes; 2 split the error."""
    probes: int = 1
    """Rademacher probes per example that estimate the divergence."""
    exact: bool = False
    """Divergence without probes: slow if data are large."""
    label_information: bool = False
    """Also the bits that a label tells; K classes cost K times."""
    tolerance: float = 1e-4
    """Relative and absolute tolerance of each solver step."""
    t_min: float = 1e-5
    """Time, close to 0, at which the data enter the solver."""

    unlisted = ("split",)
    """Options that --help leaves out, so that it fits a screen: this one has a single choice."""

    in_processes: ClassVar[bool] = True

    def __post_init__(self):
        super().__post_init__()
        checks.count("probes", self.probes)
        checks.count("repeats", self.repeats)
        checks.setting("tolerance", self.tolerance, "(0, 1)")
        checks.setting("t_min", self.t_min, "[0, 1)")
        if self.exact and self.probes != 1:
            raise ValueError("--exact uses no probes: leave out --exact or --probes.")
        checks.count("times", self.times, 2)
        if self.steps is not None:
            checks.count("steps", self.steps)
        self._check_bound()

    def _check_bound(self) -> None:
        """Refuses options of the likelihood beside --bound, and of the bound without it."""
        defaults = {field.name: field.default for field in dataclasses.fields(self)}
        of_likelihood = (
            "probes",
            "exact",
            "repeats",
            "tolerance",
            "dequantization",
            "label_information",
        )
        names = of_likelihood if self.bound else ("times", "steps")
        given = [name for name in names if getattr(self, name) != defaults[name]]
        if given:
            option = f"--{given[0].replace('_', '-')}"
            kind, line = ("likelihood", "leave out") if self.bound else ("bound", "add")
            raise ValueError(f"{option} is of the {kind}: leave it out, or {line} --bound.")

    def __call__(self) -> dict[str, Any]:
        """Evaluates the examples and returns what `scoresde likelihood` prints."""
        trained = self.open()
        self._check_label_information(trained)
        path = Path(self.data).expanduser() if self.data else trained.path / HELD_OUT
        x, cond = self._examples(trained, path)
        if self.bound:
            return self._of_bound(trained, path, x, cond)

        dequantization = self._dequantization(trained)
        divergence = ExactDivergence() if self.exact else Hutchinson(num_probes=self.probes)

        about = {
            **self.about(trained),
            "data": str(path),
            "examples": len(x),
            "repeats": self.repeats,
            "shape": list(trained.shape),
            **self._described(dequantization, divergence),
            **weights_and_version(trained),
        }
        content = digest_of_tree((x, cond))
        identity = identity_of(about, content=content, label=self.label)
        if self.label_information:
            identity["label_information"] = True
        folder = results_folder(trained, self.out)
        rows = rows_path(folder, identity)

        start = time.perf_counter()
        solve = partial(
            likelihood_of_set,
            jax.random.key(self.seed),
            trained.model.sde,
            trained.model,
            x,
            dequantization=dequantization,
            divergence=divergence,
            tolerance=self.tolerance,
            t_min=self.t_min,
            repeats=self.repeats,
            batch_size=self.batch_size,
        )
        of_labels: dict[str, Any] = {}
        with writing_to(folder, ELSEWHERE), kept_in(folder):
            if self.label_information:
                label = np.asarray(cond)
                given = given_each_label(solve, label, trained.model.num_classes, rows, identity)
                out = given_own_label(given, label)
                of_labels = label_summary(given, label)
            else:
                out = solve(cond, path=rows, about=identity)

        found = {
            **about,
            **self._summary(out, math.prod(trained.shape)),
            **of_labels,
            "rows": str(rows_of_label(rows, "*") if self.label_information else rows),
            "seconds": time.perf_counter() - start,
        }
        keep(found, content, rows)
        return found

    def _of_bound(self, trained: Trained, path: Path, x: np.ndarray, cond: Cond) -> dict[str, Any]:
        """Evaluates the bound of the examples, and returns what `scoresde likelihood` prints."""
        about = {**self.about(trained), "data": str(path), "examples": len(x)}
        settings = BoundSettings(self.times, self.steps, self.t_min, self.batch_size)
        key = jax.random.key(self.seed)
        folder = results_folder(trained, self.out)
        with writing_to(folder, ELSEWHERE), kept_in(folder):
            return bound_of_run(key, trained, x, cond, settings, about, self.label, folder)

    def _check_label_information(self, trained: Trained) -> None:
        """Refuses the information of labels where the network is not conditioned on one."""
        model = trained.model
        if not self.label_information or (model.num_classes and not takes_more_than_a_label(model)):
            return
        raise ValueError(
            f"--label-information compares the labels of a class-conditional network, which "
            f"{trained.path} did not train: leave it out."
        )

    def _described(
        self, dequantization: Dequantization | None, divergence: AnyDivergence
    ) -> dict[str, Any]:
        """Returns how the likelihoods are computed, as it is printed and stored."""
        known = dequantization is not None
        return {
            "dequantization": described(dequantization) if known else "none: real-valued data",
            "divergence": {"kind": type(divergence).__name__, **to_dict(divergence)},
            "t_min": self.t_min,
            "tolerance": self.tolerance,
        }

    def _summary(self, out: SetLikelihood, dim: int) -> dict[str, Any]:
        """Returns means over the examples that did not fail, their errors, and which failed.

        Raises:
            ValueError: if all examples failed.
        """
        examples = np.arange(len(out.nats))
        good = np.setdiff1d(examples, out.failed)
        if len(good) == 0:
            looser = min(0.5, 10 * self.tolerance)
            raise ValueError(f"all {len(examples)} likelihoods failed: try --tolerance {looser:g}.")

        nats = out.of(good)
        bits = nats.bits_per_dim(dim)
        dequantized = out.dequantization is not None
        nats_split = split_error(nats.nats, nats.stderr, dequantized)
        bits_split = split_error(bits.nats, bits.stderr, dequantized)
        return {
            "bits_per_dim": bits_split.mean,
            "bits_per_dim_stderr": bits_split.stderr,
            "error_split": {
                "examples": bits_split.examples,
                "dequantization": bits_split.dequantization,
                "probes": bits_split.probes,
            },
            "nats": nats_split.mean,
            "nats_stderr": nats_split.stderr,
            "failed": len(out.failed),
            "failed_examples": out.failed.tolist(),
            "evaluations": float(nats.nfe.mean()),
        }

    def _dequantization(self, trained: Trained) -> Dequantization | None:
        """Returns the dequantisation asked for, with the levels and the range used in training.

        Raises:
            ValueError: if truncated-normal is asked for, and the data are real-valued.
        """
        prepare = trained.prepare
        without_noise = isinstance(prepare, BinCentres)
        chosen = self.dequantization or ("truncated-normal" if without_noise else "uniform")
        if chosen == "uniform":
            bins = None if prepare is None else dataclasses.asdict(prepare)
            return None if bins is None else UniformDequantization(**bins)
        if prepare is None:
            raise ValueError(
                f"{trained.path} trained on real-valued data: there is nothing to dequantise. "
                f"Leave out --dequantization."
            )
        return TruncatedNormalDequantization(
            trained.model.sde,
            self.t_min,
            **dataclasses.asdict(prepare),
            standardization=trained.model.standardization,
        )

    # --- The examples ---

    def _examples(self, trained: Trained, path: Path) -> tuple[np.ndarray, Cond]:
        """Returns the first `num` examples (n, *data), as given to training, and their conditions.

        Raises:
            ValueError: if they cannot be read, or do not fit the model.
        """
        x, cond = self._read(trained, path)
        if not isinstance(x, np.ndarray) or x.shape[1:] != trained.shape or len(x) == 0:
            found = getattr(x, "shape", "several arrays")
            shape = ", ".join(map(str, trained.shape))
            raise ValueError(
                f"{path} holds {found}: wanted one array of shape (n, {shape}), n > 0."
            )
        x = np.array(x[: self.num])  # of a large file only these are read
        checks.numbers(x, str(path))
        self._check_labels(trained.model.num_classes, cond, path)

        if self.label is not None:
            cond = np.full(len(x), self.label)
        return x, jax.tree.map(lambda leaf: leaf[: self.num], cond)

    def _read(self, trained: Trained, path: Path) -> tuple[Any, Cond]:
        """Returns what the file at `path`, or the run's held-out file, holds.

        Raises:
            ValueError: if it cannot be read, or training prepared its data in Python.
        """
        custom = (trained.about.get("prepare") or {}).get("own")
        if custom:
            raise ValueError(
                f"{trained.path} prepared its data by {custom}, which its folder does not hold: "
                f"prepare them in Python and call sd.log_likelihood with "
                f"sd.load({str(trained.path)!r})."
            )

        found = (map_npy(path), None) if self.data else trained.held_out()
        if takes_more_than_a_label(trained.model) and (found is None or found[1] is None):
            call = "sd.log_likelihood(key, model.sde, model, x0, cond)"
            raise ValueError(
                f"{trained.path} is conditioned on {trained.model.conditions}, which {path} does "
                f"not hold: {in_python(trained.path, call)}"
            )
        if found is None:
            raise ValueError(
                f"{trained.path} keeps no {HELD_OUT} that can be used: name a file of examples, "
                f"--data FILE.npy."
            )
        return found

    def _check_labels(self, classes: int | None, cond: Cond, path: Path) -> None:
        """Refuses labels given twice, and examples without any for a class-conditional network."""
        if not classes:
            return
        if cond is None and self.label is None:
            raise ValueError(
                f"the network has {classes} classes, and the examples of {path} have no labels: "
                f"name their class, --label K."
            )
        if cond is not None and self.label is not None:
            raise ValueError(
                f"the examples of {path} have labels already: leave out --label {self.label}."
            )
