"""How much a likelihood costs beyond its evaluations of score and derivative, and beside SciPy's solver on the host.

    python benchmarks/likelihood.py

CPU time of `sd.log_likelihood` (2-D mixture of five components with its exact score, batch 1024, tolerance 1e-5, one
Rademacher probe) over rounds × one batched evaluation of the score and its product with the probe. Rounds are the
evaluations of the batch's slowest example, until which the batch runs. Two baselines, with no solver around them:

calls   rounds × one jitted call, dispatched without waiting. Goal: at most 1.15.
loop    a jitted scan of nothing but the evaluations, each at a point that depends on the one before. Stricter.

SciPy: `scipy.integrate.solve_ivp`, RK45 at the same tolerance, on the whole batch as one vector with one step size, as
the published score_sde code does; one jitted drift and divergence per evaluation, from t_min to 1 in t. `in t` is
`sd.log_likelihood(..., variable=sd.variables.InTime())`, which steps in the same variable.

U-Net: the same ratio for the digits U-Net, untrained, batch 100, tolerance 1e-3: what a likelihood of
images costs beyond its evaluations. The mixture's score is so small that the solver's own arithmetic, and evaluating
per example rather than per batch, show.

Errors are against the exact log p_{t_min}(x0), the end marginal exact as well: with the one probe (each example's the
same for all solvers; it makes most of the error), and with the exact divergence, which leaves the solver's own.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import bench
import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jax import Array
from scipy.integrate import solve_ivp

import scoresde as sd
from scoresde.keys import example_keys
from scoresde.likelihood.divergence import Divergence
from scoresde.likelihood.exact import PROBES
from scoresde.sde.mixture import ring

T_MIN, TOLERANCE = 1e-5, 1e-5


@jax.jit
def evaluate(score: Any, x: Array, t: Array, probe: Array) -> tuple[Array, Array]:
    """The score and its product with the probe: one pass in forward mode."""
    return jax.jvp(lambda x: score(x, t), (x,), (probe,))


@partial(jax.jit, static_argnames="count")
def evaluate_in_loop(
    score: Any, x: Array, t: Array, probe: Array, count: int
) -> tuple[Array, Array]:
    """`count` evaluations, each of them after the one before and at times of its own."""

    def body(carry, shift):
        point, _ = carry
        value, product = evaluate(score, point, shift * t, probe)
        return (x + 1e-3 * value, product), None

    return jax.lax.scan(body, (x, probe), jnp.linspace(1e-3, 1.0, count))[0]


@jax.jit
def drift_and_divergence(
    sde: sd.SDE, score: Any, x: Array, t: Array, probes: Array
) -> tuple[Array, Array]:
    """The probability flow's field and its divergence by the probes (probes, batch, d)."""
    field = partial(sde.probability_flow(score), t=jnp.full(len(x), t))
    value, products = jax.vmap(lambda v: jax.jvp(field, (x,), (v,)), out_axes=(None, 0))(probes)
    return value, jnp.sum(probes * products, axis=(0, 2))


def with_scipy(
    sde: sd.SDE, score: Any, x0: Array, probes: Array, end: Callable[[Array], Array]
) -> tuple[Array, int]:
    """log p(x0) by SciPy's RK45 on the host, and its evaluations."""
    batch = len(x0)

    def field(t, state):
        x = jnp.asarray(state[: x0.size].reshape(x0.shape), x0.dtype)
        value, divergence = drift_and_divergence(sde, score, x, t, probes)
        return np.concatenate(
            [np.asarray(value, np.float64).ravel(), np.asarray(divergence, np.float64)]
        )

    start = np.concatenate([np.asarray(x0, np.float64).ravel(), np.zeros(batch)])
    solution = solve_ivp(field, (T_MIN, 1.0), start, method="RK45", rtol=TOLERANCE, atol=TOLERANCE)
    state = solution.y[:, -1]
    latent = jnp.asarray(state[: x0.size].reshape(x0.shape), x0.dtype)
    return end(latent) + state[x0.size :], solution.nfev


