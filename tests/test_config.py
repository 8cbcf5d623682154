"""Settings written to YAML read back equal, and what does not fit is refused with its place."""

import dataclasses

import jax.numpy as jnp
import pytest
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st

import scoresde as sd
from scoresde.config import ConfigError, differences, from_dict, load_yaml, save_yaml, to_dict


@dataclasses.dataclass(frozen=True)
class Experiment:
    sde: sd.VP | sd.SubVP | sd.VE = sd.VP()
    net: sd.UNetConfig | sd.MLPConfig = sd.MLPConfig()
    sampler: sd.EulerMaruyama | sd.ProbabilityFlow = sd.EulerMaruyama()
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
    st.builds(lambda m, d: sd.UNetConfig(multipliers=tuple(m), attention_levels=(0,), dropout=d),
              st.lists(st.integers(1, 4), min_size=1, max_size=4), st.floats(0, 0.9)),
)  # fmt: skip
samplers = st.one_of(
    st.builds(sd.EulerMaruyama, st.integers(1, 999), t_min=st.floats(0, 0.5),
              grid=st.sampled_from([sd.Uniform(), sd.UniformLogSNR()])),
    st.builds(sd.ProbabilityFlow, rtol=st.floats(1e-9, 1e-2), variable=st.sampled_from([sd.InTime(), sd.InLogSNR()])),
)  # fmt: skip
training = st.builds(
    sd.Training,
    steps=st.integers(1, 10**6),
    learning_rate=st.floats(1e-8, 1.0),
    weighting=st.sampled_from([sd.VarianceWeighting(), sd.LikelihoodWeighting(), sd.EDMWeighting(0.3)]),
    times=st.sampled_from([sd.UniformTime(1e-4), sd.LowDiscrepancyTime(), sd.LogNormalSigma(mean=-2.0)]),
)


@settings(deadline=None, max_examples=60)
@given(st.builds(Experiment, sdes, nets, samplers, training, st.text(max_size=20)))
def test_any_experiment_reads_back_equal(experiment):
    text = yaml.safe_dump(to_dict(experiment))
    assert from_dict(yaml.safe_load(text), Experiment) == experiment


def test_the_file_is_plain_yaml(tmp_path):
    save_yaml(Experiment(sd.VE(sigma_max=jnp.asarray(7.0))), tmp_path / "config.yaml")
    text = (tmp_path / "config.yaml").read_text()
    assert "!!" not in text
    assert "kind: VE" in text
    assert from_dict(load_yaml(tmp_path / "config.yaml"), Experiment).sde == sd.VE(sigma_max=7.0)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"sde": {"kind": "VP", "beta_mx": 3.0}}, "beta_mx"),
        ({"sde": {"kind": "VPP"}}, "wanted one of VP, SubVP, VE"),
        ({"sde": {"kind": "VP", "beta_max": -1.0}}, "out of range"),
        ({"sde": {"kind": "VP", "beta_max": "many"}}, "beta_max"),
        ({"training": {"steps": 1.5}}, "not a whole number"),
        ({"nome": "x"}, "nome"),
    ],
)
def test_what_does_not_fit_is_refused_with_its_place(change, message):
    with pytest.raises(ConfigError, match=message):
        from_dict(change, Experiment)


def test_numbers_in_exponent_form_are_numbers():
    """YAML 1.1 reads 1e-3 as a string; the typed schema does not."""
    assert from_dict(yaml.safe_load("training: {learning_rate: 1e-3}"), Experiment).training.learning_rate == 1e-3


def test_differences_name_their_places():
    found = differences(to_dict(Experiment()), to_dict(Experiment(sd.VP(beta_max=15.0))))
    assert found == ["sde.beta_max: 20.0 there, 15.0 now"]


def test_unreadable_yaml_is_a_config_error(tmp_path):
    (tmp_path / "config.yaml").write_text("sde: !!python/object:os.system {}")
    with pytest.raises(ConfigError, match="not readable"):
        load_yaml(tmp_path / "config.yaml")
