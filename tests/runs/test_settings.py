"""Settings read back equal from YAML, whatever a file holds is read right or refused, and flags reach every field."""

import contextlib
import dataclasses
import itertools
import math
import sys
import time
import types

import jax.numpy as jnp
import pytest
import yaml
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

import scoresde as sd
from scoresde.cli.exit import UsageError
from scoresde.cli.flags import parse, run
from scoresde.parallel.processes import differences
from scoresde.runs.settings import ConfigError, from_dict, to_dict
from scoresde.runs.yaml_files import load_yaml, save_yaml
from scoresde.sampling.choices import AnySampler
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
)
nets = st.one_of(
    st.builds(sd.MLPConfig, width=st.integers(4, 64), num_classes=st.none() | st.integers(1, 9)),
    st.builds(
        lambda m, d: sd.UNetConfig(multipliers=tuple(m), attention_levels=(0,), dropout=d),
        st.lists(st.integers(1, 4), min_size=1, max_size=4),
        st.floats(0, 0.9),
    ),
)
labels = st.one_of(
    st.builds(sd.labels.Scaled, positive),
    st.builds(sd.labels.Index, st.integers(2, 999)),
    st.builds(sd.labels.Sigma),
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
        variable=st.sampled_from([sd.variables.InTime(), sd.variables.InLogSNR()]),
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
    st.builds(
        sd.Ancestral,
        st.integers(1, 99),
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
training = st.builds(
    sd.Training,
    steps=st.integers(1, 10**6),
    learning_rate=st.floats(1e-8, 1.0),
    weighting=st.sampled_from(
        [sd.weightings.Variance(), sd.weightings.Likelihood(), sd.weightings.EDM(0.3)]
    ),
    times=st.sampled_from(
        [
            sd.times.Uniform(1e-4),
            sd.times.LowDiscrepancy(),
            sd.times.LogNormalSigma(mean=-2.0),
            sd.times.Levels(30),
            sd.times.Mixture(),
            sd.times.LogSNR(),
        ]
    ),
)


# --- YAML ---


@settings(
    deadline=None,
    derandomize=True,
    max_examples=60,
    suppress_health_check=[HealthCheck.function_scoped_fixture],
)
@given(
    st.builds(Experiment, sdes, nets, parameterizations, samplers, training, st.text(max_size=20))
)
def test_any_experiment_reads_back_equal(tmp_path, experiment):
    save_yaml(experiment, tmp_path / "config.yaml")
    assert from_dict(load_yaml(tmp_path / "config.yaml"), Experiment) == experiment


def test_the_file_is_plain_yaml(tmp_path):
    save_yaml(Experiment(sd.VE(sigma_max=jnp.asarray(7.0))), tmp_path / "config.yaml")
    text = (tmp_path / "config.yaml").read_text()
    assert "!!" not in text
    assert "kind: VE" in text
    assert from_dict(load_yaml(tmp_path / "config.yaml"), Experiment).sde == sd.VE(sigma_max=7.0)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("sde: {kind: VP, beta_mx: 3.0}", r"beta_mx.* @ config.yaml.sde"),
        ("sde: {kind: VPP}", "'VPP': wanted one of VP, SubVP, VE"),
        ("sde: {kind: [VP]}", "wanted one of VP"),
        ("sde: {beta_max: 3.0}", "kind is None"),
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


@pytest.mark.parametrize("text", ["seed: 010", "seed: 1:30", "seed: 0x10", "seed: 1_000"])
def test_whole_numbers_are_decimal(tmp_path, text):
    """YAML 1.1 reads these as 8, 90, 16 and 1000; here none is a number, rather than another one than it looks."""
    (tmp_path / "config.yaml").write_text(text)
    assert isinstance(load_yaml(tmp_path / "config.yaml")["seed"], str)
    (tmp_path / "config.yaml").write_text("seed: 90\nsmall: -3\nzero: 0")
    assert load_yaml(tmp_path / "config.yaml") == {"seed": 90, "small": -3, "zero": 0}


LAUGHS = "a: &a [x, x]\n" + "".join(
    f"{b}: &{b} [*{a}, *{a}]\n" for a, b in itertools.pairwise("abcdefghijklmnop")
)
HOSTILE = {
    "a key twice": (
        b"name: a\nseed: 1\nname: b\n",
        r"line 3, column 1: 'name' is already set in line 1: keep one of the two",
    ),
    "a key twice in a line": (
        b"sde: {kind: VP, kind: VE}",
        r"line 1, column 17: 'kind' is already set in line 1",
    ),
    "a key twice, nested": (
        b"sde:\n  beta_max: 1\n  beta_max: 2\n",
        r"line 3, .* 'beta_max' is already set in line 2",
    ),
    "a merge key": (
        b"<<: {seed: 3}\nseed: 7\n",
        r"line 1, column 1: merge keys \(<<\) are not allowed in settings",
    ),
    "an object": (
        b"sde: !!python/object:os.system {}",
        "line 1, column 6: anchors, aliases and tags",
    ),
    "a call": (b"x: !!python/object/apply:os.system ['touch hacked']", "anchors, aliases and tags"),
    "a plain tag": (b"name: !!binary aGk=", "anchors, aliases and tags"),
    "an alias": (b"a: &x 1\nb: *x\n", "line 1, column 4: anchors, aliases and tags"),
    "a billion laughs": (LAUGHS.encode(), "anchors, aliases and tags"),
    "a megabyte of aliases": (
        b"a: &a [x]\nb: [" + b"*a, " * 250_000 + b"]",
        "more than 131072 bytes",
    ),
    "too large": (b"name: " + b"x" * 2**20, "more than 131072 bytes"),
    "too deep": (b"[" * 1000, "nested too deeply"),
    "a list": (b"- 1\n- 2\n", "holds a value of type list"),
    "nothing": (b"", "holds a value of type NoneType"),
    "text": (b"hello", "holds a value of type str"),
    "not UTF-8": (b"name: \xff\xfe", "not readable as YAML: .*utf-8"),
    "control characters": (b"name: \x00\x1b[2J", "not readable as YAML"),
    "cut short": (b"sde: {kind: VP, beta_max: [1, ", "line 1, column"),
    "two documents": (b"a: 1\n---\nb: 2\n", "line 2, column 1"),
    "a number too long to print": (b"9" * 9999, "not readable as YAML|holds a value of type"),
    "an endless number": (b"seed: " + b"9" * 5000, "not readable as YAML"),
    "no such day": (b"name: 2001-99-99", "not readable as YAML"),
}


@pytest.mark.parametrize("case", HOSTILE)
def test_a_hostile_file_is_refused_quickly(tmp_path, case):
    content, message = HOSTILE[case]
    path = tmp_path / "config.yaml"
    path.write_bytes(content)
    start = time.process_time()
    with pytest.raises(ConfigError, match=message) as caught:
        load_yaml(path)
    assert time.process_time() - start < 1.0
    assert str(caught.value).startswith(str(path))
    assert len(str(caught.value)) < 500


def test_no_file_and_a_folder_are_config_errors(tmp_path):
    for path in (tmp_path / "none.yaml", tmp_path):
        with pytest.raises(ConfigError, match="not readable"):
            load_yaml(path)


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
    assert (
        from_dict(
            yaml.safe_load("training: {learning_rate: 1e-3}"), Experiment
        ).training.learning_rate
        == 1e-3
    )


def test_differences_name_their_places():
    found = differences(to_dict(Experiment(sd.VP())), to_dict(Experiment(sd.VP(beta_max=15.0))))
    assert found == ["sde.beta_max: 20.0 there, 15.0 now"]


# --- The command line ---


@pytest.mark.parametrize(
    ("flags", "expected"),
    [
        ("", Experiment()),
        ("--sde.beta-max 12 --name x", Experiment(sd.VP(beta_max=12.0), name="x")),
        ("sde:ve", Experiment(sd.VE())),
        (
            "sde:vp --sde.beta-min 0.2",
            Experiment(sd.VP(0.2, 15.0)),
        ),  # what is there keeps its settings
        ("sde:SubVP net:u-net-config", Experiment(sd.SubVP(), sd.UNetConfig())),
        (
            "net:unet --net.multipliers 1 2 2 sde:ve",
            Experiment(sd.VE(), sd.UNetConfig(multipliers=(1, 2, 2))),
        ),
        ("parameterization:noise", Experiment(parameterization=sd.Noise())),
        (
            "sampler.grid:uniform-log-snr",
            Experiment(sampler=sd.EulerMaruyama(grid=sd.grids.UniformLogSNR())),
        ),
        (
            "training.times:uniform --training.times.t-min 1e-4 --training.steps 5",
            Experiment(training=sd.Training(steps=5, times=sd.times.Uniform(1e-4))),
        ),
        (
            "sampler.predictor:euler-maruyama sampler:predictor-corrector --sampler.num-steps 7",
            Experiment(sampler=sd.PredictorCorrector(sd.predictors.EulerMaruyama(), num_steps=7)),
        ),
        (
            "sampler:ancestral --sampler.num-steps 300 --sampler.variance beta",
            Experiment(sampler=sd.Ancestral(300, "beta")),
        ),
        (
            "sampler:annealed-langevin --sampler.t-min 0.1",
            Experiment(sampler=sd.AnnealedLangevin(t_min=0.1)),
        ),
        (
            "parameterization:noise parameterization.label:index --parameterization.label.num-steps 300",
            Experiment(parameterization=sd.Noise(sd.labels.Index(300))),
        ),
        (
            "sampler:dpm-solver-pp --sampler.order 3 sampler.grid:karras --sampler.grid.rho 5",
            Experiment(sampler=sd.DPMSolverPP(3, grid=sd.grids.Karras(5.0))),
        ),
        (
            "sampler:heun --sampler.churn 6 --sampler.num-steps 30",
            Experiment(sampler=sd.Heun(30, 6.0)),
        ),
        ("sampler:ddim --sampler.eta 0.5", Experiment(sampler=sd.DDIM(0.5))),
        (
            "sampler:uni-pc sampler.grid:given-times --sampler.grid.times 1 0.5 0.001",
            Experiment(sampler=sd.UniPC(grid=sd.grids.GivenTimes((1.0, 0.5, 0.001)))),
        ),
        ("sampler:adaptive-sde --sampler.rtol 0.1", Experiment(sampler=sd.AdaptiveSDE(0.1))),
        ("sampler:restart", Experiment(sampler=sd.Restart())),
        (
            "training.times:levels --training.times.num-steps 300",
            Experiment(training=sd.Training(times=sd.times.Levels(300))),
        ),
        ("--name=sde:ve", Experiment(name="sde:ve")),
    ],
)
def test_flags_and_choices_become_settings(flags, expected):
    assert parse(Experiment, flags.split()) == expected


def test_settings_inherited_from_another_module_are_read_there(monkeypatch):
    """As experiments/digits_vp.py does: the types of inherited fields are names of the other module."""
    other = types.ModuleType("other")
    monkeypatch.setitem(sys.modules, "other", other)
    exec(
        "from __future__ import annotations\nimport dataclasses, scoresde as sd\nfrom scoresde.train.model_settings import AnyNet\n"
        "@dataclasses.dataclass(frozen=True)\nclass Base:\n    net: AnyNet = sd.UNetConfig()\n    steps: int = 1\n",
        other.__dict__,
    )

    @dataclasses.dataclass(frozen=True)
    class Here(other.Base):
        sde: AnySDE = sd.VP()

    settings = parse(Here, ["net:mlp", "--net.width", "8", "sde:ve", "--steps", "2"])
    assert settings == Here(net=sd.MLPConfig(width=8), sde=sd.VE(), steps=2)


def test_the_order_of_flags_and_choices_does_not_matter():
    groups = [
        ["sde:ve"],
        ["--sde.sigma-max", "10"],
        ["sampler.variable:in-log-snr"],
        ["sampler:probability-flow"],
        ["--sampler.rtol", "1e-2"],
        ["--name", "x"],
    ]
    expected = Experiment(
        sd.VE(sigma_max=10.0),
        sampler=sd.ProbabilityFlow(rtol=1e-2, variable=sd.variables.InLogSNR()),
        name="x",
    )
    for order in list(itertools.permutations(groups))[::37]:
        assert parse(Experiment, list(itertools.chain(*order))) == expected


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        ("sde:vpp", r"sde:vpp is no choice: write sde:vp, or another of\n  sde:{vp, sub-vp, ve}"),
        ("sde:xyz", r"sde:xyz is no choice: wanted one of\n  sde:{vp, sub-vp, ve}"),
        (
            "--sde=sub_vp",
            r"--sde is a choice, not an option: write sde:sub-vp, or another of\n  sde:{vp, sub-vp, ve}",
        ),
        (
            "--sde sub-vp",
            r"--sde is a choice, not an option: write sde:sub-vp, or another of\n  sde:{vp, sub-vp, ve}",
        ),
        ("sde.grid:uniform", r"no choice here. There are:\n  sde:{vp, sub-vp, ve}\n"),
        ("sampler.variable:in-time", r"no choice here.*\n.*sampler.grid:{uniform, "),
        ("sde:ve sde:vp", "sde is chosen twice, ve and vp"),
        (
            "sampler:predictor-corrector sampler.predictor:identity sampler.corrector:identity",
            "nothing would",
        ),
    ],
)
def test_wrong_choices_say_the_right_ones(flags, message):
    with pytest.raises(UsageError, match=f"(?s){message}"):
        parse(Experiment, flags.split())


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        ("--sde.beta-mx 3", "--sde.beta-max"),
        ("sde:ve --sde.beta-max 3", "--sde.beta-max"),
        ("--sde.beta-max -3", "out of range"),
        ("sde:ve --sde.sigma-max none", "could not convert"),
    ],
)
def test_wrong_flags_end_with_two(flags, message, capsys, monkeypatch):
    monkeypatch.setenv("COLUMNS", "200")
    with pytest.raises(SystemExit) as exit:
        parse(Experiment, flags.split())
    assert exit.value.code == 2
    assert message in capsys.readouterr().err


