"""DDPM and NCSN: tables, kernels, losses and steps against the papers' formulas; the limit of many steps."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from conftest import ring
from own_sde import Cosine

import scoresde as sd
from scoresde.types import example_keys, normal_like

KEY = jax.random.key(0)
CHAINS = {
    "ddpm": sd.DDPM.from_sde(sd.VP(), 300),
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


# --- Tables ---


def test_ddpms_tables_are_the_papers():
    ddpm = sd.DDPM.from_sde(sd.VP(), 1000)
    np.testing.assert_allclose(ddpm.betas, np.linspace(1e-4, 0.02, 1000), rtol=1e-6)
    np.testing.assert_allclose(ddpm.betas, sd.DDPM.linear().betas, rtol=1e-6)
    assert ddpm.betas.dtype == np.float64
    alphas_bar = np.cumprod(1 - ddpm.betas.astype(np.longdouble))
    np.testing.assert_allclose(ddpm.alphas_bar, alphas_bar, rtol=1e-12)
    np.testing.assert_allclose(ddpm.marginal_variances, 1 - alphas_bar, rtol=1e-12)
    before = np.concatenate([[1], alphas_bar[:-1]])
    want = ddpm.betas * (1 - before) / (1 - alphas_bar)
    np.testing.assert_allclose(ddpm.posterior_variances, want, rtol=1e-11, atol=0)
    assert ddpm.posterior_variances[0] == 0.0
    with pytest.raises(ValueError, match="read-only"):
        ddpm.betas[0] = 1.0


def test_the_cosine_table_keeps_its_cap():
    """alphas_bar halfway is cos^2((1/2 + s) / (1 + s) pi/2) / cos^2(s / (1 + s) pi/2); only the last betas are cut."""
    ddpm, s = sd.DDPM.cosine(1000), 0.008
    f = lambda t: np.cos((t + s) / (1 + s) * np.pi / 2) ** 2  # noqa: E731
    np.testing.assert_allclose(ddpm.alphas_bar[499], f(0.5) / f(0), rtol=1e-9)
    assert ddpm.betas[-1] == 0.999
    assert ddpm.betas[-2] < 0.999


def test_ncsns_scales_are_geometric():
    ncsn = sd.NCSN.from_sde(sd.VE(sigma_min=0.01, sigma_max=50.0), 232)
    np.testing.assert_allclose(ncsn.sigmas, np.geomspace(0.01, 50.0, 232), rtol=1e-6)
    np.testing.assert_allclose(ncsn.sigmas, sd.NCSN.geometric(232, 0.01, 50.0).sigmas, rtol=1e-6)
    np.testing.assert_allclose(np.cumsum(ncsn.variances), ncsn.sigmas**2, rtol=1e-12)


@pytest.mark.parametrize("exact", [False, True])
def test_ddpm_leads_back_to_its_sde(exact):
    """The limit has the settings; the exact one the marginals at (i + 1) / N, the transitions, the way back to t."""
    sde = sd.VP(beta_min=0.2, beta_max=15.0)
    ddpm = sd.DDPM.from_sde(sde, 100, exact=exact)
    if not exact:
        back = ddpm.to_sde()
        assert isinstance(back, sd.VP)
        assert (float(back.beta_min), float(back.beta_max)) == pytest.approx((0.2, 15.0), rel=1e-6)
    with jax.enable_x64(True):
        back = ddpm.to_sde(exact=True)
        assert isinstance(back, sd.TabulatedVP)
        t = jnp.asarray(back.level_times(100))
        np.testing.assert_allclose(back.alpha(t), ddpm.signal, rtol=1e-12)
        np.testing.assert_allclose(back.variance(t), ddpm.marginal_variances, rtol=1e-12)
        if exact:
            np.testing.assert_allclose(back.alpha(t), sde.alpha(t), rtol=1e-6)
        c, std = back.transition(t[:-1], t[1:])
        np.testing.assert_allclose(c, np.sqrt(ddpm.alphas[1:]), rtol=1e-12)
        np.testing.assert_allclose(std, np.sqrt(ddpm.betas[1:]), rtol=1e-11)
        np.testing.assert_allclose(back.time_from_log_snr(back.log_snr(t)), t, rtol=1e-9)


def test_the_tabulated_sde_is_one(x64):
    """beta is the derivative of B, transitions compose across cells, and its float32 transitions keep their digits."""
    sde = sd.DDPM.cosine(20).to_sde()
    t = jnp.linspace(0.013, 0.987, 40)  # none on a cell's edge
    slope = jax.vmap(jax.grad(sde.integrated_beta))(t)
    np.testing.assert_allclose(sde.beta(t), slope, rtol=1e-9)
    s, r = jnp.full(40, 0.003), 0.5 * (t + 0.003)
    (c1, v1), (c2, v2), (c, v) = sde.transition(s, r), sde.transition(r, t), sde.transition(s, t)
    np.testing.assert_allclose(c1 * c2, c, rtol=1e-12)
    np.testing.assert_allclose(c2**2 * v1**2 + v2**2, v**2, rtol=1e-10)
    short = sde.transition(jnp.float32(0.41), jnp.float32(0.41 + 1e-5))[1]
    gap = float(jnp.float32(0.41 + 1e-5) - jnp.float32(0.41))
    assert float(short) == pytest.approx(np.sqrt(-np.expm1(-float(sde.beta(0.41)) * gap)), rel=1e-4)


def test_ncsn_leads_back_to_its_sde():
    back = sd.NCSN.from_sde(sd.VE(0.02, 30.0), 50).to_sde()
    assert (float(back.sigma_min), float(back.sigma_max)) == pytest.approx((0.02, 30.0), rel=1e-6)
    with pytest.raises(ValueError, match="not geometric"):
        sd.NCSN(np.array([0.1, 0.2, 0.3])).to_sde()


def test_few_steps_are_valid_or_refused():
    with pytest.raises(ValueError, match="more than 20 steps, or exact=True"):
        sd.DDPM.from_sde(sd.VP(), 20)
    assert sd.DDPM.from_sde(sd.VP(), 21).betas.max() < 1
    with pytest.raises(ValueError, match="exact=True"):
        sd.DDPM.from_sde(sd.VP(), 1)
    for n in (1, 2, 5):
        ddpm = sd.DDPM.from_sde(sd.VP(), n, exact=True)
        assert ddpm.num_steps == n
        assert np.isfinite(ddpm.posterior_variances).all()
        assert ddpm.alphas_bar[-1] == pytest.approx(float(sd.VP().alpha(1.0)) ** 2, rel=1e-4)
    with pytest.raises(ValueError, match="two at least"):
        sd.NCSN.from_sde(sd.VE(), 1)
    assert sd.NCSN.from_sde(sd.VE(), 2).sigmas == pytest.approx([0.01, 50.0], rel=1e-6)


def test_wrong_processes_and_tables_are_refused():
    with pytest.raises(ValueError, match=r"NCSN\.from_sde"):
        sd.DDPM.from_sde(sd.VE())
    with pytest.raises(ValueError, match="DDPM discretises VP"):
        sd.DDPM.from_sde(sd.SubVP())
    with pytest.raises(ValueError, match=r"DDPM\.from_sde"):
        sd.NCSN.from_sde(sd.VP())
    assert sd.DDPM.from_sde(Cosine(), 100, exact=True).betas.max() < 1  # the user's own
    with pytest.raises(ValueError, match=r"betas hold 1\.5"):
        sd.DDPM(np.array([0.1, 1.5]))
    with pytest.raises(ValueError, match="rise from above 0"):
        sd.NCSN(np.array([1.0, 0.1]))
    with pytest.raises(ValueError, match="finite numbers"):
        sd.NCSN(np.array([0.1, np.nan]))
    with pytest.raises(ValueError, match="rising from 0"):
        sd.TabulatedVP(np.array([0.0, 1.0, 0.5]))


@pytest.mark.usefixtures("unchecked")
def test_an_index_is_an_integer_of_the_table():
    ddpm, x = sd.DDPM.linear(10), jnp.ones((2, 3))
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


# --- Kernels ---


def test_transitions_compose_to_the_marginals(chain, x64):
    """Mean and variance pushed through every step, from a point."""
    mean, variance = jnp.ones((1, 1)), 0.0
    for i in range(chain.num_steps):
        scale = float(chain.transition(jnp.ones((1, 1)), i)[0][0, 0])
        mean, std = chain.transition(mean, i)
        variance = scale**2 * variance + float(std[0]) ** 2
        want, want_std = chain.marginal(jnp.ones((1, 1)), i)
        np.testing.assert_allclose(mean, want, rtol=1e-10)
        assert variance == pytest.approx(float(want_std[0]) ** 2, rel=1e-10)


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
        np.testing.assert_allclose(mean, before[0] * x0 + gain * (x - c * before[0] * x0), atol=1e-12)
        np.testing.assert_allclose(std**2, covariance[0, 0] - gain * covariance[0, 1], atol=1e-12)


def test_ddpms_step_is_the_papers(x64):
    """x_{i-1} = (x - beta_i / sqrt(1 - alphas_bar_i) eps) / sqrt(alpha_i) + std z: first, middle and last index."""
    rng = np.random.default_rng(1)
    ddpm = CHAINS["ddpm"]
    x, noise = rng.normal(size=(2, 4, 3))
    alphas_bar = np.cumprod(1 - ddpm.betas)
    for i in some_indices(ddpm):
        beta, bar, before = ddpm.betas[i], alphas_bar[i], alphas_bar[i - 1] if i else 1.0
        for variance, want in (("beta", beta * (i > 0)), ("posterior", beta * (1 - before) / (1 - bar))):
            mean, std = ddpm.ancestral(jnp.asarray(x), jnp.asarray(noise), int(i), variance)
            np.testing.assert_allclose(mean, (x - beta / np.sqrt(1 - bar) * noise) / np.sqrt(1 - beta), atol=1e-12)
            np.testing.assert_allclose(std, np.sqrt(want), atol=1e-12)
        # The same mean is the posterior's at the estimate of x_0 (Ho et al. 2020, Eq. 9 to 11).
        x0 = (x - np.sqrt(1 - bar) * noise) / np.sqrt(bar)
        np.testing.assert_allclose(mean, ddpm.posterior(jnp.asarray(x), jnp.asarray(x0), int(i))[0], atol=1e-9)


def test_ncsns_step_is_the_papers(x64):
    """x + (sigma_i^2 - sigma_{i-1}^2) s + sqrt(sigma_{i-1}^2 (sigma_i^2 - sigma_{i-1}^2) / sigma_i^2) z."""
    rng = np.random.default_rng(2)
    ncsn = CHAINS["ncsn"]
    x, score = rng.normal(size=(2, 4, 3))
    for i in some_indices(ncsn):
        sigma, before = ncsn.sigmas[i], ncsn.sigmas[i - 1] if i else 0.0
        gap = sigma**2 - before**2
        mean, std = ncsn.ancestral(jnp.asarray(x), jnp.asarray(-sigma * score), int(i))
        np.testing.assert_allclose(mean, x + gap * score, rtol=1e-12)
        np.testing.assert_allclose(std, np.sqrt(before**2 * gap / sigma**2), rtol=1e-12)


# --- Losses ---


def network(x, i, cond=None):
    return jnp.tanh(x * (1.0 + 0.01 * i[:, None]))


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
    signal, sigma = (np.asarray(a)[i][:, None] for a in (chain.signal, np.sqrt(chain.marginal_variances)))
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
    assert np.isfinite(chain.loss(KEY, network, x0[:1], 0, "bound")).all()


def test_the_discrete_losses_are_the_continuous_one_at_their_levels(chain, x64):
    """The same key: L_simple and SMLD are `dsm_loss` at t_i of the exact SDE, and a chain's network a score there."""
    sde, mixture = chain.to_sde(exact=True), ring()
    i = jnp.asarray(np.random.default_rng(0).integers(0, chain.num_steps, 64))
    t = jnp.asarray(sde.level_times(chain.num_steps))[i]
    x0, exact = mixture.sample(KEY, 64), mixture.score(sde)
    a = chain.loss(KEY, chain.noise(sde, exact), x0, i)
    b = sd.dsm_loss(KEY, sde, exact, x0, t)
    np.testing.assert_allclose(a, b, rtol=1e-6)
    model = chain.model(lambda x, i: network(x, i))
    np.testing.assert_allclose(sd.dsm_loss(KEY, sde, model, x0, t), chain.loss(KEY, network, x0, i), rtol=1e-8)
    # There and back again: the noise network of a chain's model is the network.
    np.testing.assert_allclose(chain.noise(sde, model)(x0, i), network(x0, i), rtol=1e-8)


