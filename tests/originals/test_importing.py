"""Imported weights give the original's outputs, against a restatement of its modules in Linen; misfits are refused.

Nothing here is the library's: the modules below say the original's arithmetic again, in Linen's layers and JAX's own
convolutions (the filter as one with zeros inserted, `lax.conv_transpose` for the upsampling one, attention by einsum),
and Linen itself gives the names. All but the softmax, float32 in JAX's attention, is in float64 here.
"""

import dataclasses
import json
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import serialization

import scoresde as sd
from scoresde.cli import main as cli
from scoresde.originals.configurations import ORIGINALS, Original
from scoresde.originals.importing import CheckpointMismatch, import_checkpoint

# --- The original's modules, restated: their class names and the order of their calls are what the file's names say ---


def filtered(x, gain, up=1, down=1, low=0, high=0):
    """Insert zeros, pad, convolve channel by channel with the outer product of [1, 3, 3, 1], keep every down-th."""
    k = np.outer([1, 3, 3, 1], [1, 3, 3, 1]) * gain / 64.0
    n, h, w, c = x.shape
    wide = (
        jnp.zeros((n, h, up, w, up, c), x.dtype)
        .at[:, :, 0, :, 0]
        .set(x)
        .reshape(n, up * h, up * w, c)
    )
    kernel = jnp.broadcast_to(jnp.asarray(k, x.dtype)[:, :, None, None], (4, 4, 1, c))
    out = jax.lax.conv_general_dilated(
        wide,
        kernel,
        (1, 1),
        [(low, high)] * 2,
        feature_group_count=c,
        dimension_numbers=("NHWC", "HWIO", "NHWC"),
    )
    return out[:, ::down, ::down]


def up_2(x, fir):
    return (
        filtered(x, 4.0, up=2, low=2, high=1)
        if fir
        else jnp.kron(x, jnp.ones((1, 2, 2, 1), x.dtype))
    )


def down_2(x, fir):
    return filtered(x, 1.0, down=2, low=1, high=1) if fir else nn.avg_pool(x, (2, 2), (2, 2))


class NIN(nn.Module):
    units: int

    @nn.compact
    def __call__(self, x):
        w = self.param("W", nn.initializers.zeros, (x.shape[-1], self.units))
        return jnp.tensordot(x, w, 1) + self.param("b", nn.initializers.zeros, (self.units,))


class Conv2d(nn.Module):
    units: int
    up: bool

    @nn.compact
    def __call__(self, x):
        w = self.param("weight", nn.initializers.zeros, (3, 3, x.shape[-1], self.units)).astype(
            x.dtype
        )
        numbers = ("NHWC", "HWIO", "NHWC")
        if self.up:
            turned = w[::-1, ::-1].swapaxes(2, 3)
            x = jax.lax.conv_transpose(
                x, turned, (2, 2), "VALID", dimension_numbers=numbers, transpose_kernel=True
            )
            x = filtered(x, 4.0, low=1, high=1)
        else:
            x = filtered(x, 1.0, low=2, high=2)
            x = jax.lax.conv_general_dilated(x, w, (2, 2), "VALID", dimension_numbers=numbers)
        return x + self.param("bias", nn.initializers.zeros, (self.units,))


class Upsample(nn.Module):
    fir: bool
    units: int | None = None

    @nn.compact
    def __call__(self, x):
        if self.units is None:
            return up_2(x, self.fir)
        return (
            Conv2d(self.units, True)(x) if self.fir else nn.Conv(self.units, (3, 3))(up_2(x, False))
        )


class Downsample(nn.Module):
    fir: bool
    units: int | None = None

    @nn.compact
    def __call__(self, x):
        if self.units is None:
            return down_2(x, self.fir)
        return Conv2d(self.units, False)(x) if self.fir else nn.Conv(self.units, (3, 3), (2, 2))(x)


