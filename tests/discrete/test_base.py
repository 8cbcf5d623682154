"""What DDPM and NCSN share: kernels, losses, scores of an SDE, and the limit of many steps."""

import warnings

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from gaussian import gaussian_score
from own_sde import Cosine

import scoresde as sd
from scoresde.keys import example_keys, normal_like
from scoresde.sde.mixture import ring
from scoresde.sde.vp import TabulatedVP

KEY = jax.random.key(0)


CHAINS = {
    "ddpm": sd.DDPM.from_sde(sd.VP(), 40),
    "ddpm_exact": sd.DDPM.from_sde(sd.VP(), 12, exact=True),
    "ddpm_cosine": sd.DDPM.cosine(50),
    "ncsn": sd.NCSN.from_sde(sd.VE(), 40),
    "ncsn_paper": sd.NCSN.geometric(10, 0.01, 1.0),
}


@pytest.fixture(params=CHAINS.values(), ids=CHAINS.keys())
def chain(request):
    return request.param


def some_indices(chain):
    return np.array([0, chain.num_steps // 2, chain.num_steps - 1])


def network(x, i, cond=None):
    return jnp.tanh(x * (1.0 + 0.01 * i[:, None]))


# --- Tables ---


def test_few_steps_are_valid_or_refused():
    with pytest.raises(ValueError, match="more than 20 steps, or exact=True"):
        sd.DDPM.from_sde(sd.VP(), 20)
    assert sd.DDPM.from_sde(sd.VP(), 21).betas.max() < 1
    with pytest.raises(ValueError, match="exact=True"):
        sd.DDPM.from_sde(sd.VP(), 1)
    for n in (1, 2, 5):
        ddpm = sd.DDPM.from_sde(sd.VP(), n, exact=True)
        assert ddpm.num_steps == n
        # From the SDE: var(x_{i-1} | x_0) var(x_i | x_{i-1}) / var(x_i | x_0), with x_{-1} = x_0.
        with jax.enable_x64(True):
            t = jnp.asarray([0.0, *np.arange(1, n + 1) / n])
            total, (_, step) = np.asarray(sd.VP().variance(t)), sd.VP().transition(t[:-1], t[1:])
        want = total[:-1] * np.asarray(step) ** 2 / total[1:]
        np.testing.assert_allclose(ddpm.posterior_variances, want, rtol=1e-9)
        assert ddpm.alphas_bar[-1] == pytest.approx(float(sd.VP().alpha(1.0)) ** 2, rel=1e-4)
    with pytest.raises(ValueError, match=r"rounds to 1\. Take more steps"):
        sd.DDPM.from_sde(sd.VP(beta_max=200.0), 1, exact=True)
    for make in (lambda: sd.NCSN.from_sde(sd.VE(), 1), lambda: sd.NCSN.geometric(1)):
        with pytest.raises(ValueError, match="two at least"):
            make()
    with pytest.raises(ValueError, match="has one scale"):
        sd.NCSN(np.array([0.5])).to_sde()
    with pytest.raises(ValueError, match="two levels"):
        sd.DDPM.from_sde(sd.VP(), 1, exact=True).model(network)
    assert sd.NCSN.from_sde(sd.VE(), 2).sigmas == pytest.approx([0.01, 50.0], rel=1e-6)


def test_wrong_processes_and_tables_are_refused():
    with pytest.raises(ValueError, match=r"NCSN\.from_sde"):
        sd.DDPM.from_sde(sd.VE())
    with pytest.raises(ValueError, match="DDPM discretises VP"):
        sd.DDPM.from_sde(sd.SubVP())
    with pytest.raises(ValueError, match=r"DDPM\.from_sde"):
        sd.NCSN.from_sde(sd.VP())
    assert sd.DDPM.from_sde(Cosine(), 100, exact=True).betas.max() < 1  # the user's own
    with pytest.raises(ValueError, match=r"betas hold 1\.5.*below 1\. Take more"):
        sd.DDPM(np.array([0.1, 1.5]))
    with pytest.raises(ValueError, match=r"betas hold -0\.1.*above 0"):
        sd.DDPM(np.array([0.1, -0.1]))
    with pytest.raises(ValueError, match="rise from above 0"):
        sd.NCSN(np.array([1.0, 0.1]))
    with pytest.raises(ValueError, match="finite numbers"):
        sd.NCSN(np.array([0.1, np.nan]))
    with pytest.raises(ValueError, match="rising from 0"):
        TabulatedVP(np.array([0.0, 1.0, 0.5]))


@pytest.mark.usefixtures("unchecked")
def test_an_index_is_an_integer_of_the_table():
    ddpm = sd.DDPM.linear(10)
    x = jnp.ones((2, 3))
    with pytest.raises(TypeError, match="integers 0 … 9"):
        ddpm.marginal(x, jnp.asarray([0.5, 0.1]))
    with pytest.raises(ValueError, match="wanted 0 … 9"):
        ddpm.marginal(x, 10)
    with pytest.raises(ValueError, match="wanted 0 … 9"):
        ddpm.posterior(x, x, -1)
    with pytest.raises(ValueError, match="one per example"):
        ddpm.transition(x, jnp.zeros(3, int))
    with pytest.raises(ValueError, match="'posterior' or 'beta'"):
        ddpm.ancestral(x, x, 0, "large")
    with pytest.raises(ValueError, match="'simple' or 'bound'"):
        ddpm.loss(KEY, lambda x, i: x, x, 0, weighting="vlb")
    with pytest.raises(ValueError, match="'noise' or 'score'"):
        ddpm.model(lambda x, i: x, predicts="data")
    with pytest.raises(ValueError, match=r"x0 has shape \(1, 3\), x has \(2, 3\)"):
        ddpm.posterior(x, x[:1], 0)
    with pytest.raises(ValueError, match=r"noise has shape \(2,\), x has \(2, 3\)"):
        ddpm.ancestral(x, x[:, 0], 0)


def test_a_traced_index_outside_the_table_gives_nan():
    """It cannot be refused, and the nearest level's numbers would be silently wrong."""
    ddpm = sd.DDPM.linear(10)
    x = jnp.ones((4, 3))
    mean, std = jax.jit(ddpm.marginal)(x, jnp.asarray([-1, 0, 9, 10]))
    for value in (mean[:, 0], std):
        np.testing.assert_array_equal(np.isnan(value), [True, False, False, True])


@pytest.mark.usefixtures("unchecked")
def test_numpys_float64_is_taken_in_silence():
    """In float32, as everywhere in JAX without x64."""
    ddpm = sd.DDPM.linear(10)
    x = np.ones((2, 3))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        results = [
            ddpm.marginal(x, 3),
            ddpm.transition(x, 3),
            ddpm.posterior(x, x, 3),
            ddpm.ancestral(x, x, 3),
        ]
        results += [(ddpm.loss(KEY, network, x, 3), ddpm.noise(sd.VP(), lambda x, t: -x)(x, 3))]
    assert all(value.dtype == jnp.float32 for pair in results for value in pair)


# --- Kernels ---


def test_transitions_compose_to_the_marginals(chain, x64):
    """Mean and variance pushed through every step, from a point."""
    ones = jnp.ones((chain.num_steps, 1))
    i = jnp.arange(chain.num_steps)
    scale, std = (np.ravel(a) for a in chain.transition(ones, i))
    want, want_std = (np.ravel(a) for a in chain.marginal(ones, i))
    variance = np.zeros(chain.num_steps + 1)
    for k in range(chain.num_steps):
        variance[k + 1] = scale[k] ** 2 * variance[k] + std[k] ** 2
    np.testing.assert_allclose(np.cumprod(scale), want, rtol=1e-10)
    np.testing.assert_allclose(variance[1:], want_std**2, rtol=1e-10)


def test_the_posterior_is_bayes_rule(chain, x64):
    """Conditioning the joint Gaussian of (x_{i-1}, x_i) given x_0 by its covariance matrix."""
    rng = np.random.default_rng(0)
    x, x0 = rng.normal(size=(2, 4, 3))
    for i in some_indices(chain):
        before = 1.0, 0.0
        if i > 0:
            m, s = chain.marginal(jnp.ones((1, 1)), int(i) - 1)
            before = float(m[0, 0]), float(s[0]) ** 2
        c, v = (float(np.ravel(a)[0]) for a in chain.transition(jnp.ones((1, 1)), int(i)))
        covariance = before[1] * np.array([[1.0, c], [c, c**2]]) + np.diag([0.0, v**2])
        gain = covariance[0, 1] / covariance[1, 1]
        mean, std = chain.posterior(jnp.asarray(x), jnp.asarray(x0), int(i))
        np.testing.assert_allclose(
            mean, before[0] * x0 + gain * (x - c * before[0] * x0), atol=1e-12
        )
        np.testing.assert_allclose(std**2, covariance[0, 0] - gain * covariance[0, 1], atol=1e-12)


# --- Losses ---


def test_noise_and_score_forms_are_one(chain, x64):
    """|eps - eps_hat|^2 = sigma^2 |s + eps / sigma|^2 for s = -eps_hat / sigma, at every index."""
    i = jnp.arange(chain.num_steps)
    x0 = jax.random.normal(KEY, (chain.num_steps, 3))
    sigma = jnp.sqrt(jnp.asarray(chain.marginal_variances))[:, None]
    score = lambda x, i: -network(x, i) / sigma  # noqa: E731
    for weighting in ("simple", "bound"):
        a = chain.loss(KEY, network, x0, i, weighting)
        b = chain.loss(KEY, score, x0, i, weighting, predicts="score")
        np.testing.assert_allclose(a, b, rtol=1e-12)


def test_l_simple_and_smld_written_out(chain, x64):
    """With the noise that the key gives."""
    i = jnp.asarray(some_indices(chain))
    x0 = jax.random.normal(KEY, (3, 2))
    eps = normal_like(example_keys(KEY, 3), x0)
    signal, sigma = (
        np.asarray(a)[i][:, None] for a in (chain.signal, np.sqrt(chain.marginal_variances))
    )
    want = jnp.sum((eps - network(signal * x0 + sigma * eps, i)) ** 2, axis=1)
    np.testing.assert_allclose(chain.loss(KEY, network, x0, i), want, rtol=1e-12)


def test_the_bound_is_the_divergence_of_each_step(chain, x64):
    """KL(q(x_{i-1} | x_i, x_0) ‖ p(x_{i-1} | x_i)) of two Gaussians of one variance, i > 0."""
    i = jnp.arange(1, chain.num_steps)
    x0 = jax.random.normal(KEY, (chain.num_steps - 1, 2))
    eps = normal_like(example_keys(KEY, len(x0)), x0)
    mean, std = chain.marginal(x0, i)
    x = mean + std[:, None] * eps
    q, std = chain.posterior(x, x0, i)
    p, same = chain.ancestral(x, network(x, i), i)
    np.testing.assert_allclose(std, same, rtol=1e-12)
    want = jnp.sum((q - p) ** 2, axis=1) / (2 * std**2)
    np.testing.assert_allclose(chain.loss(KEY, network, x0, i, "bound"), want, rtol=1e-7)
    # The last step, a Gaussian decoder of variance v_0: |eps - eps_hat|^2 / (2 alpha_0).
    simple = chain.loss(KEY, network, x0[:2], 0)
    want = simple / (2 * chain.alphas[0] if isinstance(chain, sd.DDPM) else 2)
    np.testing.assert_allclose(chain.loss(KEY, network, x0[:2], 0, "bound"), want, rtol=1e-12)


def test_the_discrete_losses_are_the_continuous_one_at_their_levels(chain, x64):
    """L_simple and SMLD equal `dsm_loss` at t_i of the exact SDE, with the same key.

    A chain's network is a score of that SDE at its levels.
    """
    sde = chain.to_sde(exact=True)
    mixture = ring()
    i = jnp.asarray(np.random.default_rng(0).integers(0, chain.num_steps, 64))
    t = jnp.asarray(sde.level_times(chain.num_steps))[i]
    x0 = mixture.sample(KEY, 64)
    exact = mixture.score(sde)
    a = chain.loss(KEY, chain.noise(sde, exact), x0, i)
    b = sd.dsm_loss(KEY, sde, exact, x0, t)
    np.testing.assert_allclose(a, b, rtol=1e-6)
    model = chain.model(lambda x, i: network(x, i))
    np.testing.assert_allclose(
        sd.dsm_loss(KEY, sde, model, x0, t), chain.loss(KEY, network, x0, i), rtol=1e-8
    )
    # There and back again: the noise network of a chain's model is the network.
    np.testing.assert_allclose(chain.noise(sde, model)(x0, i), network(x0, i), rtol=1e-8)
    scores = chain.model(network, predicts="score")
    np.testing.assert_allclose(scores(x0, t), network(x0, i), rtol=1e-8)


# --- A score of an SDE ---


MATCHED = {
    "linear": (sd.DDPM.linear(300), sd.VP()),
    "cosine": (sd.DDPM(sd.DDPM.cosine(50).betas[:-1]), sd.VP()),
    "geometric": (sd.NCSN.geometric(12, 0.02, 30.0), sd.VE()),
    "other_family": (sd.DDPM.linear(300), sd.VE()),
}


@pytest.mark.parametrize(("chain", "sde"), MATCHED.values(), ids=MATCHED.keys())
def test_a_score_serves_any_chain_at_equal_noise(chain, sde, x64):
    """A score of any SDE serves as a chain's noise network.

    On N(m, v) data, E[noise | x_i] = sigma_i (x - a_i m) / (a_i^2 v + sigma_i^2).
    """
    m = 0.7
    v = 0.25
    i = np.arange(chain.num_steps)
    x = jax.random.normal(KEY, (chain.num_steps, 2))
    a, s2 = (table[:, None] for table in (chain.signal, chain.marginal_variances))
    want = np.sqrt(s2) * (x - a * m) / (a**2 * v + s2)
    got = chain.noise(sde, gaussian_score(sde, m, v))(x, i)
    np.testing.assert_allclose(got, want, rtol=1e-9, atol=1e-9)


def test_a_level_that_the_sde_lacks_is_refused():
    score = gaussian_score(sd.VP(), 0.0, 1.0)
    with pytest.raises(ValueError, match="level 49 has log SNR"):
        sd.DDPM.cosine(50).noise(sd.VP(), score)  # noisier than VP at t = 1
    with pytest.raises(ValueError, match="level 0 has log SNR"):
        sd.NCSN.geometric(10, 0.001, 1.0).noise(sd.VE(), score)
    with pytest.raises(TypeError, match="traced settings"):
        jax.jit(lambda b: sd.DDPM.linear(9).noise(sd.VP(beta_max=b), score)(jnp.ones((1, 1)), 0))(
            9.0
        )


# --- The limit of many steps ---


def slopes(errors):
    """log2 of successive ratios: 1 for first order when the steps double."""
    return np.log2(np.array(errors[:-1]) / errors[1:])


def test_discrete_losses_tend_to_the_continuous_one():
    """The mean loss over DDPM's levels tends to its integral over t at first order; SMLD's
    likewise.

    L_simple of the best network on N(0, v) is known: E|eps - E[eps|x]|^2 = a^2 v / (a^2 v +
    sigma^2).
    """
    v = 0.25
    fine = (np.arange(100_000) + 0.5) / 100_000
    rest = lambda a2, s2: a2 * v / (a2 * v + s2)  # noqa: E731
    for sde, chain in ((sd.VP(), sd.DDPM), (sd.VE(), sd.NCSN)):
        with jax.enable_x64(True):
            limit = float(
                np.mean(rest(np.asarray(sde.alpha(fine)) ** 2, np.asarray(sde.variance(fine))))
            )
        errors = []
        for n in (100, 200, 400, 800):
            c = chain.from_sde(sde, n)
            errors.append(abs(np.mean(rest(c.signal**2, c.marginal_variances)) - limit))
        np.testing.assert_allclose(slopes(errors), 1.0, atol=0.15)


COVARIANCE = np.array([[0.5, 0.3], [0.3, 0.4]])


def gaussian_noise(chain):
    """The matrices A_i with E[noise | x_i] = A_i x_i on N(0, COVARIANCE) data, (N, 2, 2).

    A_i = sigma_i (a_i^2 C + sigma_i^2 I)^{-1}.
    """
    a2, s2 = (table[:, None, None] for table in (chain.signal**2, chain.marginal_variances))
    return np.sqrt(s2) * np.linalg.inv(a2 * COVARIANCE + s2 * np.eye(2))


def ancestral_steps(chain, variance):
    """The library's steps as matrices (N, 2, 2), and their variances (N,).

    The matrices are found by what the steps do to unit vectors.
    """
    i = np.repeat(np.arange(chain.num_steps), 2)
    units = np.tile(np.eye(2), (chain.num_steps, 1))
    noise = np.einsum("kij,kj->ki", gaussian_noise(chain)[i], units)
    mean, std = chain.ancestral(jnp.asarray(units), jnp.asarray(noise), i, variance)
    return np.swapaxes(np.reshape(mean, (-1, 2, 2)), 1, 2), np.asarray(std)[::2] ** 2


def reverse_diffusion_steps(chain, sde):
    """The steps of `predictors.ReverseDiffusion` from level i to i - 1, i > 0, under the chain's
    SDE.
    """
    t = jnp.asarray(sde.level_times(chain.num_steps))
    keep, pull, spread = (
        np.asarray(a) for a in sd.predictors.ReverseDiffusion().coefficients(sde, t[1:], t[:-1])
    )
    score = -gaussian_noise(chain)[1:] / np.sqrt(chain.marginal_variances)[1:, None, None]
    return keep[:, None, None] * np.eye(2) + pull[:, None, None] * score, spread**2


def law(chain, matrices, variances):
    """Covariance after the steps, from the chain's own last marginal on N(0, COVARIANCE) data."""
    found = chain.signal[-1] ** 2 * COVARIANCE + chain.marginal_variances[-1] * np.eye(2)
    for step, variance in zip(matrices[::-1], variances[::-1], strict=True):
        found = step @ found @ step.T + variance * np.eye(2)
    return found


@pytest.mark.parametrize("kind", ["ddpm", "ncsn"])
def test_the_law_of_ancestral_sampling_tends_to_the_datas(kind, x64):
    """The samples' covariance is off by a term of first order in 1 / N.

    It is a product of the steps' matrices, in the plane. NCSN's lowest scale sigma_0 stays as N
    grows: its last step, the denoising, turns C + sigma_0^2 I into C (C + sigma_0^2 I)^{-1} C.
    """
    sde = sd.VP() if kind == "ddpm" else sd.VE(0.1, 10.0)
    floor = 0.1**2 if kind == "ncsn" else 0.0
    limit = COVARIANCE @ np.linalg.inv(COVARIANCE + floor * np.eye(2)) @ COVARIANCE
    chains = [(sd.DDPM if kind == "ddpm" else sd.NCSN).from_sde(sde, n) for n in (800, 1600)]
    for variance in ("posterior", "beta"):
        errors = [np.linalg.norm(law(c, *ancestral_steps(c, variance)) - limit) for c in chains]
        np.testing.assert_allclose(slopes(errors), 1.0, atol=0.06)


@pytest.mark.parametrize("kind", ["ddpm", "ncsn"])
def test_reverse_diffusion_and_ancestral_agree_to_first_order(kind, x64):
    """From one start to the lowest level, the laws' difference halves as the steps double."""
    sde = sd.VP() if kind == "ddpm" else sd.VE(0.1, 10.0)
    errors = []
    for n in (800, 1600):
        chain = sd.DDPM.from_sde(sde, n, exact=True) if kind == "ddpm" else sd.NCSN.from_sde(sde, n)
        matrices, variances = ancestral_steps(chain, "posterior")
        ancestral = law(chain, matrices[1:], variances[1:])
        reverse = law(chain, *reverse_diffusion_steps(chain, sde))
        errors.append(np.linalg.norm(ancestral - reverse))
    np.testing.assert_allclose(slopes(errors), 1.0, atol=0.06)
