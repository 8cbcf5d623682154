"""Keys per example, padding, immutable pytrees, chunks: the small things everything leans on."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy import stats

from scoresde import checks
from scoresde.keys import example_keys, fold_in_examples, normal_like
from scoresde.parallel.per_example import in_chunks
from scoresde.types import pytree_dataclass, right_pad


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


def test_right_pad_multiplies_example_by_example():
    a, x = jnp.arange(2.0), jnp.ones((2, 2, 2))
    np.testing.assert_array_equal(
        (right_pad(a, x) * x)[1], jnp.ones((2, 2))
    )  # a square batch would broadcast silently
    assert right_pad(jnp.asarray(2.0), x).ndim == 0


def test_pytree_dataclasses_check_people_and_not_jax():
    @pytree_dataclass("name")
    class Positive:
        value: float
        name: str = "x"

        def __post_init__(self):
            if not isinstance(self.value, jax.core.Tracer) and self.value < 0:
                raise ValueError("negative")

    with pytest.raises(ValueError, match="negative"):
        Positive(-1.0)
    mapped = jax.tree.map(lambda v: -v, Positive(1.0, "y"))
    assert (mapped.value, mapped.name) == (-1.0, "y")
    with pytest.raises(AttributeError):
        mapped.value = 2.0
    paths = jax.tree_util.tree_leaves_with_path(mapped)
    assert jax.tree_util.keystr(paths[0][0]) == ".value"


@pytest.mark.parametrize("size", [1, 3, 5, 7, 20, None])
def test_chunks_cut_pad_and_join(size):
    """Whatever the chunk, one shape, spread over both devices where it has two rows; the result is on one again."""
    seen = []

    def function(shared, rows):
        x, tree = rows
        seen.append((x.shape, len(x.sharding.device_set), len(shared.sharding.device_set)))
        return {"sum": x + shared * tree["a"], "count": 5}

    x, a = jnp.arange(7.0), 10.0 * jnp.arange(7.0)
    out = in_chunks(function, jnp.asarray(2.0), (x, {"a": a}), 7, size)
    np.testing.assert_array_equal(out["sum"], x + 2 * a)
    assert out["count"] == 5
    assert len(set(seen)) == 1  # one shape, so one compilation
    (rows,), devices, everywhere = seen[0]
    assert devices == everywhere == (1 if size == 1 else jax.local_device_count())
    assert rows % devices == 0
    assert len(out["sum"].sharding.device_set) == 1
    jax.jit(
        lambda: in_chunks(lambda shared, rows: rows[0], 2.0, (x, a), 7, size)
    )()  # traced: no devices to choose


def test_conditions_without_a_batch_axis_are_named():
    with pytest.raises(ValueError, match=r"cond\['label'\] has shape \(\)"):
        checks.condition({"label": jnp.asarray(1)}, 4)
