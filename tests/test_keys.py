"""One random key per example."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from gaussian import gaussian_score
from scipy import stats

import scoresde as sd
from scoresde.data import prepare
from scoresde.keys import as_typed_key, example_keys, fold_in_examples, normal_like


def test_example_keys_fold_in_the_index():
    key = jax.random.key(3)
    keys = example_keys(key, 4)
    for i in range(4):
        assert keys[i] == jax.random.fold_in(key, i)
    assert (example_keys(keys, 4) == keys).all()
    assert (example_keys(key, 2, start=2) == keys[2:]).all()


def test_noise_is_standard_normal_across_examples_and_steps():
    keys = example_keys(jax.random.key(0), 500)
    draws = [normal_like(fold_in_examples(keys, step), jnp.zeros((500, 3))) for step in range(4)]
    values = np.concatenate([np.asarray(d).ravel() for d in draws])
    assert stats.kstest(values, "norm").pvalue > 1e-3
    correlation = np.corrcoef([np.asarray(d).ravel() for d in draws])
    assert np.abs(correlation - np.eye(4)).max() < 5 / np.sqrt(1500)


# --- Keys of other implementations, whose draws under vmap depend on each other ---

OTHERS = ["rbg", "unsafe_rbg"]


@pytest.mark.parametrize("impl", OTHERS)
def test_keys_of_other_implementations_become_independent_streams(impl):
    """Typed and raw ones alike, and one per example: all differ, and each depends on itself."""
    one = jax.random.key(3, impl=impl)
    assert jax.random.key_impl(as_typed_key(one)) == "threefry2x32"
    assert as_typed_key(jax.random.key_data(one)) == as_typed_key(one)
    assert as_typed_key(jax.random.key(4, impl=impl)) != as_typed_key(one)

    several = jax.random.split(one, 5)
    streams = example_keys(several, 5)
    assert len({tuple(np.asarray(jax.random.key_data(key)).tolist()) for key in streams}) == 5
    assert (example_keys(several[2:], 3) == streams[2:]).all()


@pytest.mark.parametrize("impl", OTHERS)
def test_chunks_are_the_whole_under_any_implementation(impl):
    sde = sd.VP()
    score = gaussian_score(sde, 0.0, 0.25)
    key = jax.random.key(0, impl=impl)
    sampler = sd.EulerMaruyama(num_steps=20)
    whole = sd.sample(key, sampler, sde, score, (7, 2)).x
    cut = sd.sample(key, sampler, sde, score, (7, 2), batch_size=3).x
    np.testing.assert_allclose(cut, whole, rtol=1e-4, atol=1e-5)


def test_an_adaptive_sampler_has_the_law_under_rbg():
    """The standard deviation of N(0, 1/4), within 5 standard errors and the tolerance's 1 %."""
    sde = sd.VP()
    n = 4000
    key = jax.random.key(0, impl="rbg")
    sampler = sd.AdaptiveSDE(rtol=0.02, atol=0.02)
    x = sd.sample(key, sampler, sde, gaussian_score(sde, 0.0, 0.25), (n, 2)).x
    assert abs(float(x.std()) / 0.5 - 1.0) < 5 / np.sqrt(4 * n) + 0.01


@pytest.mark.parametrize("prepare", [prepare.RandomFlip(), prepare.RandomShift(1)])
def test_raw_keys_of_other_implementations_augment(prepare, unchecked):
    x = jnp.arange(32.0).reshape(2, 4, 4, 1)
    raw = jax.random.PRNGKey(0, impl="rbg")
    np.testing.assert_array_equal(prepare(raw, x), prepare(jax.random.key(0, impl="rbg"), x))
    with pytest.raises(TypeError, match="of type int"):
        prepare(0, x)


def test_raw_keys_are_wrapped_or_refused(unchecked):
    assert as_typed_key(jax.random.PRNGKey(3)) == jax.random.key(3)
    for wrong in (
        jnp.zeros(1, jnp.uint32),
        jnp.zeros((5, 3), jnp.uint32),
        jnp.zeros(2),
        jnp.zeros((2, 2, 2), jnp.uint32),
    ):
        with pytest.raises(TypeError, match="wanted a JAX random key"):
            as_typed_key(wrong)
    with pytest.raises(TypeError, match="of type int"):
        as_typed_key(0)
