"""Simulation-based calibration: do a model's posteriors hold the truth as often as they say?

    theta ~ prior,   y ~ p(y | theta),   theta_1 ... theta_L ~ model(. | y)          (Eq. 1)
    rank = #{l: theta_l < theta}   in 0 ... L, for each dimension                    (Eq. 2)

Draws from the exact posterior are exchangeable with theta, so that each of the L + 1 ranks is
equally likely (Talts et al. 2018, arXiv:1804.06788). Ranks gather at both ends where posteriors are
too narrow, in the middle where they are too wide, and at one end where they are biased.

Of n ranks, bin b with a share p_b of the L + 1 values counts c_b:

    c_b ~ Binomial(n, p_b)                                                           (Eq. 3)
    P(c_b outside its band) <= alpha                    pointwise                    (Eq. 4)
    P(c_b outside its band) <= alpha / (B d)            simultaneous                 (Eq. 5)
    chi^2 = sum_b (c_b - n p_b)^2 / (n p_b)             B - 1 degrees of freedom     (Eq. 6)

An exact posterior leaves a pointwise band in a share alpha of the bins, so that some bin of many
leaves it nearly always. Eq. 5 divides alpha by the number of bins B and dimensions d (Bonferroni):
by the union bound, all counts together stay within their bands with probability 1 - alpha or more.
That needs no law of the counts together, which is unknown, since a posterior's dimensions depend
on each other; where counts are nearly independent, as in one dimension, it gives away little.
"""

from __future__ import annotations

import dataclasses

import numpy as np
from jax import Array
from jaxtyping import Int, Real

from scoresde import checks

ALPHA = 0.05
"""The probability with which an exact posterior leaves a band."""
LEAST = 5
"""The smallest expected count of a bin: below it, the law of chi^2 (Eq. 6) does not hold."""


def ranks(
    true: Real[Array | np.ndarray, "n d"],
    draws: Real[Array | np.ndarray, "n L d"],
    *,
    seed: int = 0,
) -> Int[np.ndarray, "n d"]:
    """Returns the rank of each true value among its draws (Eq. 2), 0 ... L.

    Draws equal to the true value count or not at random, so that ranks of discrete parameters,
    too, are uniform under the exact posterior.

    Args:
        true: the parameters from the prior, in any unit.
        draws: for each, L independent draws of the model's posterior given the data that it made.
            Of a Markov chain keep draws so far apart that they are independent.
        seed: of the ties.

    Raises:
        ValueError: if the shapes do not fit, or a number is not finite.
    """
    true = checks.plain_array(true, "true")
    draws = checks.plain_array(draws, "draws")
    _check_draws(true, draws)

    below = np.sum(draws < true[:, None], axis=1)
    equal = np.sum(draws == true[:, None], axis=1)
    return below + np.random.default_rng(seed).integers(equal, endpoint=True)


@dataclasses.dataclass(frozen=True, eq=False)
class RankTest:
    """Histograms of ranks, one per dimension, and how far those of an exact posterior may be from
    uniform.

    The verdict is that of the simultaneous band, which an exact posterior leaves with probability
    0.05 at most. The p-values are another test of the same: they see what is spread thinly over
    many bins, where the band sees a single bin, and they say how clear a departure is.
    """

    counts: np.ndarray
    """The number of ranks in each bin, (d, bins)."""
    edges: np.ndarray
    """Bin b holds the ranks from edges[b] to edges[b + 1] - 1; (bins + 1,)."""
    expected: np.ndarray
    """The mean counts of an exact posterior, (bins,)."""
    pointwise: np.ndarray
    """The lowest and the highest count within the band of a single bin (Eq. 4), (2, bins)."""
    simultaneous: np.ndarray
    """The same for the band of all bins and dimensions (Eq. 5), (2, bins)."""
    p_values: np.ndarray
    """The probability, for each dimension, of a larger chi^2 under an exact posterior (Eq. 6),
    (d,)."""

    @property
    def p_value(self) -> float:
        """The smallest p-value times the number of dimensions (Bonferroni), at most 1."""
        return min(1.0, len(self.p_values) * float(np.min(self.p_values)))

    @property
    def outside(self) -> np.ndarray:
        """Whether each count lies outside the simultaneous band, (d, bins)."""
        low, high = self.simultaneous
        return (self.counts < low) | (self.counts > high)

    @property
    def calibrated(self) -> bool:
        """Whether every count lies within the simultaneous band."""
        return not self.outside.any()


