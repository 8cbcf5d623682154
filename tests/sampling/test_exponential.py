"""The exponential integrator: orders by halving, closed-form laws, and the papers' own formulas step by step."""

import dataclasses
import itertools
import math
import warnings

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from families import PROCESSES
from gaussian import Linear, gaussian_score
from scipy.integrate import quad

import scoresde as sd
from scoresde.keys import example_keys, fold_in_examples, normal_like
from scoresde.sampling.time_grid import grid_times
from scoresde.sde.mixture import ring

KEY = jax.random.key(0)


# --- Orders ---

ORDERS = {
    "DDIM": (sd.DDIM(), 1.0),
    "DPM-Solver++2M": (sd.DPMSolverPP(2), 2.0),
    "DPM-Solver++2M, midpoint": (sd.DPMSolverPP(2, weights="midpoint"), 2.0),
    "exponential, order 3": (sd.Exponential(order=3), 3.0),
    "UniPC-1": (sd.UniPC(1), 2.0),
    "UniPC-2": (sd.UniPC(2), 3.0),
    "UniPC-3": (sd.UniPC(3), 4.0),
    "Heun": (sd.Heun(), 2.0),
    "Heun, uniform log SNR": (sd.Heun(grid=sd.grids.UniformLogSNR()), 2.0),
    "DPM-Solver++2M, Karras": (sd.DPMSolverPP(2, grid=sd.grids.Karras()), 2.0),
}
PAIR = sd.GaussianMixture([[-1.0], [0.7]], [0.15, 0.25], [0.4, 0.6])
STEPS = (100, 200, 400)


@pytest.fixture(scope="module")
def flows():
    """For each SDE: starts, and where the probability flow leads them by Dopri8 at a tolerance of 1e-12."""
    found = {}
    with jax.enable_x64(True):
        for name, sde in {"vp": sd.VP(), "subvp": sd.SubVP(), "ve": sd.VE()}.items():
            start = sde.prior_std() * jnp.linspace(-1.5, 1.5, 7)[:, None]
            exact = sd.ProbabilityFlow(
                rtol=1e-12, atol=1e-12, t_min=0.01, denoise=False, variable=sd.variables.InLogSNR()
            )
            found[name] = (
                sde,
                start,
                sd.sample(KEY, exact, sde, PAIR.score(sde), start.shape, x1=start).x,
            )
    return found


@pytest.mark.parametrize(
    ("name", "process"), list(zip(ORDERS, itertools.cycle(["vp", "subvp", "ve"])))
)
def test_order_of_convergence_by_halving_the_step(name, process, flows, x64):
    """Slopes of the error against the flow on a mixture. One wrong symbol costs an order: 0.1 is what they may lack."""
    (sampler, order), (sde, start, exact) = ORDERS[name], flows[process]
    errors = []
    for steps in STEPS:
        settings = dataclasses.replace(sampler, num_steps=steps, t_min=0.01, denoise=False)
        x = jax.jit(lambda x, s=settings: s(KEY, sde, PAIR.score(sde), x).x)(start)
        errors.append(float(jnp.sqrt(jnp.mean((x - exact) ** 2))))
    slopes = np.log2(np.array(errors[:-1]) / errors[1:])
    np.testing.assert_allclose(slopes, order, atol=0.1)


# --- The law on Gaussian data, where every step is linear ---

M, V, T_MIN = 0.7, 0.25, 1e-2
SOLVERS = [
    sd.Exponential(order=1),
    sd.Exponential(order=2),
    sd.Exponential(order=3),
    sd.Exponential(order=2, weights="midpoint"),
    sd.Exponential(order=1, corrector=True),
    sd.Exponential(order=3, corrector=True),
    sd.Exponential(order=1, eta=1.0),
    sd.Exponential(order=2, eta=1.0),
    sd.Exponential(order=3, eta=0.5),
    sd.Exponential(order=2, eta=1.0, weights="midpoint"),
    sd.Exponential(order=2, eta=1.0, corrector=True),
]