def test_help_lists_the_choices_and_the_options_of_the_chosen(capsys):
    with pytest.raises(SystemExit) as exit:
        parse(Experiment, ["sde:ve", "--help"])
    assert exit.value.code == 0
    out = capsys.readouterr().out
    assert "sde:{vp, sub-vp, ve}" in out
    assert "training.times:{low-discrepancy-time, uniform-time, log-snr-time" in out
    assert "--sde.sigma-max" in out
    assert "--sde.beta-max" not in out


@pytest.mark.parametrize(
    ("ending", "code", "said"),
    [
        (None, 0, ""),
        (3, 3, ""),
        (ValueError("too small"), 1, "error: too small\n(add --debug"),
        (OSError("no place"), 1, "error: no place"),
        (UsageError("no such thing"), 2, "error: no such thing\n"),
        (KeyboardInterrupt(), 130, "the same command goes on"),
        (BrokenPipeError(), 0, ""),
    ],
)
def test_run_ends_with_its_exit_code(ending, code, said, monkeypatch, capfd):
    def main(settings):
        assert settings == Experiment(sd.VE())
        if isinstance(ending, BaseException):
            raise ending
        return ending

    monkeypatch.setattr("sys.argv", ["experiment.py", "sde:ve"])
    monkeypatch.setattr(
        "os.dup2", lambda *_: None
    )  # pytest reads what BrokenPipeError would silence
    monkeypatch.setattr("os._exit", sys.exit)  # ends the process at once
    with pytest.raises(SystemExit) as exit:
        run(main, Experiment)
    assert exit.value.code == code
    assert said in capfd.readouterr().err
    if code == 1:
        monkeypatch.setattr("sys.argv", ["experiment.py", "--debug", "sde:ve"])
        with pytest.raises(type(ending)):
            run(main, Experiment)
