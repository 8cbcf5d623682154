"""Settings come back equal from plain data; data that do not fit are refused with their place."""

import contextlib
import dataclasses
import math
import typing

import pytest
import yaml
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

import scoresde as sd
from scoresde.loss.times import AnyTimes
from scoresde.loss.weighting import AnyWeighting
from scoresde.parallel.processes import differences
from scoresde.runs.settings import ConfigError, from_dict, to_dict
from scoresde.runs.yaml_files import load_yaml, save_yaml
from scoresde.sampling.choices import AnySampler
from scoresde.sampling.correctors import AnyCorrector
from scoresde.sampling.predictors import AnyPredictor
from scoresde.train.model_settings import AnyNet, AnyParameterization, AnySDE

# The tests' own type checks look at a random entry of a tuple, which hypothesis notices.
pytestmark = pytest.mark.filterwarnings("ignore:Do not use the `random` module")


@dataclasses.dataclass(frozen=True)
class Experiment:
    """An experiment."""

    sde: AnySDE = sd.VP(beta_max=15.0)
    net: AnyNet = sd.MLPConfig()
    parameterization: AnyParameterization = sd.EDM()
    sampler: AnySampler = sd.EulerMaruyama()
    training: sd.Training = sd.Training()
    name: str = "run"


positive = st.floats(1e-3, 1e3)
sdes = st.one_of(
    st.builds(lambda a, b: sd.VP(min(a, b), max(a, b)), positive, positive),
    st.builds(lambda a, b: sd.SubVP(min(a, b), max(a, b)), positive, positive),
    st.builds(lambda a, b: sd.VE(a, a + b), positive, positive),
    st.builds(
        lambda kind, low, span, learn: sd.LearntVP(kind(low, low + span, learn_ends=learn)),
        st.sampled_from([sd.LinearGamma, sd.MonotoneGamma]),
        st.floats(-20.0, 0.0),
        st.floats(1.0, 30.0),
        st.booleans(),
    ),
)
nets = st.one_of(
    st.builds(sd.MLPConfig, width=st.integers(4, 64), num_classes=st.none() | st.integers(1, 9)),
    st.builds(
        lambda m, d: sd.UNetConfig(
            multipliers=tuple(m), attention_levels=(0,), dropout=d, fourier_features=tuple(m)
        ),
        st.lists(st.integers(1, 4), min_size=1, max_size=4),
        st.floats(0, 0.9),
    ),
)
labels = st.one_of(
    st.builds(sd.labels.Scaled, positive),
    st.builds(sd.labels.Index, st.integers(2, 999)),
    st.builds(sd.labels.Sigma),
    st.builds(sd.labels.LogSNR, positive),
)
parameterizations = st.one_of(
    st.builds(sd.EDM, positive),
    *(st.builds(kind, labels) for kind in (sd.Noise, sd.Score, sd.Data, sd.Velocity)),
)
grids = st.one_of(
    st.sampled_from(
        [
            sd.grids.Uniform(),
            sd.grids.UniformLogSNR(),
            sd.grids.Quadratic(),
            sd.grids.GivenTimes((1.0, 0.3, 0.01)),
        ]
    ),
    st.builds(sd.grids.Karras, positive),
)
samplers = st.one_of(
    st.builds(sd.EulerMaruyama, st.integers(1, 999), t_min=st.floats(0, 0.5), grid=grids),
    st.builds(
        sd.ProbabilityFlow,
        rtol=st.floats(1e-9, 1e-2),
        variable=st.one_of(
            st.sampled_from([sd.variables.InTime(), sd.variables.InLogSNR()]),
            st.builds(sd.variables.InNoiseToSignal, positive),
        ),
    ),
    st.builds(
        sd.PredictorCorrector,
        st.sampled_from(
            [
                sd.predictors.ReverseDiffusion(),
                sd.predictors.EulerMaruyama(),
                sd.predictors.Identity(),
            ]
        ),
        num_steps=st.integers(1, 999),
        grid=grids,
        corrector_first=st.booleans(),
    ),
    st.just(sd.Ancestral(1)),  # a single level has no t_min
    st.builds(
        sd.Ancestral,
        st.integers(2, 99),
        st.sampled_from(["posterior", "beta"]),
        t_min=st.none() | st.floats(0, 0.5),
    ),
    st.builds(sd.AnnealedLangevin, st.integers(1, 99), st.integers(1, 99), positive),
    st.builds(
        sd.Exponential,
        st.integers(400, 999),
        st.integers(1, 3),
        st.floats(0, 1),
        st.booleans(),
        grid=grids,
    ),
    st.builds(
        sd.DDIM,
        st.floats(0, 1),
        st.integers(1, 999),
        start=st.floats(0.5, 1.0),
        denoise=st.booleans(),
    ),
    st.builds(sd.DPMSolverPP, st.integers(1, 3), grid=grids),
    st.builds(sd.UniPC, st.integers(1, 3), save_path=st.booleans()),
    st.builds(
        sd.Heun, st.integers(1, 99), st.floats(0, 50), churn_max=st.sampled_from([50.0, math.inf])
    ),
    st.builds(
        lambda interval: sd.Restart(9, (interval, sd.Interval(0.1, 2.0))),
        st.builds(sd.Interval, repeats=st.integers(1, 9)),
    ),
    st.builds(sd.AdaptiveSDE, positive, positive, power=st.floats(0.5, 1.0)),
)
WEIGHTINGS = [sd.weightings.Variance(), sd.weightings.Likelihood(), sd.weightings.EDM(0.3)]
TIMES = [
    sd.times.Uniform(1e-4),
    sd.times.LowDiscrepancy(),
    sd.times.LogNormalSigma(mean=-2.0),
    sd.times.Levels(30),
    sd.times.Mixture(),
    sd.times.LogSNR(),
]
training = st.builds(
    sd.Training,
    steps=st.integers(1, 10**6),
    learning_rate=st.floats(1e-8, 1.0),
    weighting=st.sampled_from(WEIGHTINGS),
    times=st.sampled_from(TIMES),
    schedule_rate=positive,
)
of_the_bound = st.builds(
    sd.Training,
    objective=st.builds(
        sd.objectives.VariationalBound,
        st.none() | st.integers(2, 300),
        num_steps=st.none() | st.integers(1, 999),
    ),
)