def lambda_of(sde, t):
    with jax.enable_x64(True):
        return np.asarray(0.5 * sde.log_snr(jnp.asarray(t)))


def lagrange(nodes, j, u):
    return math.prod((u - node) / (nodes[j] - node) for m, node in enumerate(nodes) if m != j)


def adams(start, end, rate, nodes):
    """c_j by SciPy's adaptive quadrature."""
    return [
        quad(
            lambda u, j=j: rate * math.exp(-rate * (end - u)) * lagrange(nodes, j, u),
            start,
            end,
            epsabs=1e-13,
        )[0]
        for j in range(len(nodes))
    ]


def recursion(sde, times, order, eta, corrector=False, weights="exact"):
    """x at every time as a linear function of x1 and of the steps' noises, written from the formula of REFERENCE."""
    lam = lambda_of(sde, times)
    with jax.enable_x64(True):
        alpha, sigma = (np.asarray(f(jnp.asarray(times))) for f in (sde.alpha, sde.sigma))
    total = alpha**2 * V + sigma**2
    denoised = lambda x, i: (alpha[i] * V * x + sigma[i] ** 2 * M) * (1.0 / total[i])  # noqa: E731
    x, known, base = Linear.start(len(times)), [], None
    states = [x]
    for i in range(len(times) - 1):
        known = [denoised(x, i), *known]
        if corrector and base is not None:
            nodes = [lam[i], *lam[i - 1 :: -1][:order]] if i > 0 else [lam[i]]
            c = adams(lam[i - 1], lam[i], 1.0 + eta, nodes)
            x = base + sum(
                (alpha[i] * c[j] * known[j] for j in range(len(nodes))), Linear.zero(len(times))
            )
        h = lam[i + 1] - lam[i]
        nodes = lam[i::-1][:order]
        if weights == "midpoint" and len(nodes) == 2:
            total_weight, r = -math.expm1(-(1 + eta) * h), (lam[i] - lam[i - 1]) / h
            c = [total_weight * (1 + 0.5 / r), -0.5 * total_weight / r]
        else:
            c = adams(lam[i], lam[i + 1], 1.0 + eta, nodes)
        noise = sigma[i + 1] * math.sqrt(-math.expm1(-2 * eta * h))
        base = (sigma[i + 1] / sigma[i] * math.exp(-eta * h)) * x + noise * Linear.noise(
            len(times), i
        )
        x = base + sum(
            (alpha[i + 1] * c[j] * known[j] for j in range(len(nodes))), Linear.zero(len(times))
        )
        states.append(x)
    return states


@pytest.mark.parametrize(
    "i",
    range(len(SOLVERS)),
    ids=lambda i: "{0.order}-{0.eta}-{0.corrector}-{0.weights}".format(SOLVERS[i]),
)
def test_every_step_is_the_formulas(i, x64):
    """Given the same noise, the state after each of 12 coarse steps is the formula's, weights by another quadrature.

    Each solver under one SDE, each SDE under several solvers.
    """
    check_steps([*PROCESSES.values()][i % len(PROCESSES)], SOLVERS[i], sd.grids.UniformLogSNR())


@pytest.mark.parametrize(
    "solver", SOLVERS[2::3], ids=lambda s: f"{s.order}-{s.eta}-{s.corrector}-{s.weights}"
)
@pytest.mark.filterwarnings("ignore:order")
def test_every_step_is_the_formulas_on_unequal_steps(solver, x64):
    check_steps(sd.VP(), solver, sd.grids.Uniform())


