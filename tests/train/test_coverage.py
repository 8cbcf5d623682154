"""What `fit` says of data that the noise does not cover, and that its advice helps."""

import json
import re
import warnings

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

import scoresde as sd
from scoresde.cli.main import main
from scoresde.data.source import ArraySource
from scoresde.sampling.grid_sampler import GridSampler
from scoresde.train import coverage
from scoresde.train.measured import measure

RNG = np.random.default_rng(0)
NORMAL = RNG.normal(size=(2000, 2))
LINE = NORMAL[:, :1] * [1.0, 1.0] + 1e-3 * NORMAL[:, 1:] * [1.0, -1.0]
MODES = np.sign(NORMAL[:, :1]) * [1.0, 0.5] + 1e-3 * RNG.normal(size=(2000, 2))

UNCOVERED = {
    "1000 x under VP": (sd.VP(), 1000.0 * NORMAL, "beyond the noise"),
    "100 + 40 x under VE": (sd.VE(), 100.0 + 40.0 * NORMAL, "beyond the noise"),
    "an offset under sub-VP": (
        sd.SubVP(),
        NORMAL + np.array([0.0, 30.0]),
        "beyond the noise: feature 1",
    ),
    "one of many": (sd.VP(), RNG.normal(size=(2000, 9)) * ([1.0] * 8 + [99.0]), "feature 8"),
    "raw pixels": (sd.VE(), RNG.uniform(0.0, 255.0, (200, 4, 4, 1)), "beyond the noise"),
    "a narrow feature": (sd.VP(), NORMAL * [1.0, 1e-3], "finer than the noise"),
    "all of it narrow": (sd.SubVP(), NORMAL * 1e-6, "finer than the noise"),
    "narrow under VE": (sd.VE(), NORMAL * [1.0, 2e-3], "feature 1 has a local"),
}
CLUSTER = np.concatenate([NORMAL[:1400], 0.5 + 1e-4 * NORMAL[:600]])
PIXELS = RNG.binomial(255, RNG.beta(0.1, 0.4, (500, 8, 8, 1)))


def said_of(sde, x, standardization=None, prepare=None):
    """Returns what is said of data."""
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        measured = measure(jax.random.key(0), ArraySource(x), prepare)
        coverage.warn_of_coverage(sde, measured, standardization)
    return [str(warning.message) for warning in caught]


@pytest.mark.parametrize("name", UNCOVERED)
def test_both_ends_are_measured_and_standard_units_cover_them(name):
    sde, x, message = UNCOVERED[name]
    said = said_of(sde, x)
    assert any(message in text and "standardize=True" in text for text in said), said
    assert said_of(sde, x, sd.Standardization.fit(x)) == []


@pytest.mark.parametrize(
    "x",
    [
        NORMAL,
        RNG.uniform(-1.0, 1.0, (500, 8, 8, 3)),
        RNG.normal(size=(20, 2)),
        np.eye(50)[RNG.integers(0, 50, 500)],
        np.concatenate([NORMAL, NORMAL], axis=1),
        RNG.uniform(-1.0, 1.0, (500, 30)) ** 3,
        np.round(NORMAL, 1),
        np.round(2.0 * RNG.normal(size=(500, 24))).astype(np.float32) / 2.0,
        np.stack(np.meshgrid(np.linspace(-1, 1, 40), np.linspace(-1, 1, 40)), -1).reshape(-1, 2),
        PIXELS / 255.0,
        (PIXELS / 127.5 - 1.0).astype(np.float32),
        (PIXELS / 255.0).reshape(500, 64),
        sd.data.arrays.digits()[0].reshape(-1, 64) / 16.0,
    ],
    ids=[
        "normal",
        "images",
        "few",
        "one-hot",
        "repeated",
        "peaked",
        "rounded",
        "half steps",
        "grid",
        "pixels",
        "pixels around 0",
        "pixels as vectors",
        "digits",
    ],
)
def test_nothing_is_said_of_usual_data(x):
    for sde in (sd.VP(), sd.VE()):
        assert said_of(sde, x) == []
        assert said_of(sde, x, sd.Standardization.fit(x)) == []


def test_nothing_is_said_of_integers_that_are_prepared(sde):
    x = RNG.binomial(255, 0.01, (500, 4, 4, 1))
    assert said_of(sde, x, prepare=sd.UniformDequantization()) == []


def test_a_fine_mode_of_some_of_the_data_shows():
    (message,) = said_of(sd.VP(), CLUSTER)
    assert "finer than the noise" in message


