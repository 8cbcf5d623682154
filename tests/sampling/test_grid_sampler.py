"""What the samplers on a fixed grid share: their settings, and gradients through their steps."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import scoresde as sd
from scoresde.sampling.grid_sampler import GridSampler
from scoresde.sampling.linear_step import LinearStep

KEY = jax.random.key(0)


@pytest.mark.usefixtures("unchecked")
@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: sd.DDIM(num_steps=0), "num_steps = 0"),
        (lambda: sd.Heun(num_steps=0), "num_steps = 0"),
        (lambda: sd.UniPC(t_min=0.5, start=0.4), "not below start"),
        (lambda: sd.DDIM(start=1.2), r"start = 1.2 is out of range.*\(0, 1\]"),
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
    ],
)
def test_bad_settings_are_refused_with_the_reason(call, message):
    with pytest.raises(ValueError, match=message):
        call()


@pytest.mark.parametrize(
    ("call", "error", "message"),
    [
        (lambda: sd.EulerMaruyama(num_steps=0), ValueError, "num_steps = 0"),
        (lambda: sd.EulerMaruyama(num_steps=2.5), ValueError, "whole number"),
        (lambda: sd.EulerMaruyama(t_min=1.0), ValueError, "t_min"),
    ],
)
def test_bad_steps_are_refused_with_the_reason(call, error, message, unchecked):
    with pytest.raises(error, match=message):
        call()


@dataclasses.dataclass(frozen=True)
class Constant(GridSampler):
    """Moves by a score whose coefficient is one number for all steps."""

    num_steps: int = 4

    def coefficients(self, sde, t, t_next):
        return LinearStep(1.0, 0.25, None)


def test_a_coefficient_may_be_one_number_for_all_steps():
    x1 = jnp.ones((3, 2))
    out = Constant(denoise=False)(KEY, sd.VP(), lambda x, t: x, x1)
    np.testing.assert_allclose(out.x, 1.25**4 * x1, rtol=1e-6)


@pytest.mark.usefixtures("unchecked")
def test_errors_name_what_a_custom_sampler_lacks():
    @dataclasses.dataclass(frozen=True)
    class Undeclared(GridSampler):
        pass

    with pytest.raises(TypeError, match="Undeclared has no num_steps: declare it in the class"):
        Undeclared()

    class Padless(Constant):
        def step(self, sde, score, keys, x, t, t_next, coefficients):
            return t[:, None, None] * x

    class Forgetful(Constant):
        def initial_state(self, x1):
            return x1, x1

        def step(self, sde, score, keys, state, t, t_next, coefficients):
            return state[0]

    for broken in (Padless(), Forgetful()):
        with pytest.raises(ValueError, match=rf"{type(broken).__name__}.step returned shapes"):
            broken(KEY, sd.VP(), lambda x, t: x, jnp.ones((3, 2)))


@pytest.mark.usefixtures("unchecked")
def test_settings_of_other_kinds_serve_or_are_refused(mixture):
    sde = sd.VP()
    score = mixture.score(sd.VP())
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
            num_steps = rf"num_steps={len(times) - 1}, start=1, "
            message = r"sd\.grids\.GivenTimes\(times\), with " + num_steps
            with pytest.raises(TypeError, match=message):
                build(grid=times)
    for name in ("start", "churn"):
        with pytest.raises(TypeError, match=f"{name} is a tracer"):
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


# --- Gradients ---


def test_learnt_schedules_differentiate_through_every_solver(mixture):
    """The gradient with respect to a traced setting of the SDE is the finite difference's."""
    x1 = jnp.ones((2, 2))
    score = mixture.score(sd.VP())
    for sampler in (sd.Exponential(3, order=2, eta=0.5, corrector=True), sd.Heun(3)):
        run = jax.jit(lambda b, s=sampler: jnp.sum(s(KEY, sd.VP(beta_max=b), score, x1).x))
        gradient = float(jax.grad(run)(10.0))
        assert gradient == pytest.approx((float(run(10.1)) - float(run(9.9))) / 0.2, rel=0.05)
        np.testing.assert_allclose(
            run(10.0), jnp.sum(sampler(KEY, sd.VP(beta_max=10.0), score, x1).x), rtol=1e-3
        )


def test_gradients_are_finite_where_a_step_adds_no_noise(mixture):
    x1 = jnp.ones((2, 2))
    score = mixture.score(sd.VP())
    for sampler in (sd.Heun(4, churn=2.0, churn_min=1.0), sd.Ancestral(4, t_min=0.0)):
        run = jax.jit(lambda b, s=sampler: s(KEY, sd.VP(beta_max=b), score, x1).x.sum())
        assert bool(jnp.isfinite(jax.grad(run)(20.0)))
