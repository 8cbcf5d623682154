"""Examples whose channels do not seem to come last are asked about, with lines that work."""

import dataclasses
import re

import numpy as np
import pytest
from flax import nnx
from small_training import KEY, mlp

import scoresde as sd
from scoresde.data.images import Images
from scoresde.train.examples import training_examples

UNET = sd.UNetConfig(channels=4, multipliers=(1,), num_blocks=1, attention_levels=())
DIT = sd.DiTConfig(width=8, depth=1, num_heads=2)
NCSN = sd.NCSNppConfig.ddpm(channels=8, multipliers=(1, 1), num_blocks=1)
RNGS = nnx.Rngs(0)


def draw(*shape):
    return np.random.default_rng(0).normal(size=(8, *shape)).astype(np.float32)


def accept(data, shape, config=UNET, prepare=None):
    """Makes the checks that `fit` makes before it compiles a step, on a network of this shape."""
    model = sd.ScoreModel(sd.VP(), config.build(shape, rngs=RNGS), sd.EDM(1.0))
    training_examples(KEY, model, data, None, 0.0, None, prepare)


def lines(message):
    """Returns the pairs (array, build(...)) that a message advises."""
    found = re.findall(
        r"write (\S+\(.*?\)|\S+\[.*?\]), and (\w+)\(...\)(\.build\(\(.*?\), rngs)", message
    )
    return [(array, build) for array, _, build in found]


# --- Doubtful shapes at the edge of fit ---


@pytest.mark.parametrize(
    ("shape", "mended"),
    [
        ((8, 8), [(8, 8, 1)]),
        ((10, 8), [(10, 8, 1)]),
        ((6, 8), [(6, 8, 1), (8, 6)]),
        ((1, 8, 8), [(8, 8, 1)]),
        ((3, 8, 10), [(8, 10, 3)]),
        ((1, 20), [(20, 1)]),
        ((3, 4, 8, 8), [(4, 8, 8, 3)]),
        ((8, 8, 8), [(8, 8, 8, 1)]),
        ((6, 8, 8), [(6, 8, 8, 1), (8, 8, 6)]),
    ],
    ids=str,
)
def test_doubtful_shapes_are_asked_about(shape, mended):
    """The network was built for the arrays as they are; each advised line trains."""
    data = draw(*shape)
    with pytest.raises(ValueError, match="reads as") as error:
        accept(data, shape)

    found = []
    for array, build in lines(str(error.value)):
        x = eval(array, {"data": data, "np": np})
        net = eval(f"UNET{build}=RNGS)", globals())
        assert net.shape == x.shape[1:]
        found.append(net.shape)
        accept(x, net.shape)
    assert found == mended


def test_a_doubtful_shape_that_is_meant_is_trained_on():
    """The advised line says so; conditions go with the array."""
    data = draw(8, 8)
    with pytest.raises(ValueError) as error:
        accept(data, (8, 8))
    line = re.search(r"write (sd\.data\.ArraySource\(data\))", str(error.value)).group(1)
    accept(eval(line), (8, 8))

    labels = np.arange(8) % 2
    classes = dataclasses.replace(UNET, num_classes=2)
    line = re.search(r"labels (sd\.data\.ArraySource\(data, cond\))", str(error.value)).group(1)
    accept(eval(line, {"sd": sd, "data": data, "cond": labels}), (8, 8), classes)


@pytest.mark.parametrize("shape", [(16, 8), (100, 12), (8, 8, 3), (4, 4), (4, 4, 4), (16, 2)])
def test_usual_shapes_are_not_asked_about(shape):
    assert not sd.layout.is_doubtful(shape)


def test_networks_of_vectors_take_any_shape():
    accept(draw(8, 8), (8, 8), sd.MLPConfig(width=8, depth=1))


def test_lists_are_mended_as_arrays():
    """A list has no axes to index: the advised lines make an array of it first."""
    data = draw(8, 8).tolist()
    with pytest.raises(ValueError) as error:
        accept(data, (8, 8))
    ((array, _),) = lines(str(error.value))
    assert eval(array, {"data": data, "np": np}).shape == (8, 8, 8, 1)


def test_the_shape_that_counts_is_that_after_prepare():
    """A prepare that adds the channel axis is as good as an array that has it."""
    accept(draw(8, 8), (8, 8, 1), prepare=lambda key, x: x[..., None])


