"""Operators against their matrices."""

import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from posteriors import of_matrix

import scoresde as sd
from scoresde import inverse
from scoresde.inverse.measurement import Measurement

RNG = np.random.default_rng(0)
IMAGE = (6, 4, 3)
KERNEL = RNG.normal(size=(3, 2)).astype(np.float32)
MASK = RNG.random((1, *IMAGE)) < 0.5
OPERATORS = {
    "mask": inverse.Mask(MASK),
    "downsample": inverse.Downsample(2),
    "gray": inverse.Gray(),
    "luma": inverse.Gray((0.299, 0.587, 0.114)),
    "blur": inverse.Blur(KERNEL),
    "blur-even": inverse.Blur(RNG.normal(size=(2, 4))),
    "blur-reflect": inverse.Blur(KERNEL, "reflect"),
    "blur-zero": inverse.Blur(KERNEL, "zero"),
    "projection": inverse.Projection(RNG.normal(size=(5, 72))),
    "function": inverse.Operator(lambda x: jnp.cumsum(x, axis=1)[:, ::2]),
}


@pytest.fixture(params=OPERATORS.values(), ids=OPERATORS.keys())
def operator(request):
    return request.param


def normal(*shape):
    return jnp.asarray(RNG.normal(size=shape), jnp.float32)


def test_the_transpose_is_the_transpose(operator):
    """<A x, y> = <x, A^T y>, of each example."""
    x = normal(3, *IMAGE)
    measured = operator(x)
    y = normal(*measured.shape)
    left = np.sum(np.asarray(measured * y).reshape(3, -1), axis=1)
    right = np.sum((np.asarray(operator.transpose(y, IMAGE)) * x).reshape(3, -1), axis=1)
    scale = np.linalg.norm(np.asarray(measured)) * np.linalg.norm(y)
    np.testing.assert_allclose(left, right, atol=1e-6 * scale)


def test_functions_of_gram_are_those_of_its_matrix(operator):
    """f(A A^T) y by the eigenvalues of the matrix, in float64."""
    if not operator.knows_gram:
        with pytest.raises(ValueError, match="no pseudo-inverse"):
            operator.pseudo_inverse(operator(normal(1, *IMAGE)), IMAGE)
        return
    matrix = of_matrix(operator, IMAGE)
    y = normal(2, *operator(normal(1, *IMAGE)).shape[1:])
    found = operator.of_gram(lambda e: 1.0 / (2.0 * e + 0.3), y, IMAGE)
    gram = 2.0 * matrix @ matrix.T + 0.3 * np.eye(len(matrix))
    exact = np.linalg.solve(gram, y.reshape(2, -1).T).T
    np.testing.assert_allclose(np.asarray(found).reshape(2, -1), exact, rtol=1e-4, atol=1e-5)


def test_the_pseudo_inverse_is_that_of_the_matrix(operator):
    if not operator.knows_gram:
        return
    matrix = of_matrix(operator, IMAGE)
    y = normal(2, *operator(normal(1, *IMAGE)).shape[1:])
    exact = (np.linalg.pinv(matrix.astype(float), rcond=1e-5) @ y.reshape(2, -1).T).T
    found = np.asarray(operator.pseudo_inverse(y, IMAGE)).reshape(2, -1)
    np.testing.assert_allclose(found, exact, rtol=2e-3, atol=2e-3 * np.abs(exact).max())


@pytest.mark.parametrize("std", [1.0, 0.5, (0.5, 1.0, 2.0)])
def test_a_measurement_in_the_models_units_is_solved(operator, std):
    """(a L L^T + b I)^-1 r by the matrix L = A diag(std); per-channel units take conjugate
    gradients."""
    units = sd.Standardization((0.1, -0.2, 0.3), std)
    measurement = Measurement(operator, operator(normal(1, *IMAGE)), units)
    matrix = of_matrix(operator, IMAGE) * np.broadcast_to(std, IMAGE).reshape(1, -1)
    r = operator.observed(normal(2, *operator(normal(1, *IMAGE)).shape[1:]))
    scale, noise = np.array([0.5, 2.0]), np.array([0.1, 0.4])
    found = np.asarray(measurement.solve(r, scale, noise, IMAGE)).reshape(2, -1)
    for i in range(2):
        gram = scale[i] * matrix @ matrix.T + noise[i] * np.eye(len(matrix))
        exact = np.linalg.solve(gram, np.asarray(r[i]).reshape(-1))
        np.testing.assert_allclose(found[i], exact, rtol=1e-3, atol=1e-4 * np.abs(exact).max())