def rank_test(
    ranks: Int[Array | np.ndarray, "n d"], num_draws: int, bins: int | None = None
) -> RankTest:
    """Returns the histograms of ranks, with the bands and p-values of an exact posterior.

    Args:
        ranks: from `ranks`, 0 ... num_draws; rows are independent.
        num_draws: L, the number of draws that each was ranked among.
        bins: the number of bins. They hold equal numbers of ranks where it divides num_draws + 1;
            otherwise numbers that differ by one, which the bands take into account. By default at
            most 20, with at least 20 ranks expected in each.

    Raises:
        ValueError: if ranks are not whole numbers from 0 to num_draws, bins is not in
            2 ... num_draws + 1, or fewer than 5 ranks are expected in a bin.
    """
    ranks = checks.plain_array(ranks, "ranks")
    checks.count("num_draws", num_draws)
    _check_ranks(ranks, num_draws)

    n, d = ranks.shape
    if bins is None:
        bins = _default_bins(num_draws, n)
    _check_bins(bins, num_draws, n)

    # Bins start at whole ranks, as evenly as these allow.
    edges = np.arange(bins + 1) * (num_draws + 1) // bins
    share = np.diff(edges) / (num_draws + 1)
    counts = np.stack([np.histogram(column, edges - 0.5)[0] for column in ranks.T])

    return RankTest(
        counts=counts,
        edges=edges,
        expected=n * share,
        pointwise=_band(n, share, ALPHA),
        simultaneous=_band(n, share, ALPHA / (bins * d)),
        p_values=_chi_squared(counts, n * share),
    )


def _default_bins(num_draws: int, n: int) -> int:
    """Returns the most bins that the docstring allows, or, within a factor of two of these, the
    most that hold equal numbers of ranks."""
    most = max(2, min(20, num_draws + 1, n // 20))
    equal = [bins for bins in range(most, most // 2, -1) if (num_draws + 1) % bins == 0]
    return equal[0] if equal else most


def _band(n: int, share: np.ndarray, alpha: float) -> np.ndarray:
    """Returns the lowest and highest counts, with at most alpha / 2 beyond each (Eq. 3)."""
    from scipy.stats import binom  # slow to import

    return np.stack([binom.ppf(alpha / 2.0, n, share), binom.isf(alpha / 2.0, n, share)])


def _chi_squared(counts: np.ndarray, expected: np.ndarray) -> np.ndarray:
    """Returns the p-value of each dimension (Eq. 6), (d,)."""
    from scipy.stats import chi2

    statistic = np.sum((counts - expected) ** 2 / expected, axis=1)
    return chi2.sf(statistic, len(expected) - 1)


# --- Checks ---


def _check_draws(true: np.ndarray, draws: np.ndarray) -> None:
    fit = true.ndim == 2 and draws.ndim == 3 and draws.shape[::2] == true.shape
    if not fit or 0 in draws.shape:
        raise ValueError(
            f"true has shape {true.shape} and draws {draws.shape}: wanted (n, d) and (n, L, d), "
            f"L draws for each true value. For one dimension write ranks(true[:, None], "
            f"draws[:, :, None]); for draws of shape (L, n, d) write draws.swapaxes(0, 1)."
        )

    for name, values in (("true", true), ("draws", draws)):
        bad = ~np.isfinite(values.reshape(len(values), -1)).all(axis=1)
        if bad.any():
            raise ValueError(
                f"{name} holds NaN or infinity in {bad.sum()} of {len(values)} rows, the first at "
                f"{np.argmax(bad)}: leave these rows out of both, true[keep] and draws[keep], and "
                f"report how many there were."
            )


def _check_ranks(ranks: np.ndarray, num_draws: int) -> None:
    if ranks.ndim != 2 or 0 in ranks.shape:
        raise ValueError(
            f"ranks has shape {ranks.shape}: wanted (n, d). For one dimension write ranks[:, None]."
        )
    if not np.issubdtype(ranks.dtype, np.integer):
        raise ValueError(
            f"ranks has dtype {ranks.dtype}: wanted whole numbers from 0 to {num_draws}, as "
            f"ranks(true, draws) returns them."
        )
    if ranks.min() < 0 or ranks.max() > num_draws:
        raise ValueError(
            f"ranks holds {ranks.min()} ... {ranks.max()}: wanted 0 ... {num_draws}, the number of "
            f"draws below the true value. Write num_draws=draws.shape[1]."
        )


def _check_bins(bins: int, num_draws: int, n: int) -> None:
    checks.count("bins", bins, at_least=2)
    if bins > num_draws + 1:
        raise ValueError(
            f"bins is {bins}, and ranks among {num_draws} draws have {num_draws + 1} values: "
            f"wanted at most as many bins. Write bins={num_draws + 1}."
        )

    least = n * ((num_draws + 1) // bins) / (num_draws + 1)
    if least < LEAST:
        raise ValueError(
            f"{n} ranks in {bins} bins are {least:.1f} in the smallest: wanted at least {LEAST}. "
            f"Rank more true values, or write a smaller number than bins={bins}."
        )
