"""One random key per example."""

import jax
import jax.numpy as jnp
import numpy as np
from scipy import stats

from scoresde.keys import example_keys, fold_in_examples, normal_like


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