@settings(
    deadline=None,
    derandomize=True,
    max_examples=60,
    suppress_health_check=[HealthCheck.function_scoped_fixture],
)
@given(
    st.builds(
        Experiment,
        sdes,
        nets,
        parameterizations,
        samplers,
        training | of_the_bound,
        st.text(max_size=20),
    )
)
def test_any_experiment_reads_back_equal(tmp_path, experiment):
    save_yaml(experiment, tmp_path / "config.yaml")
    data = load_yaml(tmp_path / "config.yaml")
    assert from_dict(data, Experiment) == experiment


def test_settings_choose_from_every_member_of_a_closed_union():
    """A new member is one that settings may name, and the test above must know it."""
    training = typing.get_type_hints(sd.Training)
    assert training["weighting"] == AnyWeighting
    assert training["times"] == AnyTimes
    assert {type(choice) for choice in WEIGHTINGS} == set(typing.get_args(AnyWeighting))
    assert {type(choice) for choice in TIMES} == set(typing.get_args(AnyTimes))

    pair = typing.get_type_hints(sd.PredictorCorrector)
    assert pair["predictor"] == AnyPredictor
    assert pair["corrector"] == AnyCorrector


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("sde: {kind: VP, beta_mx: 3.0}", r"beta_mx.* @ config.yaml.sde"),
        ("sde: {kind: VPP}", "'VPP': wanted one of VP, SubVP, VE"),
        ("sde: {kind: [VP]}", "wanted one of VP"),
        ("sde: {beta_max: 3.0}", "kind is None"),
        ("sde: {kind: LearntVP, schedule: {kind: Cubic}}", "wanted one of LinearGamma, Monotone"),
        ("sde: {kind: LearntVP, schedule: {kind: MonotoneGamma, weights: 1}}", "weights"),
        ("sde: {kind: LearntVP, schedule: {kind: LinearGamma, low: 6.0}}", "is not below high"),
        ("sde: 3", "3 is not a group of settings.* @ config.yaml.sde"),
        ("training: [1, 2]", "is not a group of settings.* @ config.yaml.training"),
        ("training: null", "None is not a group of settings"),
        ("{1: 2}", "{1: 2} is not a group of settings"),
        ("sde: {kind: VP, beta_max: -1.0}", "out of range"),
        ("sde: {kind: VP, beta_max: .inf}", "out of range"),
        ("sde: {kind: VP, beta_max: .nan}", "nan is not a number @ config.yaml.sde.beta_max"),
        ("sde: {kind: VP, beta_max: many}", "beta_max"),
        ("sde: {kind: VP, beta_max: true}", "True is not a number"),
        ("training: {steps: 1.5}", "1.5 is not a whole number @ config.yaml.training.steps"),
        ("training: {steps: 0}", "at least 1"),
        (
            "training: {times: {kind: LogNormalSigma, mean: .nan}}",
            "not a number @ config.yaml.training.times.mean",
        ),
        ("sampler: {kind: EulerMaruyama, denoise: 1}", "1 is not true or false"),
        ("sampler: {kind: ProbabilityFlow, solver: Dopri5}", "wanted one of diffrax"),
        ("net: {kind: UNetConfig, multipliers: '12'}", "'1' is not a whole number"),
        ("name: [1]", "is not text"),
        ("name: 7", "7 is not text: put it in quotes"),
        ("nome: x", "nome"),
    ],
)
def test_what_does_not_fit_is_refused_with_its_place(tmp_path, text, message):
    (tmp_path / "config.yaml").write_text(text)
    with pytest.raises(ConfigError, match=message):
        from_dict(load_yaml(tmp_path / "config.yaml"), Experiment, "config.yaml")


@settings(
    deadline=None,
    derandomize=True,
    max_examples=100,
    suppress_health_check=[HealthCheck.function_scoped_fixture],
)
@given(st.binary(max_size=60) | st.text("ab:{}[]&*!|>-\n 1.,'\"#?%<", max_size=40).map(str.encode))
def test_any_bytes_are_settings_or_a_config_error(tmp_path, content):
    (tmp_path / "config.yaml").write_bytes(content)
    with contextlib.suppress(ConfigError):
        from_dict(load_yaml(tmp_path / "config.yaml"), Experiment)


def test_numbers_in_exponent_form_are_numbers():
    """YAML 1.1 reads 1e-3 as a string; the typed schema does not."""
    data = yaml.safe_load("training: {learning_rate: 1e-3}")
    assert from_dict(data, Experiment).training.learning_rate == 1e-3


def test_differences_name_their_places():
    found = differences(to_dict(Experiment(sd.VP())), to_dict(Experiment(sd.VP(beta_max=15.0))))
    assert found == ["sde.beta_max: 20.0 there, 15.0 now"]