def check_steps(any_sde, solver, grid):
    solver = dataclasses.replace(
        solver, num_steps=12, t_min=T_MIN, grid=grid, denoise=False, save_path=True
    )
    times = np.asarray(grid(any_sde, 12, T_MIN), np.float64)
    x1 = any_sde.prior_sample(jax.random.key(1), (3, 2))
    out = solver(KEY, any_sde, gaussian_score(any_sde, M, V), x1)
    keys = example_keys(KEY, 3)
    noises = [normal_like(fold_in_examples(keys, i), x1) for i in range(12)]
    states = recursion(any_sde, times, solver.order, solver.eta, solver.corrector, solver.weights)
    scale = float(any_sde.prior_std())
    if (
        solver.corrector
    ):  # the path holds states as predicted; the last is compared, as the corrections lead to it
        np.testing.assert_allclose(out.x, states[-1].at(x1, noises), atol=1e-9 * scale)
    else:
        for i, state in enumerate(states):
            np.testing.assert_allclose(out.path.x[:, i], state.at(x1, noises), atol=1e-9 * scale)


@pytest.mark.parametrize(
    ("order", "corrector", "weak"), [(1, False, 1.0), (2, False, 2.0), (1, True, 2.0)]
)
def test_weak_order_with_noise(order, corrector, weak):
    """The variance after eta = 1 steps tends to the exact one at the method's order, in uniform log SNR."""
    sde, errors = sd.VP(), []
    for steps in (40, 80, 160):
        times = np.asarray(sd.grids.UniformLogSNR()(sde, steps, T_MIN), np.float64)
        law = recursion(sde, times, order, 1.0, corrector)[-1]
        with jax.enable_x64(True):
            end = jnp.asarray([T_MIN, 1.0])
            exact, first = np.asarray(sde.alpha(end) ** 2 * V + sde.variance(end))
        errors.append(abs(law.variance(math.sqrt(first)) - exact))
    np.testing.assert_allclose(np.log2(np.array(errors[:-1]) / errors[1:]), weak, atol=0.15)


# --- The papers' own formulas ---


@pytest.mark.parametrize("eta", [0.0, 0.3, 1.0])
def test_ddim_is_equation_12(any_sde, mixture, eta, x64):
    """alpha_s D + sqrt(sigma_s^2 - v) eps_hat + sqrt(v) z, v = eta^2 (1 - e^{-2h}) sigma_s^2, step by step."""
    score, x = mixture.score(any_sde), any_sde.prior_sample(KEY, (4, 2))
    times = np.asarray(sd.grids.UniformLogSNR()(any_sde, 10, 1e-2))
    out = sd.DDIM(eta, 10, t_min=1e-2, save_path=True)(KEY, any_sde, score, x)
    keys = example_keys(KEY, 4)
    for i, (t, s) in enumerate(itertools.pairwise(times)):
        denoised = sd.denoise(any_sde, score, x, t)
        noise = (x - any_sde.alpha(t) * denoised) / any_sde.sigma(t)
        # DDIM's own sigma_tau, with its alpha_bar = alpha^2 / (alpha^2 + sigma^2) where alpha^2 + sigma^2 = 1
        ratio = (any_sde.alpha(t) * any_sde.sigma(s) / (any_sde.alpha(s) * any_sde.sigma(t))) ** 2
        v = eta**2 * (1.0 - ratio) * any_sde.sigma(s) ** 2
        z = normal_like(fold_in_examples(keys, i), x)
        x = (
            any_sde.alpha(s) * denoised
            + jnp.sqrt(any_sde.sigma(s) ** 2 - v) * noise
            + jnp.sqrt(v) * z
        )
        np.testing.assert_allclose(out.path.x[:, i + 1], x, atol=1e-11 * 50)
    np.testing.assert_allclose(
        out.path.denoised[:, -1], sd.denoise(any_sde, score, x, times[-1]), atol=1e-9
    )
    np.testing.assert_array_equal(out.x, out.path.denoised[:, -1])