@pytest.mark.parametrize("x", [LINE, MODES], ids=["a line", "narrow modes"])
def test_the_advice_of_a_lower_t_min_keeps_fine_structure(x):
    """Standard units do not help here: the structure is finer than the data's own spread."""
    sde = sd.VP()
    standardization = sd.Standardization.fit(x)
    (message,) = said_of(sde, x, standardization)
    t_min = float(re.search(r"Give samplers t_min=([\d.e-]+), and", message)[1])
    advised = eval(re.search(r"sd\.Training\(.*\)", message)[0])
    assert advised.times.t_min == t_min

    # The exact score of each, sampled where it says.
    z = np.asarray(standardization.to_model(x))
    halves = [z] if x is LINE else [z[x[:, 0] > 0], z[x[:, 0] < 0]]
    fine = z @ [1.0, -1.0] if x is LINE else halves[0][:, 0]

    with jax.enable_x64(True):
        mixture = sd.GaussianMixture(
            jnp.stack([half.mean(axis=0) for half in halves]),
            jnp.stack([np.cov(half.T) for half in halves]),
            jnp.full(len(halves), 1.0 / len(halves)),
        )
        for sampler in (
            sd.ProbabilityFlow(t_min=t_min, rtol=1e-6, atol=1e-9),
            sd.EulerMaruyama(num_steps=500, t_min=t_min, grid=sd.grids.UniformLogSNR()),
        ):
            out = sd.sample(jax.random.key(0), sampler, sde, mixture.score(sde), (1000, 2)).x
            found = out @ jnp.asarray([1.0, -1.0]) if x is LINE else out[out[:, 0] > 0, 0]
            # 95 % of the scale by Eq. 2, within 4 standard errors.
            error = 0.05 + 4 / np.sqrt(2 * len(found))
            assert abs(float(found.std()) / fine.std() - 0.95) < error


def test_a_process_that_stops_too_noisy_is_told_its_sigma_min():
    (message,) = said_of(sd.VE(), MODES, sd.Standardization.fit(MODES))
    advised = eval(re.search(r"sd\.VE\(sigma_min=[\d.e-]+\)", message)[0])
    found = said_of(advised, MODES, sd.Standardization.fit(MODES))
    assert found == []


def test_a_standardization_that_does_not_fit_is_told_so():
    x = 1000.0 * NORMAL
    (message,) = said_of(sd.VP(), x, sd.Standardization(0.0, 2.0))
    advised = eval(re.search(r"sd\.VE\(sigma_max=[\d.e+]+\)", message)[0])
    assert "beyond" not in "".join(said_of(advised, x, sd.Standardization(0.0, 2.0)))
    assert "standardize=True" in message
    assert said_of(sd.VP(), x, sd.Standardization.fit(x)) == []


def test_digits_beyond_float32_are_told_and_the_advice_helps():
    x = 1e6 + NORMAL
    said = said_of(sd.VP(), x, sd.Standardization.fit(x))
    assert ["last digits" in text for text in said] == [True]
    shift = float(re.search(r"subtract ([\d.e+]+) before", said[0])[1])
    assert said_of(sd.VP(), x - shift, sd.Standardization.fit(x - shift)) == []


def test_the_usual_t_min_is_that_of_the_samplers():
    assert sd.ProbabilityFlow().t_min == GridSampler.t_min == coverage.USUAL_T_MIN
    assert sd.times.LowDiscrepancy().t_min == coverage.LOWEST_TRAINED


# --- fit, whole ---


def tiny_fit(x, tmp_path=None, steps=1, **settings):
    config = sd.MLPConfig(width=48, depth=2)
    model = sd.ScoreModel(sd.VP(), config.build(x.shape[1:], rngs=nnx.Rngs(0)), sd.EDM(1.0))
    training = sd.Training(
        steps=steps,
        batch_size=255,  # odd: on one device, which compiles faster
        learning_rate=3e-3,
        ema=0.98,
        log_every=steps,
        validate_every=steps,
    )
    return sd.fit(
        jax.random.key(0), model, x, training=training, run=tmp_path, progress=False, **settings
    )