def test_level_times_are_drawn_evenly():
    """Every level as often as any other, within 5 standard errors; nothing in between."""
    for sde, levels in ((sd.VP(), np.arange(1, 11) / 10), (sd.VE(), np.arange(10) / 9)):
        t = np.asarray(sd.LevelTimes(10).sample(KEY, sde, 20_000))
        values, counts = np.unique(t, return_counts=True)
        np.testing.assert_allclose(values, levels, atol=1e-6)
        assert np.all(np.abs(counts - 2000) < 5 * np.sqrt(2000 * 0.9))


@pytest.mark.parametrize("sde", [sd.VP(), sd.VE()], ids=["vp", "ve"])
def test_labels_say_which_level_it_is(sde):
    """0 … N - 1 on the levels, in between elsewhere; sigma and its logarithm; t scaled."""
    t = jnp.asarray(sde.level_times(50))
    np.testing.assert_allclose(sd.Index(50)(sde, t), np.arange(50), atol=1e-4)
    half = sd.Index(50)(sde, 0.5 * (t[3:4] + t[4:5]))
    np.testing.assert_allclose(half, 3.5, atol=1e-4)
    np.testing.assert_allclose(sd.Sigma()(sde, t), sde.sigma(t), rtol=1e-6)
    np.testing.assert_allclose(sd.Sigma(log=True)(sde, t), jnp.log(sde.sigma(t)), rtol=1e-4, atol=1e-4)
    np.testing.assert_allclose(sd.Scaled(999.0)(sde, t), 999 * t, rtol=1e-6)
    seen = []
    net = lambda x, label: (seen.append(label), x)[1]  # noqa: E731
    sd.ScoreModel(sde, net, sd.Velocity(label=sd.Index(50)))(jnp.ones((2, 3)), t[4:6])
    np.testing.assert_allclose(seen[0], [4, 5], atol=1e-4)


