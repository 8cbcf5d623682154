"""What stays at its start is named before training; what would fail is refused; both say the line
to write, and the line works."""

import dataclasses
import re
import warnings

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from small_training import KEY, mlp

import scoresde as sd

X = np.random.default_rng(0).normal(size=(64, 2)).astype(np.float32)
SHORT = sd.Training(steps=3, batch_size=16, warmup=1, validate_every=3, log_every=3)


class Own(nnx.Variable):
    """A kind of variable that `fit` does not know."""


class Net(nnx.Module):
    """Two layers; the second one is what a test makes of it."""

    def __init__(self, second=lambda layer: layer):
        rngs = nnx.Rngs(0)
        self.first = nnx.Linear(2, 16, rngs=rngs)
        self.second = second(nnx.Linear(16, 2, rngs=rngs))

    def __call__(self, x, t):
        return self.second(jax.nn.silu(self.first(x)))


class Scaled(nnx.Module):
    """A layer whose input is multiplied by `scale`, which may be any kind of variable."""

    def __init__(self, layer, scale):
        self.layer = layer
        self.scale = scale

    def __call__(self, x):
        scale = self.scale[...] if isinstance(self.scale, nnx.Variable) else self.scale
        return self.layer(x * scale)


class Running(Scaled):
    """A layer with a running scale."""

    def __call__(self, x):
        self.scale[...] = 0.9 * self.scale[...] + 0.1 * jnp.std(x)
        return super().__call__(x)


class Recording(nnx.Module):
    """A layer that keeps its input."""

    def __init__(self, layer):
        self.layer = layer

    def __call__(self, x):
        self.sow(nnx.Intermediate, "inputs", x)
        return self.layer(x)


class Sum(nnx.Module):
    """A layer with a parameter that counts."""

    def __init__(self, layer):
        self.layer = layer
        self.count = nnx.Param(jnp.ones((), jnp.int32))

    def __call__(self, x):
        return self.layer(x * self.count[...])


def fit(net, sde=None, parameterization=None, **options):
    model = sd.ScoreModel(sde or sd.VP(), net, parameterization or sd.EDM(1.0))
    return sd.fit(KEY, model, X, training=SHORT, progress=False, **options).model


def messages(*args, **options):
    """Returns the warnings of a training."""
    with warnings.catch_warnings(record=True) as found:
        warnings.simplefilter("always")
        fit(*args, **options)
    return [str(warning.message) for warning in found]


def line(message, opening):
    """Returns the line that a message advises after these words."""
    return re.search(re.escape(opening) + r" (.*?)(?:[.;]$|[.;] )", message).group(1)


# --- The network's variables ---


@pytest.mark.parametrize(
    ("scale", "kind"),
    [
        (lambda: Own(jnp.ones(16)), "Own"),
        (lambda: nnx.Variable(jnp.ones(16)), "Variable"),
        (lambda: nnx.Cache(jnp.ones(16)), "Cache"),
        (lambda: jnp.ones(16), "array"),
    ],
)
def test_variables_that_do_not_train_are_named(scale, kind):
    """The advised line makes a parameter of it, or silences the warning."""
    net = Net(lambda layer: Scaled(layer, scale()))
    (message,) = messages(net)
    assert f"net.second.scale ({kind}, float32, (16,))" in message

    with warnings.catch_warnings():
        warnings.simplefilter("error")
        exec(line(message, "constants, write"))
        np.testing.assert_array_equal(fit(net).net.second.scale[...], 1.0)

    exec(line(message, "To train one write"))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert np.any(fit(net).net.second.scale[...] != 1.0)


@pytest.mark.parametrize(
    ("value", "words"),
    [
        (lambda: jnp.arange(3), "Variable, int32, (3,)"),
        (lambda: jax.random.key(1), "Variable, key<fry>, ()"),
    ],
)
def test_variables_without_a_gradient_are_named_and_come_back(value, words, tmp_path):
    """The message does not advise a parameter, which `fit` would refuse."""
    net = Net()
    net.kept = nnx.Variable(value())
    (message,) = messages(net, run=tmp_path)
    assert words in message and "nnx.Param(" not in message

    loaded = sd.load(tmp_path, model=sd.ScoreModel(sd.VP(), net, sd.EDM(1.0)))
    assert jnp.all(loaded.net.kept[...] == value())


@pytest.mark.parametrize(
    "net",
    [
        mlp(dropout=0.1).net,
        Net(),
        Net(lambda layer: Scaled(layer, np.ones(16, np.float32))),
        Net(lambda layer: nnx.Sequential(nnx.RMSNorm(16, rngs=nnx.Rngs(0)), layer)),
        Net(lambda layer: nnx.LoRALinear(16, 2, lora_rank=2, rngs=nnx.Rngs(0))),
    ],
    ids=["mlp", "plain", "numpy", "norm", "lora"],
)
def test_nothing_is_said_of_networks_that_train_whole(net):
    assert messages(net) == []


