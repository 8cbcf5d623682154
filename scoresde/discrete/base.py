"""A chain of Gaussian steps, given by tables: what DDPM and NCSN share.

The data are x0. The states are x_i, i = 0 … N - 1, where 0 is the level next to the data and
x_{-1} = x0. A chain is two tables, c_i and v_i; a_{-1} = 1 and sigma_{-1} = 0.

    q(x_i | x_{i-1}) = N(c_i x_{i-1}, v_i I)                                      (Eq. 1)
    q(x_i | x0) = N(a_i x0, sigma_i^2 I)                                          (Eq. 2)
        a_i = c_i a_{i-1},   sigma_i^2 = c_i^2 sigma_{i-1}^2 + v_i

    q(x_{i-1} | x_i, x0) = N(mean, w_i I),   w_i = v_i sigma_{i-1}^2 / sigma_i^2  (Eq. 3)
        mean = c_i sigma_{i-1}^2 / sigma_i^2 x_i + a_{i-1} v_i / sigma_i^2 x0     (Eq. 4)
    p(x_{i-1} | x_i) has
        mean = (x_i - v_i / sigma_i noise) / c_i = (x_i + v_i score) / c_i        (Eq. 5)
        and variance w_i or v_i; 0 at i = 0

    simple = |eps - noise(x_i, i)|^2 = sigma_i^2 |score(x_i, i) + eps / sigma_i|^2   (Eq. 6)
    bound = v_i^2 / (2 w_i c_i^2 sigma_i^2) simple                                (Eq. 7)
        the KL divergence of Eq. 3 from Eq. 5; at i = 0 with v_0 for w_0, a Gaussian decoder's

    an SDE is the chain's, exactly:   alpha(t_i) = a_i,   sigma(t_i) = sigma_i    (Eq. 8)
    an SDE's score serves the chain where alpha(t_i) / sigma(t_i) = a_i / sigma_i:
        noise(x_i, i) = -sigma(t_i) score(alpha(t_i) / a_i x_i, t_i)              (Eq. 9)

Ho et al. 2020 (arXiv:2006.11239), Eq. 2, 4, 7, 11, 12 and 14; Song & Ermon 2019
(arXiv:1907.05600), Eq. 5 and 6; Song et al. 2021 (arXiv:2011.13456), App. B and F. The first
counts levels from 1, the second from the noisiest.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Literal

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array
from jaxtyping import Float, Int

from scoresde import checks
from scoresde.checks import is_concrete
from scoresde.discrete.table import entries, padded_entries, shifted
from scoresde.keys import example_keys, normal_like
from scoresde.score.labels import Index
from scoresde.score.model import ScoreModel
from scoresde.score.parameterization import Noise, Score
from scoresde.sde.base import SDE, check_sde, plain_settings
from scoresde.sde.bound_score import bind
from scoresde.types import Cond, Key, ScoreFn, right_pad, sum_data

Indices = Int[Array, " batch"] | Int[np.ndarray, " batch"] | int
"""Levels of a chain, 0 … N - 1: one for all examples, or one per example."""


class Chain:
    """A chain of Gaussian steps (Eq. 1). `DDPM` and `NCSN` define its tables.

    Tables are float64 NumPy arrays of shape (N,); an index is an integer, an entry of the tables.
    """

    # --- Tables ---

    @property
    def coefficients(self) -> np.ndarray:
        """c_i, which multiplies x_{i-1} in x_i (Eq. 1)."""
        raise NotImplementedError

    @property
    def variances(self) -> np.ndarray:
        """v_i, the variance that a step adds (Eq. 1)."""
        raise NotImplementedError

    @property
    def signal(self) -> np.ndarray:
        """a_i, which multiplies the data in x_i (Eq. 2)."""
        raise NotImplementedError

    @property
    def marginal_variances(self) -> np.ndarray:
        """sigma_i^2, the variance of q(x_i | x0) (Eq. 2)."""
        raise NotImplementedError

    def to_sde(self, exact: bool = False) -> SDE:
        """Returns the SDE that this chain discretises; with `exact`, the one of Eq. 8."""
        raise NotImplementedError

    @property
    def num_steps(self) -> int:
        """N, the number of steps and of levels."""
        return len(self.variances)

    @property
    def posterior_variances(self) -> np.ndarray:
        """w_i, the variance of q(x_{i-1} | x_i, x0) (Eq. 3); 0 at i = 0."""
        return self.variances * shifted(self.marginal_variances, 0.0) / self.marginal_variances

    # --- Forward ---

    def marginal(
        self, x0: Float[Array, " batch *data"], i: Indices
    ) -> tuple[Float[Array, " batch *data"], Float[Array, " batch"]]:
        """Returns mean (like x0) and standard deviation (batch,) of q(x_i | x0) (Eq. 2).

        Raises:
            TypeError: if i is not an integer.
            ValueError: if an index is not 0 … N - 1, or there is not one per example.
        """
        i, x0 = self._inputs(i, x0)
        mean = padded_entries(self.signal, i, x0) * x0
        return mean, entries(np.sqrt(self.marginal_variances), i, x0)

    def transition(
        self, x_before: Float[Array, " batch *data"], i: Indices
    ) -> tuple[Float[Array, " batch *data"], Float[Array, " batch"]]:
        """Returns mean (like x_before) and standard deviation (batch,) of q(x_i | x_{i-1}) (Eq. 1).

        Raises:
            TypeError: if i is not an integer.
            ValueError: if an index is not 0 … N - 1, or there is not one per example.
        """
        i, x_before = self._inputs(i, x_before)
        mean = padded_entries(self.coefficients, i, x_before) * x_before
        return mean, entries(np.sqrt(self.variances), i, x_before)

    def posterior(
        self, x: Float[Array, " batch *data"], x0: Float[Array, " batch *data"], i: Indices
    ) -> tuple[Float[Array, " batch *data"], Float[Array, " batch"]]:
        """Returns mean (like x) and standard deviation (batch,) of q(x_{i-1} | x_i, x0) (Eq. 3).

        Raises:
            TypeError: if i is not an integer.
            ValueError: if an index is not 0 … N - 1, there is not one per example, or x and x0
                differ in shape.
        """
        i, x, x0 = self._inputs(i, x, x0=x0)

        variance = self.marginal_variances
        x_coef = self.coefficients * shifted(variance, 0.0) / variance
        data_coef = shifted(self.signal, 1.0) * self.variances / variance

        mean = padded_entries(x_coef, i, x) * x + padded_entries(data_coef, i, x) * x0  # Eq. 4
        return mean, entries(np.sqrt(self.posterior_variances), i, x)

    # --- Backward ---

    def ancestral(
        self,
        x: Float[Array, " batch *data"],
        noise: Float[Array, " batch *data"],
        i: Indices,
        variance: Literal["posterior", "beta"] = "posterior",
    ) -> tuple[Float[Array, " batch *data"], Float[Array, " batch"]]:
        """Returns mean (like x) and standard deviation (batch,) of p(x_{i-1} | x_i = x) (Eq. 5).

        noise: the network's estimate of the noise in x.
        variance: "posterior" (w_i, right for data at a single point) or "beta" (v_i, right for data
            of unit variance; Ho et al. 2020, Sec. 3.2). At i = 0 it is 0, and the mean is the
            estimate of x0.

        Raises:
            TypeError: if i is not an integer.
            ValueError: if an index is not 0 … N - 1, there is not one per example, x and noise
                differ in shape, or variance is neither.
        """
        check_choice("variance", variance, ("posterior", "beta"))
        i, x, noise = self._inputs(i, x, noise=noise)

        x_coef = padded_entries(self.coefficients, i, x)
        noise_coef = padded_entries(self.variances / np.sqrt(self.marginal_variances), i, x)
        mean = (x - noise_coef * noise) / x_coef  # Eq. 5

        variances = self.posterior_variances if variance == "posterior" else self.variances
        std = np.sqrt(np.where(np.arange(self.num_steps) > 0, variances, 0.0))
        return mean, entries(std, i, x)

    # --- Objectives ---

    def loss(
        self,
        key: Key,
        network: Callable[..., Array],
        x0: Float[Array, " batch *data"],
        i: Indices,
        weighting: Literal["simple", "bound"] = "simple",
        predicts: Literal["noise", "score"] = "noise",
        cond: Cond = None,
    ) -> Float[Array, " batch"]:
        """Denoising loss at level i, one value per example, summed over the data's dimensions.

        key: one, or one per example; the noise of example j depends on (key, j) alone.
        network: (x, i) or (x, i, cond) → noise or score, as `predicts` says, with i integers
            (batch,).
        weighting: "simple" (Eq. 6: L_simple of DDPM, or the objective of NCSN) or "bound" (Eq. 7,
            nats per example).

        Raises:
            TypeError: if i is not an integer.
            ValueError: if an index is not 0 … N - 1, there is not one per example, a condition has
                another batch, the output is not shaped like x0, or `weighting` or `predicts` is
                neither choice.
        """
        check_choice("weighting", weighting, ("simple", "bound"))
        check_choice("predicts", predicts, ("noise", "score"))
        i, x0 = self._inputs(i, x0)
        checks.condition(cond, x0.shape[0])

        noise = normal_like(example_keys(key, x0.shape[0]), x0)
        mean, std = self.marginal(x0, i)
        std = right_pad(std, x0)
        x = mean + std * noise  # Eq. 2

        output = network(x, i) if cond is None else network(x, i, cond)
        checks.same_shape(output, x, "the network")
        output = output.astype(x.dtype)

        residual = noise - output if predicts == "noise" else noise + std * output
        simple = sum_data(residual**2)  # Eq. 6
        if weighting == "simple":
            return simple
        return entries(self._bound_weights(), i, x0) * simple  # Eq. 7

    def _bound_weights(self) -> np.ndarray:
        """Returns the weights of Eq. 7, (N,)."""
        variance = self.posterior_variances
        variance[0] = self.variances[0]
        scale = self.coefficients**2
        return self.variances**2 / (2.0 * variance * scale * self.marginal_variances)

    # --- To and from the SDE ---

    def model(
        self, network: Callable[..., Array], predicts: Literal["noise", "score"] = "noise"
    ) -> ScoreModel:
        """Returns a network (x, i) of this chain as a score under its exact SDE (Eq. 8).

        It works with every sampler and with the likelihood. A level is an integer; between levels
        the network receives a fraction, so it must accept floats.

        Raises:
            ValueError: if predicts is neither, or the chain has a single level or no SDE.
        """
        check_choice("predicts", predicts, ("noise", "score"))
        parameterization = Noise if predicts == "noise" else Score
        label = Index(self.num_steps)
        return ScoreModel(self.to_sde(exact=True), network, parameterization(label=label))

    def noise(self, sde: SDE, score: ScoreFn) -> Callable[..., Array]:
        """Returns a score under any SDE as a noise network of this chain, (x, i) → noise (Eq. 9).

        x: (batch, *data); i: one index, or one per example. The result is shaped like x.

        Raises:
            TypeError: if the SDE has traced settings.
            ValueError: if the chain has a level with less or more noise than the SDE.
        """
        times, x_coef, std = self._levels_under(sde)

        def network(x: Float[Array, " batch *data"], i: Indices, cond: Cond = None) -> Array:
            i, x = self._inputs(i, x)
            t = entries(times, i, x)
            scaled = padded_entries(x_coef, i, x) * x
            return -padded_entries(std, i, x) * bind(sde, score, cond)(scaled, t)

        return network

    def _levels_under(self, sde: SDE) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Returns t_i, alpha(t_i) / a_i and sigma(t_i) of Eq. 9, in float64."""
        _check_known(sde)
        sde = plain_settings(sde)
        log_snr = 2.0 * np.log(self.signal) - np.log(self.marginal_variances)

        with jax.ensure_compile_time_eval(), jax.enable_x64(True):
            highest, lowest = np.asarray(sde.log_snr(np.array([0.0, 1.0])))
            self._check_spanned(sde, log_snr, lowest, highest)

            times = np.asarray(sde.time_from_log_snr(np.clip(log_snr, lowest, highest)))
            times = np.clip(times, 0.0, 1.0)
            return times, np.asarray(sde.alpha(times)) / self.signal, np.asarray(sde.sigma(times))

    def _check_spanned(self, sde: SDE, log_snr: np.ndarray, lowest: float, highest: float) -> None:
        """Checks that the SDE has a time for every level of the chain."""
        rounding = 1e-5  # of settings that were stored in float32
        outside = np.flatnonzero((log_snr > highest + rounding) | (log_snr < lowest - rounding))
        if len(outside):
            level = outside[0]
            raise ValueError(
                f"level {level} has log SNR {log_snr[level]:.4g}, but {sde} covers only "
                f"{lowest:.4g} … {highest:.4g}: wanted a chain whose levels lie within. "
                f"Write e.g. DDPM.from_sde(sde, {self.num_steps}, exact=True)."
            )

    # --- The edge ---

    def _inputs(self, i: Indices, x: Array, **others: Array) -> tuple[Array, ...]:
        """Returns (i, x, *others) as arrays, with one index per example.

        Raises:
            TypeError: if i is not an integer, or x is not an array of floating-point numbers.
            ValueError: if an index is not 0 … N - 1, or shapes do not fit.
        """
        checks.batch(x)
        for name, other in others.items():
            if jnp.shape(other) != x.shape:
                raise ValueError(
                    f"{name} has shape {jnp.shape(other)}, x has {x.shape}: wanted the same shape."
                )

        i = jnp.asarray(i)
        self._check_index(i, x)

        arrays = [jnp.asarray(array) for array in (x, *others.values())]
        return jnp.broadcast_to(i, x.shape[:1]), *arrays

    def _check_index(self, i: Array, x: Array) -> None:
        """Checks that i holds levels, one for all examples or one per example."""
        last = self.num_steps - 1
        if not jnp.issubdtype(i.dtype, jnp.integer):
            raise TypeError(
                f"i has dtype {i.dtype}: wanted integers 0 … {last}, entries of the tables. "
                f"Write i.astype(int)."
            )
        if i.shape not in ((), x.shape[:1]):
            raise ValueError(
                f"i has shape {i.shape}: wanted one index, or one per example, {x.shape[:1]}."
            )
        if is_concrete(i) and not bool(jnp.all((i >= 0) & (i <= last))):
            raise ValueError(
                f"i is {i}: wanted 0 … {last}, the levels of a chain of {self.num_steps} steps."
            )


def check_from_sde(sde: SDE, num_steps: int) -> None:
    """Checks that a chain can be made from the SDE.

    Raises:
        TypeError: if it is not an SDE, or its settings are traced.
        ValueError: if num_steps is not a whole number, at least 1.
    """
    checks.count("num_steps", num_steps, at_most=checks.MOST_STEPS)
    _check_known(sde)


def _check_known(sde: SDE) -> None:
    check_sde(sde)
    if not is_concrete(*jax.tree.leaves(sde)):
        raise TypeError(
            f"{sde} has traced settings, but tables are computed on the host: make the chain "
            f"outside jit."
        )


def check_choice(name: str, value: str, choices: tuple[str, str]) -> None:
    if value not in choices:
        raise ValueError(f"{name} is {value!r}: wanted {choices[0]!r} or {choices[1]!r}.")