# --- The limit of many steps ---


def slopes(errors):
    """log2 of successive ratios: 1 for first order when the steps double."""
    return np.log2(np.array(errors[:-1]) / errors[1:])


def test_discrete_marginals_tend_to_the_sdes():
    """max_i |alphas_bar_i - alpha(t_i)^2| halves as the steps double; so does |sigma| for other tables' marginals."""
    errors = []
    for n in (200, 400, 800, 1600):
        ddpm = sd.DDPM.from_sde(sd.VP(), n)
        with jax.enable_x64(True):
            alpha = np.asarray(sd.VP().alpha(jnp.asarray(np.arange(1, n + 1) / n)))
        errors.append(np.max(np.abs(ddpm.alphas_bar - alpha**2)))
    np.testing.assert_allclose(slopes(errors), 1.0, atol=0.1)


def test_discrete_losses_tend_to_the_continuous_one():
    """L_simple of the best network on N(0, v), in closed form: E|eps - E[eps|x]|^2 = a^2 v / (a^2 v + sigma^2).

    Its mean over DDPM's levels tends to its integral over t at first order; SMLD's likewise.
    """
    v, fine = 0.25, (np.arange(100_000) + 0.5) / 100_000
    rest = lambda a2, s2: a2 * v / (a2 * v + s2)  # noqa: E731
    for sde, chain in ((sd.VP(), sd.DDPM), (sd.VE(), sd.NCSN)):
        with jax.enable_x64(True):
            limit = float(np.mean(rest(np.asarray(sde.alpha(fine)) ** 2, np.asarray(sde.variance(fine)))))
        errors = []
        for n in (100, 200, 400, 800):
            c = chain.from_sde(sde, n)
            errors.append(abs(np.mean(rest(c.signal**2, c.marginal_variances)) - limit))
        np.testing.assert_allclose(slopes(errors), 1.0, atol=0.15)


