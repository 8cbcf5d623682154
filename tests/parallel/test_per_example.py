"""A batch in chunks over the devices, and a score that belongs to its SDE and labels."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

import scoresde as sd
from scoresde.parallel.per_example import per_example

KEY = jax.random.key(0)


@pytest.mark.parametrize("size", [1, 3, 5, 7, 20, None])
def test_chunks_cut_pad_and_join(size):
    """Whatever the chunk, one shape, spread over both devices where it has two rows.

    The result is on one device again.
    """
    seen = []

    def core(settings, sde, score, keys, rows, cond):
        x, tree = rows
        shared = sde.beta_max
        if not isinstance(shared, jax.core.Tracer):
            seen.append((x.shape, len(x.sharding.device_set), len(shared.sharding.device_set)))
        return {"sum": x + shared * tree["a"], "count": 5}

    def run():
        sde = sd.VP(beta_max=jnp.asarray(2.0))
        rows = (x, {"a": a})
        return per_example(core, None, None, sde, lambda x, t: x, rows, None, 7, batch_size=size)

    x = jnp.arange(7.0)
    a = 10.0 * jnp.arange(7.0)
    out = run()
    np.testing.assert_array_equal(out["sum"], x + 2 * a)
    assert out["count"] == 5
    assert len(set(seen)) == 1  # one shape, so one compilation

    (rows,), devices, everywhere = seen[0]
    assert devices == everywhere == (1 if size == 1 else jax.local_device_count())
    assert rows % devices == 0
    assert len(out["sum"].sharding.device_set) == 1

    jax.jit(lambda: run()["sum"])()  # traced: no devices to choose


# --- A score that does not belong ---


def test_warns_of_a_score_of_another_sde(mixture, recwarn):
    """For samples and likelihoods; the same SDE, its settings as numbers or arrays, is not."""
    score = mixture.score(sd.VP())
    with pytest.warns(UserWarning, match=r"the score belongs to VP\(.*used under VE"):
        sd.sample(KEY, sd.EulerMaruyama(2), sd.VE(), score, (2, 2))
    with pytest.warns(UserWarning, match=r"used under VP\(beta_min=0.2"):
        sd.log_likelihood(
            KEY, sd.VP(beta_min=0.2), score, jnp.full((1, 2), 0.3), rtol=1e-2, atol=1e-2
        )
    recwarn.clear()
    sd.sample(KEY, sd.EulerMaruyama(2), jax.tree.map(jnp.float32, sd.VP()), score, (2, 2))
    sd.sample(KEY, sd.EulerMaruyama(2), sd.VE(), lambda x, t: -x, (2, 2))
    assert not [w for w in recwarn if "the score belongs to" in str(w.message)]


def test_labels_are_those_of_the_network():
    net = sd.MLPConfig(width=4, depth=1, num_classes=2).build((2,), rngs=nnx.Rngs(0))
    model = sd.ScoreModel(sd.VP(), net, sd.EDM(1.0))
    with pytest.raises(ValueError, match=r"0 … 5: wanted labels 0 … 1"):
        sd.sample(KEY, sd.EulerMaruyama(2), sd.VP(), model, (3, 2), cond=jnp.asarray([0, 5, 1]))
    with pytest.warns(UserWarning, match="no cond was passed"):
        sd.sample(KEY, sd.EulerMaruyama(2), sd.VP(), model, (3, 2))