def test_fit_says_it_and_trains_in_standard_units(tmp_path, capsys):
    x = np.array([1000.0, -0.02]) + np.array([50.0, 1e-3]) * NORMAL
    with pytest.warns(UserWarning, match=r"Write sd.fit\(..., standardize=True\)"):
        tiny_fit(x)

    with warnings.catch_warnings():
        warnings.simplefilter("error")
        fit = tiny_fit(x, tmp_path / "run", steps=400, standardize=True)

    # Samples and densities in the data's units. A short training: within .15 of the standard
    # deviation, and .15 nats of the exact mean log density, -log std - 1/2 log(2 pi e) each.
    out = sd.sample(jax.random.key(1), sd.DDIM(num_steps=50), fit.model.sde, fit.model, (2000, 2))
    samples = np.asarray(out.x, np.float64)
    assert np.all(np.abs(samples.mean(axis=0) - x.mean(axis=0)) < 0.15 * x.std(axis=0))
    np.testing.assert_allclose(samples.std(axis=0), x.std(axis=0), rtol=0.15)
    out = sd.log_likelihood(jax.random.key(2), fit.model.sde, fit.model, x[:200])
    exact = -np.log(x.std(axis=0)).sum() - np.log(2 * np.pi) - 0.5 * (NORMAL[:200] ** 2).sum(1)
    assert abs(np.mean(np.asarray(out.log_prob) - exact)) < 0.15

    # So do the commands.
    run = str(tmp_path / "run")
    assert main(["sample", run, "--num", "500", "--out", f"{tmp_path}/x.npz"]) == 0
    drawn = np.load(tmp_path / "x.npz")["x"]
    assert np.all(np.abs(drawn.mean(axis=0) - x.mean(axis=0)) < 0.25 * x.std(axis=0))
    capsys.readouterr()
    assert main(["likelihood", run, "--num", "50", "--json"]) == 0
    nats = json.loads(capsys.readouterr().out)["nats"]
    assert abs(nats - np.mean(np.asarray(out.log_prob))) < 1.0

    # The model that a run holds has them too, and the same call resumes it.
    loaded = sd.load(tmp_path / "run")
    assert loaded.standardization == fit.model.standardization
    again = tiny_fit(x, tmp_path / "run", steps=400, standardize=True)
    assert again.step == 400 and len(again.history) == len(fit.history)
    with pytest.raises(ValueError, match="standardization"):
        tiny_fit(x, tmp_path / "run", steps=400, standardize=False)


def test_a_model_keeps_the_units_that_it_has():
    x = 5.0 + 2.0 * NORMAL
    fit = tiny_fit(x, standardize=sd.Standardization(5.0, 2.0))
    assert fit.model.standardization == sd.Standardization(5.0, 2.0)

    model = sd.ScoreModel(sd.VP(), fit.model.net, sd.EDM(1.0), sd.Standardization(5.0, 2.0))
    training = sd.Training(steps=1, batch_size=256)
    again = sd.fit(jax.random.key(0), model, x, training=training, progress=False)
    assert again.model.standardization == model.standardization
    assert again.history[0]["valid_loss"] is not None
    with pytest.raises(ValueError, match="leave standardize out"):
        sd.fit(jax.random.key(0), model, x, training=training, standardize=True)


def test_standard_units_of_prepared_integers():
    x = RNG.integers(200, 256, (256, 4, 4, 1), dtype=np.uint8)
    model = sd.ScoreModel(
        sd.VP(), sd.MLPConfig(width=8, depth=1).build((4, 4, 1), rngs=nnx.Rngs(0)), sd.EDM(1.0)
    )
    training = sd.Training(steps=1, batch_size=64)
    prepare = sd.UniformDequantization()
    fit = sd.fit(
        jax.random.key(0),
        model,
        x,
        prepare=prepare,
        training=training,
        standardize=True,
        progress=False,
    )
    real = np.asarray(prepare(jax.random.key(1), jnp.asarray(x)))
    np.testing.assert_allclose(fit.model.standardization.mean, real.mean(), atol=0.01)
    np.testing.assert_allclose(fit.model.standardization.std, real.std(), rtol=0.01)
    assert fit.range == (-1.0, 1.0)


@pytest.mark.parametrize("standardize", ["yes", 1, {"mean": 0.0}])
def test_what_is_no_standardize_is_refused(standardize, unchecked):
    with pytest.raises(TypeError, match="wanted True, or sd"):
        tiny_fit(NORMAL, standardize=standardize)


# --- The range of the data ---


@pytest.mark.parametrize(
    ("x", "prepare", "expected"),
    [
        (RNG.uniform(0.1, 0.9, (9, 4, 4, 1)), None, (0.0, 1.0)),
        (RNG.uniform(-0.9, 0.9, (9, 4, 4, 1)), None, (-1.0, 1.0)),
        (np.array([[3.0], [7.0]]), None, (3.0, 7.0)),
        (np.array([[3], [7]]), sd.data.prepare.Scale(256, 0.0, 1.0), (0.0, 1.0)),
        (np.array([[3], [7]]), sd.UniformDequantization(17, -2.0, 2.0), (-2.0, 2.0)),
        (np.ones((4, 1)) * 5.0, None, (5.0, 6.0)),
    ],
)
def test_the_range_of_the_data_is_known(x, prepare, expected):
    measured = measure(jax.random.key(0), ArraySource(x), prepare)
    assert (measured.low, measured.high) == expected
