"""The channel-last convolution answers as JAX's own, with derivatives that are channel-last too."""

import re
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from jax.sharding import Mesh, NamedSharding, PartitionSpec
from jax.test_util import check_grads

from scoresde.nets.convolution import channel_last_conv

# Compiles in a third of the time.
jit = partial(jax.jit, compiler_options={"xla_backend_optimization_level": 0})
LAYOUTS = {1: ("NWC", "WIO", "NWC"), 2: ("NHWC", "HWIO", "NHWC"), 3: ("NDHWC", "DHWIO", "NDHWC")}


def pair(dims, strides, padding, **options):
    """The same convolution twice: ours, and JAX's own, which knows the answer another way."""
    settings = {
        "window_strides": strides,
        "padding": padding,
        "dimension_numbers": LAYOUTS[dims],
    } | options
    return partial(channel_last_conv, **settings), partial(jax.lax.conv_general_dilated, **settings)


def normal(seed, *shape, dtype=jnp.float64):
    return jnp.asarray(np.random.default_rng(seed).normal(size=shape), dtype)


def assert_equal(ours, theirs, tolerance=1e-12):
    jax.tree.map(partial(np.testing.assert_allclose, rtol=tolerance, atol=tolerance), ours, theirs)


@pytest.mark.parametrize(
    ("size", "window", "strides", "padding", "options"),
    [
        # More padding than the window: the padding of its reverse is negative.
        ((8,), (4,), (3,), [(5, 1)], {"precision": "highest"}),
        ((5, 8), (3, 3), (2, 2), "SAME", {}),
        ((1, 6), (3, 2), (1, 1), "SAME", {"lhs_dilation": None, "rhs_dilation": None}),
        # The last row and column are never seen: their gradient is zero.
        ((5, 6), (2, 1), (2, 3), "VALID", {}),
        (
            (4, 5),
            (3, 2),
            (2, 1),
            [(3, 2), (1, 0)],
            {"lhs_dilation": (2, 1), "rhs_dilation": (1, 3)},
        ),
        ((3, 4, 2), (3, 3, 3), (2, 2, 1), "SAME", {}),
    ],
)
def test_every_derivative_is_that_of_jax(x64, size, window, strides, padding, options):
    x, kernel = normal(0, 2, *size, 3), normal(1, *window, 3, 4)
    dx, dkernel = normal(2, *x.shape), normal(3, *kernel.shape)

    @partial(jit, static_argnums=0)
    def answers(conv, x, kernel):
        out, slope = jax.jvp(conv, (x, kernel), (dx, dkernel))
        weight = jnp.cos(jnp.arange(out.size, dtype=out.dtype)).reshape(out.shape)
        pullback = lambda x, kernel: jax.vjp(conv, x, kernel)[1](weight)  # noqa: E731
        forward_over_reverse = jax.jvp(pullback, (x, kernel), (dx, dkernel))

        def curve(x, kernel):
            _, slope = jax.jvp(conv, (x, kernel), (dx, dkernel))
            return jnp.sum(weight * slope**2)

        return out, slope, forward_over_reverse, jax.grad(curve, (0, 1))(x, kernel)

    assert_equal(
        *(answers(conv, x, kernel) for conv in pair(len(size), strides, padding, **options))
    )


def test_finite_differences_agree(x64):
    conv, _ = pair(1, (2,), "SAME")
    check_grads(jax.jit(conv), (normal(0, 1, 4, 2), normal(1, 3, 2, 1)), order=1)


@pytest.mark.parametrize("axes", [(1, None), (None, 4), (2, 0)], ids=["x", "kernel", "both"])
def test_vmap_and_vmap_of_the_gradient(x64, axes):
    x, kernel = normal(0, 2, 5, 4, 3), normal(1, 3, 3, 3, 4)
    x = x if axes[0] is None else jnp.stack([x, 2 * x[::-1], x**2], axis=axes[0])
    kernel = kernel if axes[1] is None else jnp.stack([kernel, kernel**2, -kernel], axis=axes[1])

    @partial(jit, static_argnums=0)
    def answers(conv, x, kernel):
        scale = jnp.arange(1.0, 4.0)
        value = lambda x, kernel, scale: jnp.sum(scale * conv(x, kernel) ** 3)  # noqa: E731
        gradients = jax.vmap(jax.value_and_grad(value, (0, 1)), (*axes, 0))(x, kernel, scale)
        mapped = lambda x, kernel: jnp.sum(jax.vmap(value, (*axes, 0))(x, kernel, scale))  # noqa: E731
        return gradients, jax.grad(mapped, (0, 1))(x, kernel)

    assert_equal(*(answers(conv, x, kernel) for conv in pair(2, (2, 1), "SAME")), 1e-11)


