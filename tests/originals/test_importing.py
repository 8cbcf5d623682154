"""Imported weights give the outputs of the original's networks, restated in float64; misfits are
refused."""

import dataclasses
import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import serialization
from originals.restatement import Linen

import scoresde as sd
from scoresde.cli import main as cli
from scoresde.originals.configurations import ORIGINALS, Original
from scoresde.originals.importing import import_checkpoint
from scoresde.originals.train_state import CheckpointMismatch

# --- Files ---

TINY = {"channels": 8, "multipliers": (1, 2), "num_blocks": 1, "attention": (4,)}
RESIDUAL = {"block": "plain", "input_path": "residual", "output_path": "residual"}
THREE = {"block": "plain", "input_path": "skip", "output_path": "skip", "multipliers": (1, 2, 2)}
NETS = {
    "ncsnpp": sd.NCSNppConfig.ncsnpp(**TINY, centered=False),
    "ddpmpp with skips": sd.NCSNppConfig.ddpmpp(**TINY, input_path="skip", output_path="skip"),
    "plain, filtered, residual paths": sd.NCSNppConfig.ncsnpp(**TINY | RESIDUAL),
    # Downsample_0 and Downsample_2 have parameters, Downsample_1 has none.
    "plain, filtered, three levels, skip paths": sd.NCSNppConfig.ncsnpp(**TINY | THREE),
    "ddpm": sd.NCSNppConfig.ddpm(**TINY | {"channels": 32}),
}
SHAPE = (8, 8, 3)


def original(net):
    """A configuration of the original's kind with this network."""
    sampler = sd.EulerMaruyama(2)
    if net.embedding == "fourier":
        return Original(sd.VE(), net, sd.Score(label=sd.labels.Sigma()), sampler, side=8)
    return Original(sd.VP(), net, sd.Noise(label=sd.labels.Scaled(999.0)), sampler, side=8)


def linen(net):
    return Linen(net, ddpm=net.group_size == 1)


def drawn(net, seed):
    """Weights of the restated module, of a size at which every one matters."""
    init = linen(net).init
    shapes = jax.eval_shape(init, jax.random.key(0), jnp.zeros((1, *SHAPE)), jnp.ones(1))
    rng = np.random.default_rng(seed)

    def draw(path, leaf):
        z = rng.normal(size=leaf.shape).astype(np.float32)
        kind = path[-1].key
        if kind == "scale":
            weight = 1.0 + 0.3 * z
        elif kind in ("bias", "b"):
            weight = 0.3 * z
        else:
            weight = z / np.sqrt(np.prod(leaf.shape[:-1]))
        return weight.astype(np.float32)

    return jax.tree_util.tree_map_with_path(draw, shapes["params"])


def state_of(net, **changes):
    """A train state, as `flax.serialization` would write it."""
    target = drawn(net, 1)
    moments = jax.tree.map(lambda leaf: {"grad_ema": 0.5 * leaf, "grad_sq_ema": leaf**2}, target)
    return {
        "step": np.asarray(7, np.int32),
        "optimizer": {
            "target": target,
            "state": {"step": np.asarray(7, np.int32), "param_states": moments},
        },
        "lr": 2e-4,
        "model_state": {},
        "ema_rate": 0.999,
        "params_ema": drawn(net, 2),
        "rng": np.asarray([0, 42], np.uint32),
    } | changes


def as_flax_0_3(tree, norm=False):
    """GroupNorm's parameters, and their moments, are (1, 1, 1, C) in the original's Flax."""
    if isinstance(tree, dict):
        return {
            name: as_flax_0_3(value, norm or name.startswith("GroupNorm"))
            for name, value in tree.items()
        }
    return tree[None, None, None] if norm and np.ndim(tree) == 1 else tree


def written(path, state, age=as_flax_0_3):
    path.write_bytes(serialization.msgpack_serialize(age(state)))
    return path


# --- Tests ---


