"""`fit` trains a schedule with its network: it descends, resumes to the bit, and is loaded with it.
What it cannot train so is refused, and what the messages advise trains."""

import copy
import dataclasses
import functools
import warnings

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from bound_variance import variance_over_times
from flax import nnx
from small_training import mlp

import scoresde as sd
from scoresde.data.prepare import BinCentres, Scale
from scoresde.loss.objectives import trains_schedule
from scoresde.sde.schedule import rebuilt
from scoresde.train.bound_checks import check_bound
from scoresde.train.load import describe
from scoresde.train.resuming import decisive_settings, in_full
from scoresde.train.what_trains import warn_of_constants

KEY = jax.random.key(0)
RNG = np.random.default_rng(0)
K = np.clip((8.0 + 3.0 * RNG.normal(size=(1024, 2))).round(), 0, 16).astype(int)
BOUND = sd.objectives.VariationalBound(17)
SHORT = sd.Training(
    steps=20, batch_size=32, warmup=2, validate_every=10, log_every=10, objective=BOUND
)
MONOTONE = sd.MonotoneGamma(-9.0, 5.0, learn_ends=True, hidden=16)

STEEP = {"w": np.full(4, 20.0), "b": np.full(4, -5.0), "c": np.full(4, 3.0)}
BENT = sd.MonotoneGamma(-9.0, 5.0, learn_ends=True, hidden=4, weights=STEEP)


def model(schedule=MONOTONE, parameterization=None, width=32):
    net = sd.MLPConfig(width=width, depth=1).build((2,), rngs=nnx.Rngs(0))
    parameterization = parameterization or sd.EDM(0.5)
    return sd.ScoreModel(sd.LearntVP(schedule), net, parameterization)


def train(score=None, run=None, training=SHORT, prepare=BinCentres(17), **options):
    score = model() if score is None else score
    options = {"prepare": prepare, "progress": False} | options
    return sd.fit(KEY, score, options.pop("data", K), training=training, run=run, **options)


def arrays(score):
    """The arrays of the schedule and the network."""
    leaves = jax.tree.leaves((score.sde, nnx.to_pure_dict(nnx.state(score.net, nnx.Param))))
    return [np.asarray(leaf) for leaf in leaves]


def assert_same(ours, theirs):
    for a, b in zip(arrays(ours), arrays(theirs), strict=True):
        np.testing.assert_array_equal(a, b)


# --- It trains ---


def test_it_learns_ends_and_shape():
    """250 steps: the held-out bound falls below that of the fixed schedule, and the variance of its
    estimate over times to less than half."""
    training = dataclasses.replace(
        SHORT, steps=250, batch_size=128, learning_rate=4e-3, validate_every=250
    )
    learnt = train(training=training)
    fixed = train(model(sd.LinearGamma(-9.0, 5.0)), training=training)
    loss = [fit.history[-1]["valid_loss"] for fit in (learnt, fixed)]
    assert loss[0] < loss[1] - 0.1

    start, end = MONOTONE, learnt.model.sde.schedule
    moved = np.asarray(end.low - start.low)
    assert 0.5 < moved < 6.0  # towards -log SNR of noise of the size of a bin
    assert np.max(np.abs(end.weights["c"] - 1.0)) > 0.05

    x = jnp.tile(BinCentres(17)(KEY, jnp.asarray(K)), (8, 1))
    linear = sd.LearntVP(sd.LinearGamma(float(start.low), float(start.high)))
    ours, theirs = (variance_over_times(learnt.model, sde, x) for sde in (learnt.model.sde, linear))
    assert ours < 0.5 * theirs


def test_in_steps_ends_learn_too():
    training = dataclasses.replace(
        SHORT, steps=60, learning_rate=1e-2, objective=dataclasses.replace(BOUND, num_steps=10)
    )
    fit = train(model(sd.LinearGamma(-9.0, 5.0, learn_ends=True)), training=training)
    assert float(fit.model.sde.schedule.low) > -8.9
    assert fit.history[-1]["valid_loss"] < fit.history[0]["loss"]


@functools.cache
def trained():
    """The short training that several tests compare with."""
    return train().model


