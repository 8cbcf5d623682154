"""A chain of Gaussian steps, by tables: what DDPM and NCSN share, which are VP and VE at finitely many noise levels."""

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
from scoresde.keys import example_keys, normal_like
from scoresde.score.labels import Index
from scoresde.score.model import ScoreModel
from scoresde.score.parameterization import Noise, Score
from scoresde.sde.base import SDE, check_sde, plain_settings
from scoresde.sde.bound_score import bind
from scoresde.types import Cond, Key, ScoreFn, right_pad, sum_data

State = Float[Array, " batch *data"]
Indices = Int[Array, " batch"] | Int[np.ndarray, " batch"] | int
Variance = Literal["posterior", "beta"]


class Chain:
    """x_i = c_i x_{i-1} + sqrt(v_i) z, i = 0 … N - 1, from the data x_{-1}; hence x_i = a_i x_{-1} + sigma_i noise.

    An index is an integer, an entry of the tables: 0 is the level next to the data. (The papers count from 1; Song &
    Ermon 2019 count from the noisiest.) Tables are float64 NumPy arrays, (N,).
    """

    # --- Tables ---

    @property
    def coefficients(self) -> np.ndarray:
        """c_i, of x_{i-1} in x_i."""
        raise NotImplementedError

    @property
    def variances(self) -> np.ndarray:
        """v_i, what a step adds."""
        raise NotImplementedError

    @property
    def signal(self) -> np.ndarray:
        """a_i, of the data in x_i."""
        raise NotImplementedError

    @property
    def marginal_variances(self) -> np.ndarray:
        """sigma_i^2 of q(x_i | x_0)."""
        raise NotImplementedError

    def to_sde(self, exact: bool = False) -> SDE:
        """The SDE that this chain discretises; exact: with the chain's marginals at its levels."""
        raise NotImplementedError

    @property
    def num_steps(self) -> int:
        """N."""
        return len(self.variances)

    @property
    def posterior_variances(self) -> np.ndarray:
        """v_i sigma_{i-1}^2 / sigma_i^2 of q(x_{i-1} | x_i, x_0); 0 at i = 0."""
        return self.variances * shifted(self.marginal_variances, 0.0) / self.marginal_variances

    # --- Forward ---

    def marginal(self, x0: State, i: Indices) -> tuple[Array, Array]:
        """q(x_i | x_0) = N(a_i x_0, sigma_i^2 I): its mean and standard deviation (batch,).

        Raises:
            TypeError: if i is not an integer.
            ValueError: if an index is not 0 … N - 1, or there is not one per example.
        """
        i, x0 = self._inputs(i, x0)
        return _at(self.signal, i, x0) * x0, _row(np.sqrt(self.marginal_variances), i, x0)

    def transition(self, x_before: State, i: Indices) -> tuple[Array, Array]:
        """q(x_i | x_{i-1}) = N(c_i x_{i-1}, v_i I): its mean and standard deviation (batch,). Raises as `marginal`."""
        i, x_before = self._inputs(i, x_before)
        return _at(self.coefficients, i, x_before) * x_before, _row(
            np.sqrt(self.variances), i, x_before
        )

    def posterior(self, x: State, x0: State, i: Indices) -> tuple[Array, Array]:
        """q(x_{i-1} | x_i = x, x_0), by Bayes' rule: its mean and standard deviation (batch,). Raises as `ancestral`.

        mean = c_i sigma_{i-1}^2 / sigma_i^2 x + a_{i-1} v_i / sigma_i^2 x_0
        """
        i, x, x0 = self._inputs(i, x, x0=x0)
        keep = self.coefficients * shifted(self.marginal_variances, 0.0) / self.marginal_variances
        pull = shifted(self.signal, 1.0) * self.variances / self.marginal_variances
        return _at(keep, i, x) * x + _at(pull, i, x) * x0, _row(
            np.sqrt(self.posterior_variances), i, x
        )

    # --- Backward ---

    def ancestral(
        self, x: State, noise: State, i: Indices, variance: Variance = "posterior"
    ) -> tuple[Array, Array]:
        """p(x_{i-1} | x_i = x), given the network's estimate of the noise in x: mean and standard deviation (batch,).

            mean = (x - v_i / sigma_i noise) / c_i = (x + v_i score) / c_i

        variance: "posterior" (q(x_{i-1} | x_i, x_0)'s, right for data at one point) or "beta" (v_i, right for data of
        unit variance; Ho et al. 2020, Sec. 3.2). Both are 0 at i = 0, where the mean is the estimate of x_0.

        Raises:
            TypeError: if i is not an integer.
            ValueError: if an index is not 0 … N - 1, the arrays differ in shape, or variance is neither.
        """
        check_variance(variance)
        i, x, noise = self._inputs(i, x, noise=noise)
        pull = _at(self.variances / np.sqrt(self.marginal_variances), i, x)
        spread = self.posterior_variances if variance == "posterior" else self.variances
        spread = np.where(np.arange(self.num_steps) > 0, spread, 0.0)
        return (x - pull * noise) / _at(self.coefficients, i, x), _row(np.sqrt(spread), i, x)

    # --- Objectives ---

    def loss(
        self,
        key: Key,
        network: Callable[..., Array],
        x0: State,
        i: Indices,
        weighting: Literal["simple", "bound"] = "simple",
        predicts: Literal["noise", "score"] = "noise",
        cond: Cond = None,
    ) -> Float[Array, " batch"]:
        """Denoising at level i, one value per example, summed over the data's dimensions:

            simple   |eps - network(x_i, i)|^2                L_simple of DDPM (Ho et al. 2020, Eq. 14)
                     = sigma_i^2 |s + eps / sigma_i|^2        the SMLD objective of NCSN (Song & Ermon 2019, Eq. 5-6)
            bound    that times v_i / (2 c_i^2 sigma_{i-1}^2): the KL divergence of each step (Ho et al. 2020, Eq. 12,
                     with the posterior's variance; at i = 0 a Gaussian decoder's, v_0 for it)

        network: (x, i) or (x, i, cond) → the noise or the score, as `predicts` says, i integers (batch,) there too.
        Example j's noise depends on (key, j) alone.

        Raises:
            TypeError: if i is not an integer.
            ValueError: if an index is not 0 … N - 1, or weighting or predicts is neither.
        """
        if weighting not in ("simple", "bound"):
            raise ValueError(f"weighting is {weighting!r}: wanted 'simple' or 'bound'.")
        _check_predicts(predicts)
        i, x0 = self._inputs(i, x0)
        checks.condition(cond, x0.shape[0])
        noise = normal_like(example_keys(key, x0.shape[0]), x0)
        mean, std = self.marginal(x0, i)
        std = right_pad(std, x0)
        x = mean + std * noise
        output = network(x, i) if cond is None else network(x, i, cond)
        checks.same_shape(output, x, "the network")
        output = output.astype(x.dtype)
        residual = noise - output if predicts == "noise" else noise + std * output
        squared = sum_data(residual**2)
        return squared if weighting == "simple" else _row(self._bound_weights(), i, x0) * squared

    def _bound_weights(self) -> np.ndarray:
        spread = self.posterior_variances
        spread[0] = self.variances[0]
        return self.variances**2 / (2.0 * spread * self.coefficients**2 * self.marginal_variances)

    # --- To and from the SDE ---

    def model(
        self, network: Callable[..., Array], predicts: Literal["noise", "score"] = "noise"
    ) -> ScoreModel:
        """A network of this chain, network(x, i), as a score under its exact SDE, for samplers and likelihood.

        Between levels the network sees a fractional index, so it must take floats; levels are its integers.

        Raises:
            ValueError: if predicts is neither, or the chain has one level or no SDE.
        """
        _check_predicts(predicts)
        kind = Noise if predicts == "noise" else Score
        return ScoreModel(self.to_sde(exact=True), network, kind(label=Index(self.num_steps)))

    def noise(self, sde: SDE, score: ScoreFn) -> Callable[..., Array]:
        """A continuous score under any SDE as a noise network of this chain, (x, i) → noise.

        A level is the time of its signal-to-noise ratio, alpha(t_i) / sigma(t_i) = a_i / sigma_i; x is brought to the
        SDE's scale there:

            noise = -sigma(t_i) score(x alpha(t_i) / a_i, t_i)

        Raises:
            TypeError: if the SDE has traced settings.
            ValueError: if the chain has a level with less or more noise than the SDE.
        """
        times, scale, std = self._levels_under(sde)

        def network(x: State, i: Indices, cond: Cond = None) -> Array:
            i, x = self._inputs(i, x)
            s = bind(sde, score, cond)(_at(scale, i, x) * x, _row(times, i, x))
            return -_at(std, i, x) * s

        return network

    def _levels_under(self, sde: SDE) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """t_i, alpha(t_i) / a_i and sigma(t_i), in float64."""
        _check_known(sde)
        sde, ours = plain_settings(sde), 2.0 * np.log(self.signal) - np.log(self.marginal_variances)
        with jax.ensure_compile_time_eval(), jax.enable_x64(True):
            high, low = np.asarray(sde.log_snr(np.array([0.0, 1.0])))
            outside = np.flatnonzero(
                (ours > high + 1e-5) | (ours < low - 1e-5)
            )  # 1e-5: settings in float32
            if len(outside):
                raise ValueError(
                    f"level {outside[0]} has log SNR {ours[outside[0]]:.4g}, {sde} has {low:.4g} … {high:.4g}, none "
                    f"like it. Take levels in between, e.g. DDPM.from_sde(sde, "
                    f"{self.num_steps}, exact=True)."
                )
            times = np.clip(np.asarray(sde.time_from_log_snr(np.clip(ours, low, high))), 0.0, 1.0)
            return times, np.asarray(sde.alpha(times)) / self.signal, np.asarray(sde.sigma(times))

    def _inputs(self, i: Indices, x: State, **others: State) -> tuple[Array, ...]:
        """(i, x, *others): integers of the table, one per example, and arrays of one shape."""
        checks.batch(x)
        for name, other in others.items():
            if jnp.shape(other) != x.shape:
                raise ValueError(
                    f"{name} has shape {jnp.shape(other)}, x has {x.shape}: wanted the same."
                )
        x, i = jnp.asarray(x), jnp.asarray(i)
        if not jnp.issubdtype(i.dtype, jnp.integer):
            raise TypeError(
                f"i has type {i.dtype}: wanted integers 0 … {self.num_steps - 1}, entries of the tables."
            )
        if i.shape not in ((), x.shape[:1]):
            raise ValueError(
                f"i has shape {i.shape}: wanted one index, or one per example, {x.shape[:1]}."
            )
        if is_concrete(i) and not bool(jnp.all((i >= 0) & (i < self.num_steps))):
            raise ValueError(
                f"i = {i}: wanted 0 … {self.num_steps - 1}, the levels of {self.num_steps} steps."
            )
        return (
            jnp.broadcast_to(i, x.shape[:1]),
            x,
            *(jnp.asarray(other) for other in others.values()),
        )


