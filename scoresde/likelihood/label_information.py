"""What examples say of their labels: the likelihoods of a conditional model, as a classifier.

    p(x) = Σ_y p(y) p(x | y)                                            (Eq. 1)
    p(y | x) = p(y) p(x | y) / p(x)                                     (Eq. 2)
    information of the label y of x = log2 p(x | y) - log2 p(x)         (Eq. 3)
    predicted label = argmax_y p(y) p(x | y)                            (Eq. 4)

Eq. 3 is log2 of p(y | x) / p(y), so at most -log2 p(y), which is log2 K for K equally likely
classes. Its mean over data with labels drawn from p(y) is, in expectation, at most the mutual
information of examples and labels, which it is for the exact p(x | y) (Barber & Agakov 2003).
Eq. 4 is the score-based generative classifier of Zimmermann et al. 2021 (arXiv:2110.00473).

All labels of an example share its probes of the divergence, so that in differences of log p(x | y)
most of their noise cancels. What is left lowers Eq. 3 on average, since log p(x) is convex in the
log p(x | y): more probes lower it less, the exact divergence not at all.
"""

from __future__ import annotations

import dataclasses
import math
import warnings
from typing import Any

import jax.numpy as jnp
import numpy as np
from jax import Array
from jaxtyping import Bool, Float, Int

from scoresde import checks
from scoresde.likelihood.exact import log_likelihood
from scoresde.sde.base import SDE
from scoresde.types import Key, ScoreFn


@dataclasses.dataclass(frozen=True)
class LabelInformation:
    """log p(x | y) of every example and label, and what follows from it.

    An example of which a solve failed is NaN, its success False, and it is left out of the means.
    """

    log_prob: Float[np.ndarray, "n classes"]
    """log p(x | y), nats; NaN where the solve failed."""
    label: Int[np.ndarray, " n"]
    """The label of each example, 0 … K - 1."""
    prior: Float[np.ndarray, " classes"]
    """p(y), which sums to 1."""

    @property
    def success(self) -> Bool[np.ndarray, " n"]:
        """Whether the solves of all labels succeeded."""
        return np.all(np.isfinite(self.log_prob), axis=1)

    @property
    def failed(self) -> Int[np.ndarray, " failed"]:
        """The examples that did not succeed, to be counted and named."""
        return np.flatnonzero(~self.success)

    @property
    def posterior(self) -> Float[np.ndarray, "n classes"]:
        """p(y | x) (Eq. 2)."""
        return np.exp(self._log_joint - self._log_evidence[:, None])

    @property
    def bits(self) -> Float[np.ndarray, " n"]:
        """The information of each example's own label, bits (Eq. 3)."""
        own = self.log_prob[np.arange(len(self.label)), self.label]
        return (own - self._log_evidence) / math.log(2.0)

    @property
    def predicted(self) -> Int[np.ndarray, " n"]:
        """The likeliest label of each example (Eq. 4); -1 where a solve failed."""
        return np.where(self.success, np.argmax(self._log_joint, axis=1), -1)

    @property
    def accuracy(self) -> float:
        """The share of examples whose own label is the predicted one."""
        right = (self.predicted == self.label)[self.success]
        return float(np.mean(right)) if len(right) else math.nan

    @property
    def mean(self) -> float:
        """The mean of `bits`."""
        bits = self.bits[self.success]
        return float(np.mean(bits)) if len(bits) else math.nan

    @property
    def stderr(self) -> float:
        """The standard error of `mean` over examples; NaN for a single one."""
        bits = self.bits[self.success]
        return float(np.std(bits, ddof=1)) / math.sqrt(len(bits)) if len(bits) > 1 else math.nan

    @property
    def _log_joint(self) -> np.ndarray:
        """log p(y) p(x | y), NaN throughout a row with a failed solve."""
        log_joint = np.log(self.prior) + self.log_prob
        return np.where(self.success[:, None], log_joint, np.nan)

    @property
    def _log_evidence(self) -> np.ndarray:
        """log p(x) (Eq. 1)."""
        highest = np.max(self._log_joint, axis=1)
        shares = np.exp(self._log_joint - highest[:, None])
        return highest + np.log(np.sum(shares, axis=1))


