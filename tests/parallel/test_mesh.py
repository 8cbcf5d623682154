"""The mesh takes as many devices as divide the batch, and no value changes on the way."""

import jax
import jax.numpy as jnp
import numpy as np

from scoresde.parallel.mesh import data_mesh, gather, replicate, shard_batch


def test_a_mesh_takes_as_many_devices_as_divide_the_batch():
    assert jax.local_device_count() == 2
    assert data_mesh(32).size == 2
    assert data_mesh(31).size == 1


def test_a_sharded_batch_is_cut_along_its_axis():
    """Each of the two devices holds half the rows, along whichever axis they lie."""
    x = np.arange(24.0, dtype=np.float32).reshape(3, 4, 2)
    sharded = shard_batch(x, data_mesh(4), axis=1)
    shards = [np.asarray(shard.data) for shard in sharded.addressable_shards]
    np.testing.assert_array_equal(np.concatenate(shards, axis=1), x)
    assert [shard.shape for shard in shards] == [(3, 2, 2), (3, 2, 2)]


def test_gathered_arrays_mix_with_those_of_one_device():
    mesh = data_mesh(4)
    x = jnp.arange(4.0)
    for placed in (shard_batch(x, mesh), replicate(x, mesh)):
        assert len(placed.devices()) == 2
        back = gather({"x": placed, "name": "kept"})
        assert back["x"].devices() == x.devices()
        assert back["name"] == "kept"
        np.testing.assert_array_equal(back["x"] + x, 2.0 * x)