def test_ddim_interpolates_from_the_ancestral_to_the_deterministic_sampler(any_sde, mixture, x64):
    """eta = 1 is `Ancestral` to rounding, on its own grid; eta = 0 with many steps is the probability flow."""
    score, x1 = mixture.score(any_sde), any_sde.prior_sample(KEY, (4, 2))
    grid = sd.grids.Uniform()
    ancestral = sd.Ancestral(21, t_min=1e-2, grid=grid)(KEY, any_sde, score, x1)
    ddim = sd.DDIM(1.0, 20, t_min=1e-2, grid=grid)(KEY, any_sde, score, x1)
    np.testing.assert_allclose(ddim.x, ancestral.x, atol=1e-9)
    assert ddim.nfe == ancestral.nfe == 21


def test_dpm_solver_pp_is_its_algorithm_2(mixture, x64):
    """2M as the paper writes it: D = (1 + 1/2r) D_i - 1/2r D_{i-1}, x = sigma ratio x - alpha (e^{-h} - 1) D."""
    sde, score = sd.VP(), mixture.score(sd.VP())
    x, times = sde.prior_sample(KEY, (4, 2)), np.asarray(sd.grids.UniformLogSNR()(sd.VP(), 8, 1e-2))
    times = times + np.array([0, *np.linspace(0.003, 0.001, 7), 0])  # unequal steps
    settings = sd.DPMSolverPP(
        2, 8, weights="midpoint", t_min=1e-2, grid=sd.grids.GivenTimes(tuple(times)), denoise=False
    )
    out, before, last = settings(KEY, sde, score, x).x, None, None
    lam = lambda_of(sde, times)
    for i in range(8):
        t, s, h = times[i], times[i + 1], lam[i + 1] - lam[i]
        new = sd.denoise(sde, score, x, t)
        used = new if before is None else (1 + h / (2 * last)) * new - h / (2 * last) * before
        x = sde.sigma(s) / sde.sigma(t) * x - sde.alpha(s) * np.expm1(-h) * used
        before, last = new, h
    np.testing.assert_allclose(out, x, atol=1e-11)


def test_sde_dpm_solver_pp_2m_is_its_formula(mixture, x64):
    """sigma_s/sigma_t e^{-h} x + C D + C (D - D_prev) / 2r + sigma_s sqrt(1 - e^{-2h}) z, C = alpha_s (1 - e^{-2h})."""
    sde, score = sd.SubVP(), mixture.score(sd.SubVP())
    x, times = (
        sde.prior_sample(KEY, (4, 2)),
        np.asarray(sd.grids.UniformLogSNR()(sd.SubVP(), 8, 1e-2)),
    )
    out = sd.DPMSolverPP(2, 8, eta=1.0, weights="midpoint", t_min=1e-2, denoise=False)(
        KEY, sde, score, x
    ).x
    lam, keys, before = lambda_of(sde, times), example_keys(KEY, 4), None
    for i in range(8):
        t, s, h = times[i], times[i + 1], lam[i + 1] - lam[i]
        new = sd.denoise(sde, score, x, t)
        moved = (
            sde.sigma(s) / sde.sigma(t) * math.exp(-h) * x - sde.alpha(s) * math.expm1(-2 * h) * new
        )
        if before is not None:
            r = (lam[i] - lam[i - 1]) / h
            moved = moved - 0.5 * sde.alpha(s) * math.expm1(-2 * h) * (new - before) / r
        z = normal_like(fold_in_examples(keys, i), x)
        x, before = moved + sde.sigma(s) * math.sqrt(-math.expm1(-2 * h)) * z, new
    np.testing.assert_allclose(out, x, atol=1e-11)


