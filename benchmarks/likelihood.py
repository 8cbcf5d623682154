"""What a likelihood costs beyond its evaluations, and beside SciPy's solver on the host.

    python benchmarks/likelihood.py

Hardware: a CPU. Goal: at most 1.15 times the evaluations, dispatched as calls.

Measured is the CPU time of `sd.log_likelihood` for a 2-D mixture of five components with its
exact score, batch 1024, tolerance 1e-5, one Rademacher probe. It is divided by the time of its
rounds, each one batched evaluation of the score and of its product with the probe. Rounds are the
evaluations of the slowest example, because the batch runs until it is done. Two baselines have no
solver:

calls   rounds × one jitted call, dispatched without waiting
loop    a jitted scan of nothing but the evaluations, each at a point that depends on the one
        before: stricter, because a score this small costs less in a loop

SciPy   `scipy.integrate.solve_ivp`, RK45 at the same tolerance, from t_min to 1 in t. As in the
        published score_sde code, the whole batch is one vector with one step size, and each
        evaluation is one jitted call of drift and divergence.
in t    `sd.log_likelihood(..., variable=sd.variables.InTime())`, which steps in the same variable
U-Net   the ratio to calls for the digits U-Net, untrained, batch 100, tolerance 1e-3: the cost of
        a likelihood of images. The mixture's score is so small that the solver's own arithmetic
        shows, and so does evaluating per example rather than per batch.

Errors are against the exact log p_{t_min}(x0), with an exact prior at t = 1. With one probe, the
same for all solvers, the probe causes most of the error; with the exact divergence only that of
the solver is left.
"""

from __future__ import annotations

import dataclasses
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
from scoresde.keys import example_keys, fold_in_examples
from scoresde.likelihood.divergence import Divergence
from scoresde.likelihood.exact import PROBES
from scoresde.sde.mixture import ring

T_MIN = 1e-5
TOLERANCE = 1e-5
GOAL = 1.15


