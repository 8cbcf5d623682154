"""The affine map between the data's units and the model's, in everything that meets data."""

import dataclasses
import re
import warnings

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from families import SAMPLERS, begin, each_under_one
from flax import nnx
from gaussian import gaussian_score, mixture_in
from scipy.stats import norm
from small_training import SMALL

import scoresde as sd
from scoresde.standardization import units_of_cond

KEY = jax.random.key(0)
MEAN = np.array([100.0, -3.0])
STD = np.array([40.0, 1e-3])
UNITS = sd.Standardization(MEAN, STD)


class InUnits:
    """A score under standard units, which says so."""

    def __init__(self, score, standardization):
        self.score = score
        self.standardization = standardization
        if hasattr(score, "denoise"):
            self.denoise = score.denoise

    def __call__(self, x, t):
        return self.score(x, t)


def standard_normal(sde):
    return gaussian_score(sde, 0.0, 1.0)


@pytest.mark.parametrize(("name", "any_sde"), each_under_one(SAMPLERS))
def test_samples_and_paths_are_in_the_datas_units(name, any_sde):
    sampler = dataclasses.replace(SAMPLERS[name], **_few_steps(SAMPLERS[name]))
    plain = standard_normal(any_sde)
    own = InUnits(plain, UNITS)

    sampler, x1 = begin(sampler, any_sde, jax.random.key(1), (4, 2))
    of_model = sd.sample(jax.random.key(0), sampler, any_sde, plain, (4, 2), x1=x1)
    of_data = sd.sample(jax.random.key(0), sampler, any_sde, own, (4, 2), x1=x1)
    _assert_in_data_units(of_data, of_model)

    if name != "own":  # a custom sampler leaves its units to sd.sample
        of_model = sampler(jax.random.key(0), any_sde, plain, x1)
        _assert_in_data_units(sampler(jax.random.key(0), any_sde, own, x1), of_model)


def _assert_in_data_units(of_data, of_model):
    """One rounding of float32, relative to the mean."""
    states = [(of_data.x, of_model.x)]
    if of_model.path is not None:
        states.append((of_data.path.x, of_model.path.x))
        states.append((of_data.path.denoised, of_model.path.denoised))
    for found, of_model in states:
        expected = MEAN + STD * np.asarray(of_model, np.float64)
        np.testing.assert_allclose(found, expected, rtol=1e-6, atol=1e-4)


def _few_steps(sampler):
    names = {field.name for field in dataclasses.fields(sampler)}
    few = {"num_steps": 4} if "num_steps" in names else {}
    return few | ({"save_path": True} if "save_path" in names else {})


def test_samples_have_the_law_of_the_data(sde):
    own = InUnits(standard_normal(sde), UNITS)
    n = 4000
    x = np.asarray(sd.sample(jax.random.key(0), sd.Heun(20, t_min=1e-4), sde, own, (n, 2)).x)

    # Within 4 standard errors, and 1 % for the solver's steps.
    np.testing.assert_array_less(np.abs(x.mean(axis=0) - MEAN) / STD, 4 / np.sqrt(n) + 0.01)
    np.testing.assert_array_less(np.abs(x.std(axis=0) / STD - 1.0), 4 / np.sqrt(2 * n) + 0.01)


@pytest.mark.parametrize("float64", [False, True])
@pytest.mark.parametrize("array", [np.asarray, jnp.asarray])
def test_log_prob_is_a_density_in_the_datas_units(float64, array):
    sde = sd.VE()
    own = InUnits(standard_normal(sde), UNITS)
    x = array((MEAN + STD * np.random.default_rng(0).normal(size=(6, 2))).astype(np.float32))
    out = sd.log_likelihood(
        jax.random.key(0), sde, own, x, divergence=sd.ExactDivergence(), float64=float64
    )
    exact = norm.logpdf(np.asarray(x, np.float64), MEAN, STD).sum(axis=1)
    np.testing.assert_allclose(out.log_prob, exact, atol=2e-3)
    # The code of a standard normal is one too, up to the prior's mismatch.
    assert np.abs(out.latent / sde.prior_std()).max() < 4.0


