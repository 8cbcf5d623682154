"""`scoresde likelihood`: log-likelihoods of a set of examples under a run's model.

The mean's standard error is split into its sources, see likelihood/error_split.py; for what labels
say, see likelihood/label_information.py.
"""

from __future__ import annotations

import dataclasses
import json
import math
import time
import zipfile
import zlib
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any, Literal

import jax
import numpy as np

from scoresde import checks
from scoresde.cli.bound import beside_exact, bound_summary
from scoresde.cli.output import as_json
from scoresde.cli.with_model import ModelCommand, in_python, takes_more_than_a_label
from scoresde.data.dequantization import UniformDequantization
from scoresde.data.prepare import BinCentres
from scoresde.data.source import digest
from scoresde.likelihood.dataset import Dequantization, SetLikelihood, likelihood_of_set
from scoresde.likelihood.divergence import AnyDivergence, ExactDivergence, Hutchinson
from scoresde.likelihood.error_split import split_error
from scoresde.likelihood.label_information import LabelInformation
from scoresde.likelihood.set_bound import bound_of_set
from scoresde.likelihood.truncated_normal import TruncatedNormalDequantization
from scoresde.runs.files import write_atomically
from scoresde.runs.folder import HELD_OUT
from scoresde.runs.settings import to_dict
from scoresde.train.load import Trained
from scoresde.train.state import Skeleton
from scoresde.types import Cond


@dataclasses.dataclass(frozen=True)
class LikelihoodCommand(ModelCommand):
    """Compute log-likelihoods, in nats and bits/dim; the same command resumes in RUN/likelihood."""

    num: int | None = None
    """Number of examples, from the first; all if not given."""
    split: Literal["test"] = "test"
    """Examples to evaluate: those that the run held out."""
    data: str | None = None
    """Evaluate this .npy file instead: examples as for training."""
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

        # The order of the entries is stored too: another one would not match earlier files.
        about = {
            **self.about(trained),
            "data": str(path),
            "examples": len(x),
            "repeats": self.repeats,
            "shape": list(trained.shape),
            **self._described(dequantization, divergence),
            **_weights_and_version(trained),
        }
        content = _digest_of_tree((x, cond))
        identity = about | {"content": content, "label": self.label}
        if self.label_information:
            identity["label_information"] = True
        rows = _rows_path(trained, identity)

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
        if self.label_information:
            label = np.asarray(cond)
            given = _given_each_label(solve, label, trained.model.num_classes, rows, identity)
            out = _given_own_label(given, label)
            of_labels = _label_summary(given, label)
        else:
            out = solve(cond, path=rows, about=identity)

        found = {
            **about,
            **self._summary(out, math.prod(trained.shape)),
            **of_labels,
            "rows": str(_rows_of_label(rows, "*") if self.label_information else rows),
            "seconds": time.perf_counter() - start,
        }
        _keep(found, content, rows)
        return found

    def _of_bound(self, trained: Trained, path: Path, x: np.ndarray, cond: Cond) -> dict[str, Any]:
        """Evaluates the bound of the examples, and returns what `scoresde likelihood` prints."""
        prepare = trained.prepare
        if self.steps is not None and not isinstance(prepare, BinCentres):
            raise ValueError(
                f"--steps is for networks of integers at the centres of their bins, which "
                f"{trained.path} is not: leave it out, for the bound in continuous time."
            )
        t_min = 0.0 if trained.model.sde.noisy_at_zero else self.t_min
        about = {
            **self.about(trained),
            "data": str(path),
            "examples": len(x),
            "shape": list(trained.shape),
            "bound": True,
            "times": self.times,
            "steps": self.steps,
            "t_min": t_min,
            "prepare": "none: real-valued data" if prepare is None else _described(prepare),
            **_weights_and_version(trained),
        }
        content = _digest_of_tree((x, cond))
        rows = _rows_path(trained, about | {"content": content, "label": self.label})

        start = time.perf_counter()
        out = bound_of_set(
            jax.random.key(self.seed),
            trained.model,
            x,
            cond,
            prepare=prepare,
            path=rows,
            about=about | {"content": content, "label": self.label},
            num_steps=self.steps,
            num_draws=self.times,
            t_min=t_min,
            batch_size=self.batch_size,
        )
        dim = math.prod(trained.shape)
        found = {
            **about,
            **bound_summary(out, dim, prepare is not None),
        }
        if prepare is not None:
            found |= beside_exact(found | {"content": content}, out, rows.parent, dim)
        found |= {"rows": str(rows), "seconds": time.perf_counter() - start}
        _keep(found, content, rows)
        return found

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
            "dequantization": _described(dequantization) if known else "none: real-valued data",
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
        checks.numbers(x, str(path))
        self._check_labels(trained.model.num_classes, cond, path)

        if self.label is not None:
            cond = np.full(len(x), self.label)
        return x[: self.num], jax.tree.map(lambda leaf: leaf[: self.num], cond)

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

        try:
            found = (np.load(path, allow_pickle=False), None) if self.data else trained.held_out()
        except (ValueError, EOFError, zipfile.BadZipFile, zlib.error) as error:
            raise ValueError(f"{path} is not an array that NumPy can read: {error}") from error
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