@pytest.mark.parametrize(
    ("second", "named"),
    [
        (lambda layer: nnx.WeightNorm(layer, rngs=nnx.Rngs(0)), "net.second (WeightNorm)"),
        (
            lambda layer: nnx.WeightNorm(layer, use_scale=False, rngs=nnx.Rngs(0)),
            "net.second (WeightNorm)",
        ),
        (lambda layer: nnx.SpectralNorm(layer, rngs=nnx.Rngs(0)), "net.second (SpectralNorm)"),
        (lambda layer: Running(layer, Own(jnp.ones(16))), "net.second.scale (Own, float32, (16,))"),
        (Recording, "net.second (Recording)"),
        (Sum, "net.second.count (Param, int32, ())"),
        (
            lambda layer: nnx.Sequential(nnx.BatchNorm(16, rngs=nnx.Rngs(0)), layer),
            "net.second.layers[0] (BatchNorm)",
        ),
    ],
    ids=["weight", "weight_only", "spectral", "running", "sow", "whole", "batch"],
)
@pytest.mark.filterwarnings("ignore:fit keeps")
def test_networks_that_fail_are_refused_by_the_name_of_the_layer(second, named, unchecked):
    net = Net(second)
    with pytest.raises(TypeError) as error:
        fit(net)
    message = str(error.value)
    assert named in message

    # The advised line, where there is one, trains.
    rngs, features = nnx.Rngs(0), 16
    for opening in ("Write", "To train one write", "to keep it fixed,", "for example"):
        if f"{opening} net." in message:
            exec(line(message, opening), {"net": net, "nnx": nnx, "jnp": jnp}, locals())
            out = fit(net)
            sd.sample(KEY, sd.DDIM(num_steps=2), out.sde, out, (4, 2))
    assert rngs and features


def test_a_network_without_parameters_is_refused():
    class Nothing(nnx.Module):
        def __init__(self, weight):
            self.weight = weight

        def __call__(self, x, t):
            return x * self.weight

    with pytest.raises(TypeError, match=r"no nnx.Param.*self.weight = nnx.Param\(weight\)"):
        fit(Nothing(jnp.ones(2)))
    fit(Nothing(nnx.Param(jnp.ones(2))))


@pytest.mark.filterwarnings("ignore:fit keeps")
def test_constants_come_back_from_a_checkpoint(tmp_path):
    """Constants of the run, and not those of the model that `load` is given."""

    def build(scale):
        net = Net(lambda layer: Scaled(layer, Own(jnp.full(16, scale))))
        return sd.ScoreModel(sd.VP(), net, sd.EDM(1.0))

    trained = fit(build(2.0).net, run=tmp_path)
    loaded = sd.load(tmp_path, model=build(3.0))
    np.testing.assert_array_equal(loaded.net.second.scale[...], 2.0)
    np.testing.assert_array_equal(loaded(jnp.asarray(X), 0.5), trained(jnp.asarray(X), 0.5))


# --- The SDE's arrays, and those of the parameterisation ---


@pytest.mark.parametrize(
    ("changes", "named"),
    [
        (lambda: {"sde": sd.VE(0.01, jnp.asarray(50.0))}, "sde.sigma_max (float32, ())"),
        (
            lambda: {"parameterization": sd.EDM(jnp.asarray(1.0))},
            "parameterization.sigma_data (float32, ())",
        ),
    ],
)
def test_arrays_of_settings_are_named_and_stored_as_numbers(changes, named, tmp_path, unchecked):
    changes = changes()
    (message,) = messages(mlp().net, **changes, run=tmp_path)
    assert named in message
    loaded = sd.load(tmp_path)

    for name, given in changes.items():
        advised = eval(line(message, "constants, write"), {"dataclasses": dataclasses, name: given})
        assert messages(mlp().net, **{name: advised}) == []
        assert getattr(loaded, name) == advised


@sd.types.pytree_dataclass()
class Tabulated(sd.SDE):
    """VP with log alpha from a table, as a learnable SDE would have one."""

    table: jax.Array

    def log_alpha(self, t):
        return -jnp.interp(t, jnp.linspace(0.0, 1.0, len(self.table)), self.table)

    def variance(self, t):
        return -jnp.expm1(2.0 * self.log_alpha(t))


def test_tables_of_custom_sdes_are_named_and_kept(tmp_path):
    table = jnp.linspace(0.0, 5.0, 1500)
    sde = Tabulated(table)
    (message,) = messages(Net(), sde, run=tmp_path)
    assert "sde.table (float32, (1500,))" in message
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        exec(line(message, "constants, write"))
        fit(Net(), sde)

    model = sd.ScoreModel(sde, Net(), sd.EDM(1.0))
    assert sd.load(tmp_path, model=model).sde is sde

    # Another table, where a printed array would show dots, is another SDE.
    other = dataclasses.replace(model, sde=Tabulated(table.at[700].add(0.001)))
    with pytest.raises(ValueError, match="trained another model") as refused:
        sd.load(tmp_path, model=other)
    advised = re.search(r"Write (sd\.load\(.*\)) with", str(refused.value)).group(1)
    assert eval(advised, {"sd": sd, "model": model}).sde is sde
