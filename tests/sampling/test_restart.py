"""Restart is its Algorithm 1, and does not bend the law."""

import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from families import PROCESSES
from gaussian import gaussian_score, heun_state

import scoresde as sd
from scoresde.keys import example_keys, fold_in_examples, normal_like

KEY = jax.random.key(0)


M = 0.7
V = 0.25
T_MIN = 1e-2


INTERVALS = (sd.Interval(0.3, 1.0, 2, 2), sd.Interval(0.1, 0.5, 3, 1))


def settings_and_law(sde):
    """The sampler, and its last state on Gaussian data, written from Algorithm 1."""
    sampler = sd.Restart(12, INTERVALS, t_min=T_MIN, denoise=False)
    main = np.asarray(sd.grids.Karras()(sde, 12, T_MIN), np.float64)

    with jax.enable_x64(True):
        levels = np.asarray(jnp.exp(-0.5 * sde.log_snr(jnp.asarray(main))))
        times = [main[0]]
        jumps = []
        for i in range(12):
            times.append(main[i + 1])
            jumps.append(main[i])

            # K times up to `high`, and down again.
            for interval in INTERVALS:
                if i + 1 != int(np.argmin(np.abs(levels - interval.low))):
                    continue
                log_snr = -2.0 * jnp.log(jnp.asarray(interval.high))
                high = float(sde.time_from_log_snr(log_snr))
                down = sd.grids.Karras()(sde, interval.num_steps, float(main[i + 1]), high)
                for _ in range(interval.repeats):
                    times += [*np.asarray(down)[1:]]
                    jumps += [*np.asarray(down)[:-1]]

    assert len(jumps) == 12 + 2 * 2 + 3
    return sampler, heun_state(sde, times, jumps, M, V)


@pytest.mark.parametrize("process", ["vp", "subvp"])
def test_every_sample_is_the_recursions(process, x64):
    """Given the same noise, to 1e-9, in float64."""
    any_sde = PROCESSES[process]
    sampler, law = settings_and_law(any_sde)
    x1 = any_sde.prior_sample(jax.random.key(1), (3, 2))
    keys = example_keys(KEY, 3)
    noises = [normal_like(fold_in_examples(keys, i), x1) for i in range(len(law.of_noise) - 1)]
    out = sampler(KEY, any_sde, gaussian_score(any_sde, M, V), x1)
    np.testing.assert_allclose(out.x, law.at(x1, noises), atol=1e-9 * float(any_sde.prior_std()))
    assert out.nfe == 2 * len(noises)


def test_the_law_is_unchanged_as_steps_shrink():
    """Mean and variance of the recursion tend to the exact ones at Heun's order, noise and all."""
    sde = sd.VP()
    errors = []
    with jax.enable_x64(True):
        end = jnp.asarray([T_MIN, 1.0])
        exact, first = np.asarray(sde.alpha(end) ** 2 * V + sde.variance(end))

    for steps in (40, 80, 160):
        times = np.asarray(sd.grids.Karras()(sde, steps, T_MIN), np.float64)
        jumps = times[:-1].copy()

        # One way up and down again in the middle.
        low = steps // 2
        down = sd.grids.Karras()(sde, steps // 4, float(times[low]), float(times[low // 2]))
        down = np.asarray(down)
        times = np.concatenate([times[: low + 1], down[1:], times[low + 1 :]])
        jumps = np.concatenate([jumps[:low], down[:-1], jumps[low:]])

        law = heun_state(sde, times, jumps, M, V)
        errors.append(abs(law.variance(math.sqrt(first)) - exact))

    assert errors[2] < 3e-3 * exact
    np.testing.assert_allclose(np.log2(np.array(errors[:-1]) / errors[1:]), 2.0, atol=0.3)


@pytest.mark.usefixtures("unchecked")
@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: sd.Interval(0.3, 0.06), "low < high"),
        (lambda: sd.Interval(repeats=0), "repeats"),
        (lambda: sd.Restart(intervals=()), r"sd\.Interval"),
        (
            lambda: sd.Restart(8, (sd.Interval(0.1, 1e6),))(
                KEY, sd.VP(), lambda x, t: -x, jnp.ones((2, 2))
            ),
            "does not fit the grid",
        ),
        (
            lambda: sd.Restart(4, (sd.Interval(0.3, 0.31),))(
                KEY, sd.VP(), lambda x, t: -x, jnp.ones((2, 2))
            ),
            "nearest its low",
        ),
    ],
)
def test_bad_settings_are_refused_with_the_reason(call, message):
    with pytest.raises(ValueError, match=message):
        call()
