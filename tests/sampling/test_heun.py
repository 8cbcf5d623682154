"""Heun's sampler is EDM's Algorithm 2 line by line, Restart its own, and neither bends the law."""

import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from counting import counting
from families import PROCESSES
from gaussian import Linear, gaussian_score

import scoresde as sd
from scoresde.keys import example_keys, fold_in_examples, normal_like
from scoresde.sde.mixture import ring

KEY = jax.random.key(0)
EDM_SDE = sd.VE(0.002, 80.0)


def edm_sigmas(n=18, low=0.002, high=80.0, rho=7.0):
    i = np.arange(n)
    return (high ** (1 / rho) + i / (n - 1) * (low ** (1 / rho) - high ** (1 / rho))) ** rho


def test_the_grid_is_edms(x64):
    """Its published sigmas, .002 … 80 in 18 levels; under VP the same ratios sigma / alpha between its own ends."""
    times = np.asarray(sd.grids.Karras()(EDM_SDE, 17, 0.0))
    np.testing.assert_allclose(EDM_SDE.sigma(times), edm_sigmas(), rtol=1e-10)
    np.testing.assert_allclose(
        np.asarray(EDM_SDE.sigma(times))[[0, 1, -1]], [80.0, 57.586, 0.002], rtol=1e-4
    )
    sde = sd.VP()
    times = np.asarray(sd.grids.Karras(rho=3.0)(sde, 9, 1e-3, 0.8))
    ratio = np.asarray(sde.sigma(times) / sde.alpha(times))
    np.testing.assert_allclose(ratio, edm_sigmas(10, ratio[-1], ratio[0], 3.0), rtol=1e-10)
    assert times[0] == 0.8
    assert times[-1] == 1e-3


@pytest.mark.parametrize(
    "settings",
    [
        {},
        {"churn": 6.0},
        {"churn": 40.0, "churn_min": 0.05, "churn_max": 50.0, "noise_scale": 1.003},
    ],
    ids=["ode", "churn", "edm's churn"],
)
def test_it_is_algorithm_2(mixture, settings, x64):
    """Written from the paper, in its own sigma, given the same noise: to 1e-9, the last step to 0 included."""
    score, x = mixture.score(EDM_SDE), EDM_SDE.prior_sample(KEY, (4, 2))
    out = sd.Heun(17, t_min=0.0, **settings)(KEY, EDM_SDE, score, x)
    assert out.nfe == 35

    def denoiser(x, sigma):
        t = math.log(sigma / 0.002) / math.log(80.0 / 0.002)
        return x + sigma**2 * score(x, jnp.clip(t, 0.0, 1.0))

    churn, low, high = (
        settings.get("churn", 0.0),
        settings.get("churn_min", 0.0),
        settings.get("churn_max", math.inf),
    )
    sigmas, keys = [*edm_sigmas(), 0.0], example_keys(KEY, 4)
    for i in range(18):
        sigma, last = sigmas[i], i == 17
        gamma = min(churn / 18, math.sqrt(2) - 1) if low <= sigma <= high and not last else 0.0
        gamma = 0.0 if sigma * (1 + gamma) > 80.0 else gamma  # ours: no level above the prior's
        raised = sigma * (1 + gamma)
        if gamma > 0.0:
            z = normal_like(fold_in_examples(keys, i), x)
            x = x + math.sqrt(raised**2 - sigma**2) * settings.get("noise_scale", 1.0) * z
        d = (x - denoiser(x, raised)) / raised
        moved = x + (sigmas[i + 1] - raised) * d
        if sigmas[i + 1] > 0:
            slope = (moved - denoiser(moved, sigmas[i + 1])) / sigmas[i + 1]
            moved = x + (sigmas[i + 1] - raised) * 0.5 * (d + slope)
        x = moved
    np.testing.assert_allclose(out.x, x, atol=1e-9)


# --- The law on Gaussian data ---

M, V, T_MIN = 0.7, 0.25, 1e-2


def slope(y, alpha, sigma):
    """(y - D) / v, y = x / alpha, D = E[x_0 | x]."""
    total = alpha**2 * V + sigma**2
    denoised = (alpha * V * alpha / total) * y + sigma**2 * M / total
    return (alpha / sigma) * (y + -1.0 * denoised)


def recursion(sde, times, jumps, noise_scale=1.0):
    """x after every step as a linear function of x1 and the steps' noises, in (alpha, sigma) form."""
    with jax.enable_x64(True):
        at = lambda t: tuple(float(f(jnp.asarray(t))) for f in (sde.alpha, sde.sigma))  # noqa: E731
        steps, x = len(times) - 1, Linear.start(len(times))
        for i in range(steps):
            (a, s), (au, su), (an, sn) = at(times[i]), at(jumps[i]), at(times[i + 1])
            added = su**2 - (au / a * s) ** 2
            x = (au / a) * x + noise_scale * math.sqrt(max(added, 0.0)) * Linear.noise(
                len(times), i
            )
            v, vn = su / au, sn / an
            y = (1.0 / au) * x
            d = slope(y, au, su)
            moved = y + (vn - v) * d
            x = an * (y + 0.5 * (vn - v) * (d + slope(moved, an, sn)))
    return x


INTERVALS = (sd.Interval(0.3, 1.0, 2, 2), sd.Interval(0.1, 0.5, 3, 1))


