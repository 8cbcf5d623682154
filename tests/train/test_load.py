"""`load` returns what a run trained: its EMA weights, from a sound checkpoint, for any model."""

import dataclasses
import os
import shutil

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from small_training import KEY, SMALL, data, final_state, mlp, weights
from tiny_run import untrained

import scoresde as sd
from scoresde.reading import UnreadableError
from scoresde.runs.checkpoint import CheckpointError
from scoresde.runs.manifest import read_manifest, write_manifest
from scoresde.runs.settings import ConfigError
from scoresde.train.load import open_run
from scoresde.train.model_settings import ModelSettings


def test_the_models_weights_are_the_emas(mixture, tmp_path):
    run = tmp_path / "run"
    fit = sd.fit(KEY, mlp(), data(mixture), training=SMALL, run=run, progress=False)
    state = final_state(mlp(), run)
    for a, b in zip(weights(fit.model), jax.tree.leaves(state["ema"]), strict=True):
        np.testing.assert_array_equal(a, b)

    loaded = sd.load(run)
    for a, b in zip(weights(loaded), jax.tree.leaves(state["ema"]), strict=True):
        np.testing.assert_array_equal(a, b)

    raw = sd.load(run, ema=False)
    for a, b in zip(weights(raw), jax.tree.leaves(state["params"]), strict=True):
        np.testing.assert_array_equal(a, b)

    x = jnp.ones((3, 2))
    np.testing.assert_allclose(loaded(x, 0.5), fit.model(x, 0.5), rtol=1e-5)
    assert sd.load(run, step=20).sde == sd.VP()