def test_unipc_3_is_its_algorithm(mixture, x64):
    """Zhao et al. 2023, data prediction: weights a = R^-1 g / B(h) with B = e^{-h} - 1, predictor and corrector."""
    sde, score = sd.VP(), mixture.score(sd.VP())
    steps, x = 9, sde.prior_sample(KEY, (4, 2))
    times = np.asarray(sd.grids.UniformLogSNR()(sde, steps, 1e-2))
    out = sd.UniPC(3, steps, t_min=1e-2, denoise=False)(KEY, sde, score, x).x
    lam, known = lambda_of(sde, times), []

    def update(x, i, p, new=None):
        """UniP-p from t_i, or UniC-p if D at t_{i+1} is given."""
        t, s, h = times[i], times[i + 1], lam[i + 1] - lam[i]
        hh, b = -h, math.expm1(-h)
        r = [(lam[i - m] - lam[i]) / h for m in range(1, p)]
        differences = [(known[m] - known[0]) / r[m - 1] for m in range(1, p)]
        if new is not None:
            r, differences = [*r, 1.0], [*differences, new - known[0]]
        moved = sde.sigma(s) / sde.sigma(t) * x - sde.alpha(s) * b * known[0]
        if not r:
            return moved
        rows, g, phi, factorial = [], [], b / hh - 1.0, 1
        for k in range(1, len(r) + 1):
            rows.append(np.array(r) ** (k - 1))
            g.append(phi * factorial / b)
            factorial *= k + 1
            phi = phi / hh - 1.0 / factorial
        a = np.linalg.solve(np.array(rows), np.array(g))
        return moved - sde.alpha(s) * b * sum(a[m] * differences[m] for m in range(len(r)))

    corrected = x
    for i in range(steps):
        new = sd.denoise(sde, score, x, times[i])
        if i > 0:
            corrected = update(corrected, i - 1, min(3, i), new)
        known = [new, *known][:3]
        x = update(corrected, i, min(3, i + 1))
    np.testing.assert_allclose(out, x, atol=1e-9)


# --- Settings ---


@pytest.mark.usefixtures("unchecked")
@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: sd.DPMSolverPP(order=4), "order = 4"),
        (lambda: sd.Exponential(order=0), "order = 0"),
        (lambda: sd.UniPC(2.5), "whole number"),
        (lambda: sd.DDIM(eta=1.5), r"in \[0, 1\]"),
        (lambda: sd.DDIM(eta=-0.1), "eta"),
        (lambda: sd.DPMSolverPP(3, weights="midpoint"), "weights='exact'"),
        (lambda: sd.Exponential(weights="trapezoid"), "'exact' or 'midpoint'"),
        (lambda: sd.DDIM(num_steps=0), "num_steps = 0"),
        (lambda: sd.Heun(num_steps=0), "num_steps = 0"),
        (lambda: sd.UniPC(t_min=0.5, start=0.4), "not below start"),
        (lambda: sd.DDIM(start=1.2), "beyond the prior"),
        (
            lambda: sd.DDIM(t_min=0.0)(KEY, sd.VP(), lambda x, t: -x, jnp.ones((2, 2))),
            "infinite log SNR",
        ),
        (lambda: sd.grids.GivenTimes((1.0, 0.2, 0.5)), "falling"),
        (lambda: sd.grids.GivenTimes((1.5, 0.1)), r"times lie in \[0, 1\]"),
        (
            lambda: sd.Ancestral(5, start=0.1)(KEY, sd.VP(), lambda x, t: -x, jnp.ones((2, 2))),
            "t_min = None with num_steps = 5 .* t = 0.2, which is not below start = 0.1",
        ),
        (
            lambda: sd.EulerMaruyama(1, t_min=None)(
                KEY, sd.VP(), lambda x, t: -x, jnp.ones((2, 2))
            ),
            "t_min = None with num_steps = 1 ",
        ),
        (
            lambda: sd.DDIM(grid=sd.grids.GivenTimes((1.0, 0.5, 1e-3)))(
                KEY, sd.VP(), lambda x, t: -x, jnp.ones((2, 2))
            ),
            "num_steps=2",
        ),
        (lambda: sd.grids.Karras(rho=0.0), "rho"),
    ],
)
def test_bad_settings_are_refused_with_the_reason(call, message):
    with pytest.raises(ValueError, match=message):
        call()


