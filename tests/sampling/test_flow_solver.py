"""Any solver and any controller of diffrax integrates the flow."""

import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from counting import counting

import scoresde as sd

KEY = jax.random.key(0)


def test_diffrax_solvers_are_counted(mixture):
    """Explicit ones; an implicit solver's evaluations are -1: nobody counts them."""
    import diffrax

    sde = sd.VP()
    for solver in (diffrax.Tsit5(), diffrax.Dopri8(), diffrax.Heun(), diffrax.Bosh3()):
        score, count = counting(mixture.score(sde))
        sampler = sd.ProbabilityFlow(solver=solver, rtol=1e-3, atol=1e-3)
        out = sampler(jax.random.key(0), sde, score, jnp.ones((1, 2)))
        jax.effects_barrier()
        assert int(out.nfe[0]) == count[0], solver
    assert (
        int(
            sd.ProbabilityFlow(diffrax.Kvaerno3())(
                KEY, sde, mixture.score(sde), jnp.ones((1, 2))
            ).nfe[0]
        )
        == -1
    )
    with pytest.raises(TypeError, match="wanted one of diffrax's"):
        sd.ProbabilityFlow(solver="dopri5")


def test_any_controller_of_diffrax_steps_the_flow(mixture):
    """200 given Euler steps are what a loop of them makes; nonsense is refused."""
    import diffrax

    sde = sd.VP()
    score = mixture.score(sd.VP())
    x1 = sde.prior_sample(KEY, (2, 2))
    ts = jnp.linspace(1.0, 1e-3, 201)
    sampler = sd.ProbabilityFlow(diffrax.Euler(), controller=diffrax.StepTo(ts), denoise=False)
    x = x1
    flow = sde.probability_flow(score)
    for t, s in itertools.pairwise(ts):
        x = x + (s - t) * flow(x, t)
    out = sampler(KEY, sde, score, x1)
    np.testing.assert_allclose(out.x, x, atol=1e-4)
    assert out.nfe.tolist() == [200, 200]
    assert sd.sample(KEY, sampler, sde, score, (2, 2)).nfe.tolist() == [
        200,
        200,
    ]  # though it holds an array
    with pytest.raises(TypeError, match=r"diffrax\.StepTo"):
        sd.ProbabilityFlow(diffrax.Euler())
    with pytest.raises(TypeError, match="controller is 3"):
        sd.ProbabilityFlow(controller=3)