def main() -> None:
    args = bench.parse(__doc__, repeats=9)
    batch = 16 if args.quick else 1024
    sde, mixture = sd.VP(), ring()
    score, key = mixture.score(sde), jax.random.key(1)
    x0 = mixture.sample(jax.random.key(0), batch)
    end = jax.jit(lambda x: mixture.log_prob(sde, x, 1.0))
    # The probes that log_likelihood draws from this key, (1, batch, d), and all unit vectors.
    probe_keys = jax.vmap(lambda key: jax.random.fold_in(key, PROBES))(example_keys(key, batch))
    probes = jnp.moveaxis(jax.vmap(sd.Hutchinson().probes)(probe_keys, x0), 1, 0)
    units = jnp.broadcast_to(jnp.eye(2)[:, None], (2, batch, 2))

    def ours(
        variable: sd.variables.InTime | sd.variables.InLogSNR,
        divergence: Divergence = sd.Hutchinson(),
    ) -> sd.Likelihood:
        return sd.log_likelihood(
            key,
            sde,
            score,
            x0,
            divergence=divergence,
            rtol=TOLERANCE,
            atol=TOLERANCE,
            t_min=T_MIN,
            prior_log_prob=end,
            variable=variable,
        )

    variables = {"log_likelihood": sd.variables.InLogSNR()} | (
        {} if args.quick else {"log_likelihood in t": sd.variables.InTime()}
    )
    results = {name: ours(variable) for name, variable in variables.items()}
    rounds = {name: int(np.max(result.nfe)) for name, result in results.items()}
    most, t = max(rounds.values()), jax.random.uniform(key, (batch,), minval=0.9)
    parts = {
        name: lambda variable=variable: ours(variable).log_prob
        for name, variable in variables.items()
    } | {
        "SciPy": lambda: with_scipy(sde, score, x0, probes, end)[0],
        "evaluations, calls": lambda: [evaluate(score, x0, t, probes[0]) for _ in range(most)][-1],
        "evaluations, loop": lambda: evaluate_in_loop(score, x0, t, probes[0], most),
    }
    times = {name: part.cpu for name, part in bench.interleaved(parts, args.repeats).items()}

    report = bench.Report(
        "likelihood", args.quick, {"batch": batch, "tolerance": TOLERANCE, "repeats": args.repeats}
    )
    for name, seconds in times.items():
        report.time(f"{most} {name}" if name.startswith("evaluations") else name, seconds)
    for name, count in rounds.items():
        for kind, goal in (("calls", 1.15), ("loop", None)):
            report.ratio(
                f"{name} / {kind}", times[name], count * times[f"evaluations, {kind}"] / most, goal
            )
        report.ratio(f"SciPy / {name}", times["SciPy"], times[name])
        report.figures[f"{name}, rounds"] = count
        report.figures[f"{name}, mean evaluations"] = float(np.mean(results[name].nfe))
    found, report.figures["SciPy, evaluations"] = with_scipy(sde, score, x0, probes, end)
    estimates = {
        name: (results[name].log_prob, ours(variable, sd.ExactDivergence()).log_prob)
        for name, variable in variables.items()
    }
    estimates["SciPy"] = (found, with_scipy(sde, score, x0, units, end)[0])
    exact = np.asarray(mixture.log_prob(sde, x0, T_MIN), np.float64)
    for name, pair in estimates.items():
        for how, value in zip(("one probe", "exact divergence"), pair, strict=True):
            error = np.abs(np.asarray(value) - exact)
            report.figures[f"{name}, {how}, nats: mean |error|"] = float(error.mean())
            report.figures[f"{name}, {how}, nats: max |error|"] = float(error.max())
    unet(report, args.quick, max(2, args.repeats // 3))
    report.finish()


def unet(report: bench.Report, quick: bool, repeats: int) -> None:
    """The ratio to calls for a network of the size that experiments use."""
    tiny = sd.UNetConfig(
        channels=4, num_blocks=1, multipliers=(1,), attention_levels=(), num_heads=1
    )
    sde, config = sd.VP(), tiny if quick else sd.UNetConfig(channels=32, num_blocks=1)
    model = sd.ScoreModel(sde, config.build((8, 8, 1), rngs=nnx.Rngs(0)), sd.EDM(sigma_data=0.6))
    batch, tolerance = (4, 1e-1) if quick else (100, 1e-3)
    x0 = 0.6 * jax.random.normal(jax.random.key(2), (batch, 8, 8, 1))
    t, probe, call = jnp.full(batch, 0.5), jnp.ones_like(x0), eqx.filter_jit(evaluate)
    run = partial(
        sd.log_likelihood,
        jax.random.key(3),
        sde,
        model,
        x0,
        rtol=tolerance,
        atol=tolerance,
        t_min=T_MIN,
    )
    rounds = int(np.max(run().nfe))
    times = bench.interleaved(
        {
            "U-Net, log_likelihood": lambda: run().log_prob,
            "U-Net, evaluations, calls": lambda: [call(model, x0, t, probe) for _ in range(rounds)][
                -1
            ],
        },
        repeats,
    )
    ours, calls = (part.cpu for part in times.values())
    report.time("U-Net, log_likelihood", ours)
    report.time(f"U-Net, {rounds} evaluations, calls", calls)
    report.ratio("U-Net, log_likelihood / calls", ours, calls, 1.15)


if __name__ == "__main__":
    main()