VP, VE, UNIFORM = sd.VP(), sd.VE(), sd.grids.Uniform()
GRIDS = [
    (VP, sd.Exponential(50, order=2, eta=1.0, grid=UNIFORM), True),  # +78 %
    (VP, sd.Exponential(400, order=3, eta=1.0, grid=UNIFORM, t_min=1e-5), True),  # +183 %
    (VP, sd.Exponential(50, order=3, eta=1.0, corrector=True, grid=UNIFORM), True),
    (
        VP,
        sd.Exponential(
            50, order=2, eta=1.0, grid=sd.grids.GivenTimes(tuple(np.linspace(1.0, 1e-3, 51)))
        ),
        True,
    ),
    (VE, sd.Exponential(50, order=2, eta=1.0, grid=sd.grids.Karras(rho=3.0)), True),
    (VP, sd.Exponential(400, order=2, eta=1.0, grid=UNIFORM), False),
    (VP, sd.Exponential(50, order=2, eta=1.0, grid=sd.grids.Quadratic()), False),
    (VP, sd.Exponential(50, order=2, eta=1.0, grid=sd.grids.Karras()), False),
    (VE, sd.Exponential(50, order=2, eta=1.0, grid=UNIFORM), False),  # equal steps of log SNR
    (VE, sd.Exponential(50, order=3, eta=1.0, corrector=True), False),
]


def warnings_of(solver, sde):
    """Without compiling its scan."""
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        jax.eval_shape(lambda x: solver(KEY, sde, gaussian_score(sde, M, V), x).x, jnp.ones((2, 2)))
    return caught


@pytest.mark.usefixtures("unchecked")
@pytest.mark.parametrize(("sde", "solver", "bad"), GRIDS, ids=lambda value: "")
def test_grids_that_bend_the_law_draw_a_warning(sde, solver, bad):
    """More than 10 % off in the variance of Gaussian data by the recursion above: warned of; less: not."""
    times = np.asarray(grid_times(solver.grid, sde, solver.num_steps, solver.t_min), np.float64)
    with jax.enable_x64(True):
        end = jnp.asarray([solver.t_min, 1.0])
        exact, first = np.asarray(sde.alpha(end) ** 2 * V + sde.variance(end))
    law = recursion(sde, times, solver.order, solver.eta, solver.corrector)[-1]
    excess = law.variance(math.sqrt(first)) / exact - 1.0
    assert (abs(excess) > 0.1) == bad
    caught = warnings_of(solver, sde)
    assert len(caught) == bad
    if bad:
        assert f"variance is {excess:+.0%} off" in str(caught[0].message)
        assert "sd.grids.UniformLogSNR()" in str(caught[0].message)


@pytest.mark.usefixtures("unchecked")
def test_the_warning_is_one_and_points_at_the_caller():
    for grid in (UNIFORM, lambda sde, n, t_min: np.linspace(1.0, t_min, n + 1)):
        (caught,) = warnings_of(sd.DPMSolverPP(2, 50, eta=1.0, grid=grid), VP)
        assert caught.filename == __file__
    for solver in (
        sd.DPMSolverPP(2, 50, grid=UNIFORM),
        sd.DDIM(1.0, 50, grid=UNIFORM),
    ):  # without noise; order 1
        assert not warnings_of(solver, VP)


def test_learnt_schedules_differentiate_through_every_solver(mixture):
    """Coefficients move into the trace when settings are traced: the gradient is the finite difference's."""
    x1, score = jnp.ones((2, 2)), mixture.score(sd.VP())
    for sampler in (sd.Exponential(3, order=2, eta=0.5, corrector=True), sd.Heun(3)):
        run = jax.jit(lambda b, s=sampler: jnp.sum(s(KEY, sd.VP(beta_max=b), score, x1).x))
        gradient = float(jax.grad(run)(10.0))
        assert gradient == pytest.approx((float(run(10.1)) - float(run(9.9))) / 0.2, rel=0.05)
        np.testing.assert_allclose(
            run(10.0), jnp.sum(sampler(KEY, sd.VP(beta_max=10.0), score, x1).x), rtol=1e-3
        )


