"""YAML files are plain to read; whatever a file holds is read right, or refused quickly."""

import dataclasses
import itertools
import time

import jax.numpy as jnp
import pytest

import scoresde as sd
from scoresde.runs.settings import ConfigError, from_dict
from scoresde.runs.yaml_files import load_yaml, save_yaml
from scoresde.sampling.choices import AnySampler
from scoresde.train.model_settings import AnyNet, AnySDE


@dataclasses.dataclass(frozen=True)
class Experiment:
    """An experiment."""

    sde: AnySDE = sd.VP(beta_max=15.0)
    net: AnyNet = sd.UNetConfig()
    sampler: AnySampler = sd.EulerMaruyama()
    training: sd.Training = sd.Training()
    name: str = "run"


def test_the_file_is_plain_yaml(tmp_path):
    path = tmp_path / "config.yaml"
    save_yaml(Experiment(sd.VE(sigma_max=jnp.asarray(7.0))), path)

    text = path.read_text()
    assert "!!" not in text
    assert "kind: VE" in text
    assert from_dict(load_yaml(path), Experiment).sde == sd.VE(sigma_max=7.0)


@pytest.mark.parametrize("text", ["seed: 010", "seed: 1:30", "seed: 0x10", "seed: 1_000"])
def test_whole_numbers_are_decimal(tmp_path, text):
    """YAML 1.1 reads these as 8, 90, 16 and 1000. Here they are text, which no number accepts."""
    path = tmp_path / "config.yaml"
    path.write_text(text)
    assert isinstance(load_yaml(path)["seed"], str)

    path.write_text("seed: 90\nsmall: -3\nzero: 0")
    assert load_yaml(path) == {"seed": 90, "small": -3, "zero": 0}


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
        with pytest.raises(ConfigError, match=r"not readable|a regular file"):
            load_yaml(path)