def check_variance(variance: str) -> None:
    """ "posterior" or "beta"."""
    if variance not in ("posterior", "beta"):
        raise ValueError(f"variance is {variance!r}: wanted 'posterior' or 'beta'.")


def _check_predicts(predicts: str) -> None:
    if predicts not in ("noise", "score"):
        raise ValueError(f"predicts is {predicts!r}: wanted 'noise' or 'score'.")


def check_from_sde(sde: SDE, num_steps: int) -> None:
    """A chain can be made of the SDE: its settings are known."""
    checks.count("num_steps", num_steps)
    _check_known(sde)


def _check_known(sde: SDE) -> None:
    check_sde(sde)
    if not is_concrete(*jax.tree.leaves(sde)):
        raise TypeError(
            f"{sde} has traced settings: tables are computed on the host. Make the chain outside jit."
        )


def table_of(name: str, values: np.ndarray) -> np.ndarray:
    """Values as a table that nobody changes.

    Raises:
        ValueError: if they are not finite numbers, (N,).
    """
    table = np.array(values, np.float64)
    if table.ndim != 1 or len(table) < 1 or not np.all(np.isfinite(table)):
        raise ValueError(
            f"{name} have shape {table.shape}: wanted finite numbers, (N,), one per step."
        )
    table.flags.writeable = False
    return table


def shifted(table: np.ndarray, first: float) -> np.ndarray:
    """The table moved by one: entry i - 1, `first` at i = 0."""
    return np.concatenate([[first], table[:-1]])


def _row(table: np.ndarray, i: Array, x: Array) -> Array:
    """Entries i in the precision of x, (batch,); NaN where a traced index is outside the table."""
    if is_concrete(i):  # known to be inside
        return jnp.asarray(table[np.asarray(i)], x.dtype)
    return (
        jnp.asarray(table, x.dtype)
        .at[i]
        .get(mode="fill", fill_value=jnp.nan, wrap_negative_indices=False)
    )


def _at(table: np.ndarray, i: Array, x: Array) -> Array:
    """Entries i, broadcast against x."""
    return right_pad(_row(table, i, x), x)