def test_gaps_and_bounds_have_the_datas_units():
    sde = sd.VP()
    score = standard_normal(sde)
    z = jax.random.normal(jax.random.key(3), (8, 2))
    units = sd.Standardization(0.5, [2.0, 0.25])
    own = InUnits(score, units)
    x = units.to_data(z)
    volume = np.log(2.0) + np.log(0.25)

    key = jax.random.key(0)
    of_model = sd.variational_bound(key, sde, score, z, num_times=8)
    of_data = sd.variational_bound(key, sde, own, x, num_times=8)
    np.testing.assert_allclose(of_data.nll, of_model.nll + volume, atol=1e-4)
    np.testing.assert_allclose(of_data.reconstruction, of_model.reconstruction + volume, atol=1e-4)
    np.testing.assert_array_equal(of_data.stderr, of_model.stderr)

    likelihoods = (sd.log_likelihood(key, sde, score, z), sd.log_likelihood(key, sde, own, x))
    of_model = sd.gaps(key, sde, score, z, likelihoods[0])
    of_data = sd.gaps(key, sde, own, x, likelihoods[1])
    np.testing.assert_allclose(of_data.prior, of_model.prior, rtol=1e-5)
    np.testing.assert_allclose(of_data.truncation, of_model.truncation, atol=2e-4)


def test_codes_lead_from_the_datas_units_to_the_models_and_back():
    sde = sd.VP()
    own = InUnits(standard_normal(sde), UNITS)
    x = MEAN + STD * np.random.default_rng(0).normal(size=(4, 2))
    code = sd.encode(sde, own, x)
    of_model = sd.encode(sde, standard_normal(sde), UNITS.to_model(x))
    np.testing.assert_allclose(code.x, of_model.x, rtol=1e-5, atol=1e-5)
    np.testing.assert_allclose(sd.decode(sde, own, code.x).x / STD, x / STD, rtol=1e-6, atol=3e-3)


def test_images_start_from_data_in_their_own_units():
    sde = sd.VP()
    own = InUnits(standard_normal(sde), UNITS)
    x0 = MEAN + STD * np.ones((500, 2))
    sampler = sd.DDIM(num_steps=5, start=0.05)
    x = np.asarray(sd.sample(jax.random.key(0), sampler, sde, own, (500, 2), x0=x0).x)
    # Noised by sigma(.05) = .17, x still knows x0, one standard deviation above the mean.
    assert np.all(np.abs((x.mean(axis=0) - MEAN) / STD - 1.0) < 0.1)


def test_the_loss_takes_data_in_their_own_units():
    sde = sd.VP()
    z = jax.random.normal(jax.random.key(0), (16, 2))
    t = jnp.linspace(0.1, 1.0, 16)
    score = standard_normal(sde)
    units = sd.Standardization([3.0, -1.0], [2.0, 0.5])
    loss = sd.dsm_loss(jax.random.key(1), sde, InUnits(score, units), units.to_data(z), t)
    np.testing.assert_allclose(loss, sd.dsm_loss(jax.random.key(1), sde, score, z, t), rtol=1e-4)


def test_images_are_standardised_per_channel():
    x = np.random.default_rng(0).normal(size=(50, 4, 4, 3)) * [1.0, 10.0, 0.1] + [5.0, 0.0, -1.0]
    units = sd.Standardization.fit(x)
    np.testing.assert_allclose(units.mean, x.mean(axis=(0, 1, 2)))
    np.testing.assert_allclose(units.std, x.std(axis=(0, 1, 2)))
    np.testing.assert_allclose(units.log_volume((4, 4, 3)), 16 * np.log(units.std).sum())
    np.testing.assert_allclose(units.to_data(units.to_model(x)), x)


def test_a_constant_feature_keeps_its_value():
    x = np.random.default_rng(0).normal(size=(50, 2))
    x[:, 1] = 0.1
    units = sd.Standardization.fit(x)
    assert (units.mean[1], units.std[1]) == (0.1, 1.0)


def test_a_large_mean_costs_no_digits():
    x = 1e9 + np.random.default_rng(0).normal(size=(50, 1))
    z = sd.Standardization.fit(x).to_model(x)
    np.testing.assert_allclose([z.mean(), z.std()], [0.0, 1.0], atol=1e-6)