@pytest.mark.parametrize(
    "name", [pytest.param(name, marks=[pytest.mark.slow] if " " in name else []) for name in NETS]
)
def test_imported_weights_give_the_originals_outputs(name, tmp_path):
    net = NETS[name]
    state = state_of(net)
    file = written(tmp_path / "checkpoint_1", state)
    about = import_checkpoint(file, tmp_path / "run", original(net))

    leaves = jax.tree.leaves(state["params_ema"])
    assert (about["step"], about["leaves"]) == (7, len(leaves))
    assert about["parameters"] == sum(leaf.size for leaf in leaves)

    models = {True: sd.load(tmp_path / "run"), False: sd.load(tmp_path / "run", ema=False)}
    assert models[True].net.config == net

    with jax.enable_x64(True):
        x = jax.random.normal(jax.random.key(0), (2, *SHAPE), jnp.float64)
        t = jnp.asarray([0.3, 20.0] if net.embedding == "fourier" else [1.5, 900.0])

        @jax.jit
        def both(ours, theirs, x, t):
            return ours(x, t), linen(net).apply({"params": theirs}, x, t)

        for ema, theirs in ((True, state["params_ema"]), (False, state["optimizer"]["target"])):
            out, expected = both(models[ema].net, theirs, x, t)
            size = float(jnp.abs(expected).max())
            assert size > 0.02
            np.testing.assert_allclose(out, expected, rtol=0, atol=1e-12 * size)


def test_the_run_opens_from_the_command_line(tmp_path, monkeypatch, capsys):
    """By info, sample and likelihood; images in [0, 1] are dequantised there."""
    net = NETS["ncsnpp"]
    state = state_of(net)
    file = written(tmp_path / "checkpoint_1", state)
    monkeypatch.setitem(ORIGINALS, "tiny", original(net))

    def call(*words):
        assert cli.main([*map(str, words), "--json"]) == 0
        return json.loads(capsys.readouterr().out)

    run = tmp_path / "run"
    about = call("import-checkpoint", file, "--out", run, "--config", "tiny")
    assert about["lr"] == 2e-4
    assert about["ema_rate"] == 0.999
    assert about["rng"] == [0, 42]
    assert about["adam"] is True

    info = call("info", run)
    count = sum(leaf.size for leaf in jax.tree.leaves(state["params_ema"]))
    assert info["parameters"] == about["parameters"] == count
    assert info["net"]["channels"] == 8 and info["prepare"]["low"] == 0.0

    drawn = call("sample", run, "--num", "2", "sampler:euler-maruyama", "--sampler.num-steps", "2")
    assert drawn["failed"] == 0

    np.save(tmp_path / "images.npy", np.random.default_rng(0).integers(0, 256, (2, *SHAPE)))
    flags = ("--data", tmp_path / "images.npy", "--tolerance", "0.5", "--t-min", "0.5")
    likelihood = call("likelihood", run, *flags)
    assert likelihood["failed"] == 0 and likelihood["dequantization"]["low"] == 0.0

    with sd.runs.Checkpoints(run / "checkpoints") as checkpoints:
        found = checkpoints.restore_subtree({}).about
    assert found["imported"]["file"] == "checkpoint_1"


def restored(run, net):
    """The newest checkpoint's state, and Adam's part of it."""
    from flax import nnx

    from scoresde.train.state import Skeleton, init_state

    model = sd.ScoreModel(
        sd.VE(), net.build(SHAPE, rngs=nnx.Rngs(0)), sd.Score(label=sd.labels.Sigma())
    )
    _, params, constants = Skeleton.split(model)
    like = jax.eval_shape(lambda: init_state(params, constants, sd.Training().transformation()))
    with sd.runs.Checkpoints(run / "checkpoints") as checkpoints:
        state = checkpoints.restore(like).state
    return state, *state["opt_state"][1]


def test_adams_moments_come_along(tmp_path):
    net = NETS["ncsnpp"]
    import_checkpoint(written(tmp_path / "c", state_of(net)), tmp_path / "run", original(net))
    state, adam, schedule = restored(tmp_path / "run", net)
    assert int(state["step"]) == int(adam.count) == int(schedule.count) == 7
    jax.tree.map(lambda m, p: np.testing.assert_array_equal(m, 0.5 * p), adam.mu, state["params"])
    jax.tree.map(lambda v, p: np.testing.assert_array_equal(v, p**2), adam.nu, state["params"])


@pytest.mark.slow
def test_an_imported_run_trains_on(tmp_path):
    """After a step, Adam's mean is 0.9 of the imported one and 0.1 of a clipped gradient."""
    net = NETS["ddpm"]
    run = tmp_path / "run"
    import_checkpoint(written(tmp_path / "c", state_of(net)), run, original(net))
    before = restored(run, net)[0]["params"]

    data = np.random.default_rng(0).integers(0, 256, (8, *SHAPE))
    model = sd.load(run, ema=False)
    training = sd.Training(
        steps=8, batch_size=2, warmup=0, log_every=1, validate_every=1, learning_rate=1e-6
    )
    settings = {
        "validation": 0,
        "prepare": original(net).prepare,
        "run": run,
        "training": training,
        "progress": False,
    }
    fit = sd.fit(jax.random.key(0), model, data, **settings)
    assert (fit.step, len(fit.history)) == (8, 1)

    state, adam, _ = restored(run, net)
    gradient = [
        10 * np.asarray(m - 0.45 * p)
        for m, p in zip(*map(jax.tree.leaves, (adam.mu, before)), strict=True)
    ]
    assert 0.01 < np.sqrt(sum((g.astype(float) ** 2).sum() for g in gradient)) < 1.01
    assert int(state["step"]) == int(adam.count) == 8

    with pytest.raises(ValueError, match="made with other settings"):
        sd.fit(jax.random.key(0), sd.ScoreModel(sd.VP(), model.net, sd.Data()), data, **settings)


