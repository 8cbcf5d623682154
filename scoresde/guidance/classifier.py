"""Classifier guidance: a score pushed towards states that a classifier gives a label.

    s_w(x, t | y) = s(x, t) + w grad_x log p(y | x_t = x)                            (Eq. 1)
    noise_w       = noise - w sigma grad_x log p(y | x_t = x)
    D_w           = D + w (sigma^2 / alpha) grad_x log p(y | x_t = x)                (Eq. 2)

The three say the same, since s = -noise / sigma and D = (x + sigma^2 s) / alpha. With the exact
p(y | x_t), w = 1 samples p(x | y) by Bayes' rule. Dhariwal & Nichol 2021 (arXiv:2105.05233), Alg. 1
and 2; Song et al. 2021 (arXiv:2011.13456), Eq. 14.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array
from jaxtyping import Float

from scoresde.checks import is_concrete
from scoresde.guidance.wrapped import (
    Weight,
    check_alike,
    check_rows,
    evaluate,
    held_interval,
    held_weight,
    offered,
    weight_at,
)
from scoresde.parallel.held import held, num_rows, rows_for
from scoresde.sde.base import SDE, times_of
from scoresde.types import Cond, ScoreFn, Time, pytree_dataclass, right_pad


@pytree_dataclass()
class ClassifierGuidance:
    """A score guided by a classifier of noisy states (Eq. 1); one evaluation and one gradient each.

    A condition that arrives is passed to the score. At a scale other than 1 the reverse SDE and the
    probability flow sample different laws, as with classifier-free guidance.

    Raises:
        ValueError: if a label is not one of the classes, the score and the classifier are of data
            in different units, or the scale is not finite.
    """

    score: ScoreFn
    """The score to guide, conditional or not."""
    classifier: Callable[..., Array]
    """(x, t) → log-probabilities (batch, classes), in the score's units: an `sd.ClassifierModel`,
    or any function."""
    label: Any
    """The class to sample: a whole number, or one per example (batch,)."""
    scale: Weight = 1.0
    """w: a number, one per example (batch,), or a function of log SNR."""
    process: SDE | None = None
    """The SDE, where neither score nor classifier holds it and the scale depends on time."""

    def __post_init__(self):
        check_alike("score and classifier", self.score, self.classifier)
        label = held(self.label, "label")
        _check_label(label, getattr(self.classifier, "num_classes", None))
        held_interval(None, self.sde, self.scale)
        object.__setattr__(self, "label", label)
        object.__setattr__(self, "scale", held_weight(self.scale, "scale"))

    def __call__(
        self, x: Float[Array, " batch *data"], t: Time, cond: Cond = None
    ) -> Float[Array, " batch *data"]:
        """Returns the guided score (Eq. 1).

        Raises:
            ValueError: if the classifier does not return one row of log-probabilities per example.
        """
        t = times_of(t, x)
        scale = weight_at(self.scale, None, self.sde, x, t, "scale")
        return evaluate(self.score, self.score, x, t, cond) + scale * self.gradient(x, t)

    @property
    def denoise(self) -> Any:
        """(x, t, cond) ↦ the guided denoiser (Eq. 2), where the score offers one, the SDE is known,
        and some signal is left at t = 1: the factor of the gradient is infinite without."""
        denoise = offered(self.score, "denoise")
        sde = offered(self, "sde")
        if sde.ends_in_noise:
            raise AttributeError("no denoiser is finite at t = 1")

        def guided(x: Array, t: Time, cond: Cond = None) -> Array:
            t = times_of(t, x)
            scale = weight_at(self.scale, None, sde, x, t, "scale")
            factor = right_pad(sde.variance(t) / sde.alpha(t), x)
            x0 = evaluate(denoise, self.score, x, t, cond)
            return x0 + scale * factor * self.gradient(x, t)

        return guided

    def gradient(
        self, x: Float[Array, " batch *data"], t: Float[Array, " batch"]
    ) -> Float[Array, " batch *data"]:
        """Returns grad_x log p(label | x_t = x) of each example."""
        label = rows_for(self.label, len(x), "label")

        def log_prob(x: Array) -> tuple[Array, Array]:
            log_probs = self.classifier(x, t)
            _check_log_probs(log_probs, label, len(x))
            known = (label >= 0) & (label < log_probs.shape[1])
            return jnp.sum(jnp.take_along_axis(log_probs, label[:, None], axis=-1)), known

        # A label that is traced was not checked: beyond the classes its sample fails.
        gradient, known = jax.grad(log_prob, has_aux=True)(x)
        return jnp.where(right_pad(known, x), gradient.astype(x.dtype), jnp.nan)

    @property
    def sde(self) -> Any:
        """The SDE of the score or of the classifier; None where neither says."""
        if self.process is not None:
            return self.process
        own = getattr(self.score, "sde", None)
        return getattr(self.classifier, "sde", None) if own is None else own

    @property
    def standardization(self) -> Any:
        """The units of the score's data."""
        return getattr(self.score, "standardization", None)

    def check_cond(self, cond: Cond, batch: int) -> None:
        """Refuses a condition that the score does not take, and labels and scales of another batch.

        Raises:
            ValueError: if one does not fit.
        """
        rows_for(self.label, batch, "label")
        check_rows(self.scale, batch, "scale")
        check = getattr(self.score, "check_cond", None)
        if check is not None:
            check(cond, batch)

    def __getattr__(self, name: str) -> Any:
        """Offers what guidance of this score asks for: its conditions, and how to drop them."""
        if name in ("drop_cond", "conditions", "null_is_trained", "takes_cond"):
            return getattr(self.score, name)
        raise AttributeError(f"{type(self).__name__} has no attribute {name!r}")


def _check_label(label: Any, classes: int | None) -> None:
    """Refuses what is not one whole number, or one per example, and other labels than 0 … K - 1."""
    values = rows_for(label, num_rows(label), "label")
    is_label = hasattr(values, "ndim") and values.ndim == 1 and values.dtype.kind in "iu"
    if not is_label or not values.size:
        shape = f"{values.dtype} {values.shape}" if hasattr(values, "shape") else type(values)
        raise ValueError(
            f"label is {shape}: wanted one whole number, or one per example, (batch,) integers. "
            f"For one-hot rows write jnp.argmax(label, axis=-1)."
        )
    if not is_concrete(values):
        return
    values = np.asarray(values)
    highest = values.max() if classes is None else classes - 1
    if not 0 <= values.min() <= values.max() <= highest:
        raise ValueError(
            f"label holds {values.min()} … {values.max()}: wanted labels 0 … {highest}."
        )


def _check_log_probs(log_probs: Any, label: Array, batch: int) -> None:
    """Refuses what a classifier must not return: a label beyond its classes would be NaN."""
    if jnp.ndim(log_probs) != 2 or len(log_probs) != batch:
        raise ValueError(
            f"the classifier returned shape {jnp.shape(log_probs)} for {batch} examples: wanted "
            f"log-probabilities, one row per example, ({batch}, classes)."
        )
    _check_label(label, log_probs.shape[1])