@pytest.mark.filterwarnings("ignore:.*the data are spikes")
@pytest.mark.parametrize("levels", [8, 256])
def test_truncated_normal_noise_fills_the_bins_in_the_datas_units(levels):
    units = sd.Standardization([0.2, -0.1], [0.5, 2.0])
    noise = sd.TruncatedNormalDequantization(sd.VP(), 1e-3, levels=levels, standardization=units)
    k = jnp.tile(jnp.arange(levels), 2 * 500).reshape(-1, 2)
    z = noise(jax.random.key(0), k)

    # The entropy is the mean of -log q, within 4 standard errors.
    log_prob = np.asarray(noise.log_prob(z, k)) / 2
    assert log_prob.min() > -np.inf  # which it is outside the bin
    error = 4 * log_prob.std() / np.sqrt(len(k))
    np.testing.assert_allclose(-log_prob.mean(), noise.entropy, atol=error)

    # Without the SDE's shrinking towards the mean, z lies in the bin of k.
    alpha = float(sd.VP().alpha(1e-3))
    centre = (np.asarray(units.to_model(z)) / alpha) * units.std + units.mean
    found = np.floor((centre + 1.0) / 2.0 * levels)
    assert np.mean(found != k) < 1e-4  # those that rounding puts beyond an edge


def test_a_float64_bound_is_float64():
    own = InUnits(mixture_in(2, jnp.float64).score(sd.VP()), sd.Standardization(1.0, 2.0))
    x = np.random.default_rng(0).normal(size=(2, 2))
    out = sd.variational_bound(jax.random.key(0), sd.VP(), own, x, num_times=2, float64=True)
    assert out.nll.dtype == out.reconstruction.dtype == jnp.float64


@pytest.mark.parametrize(
    ("mean", "std", "message"),
    [
        ([0.0, np.nan], 1.0, "finite means"),
        (0.0, [1.0, 0.0], "Write 1.0 for a feature that is constant"),
        ([0.0, 1.0, 2.0], [1.0, 1.0], "one per feature"),
        (np.zeros((2, 2)), 1.0, "one per feature"),
    ],
)
def test_what_is_no_standardization_is_refused(mean, std, message):
    with pytest.raises(ValueError, match=message):
        sd.Standardization(mean, std)


def test_another_number_of_features_is_refused():
    own = InUnits(standard_normal(sd.VP()), UNITS)
    with pytest.raises(ValueError, match="holds 2 features"):
        sd.log_likelihood(jax.random.key(0), sd.VP(), own, jnp.ones((2, 3)) * 0.3)


def test_a_function_around_a_model_is_told_of_its_units(unchecked):
    """Nothing is known of what a function does; the advised line gives it the units."""
    model = sd.ScoreModel(sd.VP(), lambda x, t: -x, sd.Score(), UNITS)

    def score(x, t):
        return model(x, t)

    def draw():
        return sd.sample(jax.random.key(0), sd.DDIM(num_steps=2), sd.VP(), score, (4, 2))

    with pytest.warns(UserWarning, match="a function around 'model'") as caught:
        plain = draw()
    line = re.search(r"write (score.*)\.", str(caught[0].message))[1]
    exec(line, {"score": score, "model": model})
    _assert_in_data_units(draw(), plain)


def test_vectors_of_a_condition_are_standardised_and_kept(tmp_path):
    """y in units of 1e4: the trained E[x | y] is right, and so is that of the loaded run."""
    rng = np.random.default_rng(0)
    theta = 200.0 + 3.0 * rng.normal(size=(2048, 1))
    y = 5e4 + 1e4 * (theta - 200.0) / 3.0 + 1e2 * rng.normal(size=(2048, 1))
    cond = {"y": y.astype(np.float32), "kind": rng.integers(0, 2, 2048)}
    net = sd.MLPConfig(width=32, depth=1, cond_dim=1, num_classes=2)
    model = sd.ScoreModel(sd.VP(), net.build((1,), rngs=nnx.Rngs(0)), sd.EDM(1.0))
    fit = sd.fit(
        KEY,
        model,
        theta.astype(np.float32),
        cond=cond,
        training=sd.Training(
            steps=400, batch_size=128, learning_rate=3e-3, final_rate=0.05, validate_every=400
        ),
        run=tmp_path / "run",
        progress=False,
        standardize=True,
    )
    some = {"y": np.array([[4e4], [6e4]], np.float32), "kind": np.array([0, 1])}
    for trained in (fit.model, sd.load(tmp_path / "run")):
        kind, vector = trained.cond_units  # leaves are in the order of their names
        assert kind is None
        np.testing.assert_allclose(vector.mean, y.mean(), rtol=0.02)
        out = sd.sample(KEY, sd.DDIM(num_steps=10), sd.VP(), trained, (2, 1), some)
        np.testing.assert_allclose(out.x[:, 0], [197.0, 203.0], atol=1.5)  # half of a std


