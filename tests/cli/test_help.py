"""--help fits a screen, and names what there is."""

import pytest

import scoresde as sd
from scoresde.cli.main import COMMANDS


@pytest.mark.parametrize(
    "command", [(), *((name,) for name in COMMANDS)], ids=lambda command: " ".join(command)
)
def test_help_fits_a_screen(command, call):
    code, out, _ = call(*command, "--help")
    assert code == 0

    lines = out.splitlines()
    assert len(lines) <= 40
    assert max(map(len, lines)) <= 100


def test_help_names_every_command_and_sampler(call):
    _, out, _ = call("--help")
    assert all(f"scoresde {command} " in out for command in COMMANDS)

    _, out, _ = call("sample", "--help")
    assert "sampler:{probability-flow, euler-maruyama, predictor-corrector" in out
    assert "--sampler.rtol" not in out

    _, out, _ = call("sample", "sampler:euler-maruyama", "--help")
    assert "--sampler.num-steps" in out

    assert call("--version")[1] == f"scoresde {sd.__version__}\n"
