"""`scoresde likelihood`: log-likelihoods of a set under a run's model, their error split into its sources."""

from __future__ import annotations

import dataclasses
import json
import math
import time
import zipfile
import zlib
from pathlib import Path
from typing import Any, Literal

import jax
import numpy as np

from scoresde import checks
from scoresde.cli.with_model import OfModel
from scoresde.data.source import digest
from scoresde.likelihood.dataset import Dequantization, likelihood_of_set
from scoresde.likelihood.divergence import ExactDivergence, Hutchinson
from scoresde.likelihood.error_split import split_error
from scoresde.likelihood.truncated_normal import TruncatedNormalDequantization
from scoresde.runs.folder import HELD_OUT
from scoresde.runs.settings import to_dict
from scoresde.train.load import Trained
from scoresde.train.state import Skeleton
from scoresde.types import Cond


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
        checks.count("probes", self.probes)
        checks.count("repeats", self.repeats)
        checks.setting("tolerance", self.tolerance, "(0, 1)")
        checks.setting("t_min", self.t_min, "[0, 1)")
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
        held = {
            **about,
            "content": digest(*map(np.asarray, jax.tree.leaves((x, cond)))),
            "label": self.label,
        }
        name = digest(json.dumps(held, sort_keys=True).encode())
        rows, start = trained.path / "likelihood" / f"{name}.jsonl", time.perf_counter()
        out = likelihood_of_set(
            jax.random.key(self.seed),
            sde,
            trained.model,
            x,
            cond,
            dequantization=dequantization,
            path=rows,
            about=held,
            divergence=divergence,
            tolerance=self.tolerance,
            t_min=self.t_min,
            repeats=self.repeats,
            batch_size=self.batch_size,
        )
        failed = out.failed
        if len(failed) == len(x):
            raise ValueError(
                f"all {len(x)} likelihoods failed: try --tolerance {min(0.5, 10 * self.tolerance):g}."
            )
        good = np.setdiff1d(np.arange(len(x)), failed)
        bits = out.bits_per_dim(math.prod(trained.shape))
        nats, split = (
            split_error(of.nats[good], of.stderr[good], dequantization is not None)
            for of in (out, bits)
        )
        return about | {
            "bits_per_dim": split.mean,
            "bits_per_dim_stderr": split.stderr,
            "error_split": {
                name: getattr(split, name) for name in ("examples", "dequantization", "probes")
            },
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
            raise ValueError(
                f"{trained.path} trained on real-valued data: there is nothing to dequantise."
            )
        return TruncatedNormalDequantization(
            trained.model.sde, self.t_min, **dataclasses.asdict(prepare)
        )

    def _examples(self, trained: Trained, path: Path) -> tuple[np.ndarray, Cond]:
        """Examples as training took them, and their conditions."""
        if own := (trained.about.get("prepare") or {}).get("own"):
            raise ValueError(
                f"{trained.path} prepared its data by {own}, which its folder does not hold: prepare them "
                f"in Python and call sd.log_likelihood with sd.load({str(trained.path)!r})."
            )
        try:
            found = (np.load(path, allow_pickle=False), None) if self.data else trained.held_out()
        except (ValueError, EOFError, zipfile.BadZipFile, zlib.error) as error:
            raise ValueError(f"{path} is not an array that NumPy can read: {error}") from error
        if found is None:
            raise ValueError(
                f"{trained.path} keeps no {HELD_OUT} that can be used: name examples by --data FILE.npy."
            )
        x, cond = found
        if not isinstance(x, np.ndarray) or x.shape[1:] != trained.shape or len(x) == 0:
            raise ValueError(
                f"{path} holds {getattr(x, 'shape', 'several arrays')}: wanted one array of shape "
                f"(n, {', '.join(map(str, trained.shape))}), n > 0."
            )
        checks.numbers(x, str(path))
        if (classes := trained.model.num_classes) and (cond is None) == (self.label is None):
            have = (
                "no labels: name their class" if cond is None else "labels of their own: leave out"
            )
            raise ValueError(
                f"the network has {classes} classes, and the examples of {path} have {have}, --label K."
            )
        cond = cond if self.label is None else np.full(len(x), self.label)
        return x[: self.num], jax.tree.map(lambda leaf: leaf[: self.num], cond)