class Combine(nn.Module):
    @nn.compact
    def __call__(self, x, y):
        return nn.Conv(y.shape[-1], (1, 1))(x) + y


class Settled(nn.Module):
    config: Any

    def norm(self, h):
        return nn.GroupNorm(32 if self.config.group_size == 1 else min(h.shape[-1] // 4, 32))(h)

    def scaled(self, h):
        return h / np.sqrt(2.0).item() if self.config.rescale else h


class AttnBlockpp(Settled):
    @nn.compact
    def __call__(self, x):
        n, height, width, c = x.shape
        h = self.norm(x)
        q, k, v = (NIN(c)(h).reshape(n, height * width, c) for _ in range(3))
        logits = jnp.einsum("nic,njc->nij", q, k) / np.sqrt(c).item()
        weights = jax.nn.softmax(logits.astype(jnp.float32), axis=-1).astype(
            x.dtype
        )  # as JAX's attention has it
        return self.scaled(x + NIN(c)(jnp.einsum("nij,njc->nic", weights, v).reshape(x.shape)))


class Residual(Settled):
    units: int | None = None
    way: str | None = None

    @nn.compact
    def __call__(self, x, temb):
        units, biggan = self.units or x.shape[-1], self.config.block == "biggan"
        h = nn.swish(self.norm(x))
        if self.way is not None:
            h, x = ({"up": up_2, "down": down_2}[self.way](a, self.config.fir) for a in (h, x))
        h = nn.Conv(units, (3, 3))(h) + nn.Dense(units)(nn.swish(temb))[:, None, None]
        h = nn.Conv(units, (3, 3))(nn.swish(self.norm(h)))
        if biggan and (x.shape[-1] != units or self.way):
            x = nn.Conv(units, (1, 1))(x)
        elif x.shape[-1] != units:
            x = NIN(units)(x)
        return self.scaled(x + h)


class ResnetBlockBigGANpp(Residual):
    pass


class ResnetBlockDDPMpp(Residual):
    pass


class ResnetBlockDDPM(Residual):
    pass


class AttnBlock(AttnBlockpp):
    pass


class GaussianFourierProjection(nn.Module):
    units: int

    @nn.compact
    def __call__(self, x):
        angles = 2 * jnp.pi * x[:, None] * self.param("W", nn.initializers.zeros, (self.units,))
        return jnp.concatenate([jnp.sin(angles), jnp.cos(angles)], -1)


class Linen(Settled):
    """The original's `NCSNpp`, or its `DDPM` where `ddpm` says so."""

    ddpm: bool = False

    @nn.compact
    def __call__(self, x, t):
        c, f, channels = self.config, self.config.channels, x.shape[-1]
        block = {
            "biggan": ResnetBlockBigGANpp,
            "plain": ResnetBlockDDPM if self.ddpm else ResnetBlockDDPMpp,
        }[c.block]
        attend = AttnBlock if self.ddpm else AttnBlockpp
        if c.embedding == "fourier":
            temb = GaussianFourierProjection(f)(jnp.log(t))
        else:
            angles = t[:, None] * 10_000.0 ** -(jnp.arange(f // 2) / (f // 2 - 1))
            temb = jnp.concatenate([jnp.sin(angles), jnp.cos(angles)], -1)
        temb = nn.Dense(4 * f)(
            temb
        )  # a line each: Linen numbers modules as they are made, not as they are called
        temb = nn.Dense(4 * f)(nn.swish(temb))
        x = x if c.centered else 2 * x - 1
        pyramid, last = x, len(c.multipliers) - 1
        hs = [nn.Conv(f, (3, 3))(x)]
        for level, m in enumerate(c.multipliers):
            for _ in range(c.num_blocks):
                h = block(c, f * m)(hs[-1], temb)
                hs.append(attend(c)(h) if h.shape[1] in c.attention else h)
            if level < last:
                h = hs[-1]
                h = (
                    block(c, way="down")(h, temb)
                    if c.block == "biggan"
                    else Downsample(c.fir, h.shape[-1])(h)
                )
                if c.input_path == "skip":
                    pyramid = Downsample(c.fir)(pyramid)
                    h = Combine()(pyramid, h)
                elif c.input_path == "residual":
                    pyramid = h = self.scaled(Downsample(c.fir, h.shape[-1])(pyramid) + h)
                hs.append(h)
        h = attend(c)(block(c)(hs[-1], temb))
        h = block(c)(h, temb)
        pyramid = None
        for level, m in reversed(list(enumerate(c.multipliers))):
            for _ in range(c.num_blocks + 1):
                h = block(c, f * m)(jnp.concatenate([h, hs.pop()], -1), temb)
            h = attend(c)(h) if h.shape[1] in c.attention else h
            if c.output_path == "skip":
                before = 0.0 if pyramid is None else Upsample(c.fir)(pyramid)
                pyramid = before + nn.Conv(channels, (3, 3))(nn.swish(self.norm(h)))
            elif c.output_path == "residual" and pyramid is None:
                pyramid = nn.Conv(h.shape[-1], (3, 3))(nn.swish(self.norm(h)))
            elif c.output_path == "residual":
                pyramid = h = self.scaled(Upsample(c.fir, h.shape[-1])(pyramid) + h)
            if level > 0:
                h = (
                    block(c, way="up")(h, temb)
                    if c.block == "biggan"
                    else Upsample(c.fir, h.shape[-1])(h)
                )
        h = (
            pyramid
            if c.output_path == "skip"
            else nn.Conv(channels, (3, 3))(nn.swish(self.norm(h)))
        )
        return h / t[:, None, None, None] if c.scale_by_sigma else h


# --- Files ---

TINY = {"channels": 8, "multipliers": (1, 2), "num_blocks": 1, "attention": (4,)}
RESIDUAL = {"block": "plain", "input_path": "residual", "output_path": "residual"}
THREE = {"block": "plain", "input_path": "skip", "output_path": "skip", "multipliers": (1, 2, 2)}
NETS = {
    "ncsnpp": sd.NCSNppConfig.ncsnpp(**TINY, centered=False),
    "ddpmpp with skips": sd.NCSNppConfig.ddpmpp(**TINY, input_path="skip", output_path="skip"),
    "plain, filtered, residual paths": sd.NCSNppConfig.ncsnpp(**TINY | RESIDUAL),
    "plain, filtered, three levels, skip paths": sd.NCSNppConfig.ncsnpp(
        **TINY | THREE
    ),  # Downsample_0, _2: _1 is bare
    "ddpm": sd.NCSNppConfig.ddpm(**TINY | {"channels": 32}),
}
SHAPE = (8, 8, 3)


def original(net):
    if net.embedding == "fourier":
        return Original(
            sd.VE(), net, sd.Score(label=sd.labels.Sigma()), sd.EulerMaruyama(2), side=8
        )
    return Original(
        sd.VP(), net, sd.Noise(label=sd.labels.Scaled(999.0)), sd.EulerMaruyama(2), side=8
    )


def linen(net):
    return Linen(net, ddpm=net.group_size == 1)


def drawn(net, seed):
    """Weights of the restated module, of a size at which every one matters."""
    shapes = jax.eval_shape(
        linen(net).init, jax.random.key(0), jnp.zeros((1, *SHAPE)), jnp.ones(1)
    )["params"]
    rng = np.random.default_rng(seed)

    def draw(path, leaf):
        z = rng.normal(size=leaf.shape).astype(np.float32)
        kind = path[-1].key
        return {"scale": 1.0 + 0.3 * z, "bias": 0.3 * z, "b": 0.3 * z}.get(
            kind, z / np.sqrt(np.prod(leaf.shape[:-1]))
        )

    return jax.tree_util.tree_map_with_path(
        lambda path, leaf: draw(path, leaf).astype(np.float32), shapes
    )


def state_of(net, **changes):
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
    net, state = NETS[name], state_of(NETS[name])
    about = import_checkpoint(
        written(tmp_path / "checkpoint_1", state), tmp_path / "run", original(net)
    )
    leaves = jax.tree.leaves(state["params_ema"])
    assert (about["step"], about["leaves"]) == (7, len(leaves))
    assert about["parameters"] == sum(leaf.size for leaf in leaves)
    models = {True: sd.load(tmp_path / "run"), False: sd.load(tmp_path / "run", ema=False)}
    assert models[True].net.config == net
    with jax.enable_x64(True):
        x = jax.random.normal(jax.random.key(0), (2, *SHAPE), jnp.float64)
        t = jnp.asarray([0.3, 20.0] if net.embedding == "fourier" else [1.5, 900.0])
        both = jax.jit(
            lambda ours, theirs, x, t: (ours(x, t), linen(net).apply({"params": theirs}, x, t))
        )
        for ema, theirs in ((True, state["params_ema"]), (False, state["optimizer"]["target"])):
            out, expected = both(models[ema].net, theirs, x, t)
            size = float(jnp.abs(expected).max())
            assert size > 0.02
            np.testing.assert_allclose(out, expected, rtol=0, atol=1e-6 * size)


def test_the_run_opens_from_the_command_line(tmp_path, monkeypatch, capsys):
    """info, sample and likelihood; its moments and counts are Adam's; images in [0, 1] are dequantised there."""
    net = NETS["ncsnpp"]
    state = state_of(net)
    file = written(tmp_path / "checkpoint_1", state)
    monkeypatch.setitem(ORIGINALS, "tiny", original(net))

    def call(*words):
        assert cli.main([*map(str, words), "--json"]) == 0
        return json.loads(capsys.readouterr().out)

    run = tmp_path / "run"
    about = call("import-checkpoint", file, "--out", run, "--config", "tiny")
    assert (about["lr"], about["ema_rate"], about["rng"], about["adam"]) == (
        2e-4,
        0.999,
        [0, 42],
        True,
    )
    info = call("info", run)
    assert (
        info["parameters"]
        == about["parameters"]
        == sum(leaf.size for leaf in jax.tree.leaves(state["params_ema"]))
    )
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
    like = jax.eval_shape(lambda: init_state(params, constants, sd.Training().optimizer()))
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
    """One step more: Adam's mean is 0.9 of the imported one and 0.1 of a gradient whose norm is clipped at 1."""
    net = NETS["ddpm"]
    import_checkpoint(
        written(tmp_path / "c", state_of(net)), run := tmp_path / "run", original(net)
    )
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
    """Missing, unexpected, of another shape, not finite; in the weights, their average, the moments, the statistics."""
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
        with pytest.raises(
            CheckpointMismatch, match=r"step: .*, wanted (a whole number from 0|one number)"
        ):
            import_checkpoint(file, tmp_path / "run", original(net))
    no_target = state | {"optimizer": {"target": None, "state": {}}}
    with pytest.raises(CheckpointMismatch, match="not trees of arrays"):
        import_checkpoint(
            written(tmp_path / "checkpoint", no_target), tmp_path / "run", original(net)
        )
    del state["rng"]
    with pytest.raises(CheckpointMismatch, match="wanted a train state of the original release"):
        import_checkpoint(written(tmp_path / "checkpoint", state), tmp_path / "run", original(net))
    assert not (tmp_path / "run").exists()


def test_a_file_without_a_name_finds_its_configuration(tmp_path, monkeypatch):
    """The weights tell NCSN++ from DDPM, but not VP from sub-VP: then both are named."""
    known = {"a": original(NETS["ncsnpp"]), "b": original(NETS["ddpm"])}
    monkeypatch.setattr("scoresde.originals.importing.ORIGINALS", known)
    file = written(
        tmp_path / "checkpoint", state_of(NETS["ddpm"]), age=dict
    )  # as today's Flax has it
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
