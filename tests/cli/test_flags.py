"""Flags on the command line reach every field of the settings; a wrong one names the right ones."""

import dataclasses
import itertools
import sys
import types

import pytest

import scoresde as sd
from scoresde.cli.exit import UsageError
from scoresde.cli.flags import parse, run_script
from scoresde.sampling.choices import AnySampler
from scoresde.train.model_settings import AnyNet, AnyParameterization, AnySDE

SDES = "sde:{vp, sub-vp, ve, cosine, edm-process, rectified-flow, learnt-vp}"


@dataclasses.dataclass(frozen=True)
class Experiment:
    """An experiment."""

    sde: AnySDE = sd.VP(beta_max=15.0)
    net: AnyNet = sd.MLPConfig()
    parameterization: AnyParameterization = sd.EDM()
    sampler: AnySampler = sd.EulerMaruyama()
    training: sd.Training = sd.Training()
    name: str = "run"


@pytest.mark.parametrize(
    ("flags", "expected"),
    [
        ("", Experiment()),
        ("--sde.beta-max 12 --name x", Experiment(sd.VP(beta_max=12.0), name="x")),
        ("sde:ve", Experiment(sd.VE())),
        # A member that is there already keeps its settings.
        ("sde:vp --sde.beta-min 0.2", Experiment(sd.VP(0.2, 15.0))),
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
            "parameterization:noise parameterization.label:index "
            "--parameterization.label.num-steps 300",
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
    """As in experiments/digits_vp.py: the types of inherited fields are names of another module."""
    source = """
from __future__ import annotations
import dataclasses, scoresde as sd
from scoresde.train.model_settings import AnyNet

@dataclasses.dataclass(frozen=True)
class Base:
    net: AnyNet = sd.UNetConfig()
    steps: int = 1
"""
    other = types.ModuleType("other")
    monkeypatch.setitem(sys.modules, "other", other)
    exec(source, other.__dict__)

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
        (
            "sde:vpp",
            rf"sde:vpp is not a choice: write sde:vp, or another of\n  {SDES}",
        ),
        (
            "sde:xyz",
            rf"sde:xyz is not a choice: wanted one of\n  {SDES}",
        ),
        (
            "--sde=sub_vp",
            r"--sde is a choice, not an option: write sde:sub-vp, or another of\n"
            rf"  {SDES}",
        ),
        (
            "--sde:sub-vp",
            r"--sde is a choice, not an option: write sde:sub-vp, or another of\n"
            rf"  {SDES}",
        ),
        (
            "--sde sub-vp",
            r"--sde is a choice, not an option: write sde:sub-vp, or another of\n"
            rf"  {SDES}",
        ),
        (
            "sde.grid:uniform",
            rf"not a choice here. The choices are:\n  {SDES}\n",
        ),
        ("sampler.variable:in-time", r"not a choice here.*\n.*sampler.grid:{uniform, "),
        ("sde:ve sde:vp", "sde is chosen twice, ve and vp"),
        (
            "sampler:predictor-corrector sampler.predictor:identity sampler.corrector:identity",
            "nothing would",
        ),
    ],
)
def test_a_wrong_choice_is_answered_with_the_right_ones(flags, message):
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
def test_a_wrong_flag_ends_with_exit_code_two(flags, message, capsys, monkeypatch):
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
    assert SDES in out
    assert "training.times:{low-discrepancy, uniform, log-snr" in out
    assert "--sde.sigma-max" in out
    assert "--sde.beta-max" not in out


@pytest.mark.parametrize(
    ("ending", "code", "message"),
    [
        (None, 0, ""),
        (3, 3, ""),
        (ValueError("too small"), 1, "error: too small\n(add --debug"),
        (OSError("no place"), 1, "error: no place"),
        (UsageError("no such thing"), 2, "error: no such thing\n"),
        (KeyboardInterrupt(), 130, "run the same command again to resume"),
        (BrokenPipeError(), 1, "error: the reader of the output has gone"),
    ],
)
def test_a_script_ends_with_its_exit_code(ending, code, message, monkeypatch, capfd):
    def main(settings):
        assert settings == Experiment(sd.VE())
        if isinstance(ending, BaseException):
            raise ending
        return ending

    monkeypatch.setattr("sys.argv", ["experiment.py", "sde:ve"])
    # BrokenPipeError would silence stdout, which pytest reads; os._exit would end the process.
    monkeypatch.setattr("os.dup2", lambda *_: None)
    monkeypatch.setattr("os._exit", sys.exit)

    with pytest.raises(SystemExit) as exit:
        run_script(main, Experiment)
    assert exit.value.code == code
    assert message in capfd.readouterr().err

    if type(ending) in (ValueError, OSError):
        monkeypatch.setattr("sys.argv", ["experiment.py", "--debug", "sde:ve"])
        with pytest.raises(type(ending)):
            run_script(main, Experiment)


def test_a_script_runs_an_object_with_its_own_settings(monkeypatch):
    """Options replace the settings of the object; all others stay."""
    found = []
    monkeypatch.setattr("sys.argv", ["experiment.py", "--sde.sigma-max", "9", "sampler:heun"])
    with pytest.raises(SystemExit) as exit:
        run_script(found.append, Experiment(sd.VE(sigma_min=0.02), name="ve"))

    assert exit.value.code == 0
    assert found == [Experiment(sd.VE(0.02, 9.0), sampler=sd.Heun(), name="ve")]