def settings_and_law(name, sde):
    if name == "restart":
        sampler = sd.Restart(12, INTERVALS, t_min=T_MIN, denoise=False)
        main = np.asarray(sd.grids.Karras()(sde, 12, T_MIN), np.float64)
        with jax.enable_x64(True):
            levels = np.asarray(jnp.exp(-0.5 * sde.log_snr(jnp.asarray(main))))
            times, jumps = [main[0]], []
            for i in range(12):
                times.append(main[i + 1])
                jumps.append(main[i])
                for interval in INTERVALS:  # written from Alg. 1: K times up to high, and down
                    if i + 1 == int(np.argmin(np.abs(levels - interval.low))):
                        high = float(
                            sde.time_from_log_snr(-2.0 * jnp.log(jnp.asarray(interval.high)))
                        )
                        down = np.asarray(
                            sd.grids.Karras()(sde, interval.num_steps, float(main[i + 1]), high)
                        )
                        for _ in range(interval.repeats):
                            times += [*down[1:]]
                            jumps += [*down[:-1]]
        assert len(jumps) == 12 + 2 * 2 + 3
        return sampler, recursion(sde, times, jumps)
    churn = 4.0 if name == "churn" else 0.0
    sampler = sd.Heun(12, churn=churn, noise_scale=1.01, t_min=T_MIN, denoise=False)
    times = np.asarray(sd.grids.Karras()(sde, 12, T_MIN), np.float64)
    jumps = times[:-1].copy()
    if churn:
        with jax.enable_x64(True):
            level = np.asarray(jnp.exp(-0.5 * sde.log_snr(jnp.asarray(times[:-1])))) * (
                1 + churn / 13
            )
            up = np.asarray(sde.time_from_log_snr(-2.0 * jnp.log(jnp.asarray(level))))
            highest = float(jnp.exp(-0.5 * sde.log_snr(jnp.asarray(1.0))))
        jumps = np.where(level < highest, up, jumps)
    return sampler, recursion(sde, times, jumps, 1.01)


@pytest.mark.parametrize(
    ("name", "process"),
    [
        ("ode", "cosine"),
        ("churn", "ve"),
        ("churn", "cosine"),
        ("restart", "vp"),
        ("restart", "subvp"),
    ],
)
def test_every_sample_is_the_recursions(name, process, x64):
    """Given the same noise, to 1e-9, in float64."""
    any_sde = PROCESSES[process]
    sampler, law = settings_and_law(name, any_sde)
    x1, keys = any_sde.prior_sample(jax.random.key(1), (3, 2)), example_keys(KEY, 3)
    noises = [normal_like(fold_in_examples(keys, i), x1) for i in range(len(law.of_noise) - 1)]
    out = sampler(KEY, any_sde, gaussian_score(any_sde, M, V), x1)
    np.testing.assert_allclose(out.x, law.at(x1, noises), atol=1e-9 * float(any_sde.prior_std()))
    assert out.nfe == 2 * len(noises)


@pytest.mark.parametrize("name", ["churn", "restart"])
def test_the_law_is_unchanged_as_steps_shrink(name):
    """Mean and variance of the recursion tend to the exact ones at Heun's order, noise and all."""
    sde, errors = sd.VP(), []
    with jax.enable_x64(True):
        end = jnp.asarray([T_MIN, 1.0])
        exact, first = np.asarray(sde.alpha(end) ** 2 * V + sde.variance(end))
    for steps in (40, 80, 160):
        times = np.asarray(sd.grids.Karras()(sde, steps, T_MIN), np.float64)
        jumps = times[:-1].copy()
        if name == "churn":  # a fixed amount of noise in all
            jumps[1:] = 0.5 * (times[1:-1] + times[:-2])
        else:
            low = steps // 2
            down = np.asarray(
                sd.grids.Karras()(sde, steps // 4, float(times[low]), float(times[low // 2]))
            )
            times = np.concatenate([times[: low + 1], down[1:], times[low + 1 :]])
            jumps = np.concatenate([jumps[:low], down[:-1], jumps[low:]])
        law = recursion(sde, times, jumps)
        errors.append(abs(law.variance(math.sqrt(first)) - exact))
    assert errors[2] < 3e-3 * exact
    np.testing.assert_allclose(np.log2(np.array(errors[:-1]) / errors[1:]), 2.0, atol=0.3)


# --- Settings ---


@pytest.mark.parametrize(
    "settings",
    [
        sd.Heun(5),
        sd.Heun(5, churn=2.0, denoise=False),
        sd.Restart(8, (sd.Interval(0.1, 0.5, 2, 3),)),
        sd.Heun(3, save_path=True),
        sd.UniPC(3, 7),
        sd.UniPC(3, 7, save_path=True),
        sd.DDIM(0.5, 4, denoise=False),
        sd.Exponential(6, order=2, eta=1.0, corrector=True),
    ],
    ids=repr,
)
def test_reported_evaluations_are_the_counted_ones(settings):
    sde, mixture = sd.VP(), ring()
    score, count = counting(mixture.score(sde))
    out = settings(KEY, sde, score, sde.prior_sample(KEY, (1, 2)))
    jax.effects_barrier()
    assert out.nfe == count[0] > 0


@pytest.mark.usefixtures("unchecked")
@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: sd.Heun(churn=-1.0), "churn"),
        (lambda: sd.Heun(churn_min=1.0, churn_max=0.5), "above churn_max"),
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
        (
            lambda: sd.Heun(t_min=0.0)(KEY, sd.VP(), lambda x, t: -x, jnp.ones((2, 2))),
            "infinite log SNR",
        ),
    ],
)
def test_bad_settings_are_refused_with_the_reason(call, message):
    with pytest.raises(ValueError, match=message):
        call()
