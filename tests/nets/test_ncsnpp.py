"""NCSN++, DDPM++, DDPM: the papers' parameter counts, and what their settings promise.

That every layer computes what the original's does is asked in tests/originals/test_importing.py.
"""

import dataclasses
import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

import scoresde as sd
from scoresde.cli.flags import parse
from scoresde.runs.settings import from_dict, to_dict
from scoresde.train.model_settings import AnyNet, ModelSettings
from scoresde.train.state import Skeleton

TINY = sd.NCSNppConfig.ncsnpp(channels=8, multipliers=(1, 2), num_blocks=1, attention=(4,))
SHAPE = (8, 8, 3)


def perturbed(net):
    """The same network with every weight moved, so that what starts at nearly zero counts."""
    graph, params, rest = nnx.split(net, nnx.Param, ...)
    leaves, tree = jax.tree.flatten(params)
    rng = np.random.default_rng(1)
    moved = [jnp.asarray(np.asarray(p) + 0.1 * rng.normal(size=p.shape), p.dtype) for p in leaves]
    return nnx.merge(graph, jax.tree.unflatten(tree, moved), rest)


# --- The papers' networks ---


@pytest.mark.parametrize(
    ("name", "count"),
    [
        ("ncsnpp", 62_758_915),
        ("ncsnpp_deep", 107_587_075),
        ("ddpmpp", 61_804_419),
        ("ddpmpp_deep", 106_632_579),
        ("ddpm", 35_218_947),
    ],
)
def test_parameters_are_as_many_as_the_papers(name, count):
    """At CIFAR-10's size, from shapes alone: no array is made."""
    # Dropout has no parameters, but random streams that would have to be traced.
    config = getattr(sd.NCSNppConfig, name)(dropout=0.0)
    net = nnx.eval_shape(lambda: config.build((32, 32, 3), rngs=nnx.Rngs(0)))
    leaves = jax.tree.leaves(nnx.to_pure_dict(nnx.state(net, nnx.Param)))
    assert all(
        isinstance(leaf, jax.ShapeDtypeStruct) and leaf.dtype == jnp.float32 for leaf in leaves
    )
    assert sum(math.prod(leaf.shape) for leaf in leaves) == count


def test_a_network_under_its_sde_is_its_score():
    """NCSN++ sees sigma and gives the score; DDPM++ sees 999 t and gives the noise."""
    x, t = jax.random.normal(jax.random.key(0), (2, *SHAPE)), jnp.asarray([0.2, 0.7])
    net = perturbed(TINY.build(SHAPE, rngs=nnx.Rngs(0)))
    model = sd.ScoreModel(sd.VE(), net, sd.Score(label=sd.labels.Sigma()))
    call = jax.jit(lambda net, x, t: net(x, t))
    sigma = 0.01 * (50.0 / 0.01) ** t
    score = jax.jit(lambda model, x, t: model(x, t))(model, x, t)
    np.testing.assert_allclose(
        score, call(net, x, sigma), rtol=1e-4, atol=1e-5 * float(jnp.abs(score).max())
    )
    unscaled = nnx.clone(net)
    unscaled.config = dataclasses.replace(TINY, scale_by_sigma=False)
    np.testing.assert_allclose(
        score, call(unscaled, x, sigma) / sigma[:, None, None, None], rtol=1e-4, atol=1e-4
    )
    halves = nnx.clone(net)  # the same network of images in [0, 1]
    halves.config = dataclasses.replace(TINY, centered=False)
    np.testing.assert_allclose(call(halves, 0.5 + 0.5 * x, sigma), score, rtol=1e-3, atol=1e-3)

    plus = dataclasses.replace(
        TINY, fir=False, input_path="none", embedding="positional", scale_by_sigma=False
    )
    net = perturbed(plus.build(SHAPE, rngs=nnx.Rngs(0)))
    model = sd.ScoreModel(sd.VP(), net, sd.Noise(label=sd.labels.Scaled(999.0)))
    expected = -call(net, x, 999.0 * t) / sd.VP().sigma(t)[:, None, None, None]
    np.testing.assert_allclose(
        jax.jit(lambda m, x, t: m(x, t))(model, x, t), expected, rtol=1e-4, atol=1e-4
    )


# --- Settings ---


def gradients(config):
    """Gradient in training mode of a sum over the output, with one dropout key, and its jaxpr."""
    model = sd.ScoreModel(
        sd.VE(), perturbed(config.build(SHAPE, rngs=nnx.Rngs(0))), sd.Score(label=sd.labels.Sigma())
    )
    skeleton, own, constants = Skeleton.split(model)
    x, t = jax.random.normal(jax.random.key(0), (2, *SHAPE)), jnp.asarray([0.2, 3.0])

    def loss(params):
        return jnp.sum(skeleton.in_training(params, constants, jax.random.key(3)).net(x, t) ** 2)

    return jax.jit(jax.grad(loss))(own), jax.make_jaxpr(jax.grad(loss))(own)