def test_damaged_checkpoints_are_named_and_the_previous_one_used(mixture, tmp_path):
    run = tmp_path / "run"
    sd.fit(KEY, mlp(), data(mixture), training=SMALL, run=run, progress=False)

    files = [path for path in (run / "checkpoints" / "40").rglob("*") if path.is_file()]
    largest = max(files, key=lambda path: path.stat().st_size)
    content = bytearray(largest.read_bytes())
    content[len(content) // 2] ^= 1
    largest.write_bytes(bytes(content))

    with pytest.warns(UserWarning, match="40"):
        older = sd.load(run)
    for a, b in zip(weights(older), weights(sd.load(run, step=20)), strict=True):
        np.testing.assert_array_equal(a, b)


def test_a_folder_without_a_run_is_refused(tmp_path):
    with pytest.raises(FileNotFoundError, match="not a run's folder"):
        sd.load(tmp_path / "nothing")


# --- Custom networks ---


def test_custom_networks_load_with_their_model(mixture, tmp_path):
    class Custom(nnx.Module):
        def __init__(self, rngs):
            self.linear = nnx.Linear(2, 2, rngs=rngs)

        def __call__(self, x, t):
            return self.linear(x)

    def build():
        return sd.ScoreModel(sd.VP(), Custom(nnx.Rngs(0)), sd.Noise())

    run = tmp_path / "run"
    fit = sd.fit(KEY, build(), data(mixture), training=SMALL, run=run, progress=False)
    with pytest.raises(sd.runs.ConfigError, match="model=model"):
        sd.load(run)
    loaded = sd.load(run, model=build())
    np.testing.assert_array_equal(weights(loaded)[0], weights(fit.model)[0])


def test_a_subclass_of_a_library_network_is_not_taken_for_its_parent(mixture, tmp_path):
    class Mine(sd.nets.MLP):
        def __call__(self, x, t, cond=None):
            return super().__call__(x, t, cond) + 5.0

    def build():
        net = Mine(sd.MLPConfig(width=8), (2,), rngs=nnx.Rngs(0))
        return sd.ScoreModel(sd.VP(), net, sd.EDM())

    run = tmp_path / "run"
    fit = sd.fit(KEY, build(), data(mixture), training=SMALL, run=run, progress=False)
    with pytest.raises(sd.runs.ConfigError, match="not the library's"):
        sd.load(run)

    x = jnp.ones((2, 2))
    loaded = sd.load(run, model=build())
    np.testing.assert_allclose(loaded(x, 0.5), fit.model(x, 0.5), rtol=1e-5)

    other = dataclasses.replace(build(), sde=sd.VP(beta_max=10.0))
    with pytest.raises(ValueError, match="beta_max=10"):
        sd.fit(KEY, other, data(mixture), training=SMALL, run=run, progress=False)


# --- A model that is given ---


SETTINGS = ModelSettings(sd.VP(), sd.MLPConfig(width=8, depth=1), sd.EDM(0.5))


class MyVP(sd.VP):
    """A process of the user's own, under which a network means something else."""

    def log_alpha(self, t):
        return 2.0 * super().log_alpha(t)


def line(t):
    """-log SNR of the user's own."""
    return 18.0 * t - 13.0


class MyNoise(sd.Noise):
    """A parameterisation of the user's own."""


class MyMLP(sd.nets.MLP):
    """A network of the user's own, with the weights of the library's."""


@pytest.fixture(scope="module")
def small_run(tmp_path_factory):
    return untrained(tmp_path_factory.mktemp("runs") / "run", SETTINGS, (2,))


def small(**pieces):
    return dataclasses.replace(SETTINGS.build(jax.random.key(1), (2,)), **pieces)


@pytest.mark.parametrize(
    ("pieces", "message"),
    [
        ({"sde": MyVP()}, "sde: .*'VP'.* there, MyVP"),
        ({"sde": sd.LearntVP().with_schedule(line)}, "sde.kind: VP there, LearntVP now"),
        ({"parameterization": MyNoise()}, "parameterization: .*'EDM'.* there, MyNoise"),
        ({"net": lambda x, t: x, "sde": sd.VP(beta_max=15.0)}, "sde.beta_max: 20.0 there, 15.0"),
    ],
)
def test_a_custom_model_is_refused_where_its_pieces_are_not_the_librarys_of_the_run(
    small_run, pieces, message
):
    with pytest.raises(ValueError, match=f"trained another model \\(.*{message}"):
        sd.load(small_run, model=small(**pieces))


def test_a_custom_network_may_take_the_weights_of_a_run_of_the_same_pieces(small_run):
    net = MyMLP(sd.MLPConfig(width=8, depth=1), (2,), rngs=nnx.Rngs(1))
    loaded = sd.load(small_run, model=small(net=net, sde=sd.VP(beta_max=jnp.asarray(20.0))))
    for a, b in zip(weights(loaded), weights(sd.load(small_run)), strict=True):
        np.testing.assert_array_equal(a, b)


def test_the_librarys_model_is_refused_where_the_run_had_custom_pieces(tmp_path):
    class Custom:
        def build(self, key, shape):
            return small(sde=MyVP())

    run = untrained(tmp_path / "run", Custom(), (2,))
    with pytest.raises(ValueError, match=r"trained another model \(sde: MyVP.* there, VP\("):
        sd.load(run, model=small())
    assert sd.load(run, model=small(sde=MyVP())).sde == MyVP()


# --- Runs that no run wrote ---


@pytest.fixture
def forged(small_run, tmp_path):
    """A copy of a run, and a function that writes what its checkpoint says of itself again."""
    run = shutil.copytree(small_run, tmp_path / "forged")

    def write(change):
        file = run / "checkpoints" / "1" / "manifest.json"
        content = read_manifest(file)
        change(content["about"])
        write_manifest(file, content)

    return run, write


def test_networks_other_than_the_checkpoints_are_refused_before_they_are_made(forged):
    """One layer of the first would take 4 exabytes, and the second thousands of layers."""
    run, write = forged
    write(lambda about: about["model"]["net"].update(width=10**9))
    with pytest.raises(CheckpointError, match="network that it describes:\\n  ema/blocks"):
        sd.load(run)

    write(lambda about: about["model"]["net"].update(width=8, depth=10**6))
    with pytest.raises(ConfigError, match="depth = 1000000: wanted a whole number, at most 256"):
        sd.load(run)


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("shape", [10**9]),
        ("shape", None),
        ("shape", ["2"]),
        ("model", "VP"),
        ("standardization", {"mean": 1}),
        ("cond_units", [1]),
        ("range", [0]),
        ("prepare", {"kind": []}),
        ("schedule", "yes"),
        ("changes", [{"step": 1, "old": {}, "new": {"steps": 2}}]),
    ],
)
def test_what_a_checkpoint_says_of_itself_has_its_form(forged, name, value):
    run, write = forged
    write(lambda about: about.update({name: value}))
    with pytest.raises(UnreadableError, match=f"the checkpoint of .* {name}"):
        sd.load(run)


def test_checkpoints_and_examples_of_another_folder_are_not_read(forged, tmp_path):
    run, _ = forged
    elsewhere = tmp_path / "elsewhere"
    (run / "checkpoints").rename(elsewhere)
    (run / "checkpoints").symlink_to(elsewhere)
    with pytest.raises(UnreadableError, match="checkpoints lies outside of"):
        sd.load(run)

    (run / "checkpoints").unlink()
    elsewhere.rename(run / "checkpoints")
    np.savez(tmp_path / "x.npz", x=np.ones((3, 2)))
    (run / "held_out.npz").symlink_to(tmp_path / "x.npz")
    with pytest.raises(UnreadableError, match=r"held_out\.npz lies outside of"):
        open_run(run).held_out()

    os.replace(tmp_path / "x.npz", run / "held_out.npz")
    assert open_run(run).held_out()[0].shape == (3, 2)
