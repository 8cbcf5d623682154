"""`ClassifierModel`: a network under an SDE, as the probabilities of classes given a noisy state.

    log p(y | x_t) = log softmax(net(x_t / n, label(t)))_y,   n^2 = alpha^2 + sigma^2       (Eq. 1)

x_t / n has about unit variance at every t, for data that have it. Its gradient in x_t guides a
score (guidance/classifier.py; Dhariwal & Nichol 2021, arXiv:2105.05233, Sec. 4).
"""

from __future__ import annotations

from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array
from jaxtyping import Float, Int

from scoresde import checks
from scoresde.keys import example_keys, normal_like
from scoresde.score.labels import AnyLabel, Scaled
from scoresde.sde.base import SDE, times_of
from scoresde.standardization import Standardization, to_model_units
from scoresde.types import Key, Time, pytree_dataclass, right_pad


@pytree_dataclass("label", "standardization")
class ClassifierModel:
    """A network under an SDE as a noise-conditional classifier, which `fit` trains.

    net(x, t) returns logits, (batch, classes). A model of standardised data holds their
    `standardization`, and takes x in its own units, as the score that it guides does.
    """

    sde: SDE
    net: Callable[..., Array]
    label: AnyLabel = Scaled()
    """How the network sees the time; t itself by default."""
    standardization: Standardization | None = None

    def __call__(self, x: Float[Array, " batch *data"], t: Time) -> Float[Array, " batch classes"]:
        """Returns log p(y | x_t = x) of every class (Eq. 1), in nats. t: one time, or one per
        example.

        Raises:
            ValueError: if t does not fit x, or the network does not return one row of logits per
                example.
        """
        checks.batch_at_times(x, t)
        t = times_of(t, x)
        scale = jax.lax.rsqrt(self.sde.alpha(t) ** 2 + self.sde.variance(t))
        logits = self.net(right_pad(scale, x) * x, self.label(self.sde, t))
        if logits.ndim != 2 or len(logits) != len(x):
            raise ValueError(
                f"the network returned shape {logits.shape} for {len(x)} examples: wanted logits, "
                f"one row per example, ({len(x)}, classes)."
            )
        return jax.nn.log_softmax(logits.astype(x.dtype), axis=-1)

    @property
    def num_classes(self) -> int | None:
        """The number of classes of a classifier of the library; None where the network does not
        say."""
        return getattr(getattr(self.net, "config", None), "num_classes", None)

    def __repr__(self) -> str:
        lines = [f"sde={self.sde!r}", f"net={self.net!r}", f"label={self.label!r}"]
        if self.standardization is not None:
            lines.append(f"standardization={self.standardization!r}")
        return "ClassifierModel(\n" + "".join(f"  {line},\n" for line in lines) + ")"


def classifier_accuracy(
    key: Key,
    sde: SDE,
    classifier: Callable[..., Array],
    x0: Float[Array | np.ndarray, " batch *data"],
    labels: Int[Array | np.ndarray, " batch"],
    times: Float[Array | np.ndarray, " points"],
) -> np.ndarray:
    """Returns the share of examples whose most likely class is their label, at each time.

    x0: data, in their own units. classifier: (x, t) → (batch, classes). The noise of an example is
    the same at every time.

    Raises:
        ValueError: if there is not one whole number per example, or times are not in [0, 1] or have
            no axis.
    """
    checks.batch(x0, "x0")
    labels = np.asarray(labels)
    if labels.shape != x0.shape[:1] or labels.dtype.kind not in "iu":
        raise ValueError(
            f"labels is {labels.dtype} {labels.shape} for {len(x0)} examples: wanted integers "
            f"({len(x0)},). For one-hot rows write np.argmax(labels, axis=-1)."
        )
    if np.ndim(times) != 1:
        raise ValueError(
            f"times has shape {np.shape(times)}: wanted (points,). For one time write [t]."
        )
    checks.times(times, "times")
    x0 = to_model_units(classifier, x0)
    noise = normal_like(example_keys(key, len(x0)), x0)

    @jax.jit
    def accuracy(t: Array) -> Array:
        mean, std = sde.marginal_prob(x0, t)
        log_probs = classifier(mean + std * noise, jnp.full(len(x0), t))
        return jnp.mean(jnp.argmax(log_probs, axis=-1) == jnp.asarray(labels))

    return np.asarray([accuracy(t) for t in jnp.asarray(times, x0.dtype)])