@pytest.mark.slow
def test_rematerialised_gradients_are_the_same():
    """Dropout masks included; every block is a checkpoint of its own."""
    config = dataclasses.replace(TINY, dropout=0.3)
    plain, jaxpr = gradients(config)
    again, with_remat = gradients(dataclasses.replace(config, remat=True))
    scale = max(float(jnp.abs(leaf).max()) for leaf in jax.tree.leaves(plain))
    jax.tree.map(
        lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-3, atol=1e-5 * scale), plain, again
    )
    names = [[str(eqn.primitive) for eqn in j.eqns] for j in (jaxpr, with_remat)]
    count = [sum(name in ("checkpoint", "remat", "remat2") for name in each) for each in names]
    assert count[0] == 0 and count[1] >= 10  # 2 down, 2 middle, 4 up, 2 between levels
    assert float(jnp.abs(plain["embedding"]["frequencies"]).max()) == 0.0  # frozen
    assert float(jnp.abs(plain["embedding"]["dense1"]["kernel"]).max()) > 0.0


def test_rematerialised_networks_have_forward_derivatives():
    """Which the likelihood's divergence takes, inside a compiled loop."""
    config = dataclasses.replace(TINY, attention=(), remat=True)
    net = perturbed(config.build(SHAPE, rngs=nnx.Rngs(0)))
    x, t = jax.random.normal(jax.random.key(0), (1, *SHAPE)), jnp.ones(1)
    v = jnp.ones_like(x)
    _, slope = jax.jit(lambda net, x, v: jax.jvp(lambda x: net(x, t), (x,), (v,)))(net, x, v)
    a, b = (jax.jit(lambda net, x: net(x, t))(net, x + h * v) for h in (1e-2, -1e-2))
    np.testing.assert_allclose(slope, (a - b) / 2e-2, atol=2e-2 * float(jnp.abs(slope).max()))


def test_bfloat16_computes_coarsely_and_keeps_float32_parameters():
    net = perturbed(TINY.build(SHAPE, rngs=nnx.Rngs(0)))
    coarse = perturbed(dataclasses.replace(TINY, dtype="bfloat16").build(SHAPE, rngs=nnx.Rngs(0)))
    params = [jax.tree.leaves(nnx.state(n, nnx.Param)) for n in (net, coarse)]
    for a, b in zip(*params, strict=True):
        assert b.dtype == jnp.float32
        np.testing.assert_array_equal(a, b)
    x, t = jax.random.normal(jax.random.key(0), (2, *SHAPE)), jnp.asarray([0.2, 3.0])
    out, exact = (jax.jit(lambda n: n(x, t))(n) for n in (coarse, net))
    assert out.dtype == jnp.float32
    error = float(jnp.abs(out - exact).max() / jnp.abs(exact).max())
    assert 1e-4 < error < 0.1
    convolved = [
        eqn.outvars[0].aval.dtype
        for eqn in jax.make_jaxpr(lambda n: n(x, t))(coarse).eqns
        if str(eqn.primitive) == "channel_last_conv"
    ]
    assert convolved[-1] == jnp.float32 and {*convolved[:-1]} == {jnp.dtype(jnp.bfloat16)}


def test_classes_act_on_their_own_example():
    net = perturbed(
        dataclasses.replace(TINY, num_classes=3, attention=()).build(SHAPE, rngs=nnx.Rngs(0))
    )
    x, t = jnp.ones((3, *SHAPE)), jnp.ones(3)
    out = jax.jit(lambda n, c: n(x, t, c))(net, jnp.asarray([0, 1, 0]))
    np.testing.assert_allclose(out[0], out[2], rtol=1e-4, atol=1e-5)
    assert float(jnp.abs(out[0] - out[1]).max()) > 1e-3


def test_settings_go_through_files_and_the_command_line():
    settings = ModelSettings(sd.VE(), TINY, sd.Score(label=sd.labels.Sigma()))
    assert from_dict(to_dict(settings), ModelSettings) == settings

    @dataclasses.dataclass(frozen=True)
    class Experiment:
        net: AnyNet = sd.UNetConfig()

    Experiment.__annotations__["net"] = AnyNet
    chosen = parse(Experiment, ["net:ncsnpp", "--net.channels", "16", "--net.output-path", "skip"])
    assert chosen.net == sd.NCSNppConfig(channels=16, output_path="skip")
    assert parse(Experiment, ["net:dit", "--net.depth", "2"]).net == sd.DiTConfig(depth=2)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: sd.NCSNppConfig().build((32, 3), rngs=nnx.Rngs(0)), "takes images"),
        (lambda: sd.NCSNppConfig().build((28, 28, 1), rngs=nnx.Rngs(0)), "multiples of 8"),
        (lambda: sd.NCSNppConfig(embedding="positional"), "sigma for the Fourier embedding alone"),
        (
            lambda: sd.NCSNppConfig(input_path="both"),
            "input_path = 'both': wanted one of 'none', 'skip', 'residual'",
        ),
        (lambda: sd.NCSNppConfig(dtype="float16"), "'float32', 'bfloat16'"),
        (lambda: sd.NCSNppConfig(multipliers=()), "multipliers are empty"),
    ],
)
def test_bad_settings_are_refused_with_the_reason(call, message, unchecked):
    with pytest.raises(ValueError, match=message):
        call()