def test_conditions_have_the_leaves_that_were_measured():
    """{"a": 2 numbers, "b": 1 number} in another order has the same count, and other units."""
    rng = np.random.default_rng(0)
    cond = {"a": rng.normal(size=(64, 2)), "b": rng.normal(size=(64, 1))}
    cond = jax.tree.map(lambda leaf: leaf.astype(np.float32), cond)
    net = sd.MLPConfig(width=8, depth=1, cond_dim=3).build((2,), rngs=nnx.Rngs(0))
    x = rng.normal(size=(64, 2)).astype(np.float32)
    model = sd.ScoreModel(sd.VP(), net)
    trained = sd.fit(
        KEY, model, x, cond=cond, training=SMALL, progress=False, standardize=True
    ).model

    sampler = sd.DDIM(num_steps=2)
    some = jax.tree.map(lambda leaf: leaf[:2], cond)
    assert sd.sample(KEY, sampler, sd.VP(), trained, (2, 2), some).success.all()
    for wrong in (
        {"a": some["b"], "b": some["a"]},
        np.concatenate([some["a"], some["b"]], axis=1),
    ):
        with pytest.raises(ValueError, match="in their order: 2 numbers, 1 numbers an example"):
            sd.sample(KEY, sampler, sd.VP(), trained, (2, 2), wrong)


def test_bfloat16_conditions_are_standardised():
    cond = jnp.asarray(np.random.default_rng(0).normal(5.0, 2.0, (512, 1)), jnp.bfloat16)
    (units,) = units_of_cond(cond)
    np.testing.assert_allclose([*units.mean, *units.std], [5.0, 2.0], rtol=0.1)


class _Own(nnx.Module):
    def __init__(self):
        self.layer = nnx.Linear(2, 2, rngs=nnx.Rngs(0))

    def __call__(self, x, t, cond):
        return self.layer(x) + jnp.mean(cond, axis=1, keepdims=True)


def test_conditions_of_custom_networks_keep_their_units():
    rng = np.random.default_rng(0)
    x = rng.normal(size=(64, 2)).astype(np.float32)
    cond = rng.normal(100.0, 5.0, size=(64, 3)).astype(np.float32)
    model = sd.ScoreModel(sd.VP(), _Own())
    trained = sd.fit(
        KEY, model, x, cond=cond, training=SMALL, progress=False, standardize=True
    ).model
    assert trained.cond_units is None
    some = jnp.asarray(x[:4])
    noise = trained.net(some, None, cond[:4])
    score = trained(some, 0.5, cond[:4])
    np.testing.assert_allclose(score, -noise / sd.VP().sigma(0.5), rtol=1e-5)


def test_conditions_beyond_the_digits_of_float32_are_named():
    """1e7 ± 1 has no digits in float32; the advice is followed without a warning."""
    rng = np.random.default_rng(0)
    x = rng.normal(size=(64, 2)).astype(np.float32)
    cond = 1e7 + rng.normal(size=(64, 1))
    net = sd.MLPConfig(width=8, depth=1, cond_dim=1).build((2,), rngs=nnx.Rngs(0))

    def train(cond):
        model = sd.ScoreModel(sd.VP(), net)
        sd.fit(KEY, model, x, cond=cond, training=SMALL, progress=False, standardize=True)

    with pytest.warns(UserWarning, match="number 0 of a condition, .* subtract") as caught:
        train(cond)
    offset = float(re.search(r"subtract (\S+) from", str(caught[0].message))[1])
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        train(cond - offset)