def test_gradients_hold_channel_last_convolutions_only():
    def layouts(conv):
        wide = partial(conv, window_strides=(2, 2), padding="SAME", dimension_numbers=LAYOUTS[2])
        loss = lambda x, kernel: jnp.sum(jnp.tanh(wide(jnp.tanh(wide(x, kernel)), kernel)))  # noqa: E731
        x, kernel = jnp.ones((2, 8, 8, 4)), jnp.ones((3, 3, 4, 4))
        text = jax.jit(jax.grad(loss, (0, 1))).lower(x, kernel).as_text()
        return re.findall(r"stablehlo.convolution.*?dim_numbers = (\S.*?\S),\s*window", text)

    assert layouts(channel_last_conv) == ["[b, 0, 1, f]x[0, 1, i, o]->[b, 0, 1, f]"] * 6

    # XLA on CPU is slow with these in a loop.
    assert len(set(layouts(jax.lax.conv_general_dilated))) > 1


def test_inside_a_flax_layer_in_a_loop():
    layers = [
        nnx.Conv(3, 5, (3, 3), strides=2, conv_general_dilated=conv, rngs=nnx.Rngs(0))
        for conv in (channel_last_conv, jax.lax.conv_general_dilated)
    ]
    x = normal(0, 2, 4, 5, 3, dtype=jnp.float32)

    @jit
    def descend(layer, x):
        graph, params = nnx.split(layer)
        slope = jax.grad(lambda params: jnp.sum(nnx.merge(graph, params)(x) ** 2))

        def step(params, _):
            return jax.tree.map(lambda p, g: p - 0.01 * g, params, slope(params)), None

        return jax.lax.scan(step, params, length=3)[0]

    ours, theirs = (jax.tree.leaves(descend(layer, x)) for layer in layers)
    assert_equal(ours, theirs, 1e-5)


def test_two_devices_give_the_gradient_of_one():
    conv, _ = pair(2, (1, 1), "SAME")
    x, kernel = normal(0, 4, 4, 4, 3, dtype=jnp.float32), normal(1, 3, 3, 3, 4, dtype=jnp.float32)
    gradient = jit(jax.grad(lambda kernel, x: jnp.mean(conv(x, kernel) ** 2)))
    mesh = Mesh(np.asarray(jax.devices()[:2]), ("data",), axis_types=(jax.sharding.AxisType.Auto,))
    cut = jax.device_put(x, NamedSharding(mesh, PartitionSpec("data")))
    whole = jax.device_put(kernel, NamedSharding(mesh, PartitionSpec()))
    assert_equal(gradient(whole, cut), gradient(kernel, x), 1e-6)

    # Sums travel between devices, batches do not.
    assert "all-gather" not in gradient.lower(whole, cut).compile().as_text()

    mapped = jax.shard_map(
        lambda kernel, x: jax.lax.pmean(jnp.mean(conv(x, kernel) ** 2), "data"),
        mesh=mesh,
        in_specs=(PartitionSpec(), PartitionSpec("data")),
        out_specs=PartitionSpec(),
    )
    assert_equal(jit(jax.grad(mapped))(whole, cut), gradient(kernel, x), 1e-6)


def test_types_and_precision():
    conv, _ = pair(1, (1,), "SAME", preferred_element_type=jnp.float32)
    x, kernel = jnp.ones((1, 4, 2), jnp.bfloat16), jnp.ones((3, 2, 2), jnp.bfloat16)
    out, pullback = jax.vjp(conv, x, kernel)
    assert [a.dtype for a in (out, *pullback(out))] == [jnp.float32, jnp.bfloat16, jnp.bfloat16]

    def precise(x, kernel):
        with jax.default_matmul_precision("highest"):
            return jnp.sum(conv(x, kernel) ** 2)

    text = jax.jit(jax.grad(precise, (0, 1))).lower(x, kernel).as_text()
    value_and_gradients = re.findall(r"stablehlo.convolution.*HIGHEST.*HIGHEST", text)
    assert len(value_and_gradients) == 3


@pytest.mark.parametrize(
    ("shapes", "settings", "message"),
    [
        (
            ((1, 5, 5, 2), (3, 3, 2, 2)),
            {"dimension_numbers": None},
            r"wanted \('NHWC', 'HWIO', 'NHWC'\)",
        ),
        (((1, 5, 5, 2), (3, 3, 1, 2)), {"feature_group_count": 2}, "feature_group_count = 2"),
        (((1, 5, 2), (3, 3, 2, 2)), {}, r"wanted \(n, \*space, c\)"),
        (((1, 5, 5, 2), (3, 3, 2, 2)), {"lhs_dilation": (2, 2)}, "as pairs"),
        (((1, 2, 5, 2), (3, 3, 2, 2)), {"padding": "VALID"}, "pad more"),
    ],
)
def test_what_it_does_not_do_is_refused(shapes, settings, message):
    settings = {
        "window_strides": (1, 1),
        "padding": "SAME",
        "dimension_numbers": LAYOUTS[2],
    } | settings
    with pytest.raises(ValueError, match=message):
        channel_last_conv(*map(jnp.ones, shapes), **settings)