def law(chain, cov, variance="posterior"):
    """Covariance that ancestral sampling ends with on N(0, cov) data, started from the chain's own last marginal.

    With the exact score each step is linear: x ← A x + std z, A = (I - v (a^2 cov + sigma^2)^{-1}) / c.
    """
    eye, tables = np.eye(len(cov)), (chain.coefficients, chain.variances, chain.signal, chain.marginal_variances)
    spread = chain.posterior_variances if variance == "posterior" else chain.variances
    c, v, a, s2 = tables
    found = a[-1] ** 2 * cov + s2[-1] * eye
    for i in reversed(range(chain.num_steps)):
        step = (eye - v[i] * np.linalg.inv(a[i] ** 2 * cov + s2[i] * eye)) / c[i]
        found = step @ found @ step.T + (spread[i] if i else 0.0) * eye
    return found


COVARIANCE = np.array([[0.5, 0.3], [0.3, 0.4]])


@pytest.mark.parametrize("variance", ["posterior", "beta"])
@pytest.mark.parametrize("kind", ["ddpm", "ncsn"])
def test_the_law_of_ancestral_sampling_tends_to_the_data(kind, variance):
    """In the plane, by the closed-form recursion: its covariance's error is of first order in 1 / N."""
    make = {"ddpm": lambda n: sd.DDPM.from_sde(sd.VP(), n), "ncsn": lambda n: sd.NCSN.from_sde(sd.VE(0.01, 10.0), n)}
    errors = [np.linalg.norm(law(make[kind](n), COVARIANCE, variance) - COVARIANCE) for n in (400, 800, 1600, 3200)]
    floor = 0.01**2 * np.sqrt(2) if (kind, variance) == ("ncsn", "beta") else 0.0
    np.testing.assert_allclose(slopes(np.array(errors) - floor), 1.0, atol=0.15)


def test_reverse_diffusion_and_ancestral_agree_to_first_order():
    """Two recursions on N(0, v) data from one start: the laws differ by an amount that halves as the steps double."""
    sde, v, errors = sd.VP(), 0.25, []
    for n in (200, 400, 800, 1600):
        ddpm = sd.DDPM.from_sde(sde, n, exact=True)
        beta, total = ddpm.betas, ddpm.signal**2 * v + ddpm.marginal_variances
        ancestral = reverse = total[-1]
        for i in range(n - 1, 0, -1):
            ancestral = ((1 - beta[i] / total[i]) ** 2 / (1 - beta[i])) * ancestral + ddpm.posterior_variances[i]
            reverse = (2 - np.sqrt(1 - beta[i]) - beta[i] / total[i]) ** 2 * reverse + beta[i]
        errors.append(abs(ancestral - reverse))
    np.testing.assert_allclose(slopes(errors), 1.0, atol=0.15)