@pytest.mark.parametrize("option", ["schedule_rate", "accumulate", "steps_per_dispatch"])
def test_options_of_training_hold_for_the_schedule(option):
    """A rate of its own; parts of a batch add up; several steps a dispatch are those one by one."""
    changes = {
        "schedule_rate": {"schedule_rate": 5.0},
        "accumulate": {"accumulate": 2},
        "steps_per_dispatch": {"steps_per_dispatch": 5},
    }[option]
    plain = trained().sde.schedule
    other = train(training=dataclasses.replace(SHORT, **changes)).model.sde.schedule
    moved = [abs(float(schedule.low) + 9.0) for schedule in (plain, other)]
    if option == "schedule_rate":
        assert 2.0 * moved[0] < moved[1] < 8.0 * moved[0]
    else:
        np.testing.assert_allclose(moved[1], moved[0], rtol=0.01)  # each part has its own mean


def test_a_bad_step_leaves_the_schedule_as_it_was():
    """Half the batches hold NaN; ends and weights stay finite, and those steps are counted."""

    def sometimes(key, k):
        x = BinCentres(17)(key, k)
        return jnp.where(jax.random.bernoulli(key), jnp.nan, x)

    fit = train(prepare=sometimes)
    assert 0 < fit.history[-1]["skipped"] < 20
    assert all(np.all(np.isfinite(a)) for a in arrays(fit.model))


# --- It resumes, and is loaded ---


def test_it_resumes_to_the_bit_and_is_loaded(tmp_path):
    train(run=tmp_path / "run", training=dataclasses.replace(SHORT, steps=10))
    resumed = train(run=tmp_path / "run")
    assert_same(resumed.model, trained())

    loaded = sd.load(tmp_path / "run")
    assert_same(loaded, trained())
    assert float(loaded.sde.schedule.low) != -9.0
    last = sd.load(tmp_path / "run", ema=False)
    assert float(last.sde.schedule.low) != float(loaded.sde.schedule.low)


def test_metadata_of_an_earlier_version_are_completed():
    """They know neither schedules nor Fourier features nor the rate of a schedule."""
    net = sd.UNetConfig(channels=8, num_blocks=1).build((4, 4, 1), rngs=nnx.Rngs(0))
    now = describe(sd.ScoreModel(sd.VP(), net, sd.EDM(0.5)), (4, 4, 1))
    now["training"] = decisive_settings(sd.Training())
    before = copy.deepcopy(now)
    del before["model"]["net"]["fourier_features"]
    del before["training"]["schedule_rate"]
    assert before != now
    assert in_full(before) == now


def test_another_objective_keeps_the_schedule_and_says_so(tmp_path):
    usual = dataclasses.replace(SHORT, objective=sd.objectives.Usual())
    with pytest.warns(UserWarning, match="fit keeps the shape and ends of the schedule") as caught:
        fit = train(
            model(BENT), training=usual, prepare=sd.UniformDequantization(17), run=tmp_path / "run"
        )
    assert "sd.objectives.VariationalBound(levels)" in str(caught[0].message)
    t = np.linspace(0.0, 1.0, 5)
    for kept in (fit.model, sd.load(tmp_path / "run"), sd.load(tmp_path / "run", ema=False)):
        np.testing.assert_allclose(kept.sde.gamma(t), BENT(t), rtol=1e-5)

    with warnings.catch_warnings():
        warnings.simplefilter("error")
        warn_of_constants(model(), trains_schedule(BOUND, model().sde))
        train(
            model(sd.LinearGamma(-9.0, 5.0)), training=usual, prepare=sd.UniformDequantization(17)
        )


@dataclasses.dataclass(frozen=True)
class Power:
    """A custom schedule, low + span t^power, whose shape trains."""

    power: float = 1.0

    def __call__(self, t):
        return -9.0 + 14.0 * t**self.power

    def parameters(self):
        return {"shape": {"log": jnp.log(jnp.asarray(self.power))}}

    def with_parameters(self, parameters):
        return rebuilt(self, power=jnp.exp(parameters["shape"]["log"]))


def test_custom_schedules_train_or_stay(unchecked, tmp_path):
    """One that offers parameters trains, and is loaded with the model; a function stays."""
    own = model(Power())
    fit = train(own, run=tmp_path / "run")
    assert abs(float(fit.model.sde.schedule.power) - 1.0) > 1e-3
    loaded = sd.load(tmp_path / "run", model=model(Power()))
    assert float(loaded.sde.schedule.power) == float(fit.model.sde.schedule.power)
    with pytest.raises(ValueError, match="which tell it log SNR"):
        train(model(Power(), sd.Noise()))

    usual = dataclasses.replace(SHORT, steps=2, objective=sd.objectives.Usual())
    plain = model(lambda t: 14.0 * t - 9.0)
    kept = train(plain, training=usual, prepare=sd.UniformDequantization(17)).model
    assert float(kept.sde.gamma(0.5)) == -2.0


