"""Every wrapper with every kind of sampler and SDE: each example keeps its own condition."""

import itertools

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from families import FINITE, SAMPLERS
from guided_cases import GUIDED, MEANS, MIXTURE, STD, guided
from scipy import stats

import scoresde as sd
from scoresde.likelihood.dataset import likelihood_of_set

KEY = jax.random.key(0)
LABELS = np.array([2, 0, 3, 1, 0, 2, 3])


def pairs(names, others):
    """Every pair, and an SDE in rotation: one in five runs by default, the others are `slow`."""
    found = []
    for i, (name, other) in enumerate(itertools.product(names, others)):
        row, column = divmod(i, len(others))
        process = list(FINITE)[(row + column) % len(FINITE)]
        marks = [] if (row + 2 * column) % 5 == 0 else [pytest.mark.slow]
        found.append(pytest.param(name, other, process, id=f"{name}-{other}", marks=marks))
    return found


@pytest.mark.parametrize(("name", "sampler", "process"), pairs(GUIDED, SAMPLERS))
def test_samples_have_their_own_condition(name, sampler, process):
    """In chunks, on two devices: each sample is of its label's component."""
    sde = FINITE[process]
    score, cond = guided(name, sde, LABELS)
    out = sd.sample(KEY, SAMPLERS[sampler], sde, score, (7, 2), cond, batch_size=4)
    assert np.all(out.success)
    far = np.linalg.norm(np.asarray(out.x) - MEANS[LABELS], axis=1)
    assert np.all(far < 6.0 * STD)


@pytest.mark.parametrize("name", GUIDED)
def test_likelihoods_have_their_own_condition(name):
    """log p(x | y) of the component, which is exact: also through guidance at weight 1."""
    sde = sd.VP()
    score, cond = guided(name, sde, LABELS)
    x = MEANS[LABELS] + STD * np.random.default_rng(0).normal(size=(7, 2))
    alpha = float(sde.alpha(1.0))
    end = stats.norm(alpha * MEANS[LABELS], np.sqrt((alpha * STD) ** 2 + float(sde.variance(1.0))))
    out = sd.log_likelihood(
        KEY,
        sde,
        score,
        jnp.asarray(x, jnp.float32),
        cond,
        divergence=sd.ExactDivergence(),
        prior_log_prob=lambda x1: jnp.asarray(end.logpdf(x1).sum(axis=1), x1.dtype),
        batch_size=4,
    )
    exact = stats.norm(MEANS[LABELS], STD).logpdf(x).sum(axis=1)
    np.testing.assert_allclose(out.log_prob, exact, atol=4e-4)  # nats: 2e-4 bits/dim in the plane


@pytest.mark.parametrize("name", ["held labels", "classifier", "classifier-free"])
def test_codes_and_paths_have_their_own_condition(name):
    sde = sd.VP()
    score, cond = guided(name, sde, LABELS)
    x = jnp.asarray(MEANS[LABELS], jnp.float32)
    code = sd.encode(sde, score, x, cond, batch_size=4)
    decoded = sd.decode(sde, score, code.x, cond, batch_size=4)
    np.testing.assert_allclose(decoded.x, x, atol=1e-3)

    sampler = sd.ProbabilityFlow(save_path=True, path_points=3)
    out = sampler(KEY, sde, score, code.x, cond)
    np.testing.assert_allclose(out.path.denoised[:, -1], x, atol=0.02)


def test_a_vmap_over_conditions_is_a_loop():
    sde = sd.VP()
    sampler = sd.DDIM(num_steps=20)

    def one(label):
        score = sd.conditioned(sd.MixtureClassScore(sde, MIXTURE), label)
        return sampler(KEY, sde, score, jnp.ones((3, 2))).x

    mapped = jax.vmap(one)(jnp.arange(4))
    for label in range(4):
        np.testing.assert_allclose(mapped[label], one(label), rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("name", GUIDED)
def test_wrappers_are_differentiable_and_compile(name):
    """Under jit, the derivative of every wrapper is the difference quotient."""
    sde = sd.VP()
    score, cond = guided(name, sde, LABELS)
    x = jnp.asarray(MEANS[LABELS], jnp.float32)
    t = jnp.full(7, 0.4)
    arguments = (x, t) if cond is None else (x, t, cond)

    @eqx.filter_jit
    def along(score, step, x, t, *cond):
        return score(x + step, t, *cond)

    _, slope = eqx.filter_jit(
        lambda score, x, t, *cond: jax.jvp(lambda step: score(x + step, t, *cond), (0.0,), (1.0,))
    )(score, *arguments)
    h = 1e-2
    difference = (along(score, h, *arguments) - along(score, -h, *arguments)) / (2 * h)
    np.testing.assert_allclose(slope, difference, rtol=2e-2, atol=2e-2)


@pytest.mark.parametrize("name", GUIDED)
def test_denoisers_are_tweedies(name):
    """The guided denoiser and the guided score say the same: D = (x + sigma^2 s) / alpha."""
    sde = sd.SubVP()
    score, cond = guided(name, sde, LABELS)
    offered = getattr(score, "denoise", None)
    x = jnp.asarray(MEANS[LABELS], jnp.float32)
    t = jnp.full(7, 0.5)
    arguments = (x, t) if cond is None else (x, t, cond)
    if offered is None:
        assert "vectors" in name or name == "classifier-free around classifier"
        return
    alpha = sde.alpha(0.5)
    variance = sde.variance(0.5)
    tweedie = (x + variance * score(*arguments)) / alpha
    np.testing.assert_allclose(offered(*arguments), tweedie, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("batch_size", [4, 7])
def test_a_whole_set_has_its_own_conditions(batch_size, tmp_path):
    """Rows that a score holds are cut into chunks with the examples."""
    sde = sd.VP()
    labels = np.concatenate([LABELS, LABELS[:1]])  # 8: two chunks of as many rows as a batch
    x = np.asarray(MEANS[labels] + 0.1, np.float32)
    found = [
        likelihood_of_set(
            KEY,
            sde,
            score,
            x,
            cond,
            dequantization=None,
            path=tmp_path / f"{name}.jsonl",
            about={},
            divergence=sd.ExactDivergence(),
            tolerance=1e-3,
            t_min=1e-4,
            batch_size=batch_size,
            progress=False,
        ).nats
        for name in ("labels", "held labels")
        for score, cond in [guided(name, sde, labels)]
    ]
    np.testing.assert_allclose(found[1], found[0], atol=1e-5)
