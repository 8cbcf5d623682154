"""What wrappers of scores refuse, and that what they advise is accepted."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from guided_cases import MIXTURE

import scoresde as sd

KEY = jax.random.key(0)
SDE = sd.VP()
SAMPLER = sd.DDIM(num_steps=2)


def network(**settings):
    net = sd.MLPConfig(width=8, depth=1, **settings).build((2,), rngs=nnx.Rngs(0))
    return sd.ScoreModel(SDE, net, null_is_trained=True)


def draw(score, batch=3, cond=None):
    return sd.sample(KEY, SAMPLER, SDE, score, (batch, 2), cond=cond)


# --- Conditions ---


def test_a_list_of_labels_is_an_array_of_them(unchecked):
    model = network(num_classes=3)
    with pytest.raises(ValueError, match=r"write jnp.asarray\(cond\)"):
        draw(model, cond=[0, 1, 2])
    with pytest.raises(ValueError, match=r"write jnp.asarray\(cond\)"):
        sd.conditioned(model, [0, 1, 2])
    assert draw(sd.conditioned(model, jnp.asarray([0, 1, 2]))).success.all()


def test_two_labels_for_all_are_no_list_of_labels():
    model = network(num_classes=(3, 4))
    assert draw(sd.conditioned(model, (2, 3))).success.all()


def test_one_vector_has_a_leading_axis():
    model = network(cond_dim=2)
    cond = np.ones(2, np.float32)
    with pytest.raises(ValueError, match=r"write cond\[None\]"):
        sd.conditioned(model, cond)
    assert draw(sd.conditioned(model, cond[None])).success.all()


@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_conditions_are_finite(value):
    model = network(cond_dim=2)
    cond = np.full((3, 2), value, np.float32)
    with pytest.raises(ValueError, match="cond holds NaN or infinity in 3 of 3"):
        draw(model, cond=cond)
    with pytest.raises(ValueError, match="cond holds NaN or infinity in 1 of 1"):
        sd.conditioned(model, cond[:1])


# --- What means "none" ---


@pytest.mark.parametrize(
    ("null", "cond"),
    [
        (0.5, np.zeros(3, np.int32)),
        (-1, np.zeros(3, np.uint8)),
        ({"y": 3}, np.zeros(3, np.int32)),
        (np.zeros((1, 4), np.float32), np.zeros((3, 2), np.float32)),
    ],
)
def test_null_is_a_value_of_the_condition(null, cond):
    guided = sd.ClassifierFreeGuidance(lambda x, t, cond: -x, 2.0, null=null)
    with pytest.raises(ValueError, match="wanted the same structure"):
        draw(guided, cond=cond)


def test_null_is_one_of_the_networks_values():
    labels = np.zeros(3, np.int32)
    beyond = sd.ClassifierFreeGuidance(network(num_classes=3), 2.0, null=7)
    with pytest.raises(ValueError, match="wanted labels 0 … 2"):
        draw(beyond, cond=labels)
    for null in (2, 3, np.array([0, 1, 3])):
        guided = sd.ClassifierFreeGuidance(network(num_classes=3), 2.0, null=null)
        assert draw(guided, cond=labels).success.all()


# --- Rows ---


def test_rows_of_another_batch_are_named():
    model = network(num_classes=3)
    labels = np.zeros(3, np.int32)
    four = np.ones(4)
    with pytest.raises(ValueError, match="weight has 4 rows, and there are 3 examples"):
        draw(sd.ClassifierFreeGuidance(model, four), cond=labels)
    with pytest.raises(ValueError, match="weight has 4 rows, and there are 3 examples"):
        draw(sd.Autoguidance(model, model, four), cond=labels)
    with pytest.raises(ValueError, match="null has 4 rows, and there are 3 examples"):
        draw(sd.ClassifierFreeGuidance(model, 2.0, null=np.zeros(4, int)), cond=labels)
    classifier = sd.MixtureClassifier(SDE, MIXTURE)
    with pytest.raises(ValueError, match="scale has 4 rows, and there are 3 examples"):
        draw(sd.ClassifierGuidance(MIXTURE.score(SDE), classifier, 0, four))


# --- Units ---


def test_a_part_that_does_not_say_its_units_is_named():
    net = sd.nets.MLPClassifierConfig(num_classes=4, width=8).build((2,), rngs=nnx.Rngs(0))
    units = sd.Standardization([1.0, 2.0], [3.0, 4.0])
    classifier = sd.ClassifierModel(SDE, net, standardization=units)

    def score(x, t):
        return -x

    with pytest.warns(UserWarning, match="score does not say in which units it is"):
        sd.ClassifierGuidance(score, classifier, 0)
    score.standardization = units
    guided = sd.ClassifierGuidance(score, classifier, 0)
    assert guided.standardization == units
