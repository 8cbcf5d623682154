"""Printing a network: one line that says how it was built and how large it is."""

import jax
import jax.numpy as jnp
import pytest
from flax import nnx

import scoresde as sd


@pytest.mark.parametrize(
    ("config", "shape", "expected"),
    [
        (
            sd.MLPConfig(width=8, depth=1),
            (2,),
            "MLP(MLPConfig(width=8, depth=1), shape=(2,), parameters=",
        ),
        (
            sd.UNetConfig(channels=4, attention_levels=()),
            (4, 4, 1),
            "UNet(UNetConfig(channels=4, attention_levels=()), shape=(4, 4, 1), parameters=",
        ),
        (
            sd.NCSNppConfig.ddpm(multipliers=(1, 2), channels=8, dtype="bfloat16"),
            (8, 8, 3),
            "NCSNpp(NCSNppConfig(channels=8, multipliers=(1, 2), num_blocks=2, block='plain', "
            "fir=False, input_path='none', embedding='positional', scale_by_sigma=False, "
            "rescale=False, group_size=1, dtype='bfloat16'), shape=(8, 8, 3), parameters=",
        ),
        (sd.DiTConfig(), (4, 4, 1), "DiT(DiTConfig(), shape=(4, 4, 1), parameters="),
    ],
    ids=["mlp", "unet", "ncsnpp", "dit"],
)
def test_a_network_prints_its_settings_shape_and_size(config, shape, expected):
    """Shapes in place of arrays are enough, and the printed settings build the settings again."""
    net = nnx.eval_shape(lambda: config.build(shape, rngs=nnx.Rngs(0)))
    text = repr(net)

    assert text.startswith(expected) and str(net) == text
    written = text.removeprefix(f"{type(net).__name__}(").split(", shape=")[0]
    assert eval(written, vars(sd) | {type(config).__name__: type(config)}) == config


def test_the_size_counts_every_parameter_once():
    """Of a perceptron of width 4 on the plane, counted by hand; a traced network prints alike."""
    net = sd.MLPConfig(width=4, depth=1).build((2,), rngs=nnx.Rngs(0))
    time = 2 * (4 * 4 + 4)
    ends = (2 * 4 + 4) + (4 * 2 + 2)
    block = 3 * (4 * 4 + 4) + 2 * 4
    norm = 2 * 4
    assert repr(net).endswith(f"parameters={time + ends + block + norm})")

    printed = []

    @jax.make_jaxpr
    def traced(net):
        printed.append(repr(net))
        return net(jnp.ones((1, 2)), jnp.ones(1))

    traced(net)
    assert printed == [repr(net)]
