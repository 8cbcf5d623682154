"""Heun's sampler is EDM's Algorithm 2, and its churn does not bend the law."""

import math

import jax
import jax.numpy as jnp
import numpy as np
import papers
import pytest
from families import PROCESSES
from gaussian import gaussian_score, heun_state

import scoresde as sd
from scoresde.keys import example_keys, fold_in_examples, normal_like

KEY = jax.random.key(0)


EDM_SDE = sd.VE(0.002, 80.0)


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
    """In EDM's own sigma and with the same noise, to 1e-9, the last step to 0 included."""
    score = mixture.score(EDM_SDE)
    x = EDM_SDE.prior_sample(KEY, (4, 2))
    out = sd.Heun(17, t_min=0.0, **settings)(KEY, EDM_SDE, score, x)
    assert out.nfe == 35

    def denoiser(x, sigma):
        t = math.log(sigma / 0.002) / math.log(80.0 / 0.002)
        return x + sigma**2 * score(x, jnp.clip(t, 0.0, 1.0))

    keys = example_keys(KEY, 4)
    want = papers.edm_algorithm_2(
        denoiser,
        x,
        [*papers.edm_levels(), 0.0],
        lambda i: normal_like(fold_in_examples(keys, i), x),
        **settings,
    )
    np.testing.assert_allclose(out.x, want, atol=1e-9)


M = 0.7
V = 0.25
T_MIN = 1e-2


def settings_and_law(name, sde):
    """The sampler, and its last state on Gaussian data."""
    churn = 4.0 if name == "churn" else 0.0
    sampler = sd.Heun(12, churn=churn, noise_scale=1.01, t_min=T_MIN, denoise=False)
    times = np.asarray(sd.grids.Karras()(sde, 12, T_MIN), np.float64)

    # Churn raises a level by a factor, unless that led beyond the prior's.
    jumps = times[:-1].copy()
    if churn:
        with jax.enable_x64(True):
            level = np.asarray(jnp.exp(-0.5 * sde.log_snr(jnp.asarray(times[:-1]))))
            level = level * (1 + churn / 13)
            up = np.asarray(sde.time_from_log_snr(-2.0 * jnp.log(jnp.asarray(level))))
            highest = float(jnp.exp(-0.5 * sde.log_snr(jnp.asarray(1.0))))
        jumps = np.where(level < highest, up, jumps)

    return sampler, heun_state(sde, times, jumps, M, V, noise_scale=1.01)


@pytest.mark.parametrize(
    ("name", "process"),
    [
        ("ode", "own"),
        ("churn", "ve"),
        ("churn", "own"),
    ],
)
def test_every_sample_is_the_recursions(name, process, x64):
    """Given the same noise, to 1e-9, in float64."""
    any_sde = PROCESSES[process]
    sampler, law = settings_and_law(name, any_sde)
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
        jumps[1:] = 0.5 * (times[1:-1] + times[:-2])  # a fixed amount of noise in all
        law = heun_state(sde, times, jumps, M, V)
        errors.append(abs(law.variance(math.sqrt(first)) - exact))

    assert errors[2] < 3e-3 * exact
    np.testing.assert_allclose(np.log2(np.array(errors[:-1]) / errors[1:]), 2.0, atol=0.3)


@pytest.mark.usefixtures("unchecked")
@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: sd.Heun(churn=-1.0), "churn"),
        (lambda: sd.Heun(churn_min=1.0, churn_max=0.5), "above churn_max"),
        (
            lambda: sd.Heun(t_min=0.0)(KEY, sd.VP(), lambda x, t: -x, jnp.ones((2, 2))),
            "infinite log SNR",
        ),
    ],
)
def test_bad_settings_are_refused_with_the_reason(call, message):
    with pytest.raises(ValueError, match=message):
        call()