def test_arrays_that_do_not_train_are_named():
    fixed = model(sd.MonotoneGamma(jnp.float32(-9.0), 5.0, hidden=4))
    with pytest.warns(UserWarning, match=r"sde.schedule.low \(float32") as caught:
        warn_of_constants(fixed, trains_schedule(BOUND, fixed.sde))
    assert "weights" not in str(caught[0].message)


# --- What is refused, and what the message advises ---

REFUSED = {
    "label": (
        {"score": model(parameterization=sd.Noise())},
        r"write sd.EDM\(\), or sd.Noise\(sd.labels.LogSNR\(\)\)",
        {"score": model(parameterization=sd.Noise(sd.labels.LogSNR()))},
    ),
    "process": (
        {"score": mlp()},
        r"sd.LearntVP\(sd.LinearGamma\(-13.3, 5.0\)\)",
        {"score": model(sd.LinearGamma(-13.3, 5.0))},
    ),
    "levels": (
        {"objective": sd.objectives.VariationalBound(18)},
        r"write sd.objectives.VariationalBound\(17\)",
        {"objective": sd.objectives.VariationalBound(17)},
    ),
    "spikes": (
        {"objective": sd.objectives.VariationalBound()},
        r"write sd.objectives.VariationalBound\(17\)",
        {"objective": sd.objectives.VariationalBound(17)},
    ),
    "scale": (
        {"prepare": Scale(17)},
        r"prepare=sd.data.prepare.BinCentres\(17, -1.0, 1.0\)",
        {"prepare": sd.data.prepare.BinCentres(17, -1.0, 1.0)},
    ),
    "reals": (
        {"prepare": None, "data": K / 8.0 - 1.0},
        "or leave out levels",
        {
            "prepare": None,
            "data": RNG.normal(size=(256, 2)),
            "objective": sd.objectives.VariationalBound(),
        },
    ),
    "range": (
        {"prepare": lambda key, k: k.astype(jnp.float32)},
        r"write prepare=sd.data.prepare.BinCentres\(17, -1.0, 1.0\)",
        {"prepare": sd.data.prepare.BinCentres(17, -1.0, 1.0)},
    ),
    "units": ({"standardize": True}, "leave out standardize", {}),
}


@pytest.mark.parametrize("case", REFUSED)
def test_what_has_no_bound_is_refused(case):
    given, message, advised = REFUSED[case]
    plain = dataclasses.replace(SHORT, steps=2, objective=sd.objectives.Usual())
    with pytest.raises(ValueError, match=message):
        train(training=plain, **({"objective": BOUND} | given))

    call = {"score": model(), "prepare": BinCentres(17), "objective": BOUND} | advised
    check_bound(call["objective"], call["score"], call["prepare"])


def test_times_that_weigh_twice_are_refused(unchecked):
    with pytest.raises(ValueError, match=r"times=sd.times.LowDiscrepancy\(\)"):
        sd.Training(objective=BOUND, times=sd.times.LogSNR())
    sd.Training(objective=BOUND, times=sd.times.LowDiscrepancy())
    with pytest.raises(ValueError, match="uniform in t on"):
        train(training=dataclasses.replace(SHORT, times=sd.times.LowDiscrepancy(0.5)))
    with pytest.raises(ValueError, match="uniform in t on"):
        usual = dataclasses.replace(SHORT, objective=sd.objectives.Usual())
        train(training=dataclasses.replace(usual, times=sd.times.LogSNR()), objective=BOUND)
    with pytest.raises(ValueError, match=r"such as sd.objectives.VariationalBound\(levels\)"):
        sd.Training(objective=sd.objectives.VariationalBound)
    with pytest.raises(ValueError, match="num_steps"):
        sd.objectives.VariationalBound(17, num_steps=0)
    with pytest.raises(ValueError, match="levels"):
        sd.objectives.VariationalBound(1)


def test_a_classifier_is_refused():
    net = sd.nets.MLPClassifierConfig(num_classes=2).build((2,), rngs=nnx.Rngs(0))
    classifier = sd.ClassifierModel(sd.LearntVP(sd.LinearGamma()), net)
    with pytest.raises(TypeError, match="leave Training"):
        sd.fit(KEY, classifier, K, prepare=BinCentres(17), cond=K[:, 0] % 2, training=SHORT)