def test_closed_forms():
    """The means, the weights and the convolution, written out."""
    x = normal(2, *IMAGE)
    down = inverse.Downsample(2)(x)
    np.testing.assert_allclose(down[1, 2, 1], x[1, 4:6, 2:4].mean(axis=(0, 1)), rtol=1e-5)
    np.testing.assert_allclose(inverse.Gray()(x)[..., 0], x.mean(axis=-1), rtol=1e-5, atol=1e-6)

    blurred = inverse.Blur(KERNEL)(x)
    value = sum(
        KERNEL[i, j] * x[1, (0 - (i - 1)) % 6, (3 - (j - 1)) % 4, 2]
        for i in range(3)
        for j in range(2)
    )
    np.testing.assert_allclose(blurred[1, 0, 3, 2], value, rtol=1e-5)
    flat = inverse.Blur.gaussian(1.0, 3, "reflect")(np.ones((1, *IMAGE), np.float32))
    np.testing.assert_allclose(flat, 1.0, rtol=1e-6)

    signal = normal(2, 8, 1)
    np.testing.assert_allclose(
        inverse.Blur(np.array([0.5, 0.5]))(signal),
        0.5 * (signal + np.roll(signal, -1, axis=1)),
        atol=1e-6,
    )
    np.testing.assert_allclose(
        inverse.Downsample(4)(signal)[:, 1, 0], signal[:, 4:, 0].mean(1), rtol=1e-5, atol=1e-6
    )


def test_what_a_mask_hides_is_never_read():
    hidden = jnp.where(MASK, normal(1, *IMAGE), jnp.nan)
    operator = OPERATORS["mask"]
    assert bool(jnp.all(jnp.isfinite(operator.pseudo_inverse(hidden, IMAGE))))
    many = inverse.Mask(RNG.random((3, *IMAGE)) < 0.5)
    np.testing.assert_array_equal(
        many.num_observed(normal(3, *IMAGE)), many(np.ones((3, *IMAGE), np.float32)).sum((1, 2, 3))
    )


def test_misfits_are_of_what_is_measured():
    """By NumPy: of one y for all, or one per example, whatever y holds where nothing is known."""
    mask = RNG.random((1, *IMAGE)) < 0.5
    x, y = normal(3, *IMAGE), normal(3, *IMAGE)
    operator = inverse.Mask(mask)
    for rows in (y, y[:1]):
        gaps = [(a - b)[mask[0]] for a, b in zip(x, np.resize(rows, y.shape), strict=True)]
        found = operator.misfit(x, np.where(mask, rows, np.nan))
        np.testing.assert_allclose(found, [np.sqrt(np.mean(g**2)) for g in gaps], rtol=1e-5)


def test_a_function_of_one_example_is_told_of_the_batch():
    with pytest.raises(Exception) as error:
        inverse.Operator(lambda x: x.reshape(2, 2, 1))(normal(3, 4))
    assert any("a batch of examples, (3, 4)" in note for note in error.value.__notes__)


NONLINEAR = {
    "square": lambda x: x**2,
    "relu": jax.nn.relu,
    "clip": lambda x: jnp.clip(x, -1.0, 1.0),
    "round": lambda x: jnp.round(255 * x) / 255,
    "norm": lambda x: x / jnp.linalg.norm(x),
    "where": lambda x: jnp.where(x > 0.0, x, 0.0),
    "integers": lambda x: (100 * x).astype(jnp.int32).astype(jnp.float32) / 100,
    "stopped": jax.lax.stop_gradient,
}


@pytest.mark.parametrize("function", NONLINEAR.values(), ids=NONLINEAR.keys())
def test_functions_that_are_not_linear_have_no_transpose(function):
    with pytest.raises(ValueError, match=r"not linear.*DPS takes any function"):
        inverse.Operator(function).transpose(normal(2, 4), (4,))