def test_ring_is_drawn_in_twenty_evaluations():
    """What these solvers are for: 19 steps of 2M leave a tenth of the error of Euler-Maruyama's."""
    mixture, sde = ring(), sd.VP()
    x1 = sde.prior_sample(KEY, (500, 2))
    exact = sd.sample(KEY, sd.ProbabilityFlow(), sde, mixture.score(sde), (500, 2), x1=x1).x
    error = {}
    for name, sampler in {
        "2M": sd.DPMSolverPP(num_steps=19),
        "DDIM": sd.DDIM(num_steps=19),
    }.items():
        x = sd.sample(KEY, sampler, sde, mixture.score(sde), (500, 2), x1=x1).x
        error[name] = float(jnp.median(jnp.linalg.norm(x - exact, axis=1)))
    assert error["2M"] < 0.5 * error["DDIM"]


# --- What a sceptic found ---


@pytest.mark.parametrize("eta", [0.0, 0.5, 1.0])
def test_one_long_step_is_finite(eta):
    """Where e^{-2h} rounds away: in float32 traces, and from t_min = 1e-5."""
    for sde in (sd.SubVP(), sd.DDPM.linear(1000).to_sde(exact=True)):
        out = sd.sample(KEY, sd.DDIM(eta, 1, t_min=1e-5), sde, gaussian_score(sde, M, V), (4, 2))
        assert bool(jnp.isfinite(out.x).all())
    run = jax.jit(
        lambda b: (
            sd.DDIM(eta, 1, t_min=1e-5)(
                KEY, sd.VP(beta_max=b), gaussian_score(sd.VP(), M, V), jnp.ones((2, 2))
            ).x
        )
    )
    assert bool(jnp.isfinite(run(20.0)).all())


def test_settings_that_are_arrays_are_numbers_to_sample(mixture):
    """VP(beta_max=array) and a table of DDPM have float64 coefficients under `sample`, and serve every sampler."""
    score = mixture.score(sd.VP())
    for sampler in (sd.UniPC(3, 30), sd.Restart(10, (sd.Interval(0.1, 1.0, 2, 1),))):
        plain = sd.sample(KEY, sampler, sd.VP(), score, (4, 2)).x
        for value in (jnp.asarray(20.0), np.float64(20.0)):
            np.testing.assert_array_equal(
                sd.sample(KEY, sampler, sd.VP(beta_max=value), score, (4, 2)).x, plain
            )
    model = sd.DDPM.cosine(50).model(lambda x, i: 0.1 * x)
    out = sd.sample(KEY, sd.Restart(8, (sd.Interval(0.1, 1.0, 2, 1),)), model.sde, model, (2, 2))
    assert bool(out.success.all())


@pytest.mark.usefixtures("unchecked")
def test_grids_of_ones_own_in_jax_or_lists_are_checked(mixture):
    sde, score = sd.VP(), mixture.score(sd.VP())
    draw = lambda grid, **settings: (
        sd.sample(KEY, sd.DDIM(0.0, 4, grid=grid, **settings), sde, score, (2, 2)).x
    )  # noqa: E731
    want = draw(sd.grids.Uniform())
    for grid in (
        lambda sde, n, t_min: jnp.linspace(1.0, t_min, n + 1),
        lambda sde, n, t_min, start: np.linspace(start, t_min, n + 1),
        lambda sde, n, t_min: [1.0, *np.linspace(1.0, t_min, n + 1)[1:]],
    ):
        np.testing.assert_allclose(draw(grid), want, rtol=1e-4, atol=1e-5)
    with pytest.raises(ValueError, match="falling from 1"):
        draw(lambda sde, n, t_min: jnp.linspace(t_min, 1.0, n + 1))
    with pytest.raises(TypeError, match="add `start`"):
        sd.DDIM(0.0, 4, start=0.5, grid=lambda sde, n, t_min: np.linspace(0.5, t_min, n + 1))(
            KEY, sde, score, jnp.ones((2, 2))
        )