def test_misfits_are_listed_and_nothing_is_written(tmp_path):
    """Leaves missing, unexpected, of another shape, or not finite, anywhere in the state."""
    net = NETS["ncsnpp"]
    state = state_of(net, model_state={"batch_stats": {"mean": np.zeros(2)}})
    del state["params_ema"]["Conv_0"]["bias"]
    state["params_ema"]["Conv_9"] = {"bias": np.zeros(3, np.float32)}
    state["params_ema"]["Conv_1"]["bias"][:] = np.nan
    state["params_ema"]["Dense_1"]["bias"] = np.zeros(32, np.complex64)
    state["optimizer"]["target"]["Dense_0"]["kernel"] = np.zeros((16, 3), np.float32)
    del state["optimizer"]["state"]["param_states"]["Dense_1"]["bias"]

    with pytest.raises(CheckpointMismatch) as caught:
        import_checkpoint(written(tmp_path / "checkpoint", state), tmp_path / "run", original(net))
    assert {*str(caught.value).splitlines()[1:]} == {
        "  params_ema/Conv_0/bias: missing, wanted (8,)",
        "  params_ema/Conv_9/bias: (3,), unexpected",
        "  params_ema/Conv_1/bias: holds NaN or infinity",
        "  params_ema/Dense_1/bias: complex64, wanted real numbers",
        "  optimizer/target/Dense_0/kernel: (16, 3), wanted (16, 32)",
        "  optimizer/state/param_states/Dense_1/bias/grad_ema: missing, wanted (32,)",
        "  optimizer/state/param_states/Dense_1/bias/grad_sq_ema: missing, wanted (32,)",
        "  model_state/batch_stats/mean: unexpected",
    }

    state = state_of(net)
    for step in (-1, 7.5, "seven"):
        file = written(tmp_path / "checkpoint", state | {"step": step})
        reason = r"step: .*, wanted (a whole number from 0|one number)"
        with pytest.raises(CheckpointMismatch, match=reason):
            import_checkpoint(file, tmp_path / "run", original(net))

    no_target = state | {"optimizer": {"target": None, "state": {}}}
    file = written(tmp_path / "checkpoint", no_target)
    with pytest.raises(CheckpointMismatch, match="its target is not a tree of arrays"):
        import_checkpoint(file, tmp_path / "run", original(net))

    del state["rng"]
    with pytest.raises(CheckpointMismatch, match="wanted a train state of the original release"):
        import_checkpoint(written(tmp_path / "checkpoint", state), tmp_path / "run", original(net))
    assert not (tmp_path / "run").exists()


def test_a_file_without_a_name_finds_its_configuration(tmp_path, monkeypatch):
    """The weights tell NCSN++ from DDPM, but not VP from sub-VP: then both are named."""
    known = {"a": original(NETS["ncsnpp"]), "b": original(NETS["ddpm"])}
    monkeypatch.setattr("scoresde.originals.importing.ORIGINALS", known)
    file = written(tmp_path / "checkpoint", state_of(NETS["ddpm"]), age=dict)  # today's Flax
    import_checkpoint(file, tmp_path / "run")
    assert sd.load(tmp_path / "run").net.config == NETS["ddpm"]
    with pytest.raises(FileExistsError, match="another folder"):
        import_checkpoint(file, tmp_path / "run")
    known["c"] = dataclasses.replace(known["b"], sde=sd.SubVP())
    with pytest.raises(CheckpointMismatch, match="those of b, c, and do not say which"):
        import_checkpoint(file, tmp_path / "other")
    del known["b"], known["c"]
    with pytest.raises(CheckpointMismatch, match="no known configuration"):
        import_checkpoint(file, tmp_path / "other")
    (tmp_path / "no").write_bytes(b"no checkpoint")
    with pytest.raises(CheckpointMismatch, match="not a checkpoint that Flax wrote"):
        import_checkpoint(tmp_path / "no", tmp_path / "other")
