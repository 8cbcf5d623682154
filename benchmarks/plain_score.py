"""What the likelihood of a plain function costs beside a solve written by hand.

    python benchmarks/plain_score.py

Hardware: a CPU. Goal: at most 1.15 in each row that has one.

The score of a 2-D mixture of five components is written as a user would write it, a function of
(batch, 2) and (batch,). Batch 1024, tolerance 1e-5, one Rademacher probe, in log SNR. Measured is
CPU time, as ratios within one run. Both solves have the same probes, so their results must agree.

joint steps      `sd.log_likelihood(..., joint_steps=True)` over a hand-written diffrax solve of
                 the whole batch with one step size: the same equation, variable, solver and
                 tolerances. Its step control differs in one point: the library holds the error of
                 log p to a norm of its own. Both are therefore also compared per evaluation.
per-example      `sd.log_likelihood(...)` over rounds × one batched evaluation of the score and of
                 its product with the probe, in a jitted scan. Rounds are the evaluations of the
                 slowest example, because the batch runs until it is done.
the mixture's    the same with the library's own `GaussianMixture.score`, for comparison
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import bench
import diffrax
import jax
import jax.numpy as jnp
import numpy as np
from jax import Array

import scoresde as sd
from scoresde.keys import example_keys, fold_in_examples
from scoresde.likelihood.exact import PROBES
from scoresde.sde.mixture import ring

KEY = jax.random.key(1)
T_MIN = 1e-5
TOLERANCE = 1e-5
GOAL = 1.15
SDE = sd.VP()
RING = ring()


def main() -> None:
    args = bench.parse(__doc__, repeats=9)
    batch = 16 if args.quick else 1024
    settings = {"batch": batch, "tolerance": TOLERANCE, "repeats": args.repeats}
    report = bench.Report("plain_score", args.quick, settings)

    x0 = RING.sample(jax.random.key(0), batch)
    keys = fold_in_examples(example_keys(KEY, batch), PROBES)
    probe = sd.Hutchinson().probes(keys, x0)[:, 0]  # that of `log_likelihood`
    t = jax.random.uniform(jax.random.key(2), (batch,), minval=0.9)

    solves = {
        "plain function, per-example steps": partial(log_likelihood, plain_score, x0),
        "plain function, joint steps": partial(log_likelihood, plain_score, x0, joint_steps=True),
        "the mixture's score, per-example steps": partial(log_likelihood, RING.score(SDE), x0),
    }
    rounds = {name: int(np.max(solve().nfe)) for name, solve in solves.items()}
    by_hand, steps = solve_by_hand(x0, probe)
    rounds["by hand, joint steps"] = 1 + 6 * int(steps)
    most = max(rounds.values())

    parts: dict[str, Callable[[], Any]] = {}
    for name, solve in solves.items():
        parts[name] = lambda solve=solve: solve().log_prob
    parts["by hand, joint steps"] = lambda: solve_by_hand(x0, probe)
    parts["evaluations, loop"] = lambda: evaluate_in_loop(x0, t, probe, most)
    times = {name: part.cpu for name, part in bench.interleaved(parts, args.repeats).items()}

    for name, seconds in times.items():
        report.time(f"{most} {name}" if name.startswith("evaluations") else name, seconds)

    joint = times["plain function, joint steps"]
    hand = times["by hand, joint steps"]
    per_evaluation = rounds["by hand, joint steps"] / rounds["plain function, joint steps"]
    report.ratio("joint steps / by hand", joint, hand, GOAL)
    report.ratio("joint steps / by hand, per evaluation", joint * per_evaluation, hand, GOAL)
    for name in solves:
        if name.endswith("per-example steps"):
            needed = rounds[name] * times["evaluations, loop"] / most
            goal = GOAL if name.startswith("plain") else None
            report.ratio(f"{name} / evaluations, loop", times[name], needed, goal)

    for name, count in rounds.items():
        report.figures[f"{name}, evaluations"] = count
    for name, solve in solves.items():
        difference = np.abs(np.asarray(solve().log_prob) - np.asarray(by_hand))
        report.figures[f"{name}: max |difference from by hand|, nats"] = float(difference.max())
    report.finish()


# --- The library ---


def plain_score(x: Array, t: Array) -> Array:
    """Returns the score of the mixture, as a user would write it for a batch."""
    alpha = SDE.alpha(t)[:, None, None]
    variance = SDE.variance(t)[:, None, None]
    spectrum = alpha**2 * RING.covs[:, None] + variance  # (batch, 5, 1)
    centred = x[:, None, :] - alpha * RING.means  # (batch, 5, 2)

    log_density = -0.5 * jnp.sum(centred**2 / spectrum + jnp.log(spectrum), axis=-1)
    responsibility = jax.nn.softmax(jnp.log(RING.weights) + log_density, axis=-1)
    return -jnp.sum(responsibility[:, :, None] * centred / spectrum, axis=1)


def log_likelihood(score: Any, x0: Array, joint_steps: bool = False) -> sd.Likelihood:
    """Returns the likelihood by the library."""
    return sd.log_likelihood(
        KEY,
        SDE,
        score,
        x0,
        rtol=TOLERANCE,
        atol=TOLERANCE,
        t_min=T_MIN,
        joint_steps=joint_steps,
    )


# --- By hand ---


@jax.jit
def solve_by_hand(x0: Array, probe: Array) -> tuple[Array, Array]:
    """Returns log p(x0), (batch,), and the number of steps of one diffrax solve of the batch."""

    def field(u, state, args):
        x, _ = state
        t, dt_du = jax.jvp(SDE.time_from_log_snr, (u,), (jnp.ones_like(u),))
        times = jnp.full(len(x), t)
        f = SDE.drift_rate(t)
        half_g2 = 0.5 * SDE.squared_diffusion(t)

        s, product = jax.jvp(lambda x: plain_score(x, times), (x,), (probe,))
        divergence = jnp.sum(probe * product, axis=-1)
        return dt_du * (f * x - half_g2 * s), -dt_du * half_g2 * divergence

    start = SDE.log_snr(jnp.asarray(T_MIN))
    end = SDE.log_snr(jnp.asarray(1.0))
    solution = diffrax.diffeqsolve(
        diffrax.ODETerm(field),
        diffrax.Dopri5(),
        t0=start,
        t1=end,
        dt0=(end - start) * 1e-2,
        y0=(x0, jnp.zeros(len(x0))),
        stepsize_controller=diffrax.PIDController(rtol=TOLERANCE, atol=TOLERANCE),
        max_steps=4096,
    )
    latent, score_part = jax.tree.map(lambda y: y[-1], solution.ys)
    linear_part = x0.shape[1] * (SDE.log_alpha(1.0) - SDE.log_alpha(T_MIN))
    log_prob = SDE.prior_log_prob(latent) + linear_part + score_part
    return log_prob, solution.stats["num_steps"]


@partial(jax.jit, static_argnames="count")
def evaluate_in_loop(x: Array, t: Array, probe: Array, count: int) -> tuple[Array, Array]:
    """Makes `count` evaluations of score and product at different times, one after the other."""

    def body(carry, scale):
        point, _ = carry
        value, product = jax.jvp(lambda x: plain_score(x, scale * t), (point,), (probe,))
        return (x + 1e-3 * value, product), None

    return jax.lax.scan(body, (x, probe), jnp.linspace(1e-3, 1.0, count))[0]


if __name__ == "__main__":
    main()