@pytest.mark.parametrize("name", ["round", "integers", "stopped"])
def test_functions_without_a_derivative_are_refused(name):
    """Not those of DPS: its score would be the prior's. The line that is advised has one."""
    with pytest.raises(ValueError, match=r"derivative of the operator's function is 0.*jnp.round"):
        inverse.Operator(NONLINEAR[name]).check_differentiable(normal(2, 4))
    with pytest.raises(ValueError, match="mixes the examples"):
        inverse.Operator(lambda x: (x - x.mean(0)) ** 2).check_differentiable(normal(2, 4))
    kept = inverse.Operator(lambda x: x + jax.lax.stop_gradient(jnp.round(x) - x))
    kept.check_differentiable(normal(2, 4))


@pytest.mark.parametrize("shape", [(1, 2, 2, 1), (1, 2, 2), (2, 2)])
def test_the_line_that_is_advised_makes_a_mask_fit(shape):
    """Of a mask of one channel, without their axis, and without a batch axis."""
    mask, x = np.ones(shape), normal(2, 2, 2, 3)
    with pytest.raises(ValueError) as error:
        inverse.Mask(mask)(x)
    (line,) = re.findall(r"[Ww]rite (np\.broadcast_to.*)\.$", str(error.value))
    mask = eval(line, {"np": np, "mask": mask})
    assert mask.shape == (1, 2, 2, 3)
    np.testing.assert_array_equal(inverse.Mask(mask)(x), x)


@pytest.mark.parametrize(
    ("build", "message"),
    [
        (lambda: inverse.Mask(np.ones(4)), r"write mask\[None\]"),
        (lambda: inverse.Mask(np.full((1, 4), 0.5)), "write mask > 127"),
        (lambda: inverse.Mask(np.zeros((1, 4))), "0 everywhere, so that nothing"),
        (lambda: inverse.Mask(np.eye(4)[:3] * [0, 1, 1, 1]), r"row 0: .* write mask\[None\]"),
        (lambda: inverse.Mask(np.ones((1, 4))).misfit(normal(2, 4), normal(1, 3)), "y has shape"),
        (lambda: inverse.Mask(np.ones((4, 4, 1)))(normal(4, 4, 4, 1)), r"mask\[None\]"),
        (lambda: inverse.Mask(np.ones((2, 4)))(normal(3, 4)), "2 rows, and there are 3"),
        (lambda: inverse.Downsample(1), "at least 2"),
        (lambda: inverse.Downsample(4)(normal(1, 6, 4, 1)), "does not divide 6 × 4"),
        (lambda: inverse.Downsample(2)(normal(1, 4)), "wants images"),
        (lambda: inverse.Gray((0.5, 0.5))(normal(1, *IMAGE)), "3 channels"),
        (lambda: inverse.Gray((0.0, 0.0)), "one finite number per channel"),
        (lambda: inverse.Blur(np.ones((7, 3)))(normal(1, *IMAGE)), "none of them longer"),
        (lambda: inverse.Blur(np.ones((3, 3, 1))), r"wanted \(height, width\)"),
        (lambda: inverse.Blur(np.full((3, 3), np.nan)), "NaN"),
        (lambda: inverse.Projection(np.ones(4)), r"write matrix\[None\]"),
        (lambda: inverse.Projection(np.ones((2, 5)))(normal(1, 4)), "as many columns"),
        (lambda: inverse.Operator(jnp.sum)(normal(2, 4)), "one measurement per example"),
        (lambda: inverse.Operator(jnp.fft.fft)(normal(2, 4)), r"complex.*jnp.stack\(\[z.real"),
        (lambda: inverse.Operator(lambda x: x > 0)(normal(2, 4)), "returned bool"),
        (lambda: inverse.Operator(lambda x: (x, x))(normal(2, 4)), "returned tuple"),
        (
            lambda: inverse.Operator(lambda x: x - x.mean(0)).transpose(normal(2, 4), (4,)),
            "mixes the examples",
        ),
        (lambda: inverse.Downsample(2).transpose(normal(1, 3, 3, 1), (4, 4, 1)), "y has shape"),
    ],
)
def test_what_does_not_fit_is_refused(build, message):
    with pytest.raises(ValueError, match=message):
        build()