@pytest.mark.usefixtures("unchecked")
def test_settings_of_other_kinds_serve_or_are_refused(mixture):
    sde, score = sd.VP(), mixture.score(sd.VP())
    half = sd.sample(KEY, sd.DDIM(eta=0.5), sde, score, (2, 2)).x
    np.testing.assert_allclose(
        sd.sample(KEY, sd.DDIM(eta=jnp.asarray(0.5)), sde, score, (2, 2)).x, half, atol=1e-6
    )
    traced = jax.vmap(lambda eta: sd.sample(KEY, sd.DDIM(eta=eta), sde, score, (2, 2)).x)(
        jnp.asarray([0.0, 0.5])
    )
    np.testing.assert_allclose(traced[1], half, rtol=1e-3, atol=1e-4)
    plain = sd.sample(KEY, sd.DDIM(), sde, score, (2, 2)).x
    np.testing.assert_allclose(traced[0], plain, rtol=1e-3, atol=1e-4)
    for times in (np.linspace(1.0, 0.1, 4), [1.0, 0.4, 0.1], jnp.linspace(1.0, 0.1, 4)):
        for build in (sd.DDIM, sd.UniPC, sd.Heun):
            with pytest.raises(
                TypeError,
                match=rf"sd\.GivenTimes\(times\), with num_steps={len(times) - 1}, start=1, ",
            ):
                build(grid=times)
    for name in ("start", "churn"):
        with pytest.raises(TypeError, match=f"{name} is traced"):
            jax.vmap(
                lambda value, name=name: (
                    sd.Heun(**{name: value})(KEY, sde, score, jnp.ones((2, 2))).x
                )
            )(jnp.ones(2))
    assert (
        sd.Restart(8, [sd.Interval()]).intervals
        == sd.Restart(8, sd.Interval()).intervals
        == (sd.Interval(),)
    )
    assert isinstance(sd.grids.GivenTimes(np.linspace(1.0, 0.1, 4)).times, tuple)
    with pytest.raises(ValueError, match="num_steps=5"):
        sd.Ancestral(4, t_min=1e-3, grid=sd.grids.GivenTimes(np.geomspace(1.0, 1e-3, 5)))(
            KEY, sde, score, jnp.ones((2, 2))
        )
    for sampler in (sd.ProbabilityFlow, sd.AdaptiveSDE):
        with pytest.raises(TypeError, match="t_min is None"):
            sampler(t_min=None)
    with pytest.raises(ValueError, match="infinite log SNR"):
        sd.AnnealedLangevin(4, 2, t_min=0.0)(KEY, sde, score, jnp.ones((2, 2)))


@pytest.mark.usefixtures("unchecked")
def test_an_offered_denoiser_keeps_shape_and_dtype(mixture, x64):
    sde = sd.VP()

    class Offers:
        def __call__(self, x, t):
            return -x

        def denoise(self, x, t):
            return x[:, 0]

    with pytest.raises(ValueError, match="the score's denoise returned shape"):
        sd.DDIM(0.0, 2)(KEY, sde, Offers(), jnp.ones((2, 3)))
    out = sd.DDIM(1.0, 3)(KEY, sde, mixture.score(sde), jnp.ones((2, 2), jnp.float32))
    assert out.x.dtype == jnp.float32


def test_gradients_are_finite_where_a_step_adds_no_noise(mixture):
    x1, score = jnp.ones((2, 2)), mixture.score(sd.VP())
    for sampler in (sd.Heun(4, churn=2.0, churn_min=1.0), sd.Ancestral(4, t_min=0.0)):
        run = jax.jit(lambda b, s=sampler: s(KEY, sd.VP(beta_max=b), score, x1).x.sum())
        assert bool(jnp.isfinite(jax.grad(run)(20.0)))