# --- The information of labels ---


def _given_each_label(
    solve: Callable[..., SetLikelihood],
    label: np.ndarray,
    classes: int,
    rows: Path,
    identity: dict[str, Any],
) -> list[SetLikelihood]:
    """Returns the likelihoods of the examples given label 0, 1, …, each from a file of its own.

    The draws of example i depend on (seed, repeat, i) alone, so that one draw of the dequantisation
    and of the probes serves all labels.
    """
    return [
        solve(
            np.full(len(label), y, np.int32),
            path=_rows_of_label(rows, y),
            about=identity | {"given": y},
        )
        for y in range(classes)
    ]


def _given_own_label(given: list[SetLikelihood], label: np.ndarray) -> SetLikelihood:
    """Returns the likelihood of each example given its own label."""
    examples = np.arange(len(label))

    def own(tables: list[Any]) -> np.ndarray:
        return np.stack(tables)[label, examples]

    has_stderr = all(one.stderr is not None for one in given)
    return dataclasses.replace(
        given[0],
        nats=own([one.nats for one in given]),
        stderr=own([one.stderr for one in given]) if has_stderr else None,
        nfe=own([one.nfe for one in given]),
    )


def _label_summary(given: list[SetLikelihood], label: np.ndarray) -> dict[str, Any]:
    """Returns the mean information of a label in bits, with its error, and the accuracy.

    log p given a label is the mean over repeats, and all labels are equally likely beforehand.
    """
    log_prob = np.stack([one.nats.mean(axis=1) for one in given], axis=1)
    prior = np.full(len(given), 1.0 / len(given))
    found = LabelInformation(log_prob, label, prior)
    return {
        "classes": len(given),
        "label_bits": found.mean,
        "label_bits_stderr": found.stderr,
        "label_accuracy": found.accuracy,
        "label_failed": len(found.failed),
    }


# --- What identifies the results of earlier calls ---


def _described(bins: Any) -> dict[str, Any]:
    """Returns how integers became real numbers, as it is printed and stored."""
    kind = type(bins).__name__
    return {"kind": kind, "levels": bins.levels, "low": bins.low, "high": bins.high}


def _keep(found: dict[str, Any], content: str, rows: Path) -> None:
    """Writes what the command prints beside its rows, for the run's page."""
    text = as_json(found | {"content": content})
    write_atomically(rows.with_suffix(".json"), text.encode())


def _rows_path(trained: Trained, identity: dict[str, Any]) -> Path:
    """Returns the file for the results, named by everything that they depend on."""
    name = digest(json.dumps(identity, sort_keys=True).encode())
    return trained.path / "likelihood" / f"{name}.jsonl"


def _rows_of_label(rows: Path, label: int | str) -> Path:
    """Returns the file for the results given a label; "*" is the pattern of all of them."""
    return rows.with_name(f"{rows.stem}_label={label}{rows.suffix}")


def _weights_and_version(trained: Trained) -> dict[str, str]:
    """Returns a digest of the model's weights, and the version of scoresde."""
    from scoresde import __version__

    _, params, constants = Skeleton.split(trained.model)
    described = {"weights": _digest_of_tree((params, constants)), "version": __version__}
    standardization = trained.model.standardization
    if standardization is not None:
        described["standardization"] = str(standardization)
    return described


def _digest_of_tree(tree: Any) -> str:
    """Returns a digest of the arrays in a tree."""
    return digest(*map(np.asarray, jax.tree.leaves(tree)))