def main() -> None:
    args = bench.parse(__doc__, repeats=9)
    batch = 16 if args.quick else 1024
    settings = {"batch": batch, "tolerance": TOLERANCE, "repeats": args.repeats}
    report = bench.Report("likelihood", args.quick, settings)

    problem = Problem.build(batch)
    variables: dict[str, Any] = {"log_likelihood": sd.variables.InLogSNR()}
    if not args.quick:
        variables["log_likelihood in t"] = sd.variables.InTime()

    measure_costs(report, problem, variables, args.repeats)
    measure_errors(report, problem, variables)
    measure_unet(report, args.quick, max(2, args.repeats // 3))
    report.finish()


# --- The mixture ---


@dataclasses.dataclass(frozen=True)
class Problem:
    """A batch of draws whose likelihood is known."""

    sde: sd.SDE
    mixture: sd.GaussianMixture
    score: Any
    key: Array
    x0: Array
    prior_log_prob: Callable[[Array], Array]
    """The exact log density at t = 1."""
    probes: Array
    """The probes that `log_likelihood` draws from `key`, (1, batch, 2)."""

    @classmethod
    def build(cls, batch: int) -> Problem:
        """Returns the problem for so many draws."""
        sde = sd.VP()
        mixture = ring()
        key = jax.random.key(1)
        x0 = mixture.sample(jax.random.key(0), batch)

        keys = fold_in_examples(example_keys(key, batch), PROBES)
        probes = jnp.moveaxis(sd.Hutchinson().probes(keys, x0), 1, 0)
        prior_log_prob = jax.jit(lambda x: mixture.log_prob(sde, x, 1.0))
        return cls(sde, mixture, mixture.score(sde), key, x0, prior_log_prob, probes)

    @property
    def unit_vectors(self) -> Array:
        """Probes that give the exact divergence, (2, batch, 2)."""
        return jnp.broadcast_to(jnp.eye(2)[:, None], (2, len(self.x0), 2))

    def log_likelihood(
        self,
        variable: sd.variables.InTime | sd.variables.InLogSNR,
        divergence: Divergence = sd.Hutchinson(),
    ) -> sd.Likelihood:
        """Returns the likelihood by the library."""
        return sd.log_likelihood(
            self.key,
            self.sde,
            self.score,
            self.x0,
            divergence=divergence,
            rtol=TOLERANCE,
            atol=TOLERANCE,
            t_min=T_MIN,
            prior_log_prob=self.prior_log_prob,
            variable=variable,
        )

    def with_scipy(self, probes: Array) -> tuple[Array, int]:
        """Returns log p(x0) by SciPy's RK45 on the host, and the number of evaluations."""
        size = self.x0.size

        def points(state: np.ndarray) -> Array:
            return jnp.asarray(state[:size].reshape(self.x0.shape), self.x0.dtype)

        def field(t: float, state: np.ndarray) -> np.ndarray:
            value, divergence = drift_and_divergence(self.sde, self.score, points(state), t, probes)
            pieces = (np.asarray(value).ravel(), np.asarray(divergence))
            return np.concatenate(pieces, dtype=np.float64)

        start = np.concatenate([np.asarray(self.x0).ravel(), np.zeros(len(self.x0))])
        solution = solve_ivp(
            field, (T_MIN, 1.0), start, method="RK45", rtol=TOLERANCE, atol=TOLERANCE
        )
        end = solution.y[:, -1]
        return self.prior_log_prob(points(end)) + end[size:], solution.nfev


@jax.jit
def drift_and_divergence(
    sde: sd.SDE, score: Any, x: Array, t: Array, probes: Array
) -> tuple[Array, Array]:
    """Returns the probability flow's field, and its divergence by probes (probes, batch, d)."""
    field = partial(sde.probability_flow(score), t=jnp.full(len(x), t))
    value, products = jax.vmap(lambda v: jax.jvp(field, (x,), (v,)), out_axes=(None, 0))(probes)
    return value, jnp.sum(probes * products, axis=(0, 2))


def measure_costs(
    report: bench.Report, problem: Problem, variables: dict[str, Any], repeats: int
) -> None:
    """Reports the times of solvers and baselines, and their ratios."""
    results = {name: problem.log_likelihood(variable) for name, variable in variables.items()}
    rounds = {name: int(np.max(result.nfe)) for name, result in results.items()}
    most = max(rounds.values())
    t = jax.random.uniform(problem.key, (len(problem.x0),), minval=0.9)
    point = (problem.score, problem.x0, t, problem.probes[0])

    parts: dict[str, Callable[[], Any]] = {}
    for name, variable in variables.items():
        parts[name] = lambda variable=variable: problem.log_likelihood(variable).log_prob
    parts["SciPy"] = lambda: problem.with_scipy(problem.probes)[0]
    parts["evaluations, calls"] = lambda: [evaluate(*point) for _ in range(most)][-1]
    parts["evaluations, loop"] = lambda: evaluate_in_loop(*point, most)
    times = {name: part.cpu for name, part in bench.interleaved(parts, repeats).items()}

    for name, seconds in times.items():
        report.time(f"{most} {name}" if name.startswith("evaluations") else name, seconds)

    for name, count in rounds.items():
        for kind, goal in (("calls", GOAL), ("loop", None)):
            needed = count * times[f"evaluations, {kind}"] / most
            report.ratio(f"{name} / {kind}", times[name], needed, goal)
        report.ratio(f"SciPy / {name}", times["SciPy"], times[name])
        report.figures[f"{name}, rounds"] = count
        report.figures[f"{name}, mean evaluations"] = float(np.mean(results[name].nfe))


def measure_errors(report: bench.Report, problem: Problem, variables: dict[str, Any]) -> None:
    """Reports the errors of all solvers, with one probe and with the exact divergence."""
    exact_divergence = sd.ExactDivergence()
    estimates = {}
    for name, variable in variables.items():
        estimates[name] = {
            "one probe": problem.log_likelihood(variable).log_prob,
            "exact divergence": problem.log_likelihood(variable, exact_divergence).log_prob,
        }
    with_probe, report.figures["SciPy, evaluations"] = problem.with_scipy(problem.probes)
    with_all, _ = problem.with_scipy(problem.unit_vectors)
    estimates["SciPy"] = {"one probe": with_probe, "exact divergence": with_all}

    log_prob = problem.mixture.log_prob(problem.sde, problem.x0, T_MIN)
    exact = np.asarray(log_prob, np.float64)
    for name, values in estimates.items():
        for how, value in values.items():
            error = np.abs(np.asarray(value) - exact)
            report.figures[f"{name}, {how}, nats: mean |error|"] = float(error.mean())
            report.figures[f"{name}, {how}, nats: max |error|"] = float(error.max())


# --- The baselines ---


@jax.jit
def evaluate(score: Any, x: Array, t: Array, probe: Array) -> tuple[Array, Array]:
    """Returns the score and its product with the probe, in one pass of forward mode."""
    return jax.jvp(lambda x: score(x, t), (x,), (probe,))


@partial(jax.jit, static_argnames="count")
def evaluate_in_loop(
    score: Any, x: Array, t: Array, probe: Array, count: int
) -> tuple[Array, Array]:
    """Makes `count` evaluations at different times, each after the one before."""

    def body(carry, scale):
        point, _ = carry
        value, product = evaluate(score, point, scale * t, probe)
        return (x + 1e-3 * value, product), None

    return jax.lax.scan(body, (x, probe), jnp.linspace(1e-3, 1.0, count))[0]


# --- A network ---


def measure_unet(report: bench.Report, quick: bool, repeats: int) -> None:
    """Reports the ratio to calls for a network of the size that experiments use."""
    config = sd.UNetConfig(channels=32, num_blocks=1)
    batch = 100
    tolerance = 1e-3
    if quick:
        config = sd.UNetConfig(
            channels=4, num_blocks=1, multipliers=(1,), attention_levels=(), num_heads=1
        )
        batch = 4
        tolerance = 1e-1

    sde = sd.VP()
    net = config.build((8, 8, 1), rngs=nnx.Rngs(0))
    model = sd.ScoreModel(sde, net, sd.EDM(sigma_data=0.6))
    x0 = 0.6 * jax.random.normal(jax.random.key(2), (batch, 8, 8, 1))

    def solve() -> sd.Likelihood:
        key = jax.random.key(3)
        return sd.log_likelihood(key, sde, model, x0, rtol=tolerance, atol=tolerance, t_min=T_MIN)

    rounds = int(np.max(solve().nfe))
    t = jnp.full(batch, 0.5)
    probe = jnp.ones_like(x0)
    call = eqx.filter_jit(evaluate)
    parts = {
        "solve": lambda: solve().log_prob,
        "calls": lambda: [call(model, x0, t, probe) for _ in range(rounds)][-1],
    }
    times = bench.interleaved(parts, repeats)

    report.time("U-Net, log_likelihood", times["solve"].cpu)
    report.time(f"U-Net, {rounds} evaluations, calls", times["calls"].cpu)
    report.ratio("U-Net, log_likelihood / calls", times["solve"].cpu, times["calls"].cpu, GOAL)


if __name__ == "__main__":
    main()