@pytest.mark.parametrize("config", [UNET, DIT, NCSN], ids=["unet", "dit", "ncsnpp"])
@pytest.mark.parametrize("shape", [(8, 8), (1, 8, 8)])
def test_arrays_that_the_network_was_not_built_for_are_mended(config, shape):
    """The old advice was to build the network for the wrong shape."""
    data = draw(*shape)
    with pytest.raises(ValueError, match=r"channels of an example come last") as error:
        accept(data, (8, 8, 1), config)
    line = re.search(r"write (.*?); samples", str(error.value)).group(1)
    x = eval(line, {"data": data, "np": np})
    assert x.shape == (8, 8, 8, 1)
    assert "shape (batch, 8, 8, 1)" in str(error.value)


def test_samples_of_a_shape_without_channels_are_refused_with_theirs():
    net = UNET.build((8, 8, 1), rngs=RNGS)
    model = sd.ScoreModel(sd.VP(), net)
    with pytest.raises(ValueError, match=r"\(batch, 8, 8, 1\)"):
        sd.sample(KEY, sd.DDIM(num_steps=1), model.sde, model, (2, 8, 8))
    sd.sample(KEY, sd.DDIM(num_steps=1), model.sde, model, (2, 8, 8, 1))


def test_examples_of_another_size_build_another_network():
    """A network of vectors, and images of three channels for one of one channel."""
    with pytest.raises(ValueError, match=r"Write MLPConfig\(...\).build\(\(3,\)"):
        sd.fit(KEY, mlp(), draw(3))
    with pytest.raises(ValueError, match=r"Write UNetConfig\(...\).build\(\(8, 8, 3\)"):
        accept(draw(8, 8, 3), (8, 8, 1))
    with pytest.raises(ValueError, match=r"UNetConfig\(...\).build\(\(8, 8, 3\)"):
        accept(draw(3, 8, 8), (8, 8, 1))


# --- Networks that are built ---


@pytest.mark.parametrize(("config", "name"), [(DIT, "DIT"), (NCSN, "NCSN")], ids=["dit", "ncsnpp"])
@pytest.mark.parametrize("shape", [(8, 8), (3, 8, 8)])
def test_networks_of_images_advise_channels_last(config, name, shape):
    with pytest.raises(ValueError, match="takes images") as error:
        config.build(shape, rngs=RNGS)
    x = draw(*shape)
    ((array, build), *_) = lines(str(error.value))
    net = nnx.eval_shape(lambda: eval(f"{name}{build}=nnx.Rngs(0))", globals()))
    assert eval(array, {"x": x, "np": np}).shape[1:] == net.shape


@pytest.mark.parametrize(("shape", "wanted"), [((7,), "MLPConfig"), ((8, 8, 8, 1), "UNetConfig")])
def test_networks_of_images_name_the_network_of_other_shapes(shape, wanted):
    for config in (DIT, NCSN):
        with pytest.raises(ValueError, match=rf"write {wanted}\(\)"):
            config.build(shape, rngs=RNGS)
    nnx.eval_shape(lambda: getattr(sd, wanted)().build(shape, rngs=nnx.Rngs(0)))


# --- Images ---


@pytest.mark.parametrize("shape", [(1, 28, 28), (3, 32, 32), (3, 32, 24), (28, 28)])
def test_images_with_channels_elsewhere_are_refused(shape):
    pixels = np.zeros((4, *shape), np.uint8)
    with pytest.raises(ValueError, match="height, width, c") as error:
        Images(pixels)
    line = re.search(r"write (pixels\[.*?\]|np\.moveaxis\(.*?\))", str(error.value)).group(1)
    mended = Images(eval(line, {"pixels": pixels, "np": np}))
    assert mended.shape[-1] in (1, 3)


def test_integers_of_many_channels_are_passed_as_an_array():
    """Maps of 8 classes on 8×8 pixels, in the line that the refusal of Images advises."""
    pixels = np.random.default_rng(0).integers(0, 2, (8, 8, 8, 8), dtype=np.uint8)
    labels = None
    with pytest.raises(ValueError, match="does hold 8 channels") as error:
        Images(pixels)
    line = re.search(r"pass (sd\.data\.ArraySource\(.*?\)) to fit", str(error.value)).group(1)
    source = eval(line, {"sd": sd, "pixels": pixels, "labels": labels})
    accept(source, (8, 8, 8), prepare=sd.UniformDequantization(levels=2))


def test_standardised_arrays_are_asked_about_too():
    model = sd.ScoreModel(sd.VP(), UNET.build((8, 8), rngs=RNGS), sd.EDM(1.0))
    with pytest.raises(ValueError, match=r"data\[..., None\]"):
        sd.fit(KEY, model, draw(8, 8), standardize=True, progress=False)