def label_information(
    key: Key,
    sde: SDE,
    score: ScoreFn,
    x0: Float[Array | np.ndarray, " batch *data"],
    label: Int[Array | np.ndarray, " batch"],
    num_classes: int | None = None,
    prior: Any = None,
    **options: Any,
) -> LabelInformation:
    """Returns log p(x0 | y) for every label y, the bits that each example's own label is worth, and
    the labels that a classifier by these likelihoods predicts.

    It takes K times the evaluations of `log_likelihood`. Example i's probes depend on (key, i)
    alone, and are the same for every label.

    x0: (batch, *data), in the data's own units. label: (batch,) whole numbers 0 … K - 1.
    score: called as score(x, t, label), with a label for each example.
    num_classes: K; by default that of the network, `score.num_classes`.
    prior: p(y), (K,) positive numbers, normalised here; by default all labels are equally likely.
    options: of `log_likelihood`, such as divergence, rtol, atol, t_min, float64, batch_size and
        progress. The bits err by at most twice the error of log p(x0 | y) in nats, over ln 2.

    Raises:
        ValueError: if the score has no label to be given, the number of classes is not known, a
            label is not one of them, or the prior is not K positive numbers; otherwise as
            `log_likelihood`.
        TypeError: as `log_likelihood`.
    """
    checks.batch(x0, "x0")
    classes = _number_of_classes(score, num_classes)
    own_label = _checked_label(label, x0.shape[0], classes)
    weights = _checked_prior(prior, classes)

    columns = []
    with warnings.catch_warnings():
        # One warning follows, of the examples of which any label failed.
        warnings.filterwarnings("ignore", ".* likelihoods did not reach")
        for y in range(classes):
            given = np.full(x0.shape[0], y, np.int32)
            out = log_likelihood(key, sde, score, x0, given, **options)
            columns.append(np.asarray(out.log_prob, np.float64))

    found = LabelInformation(np.stack(columns, axis=1), own_label, weights)
    checks.warn_of_failures(jnp.asarray(found.success), "examples", "t = 1 with every label")
    return found


# --- Checks ---


def _number_of_classes(score: Any, num_classes: int | None) -> int:
    """Returns K, as the network or the caller says."""
    conditions = getattr(score, "conditions", None)
    if conditions is not None and not conditions:
        raise ValueError(
            "the network is unconditional, so it has no likelihood given a label: build it with "
            "num_classes=... and train it on examples with labels."
        )
    if not getattr(score, "takes_cond", True):
        raise ValueError(
            "the score holds its condition already, by sd.conditioned(score, cond), and cannot be "
            "given other labels: pass the score without it."
        )

    own = getattr(score, "num_classes", None)
    if num_classes is None:
        if own is None:
            raise ValueError(
                f"{type(score).__name__} does not say how many classes there are: write "
                f"num_classes=K, for labels 0 … K - 1."
            )
        return own
    checks.count("num_classes", num_classes)
    if own is not None and own != num_classes:
        raise ValueError(
            f"num_classes = {num_classes}, but the network has {own} classes: leave it out."
        )
    return num_classes


def _checked_label(label: Any, batch: int, classes: int) -> np.ndarray:
    """Returns the labels as whole numbers, (batch,)."""
    checks.nothing_is_lost(label, "label")
    values = np.asarray(label)
    if values.shape != (batch,) or values.dtype.kind not in "iu":
        raise ValueError(
            f"label has dtype {values.dtype} and shape {values.shape} for {batch} examples: wanted "
            f"one whole number per example, ({batch},). For one-hot rows write "
            f"jnp.argmax(label, axis=-1)."
        )
    if batch and not 0 <= values.min() <= values.max() < classes:
        raise ValueError(
            f"label holds {values.min()} … {values.max()}: wanted labels 0 … {classes - 1}."
        )
    return values.astype(np.int64)


def _checked_prior(prior: Any, classes: int) -> np.ndarray:
    """Returns p(y), normalised, (classes,)."""
    if prior is None:
        return np.full(classes, 1.0 / classes)
    weights = np.asarray(prior, np.float64)
    if weights.shape != (classes,) or not np.all(np.isfinite(weights) & (weights > 0.0)):
        raise ValueError(
            f"prior is {prior}: wanted {classes} positive numbers, one per class, such as the "
            f"labels' frequencies in the training data, np.bincount(label) / len(label)."
        )
    return weights / weights.sum()
