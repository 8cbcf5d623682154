"""What does a network see in place of t?"""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import scoresde as sd

KEY = jax.random.key(0)


@pytest.mark.parametrize("sde", [sd.VP(), sd.VE()], ids=["vp", "ve"])
def test_labels_say_which_level_it_is(sde):
    """0 … N - 1 on the levels, in between elsewhere; sigma and its logarithm; t scaled."""
    t = jnp.asarray(sde.level_times(50))
    np.testing.assert_allclose(sd.labels.Index(50)(sde, t), np.arange(50), atol=1e-4)
    half = sd.labels.Index(50)(sde, 0.5 * (t[3:4] + t[4:5]))
    np.testing.assert_allclose(half, 3.5, atol=1e-4)
    np.testing.assert_allclose(sd.labels.Sigma()(sde, t), sde.sigma(t), rtol=1e-6)
    np.testing.assert_allclose(
        sd.labels.Sigma(log=True)(sde, t), jnp.log(sde.sigma(t)), rtol=1e-4, atol=1e-4
    )
    np.testing.assert_allclose(sd.labels.Scaled(999.0)(sde, t), 999 * t, rtol=1e-6)
    log_snr = 2.0 * jnp.log(sde.alpha(t) / sde.sigma(t))
    np.testing.assert_allclose(sd.labels.LogSNR(0.5)(sde, t), 0.5 * log_snr, rtol=1e-4, atol=1e-4)
    seen = []
    net = lambda x, label: (seen.append(label), x)[1]  # noqa: E731
    sd.ScoreModel(sde, net, sd.Velocity(label=sd.labels.Index(50)))(jnp.ones((2, 3)), t[4:6])
    np.testing.assert_allclose(seen[0], [4, 5], atol=1e-4)


@pytest.mark.parametrize("sde", [sd.VP(), sd.VE()], ids=["vp", "ve"])
def test_a_network_with_an_integer_table_reads_every_level(sde):
    """On its levels Index is exactly an integer, so that a cast finds the row; in between a
    fraction.
    """
    for n in (100, 232, 300, 1000):
        table = jnp.asarray(np.random.default_rng(n).permutation(n), jnp.float32)
        net = lambda x, label, table=table: table[label.astype(int)][:, None] + 0.0 * x  # noqa: E731
        model = sd.ScoreModel(sde, net, sd.Noise(label=sd.labels.Index(n)))
        t = jnp.asarray(sde.level_times(n), jnp.float32)
        _, noise = jax.jit(model.data_and_noise)(jnp.zeros((n, 1)), t)
        np.testing.assert_array_equal(noise[:, 0], table)
    down = jax.jit(lambda t: sd.labels.Index(1000, descending=True)(sde, t))
    np.testing.assert_array_equal(down(t), np.arange(1000)[::-1])
    np.testing.assert_allclose(down(t[:3] + 2.5e-4), [998.75, 997.75, 996.75], atol=1e-3)
    slope = jax.jit(jax.vmap(jax.grad(lambda t: sd.labels.Index(1000)(sde, t))))(
        t[jnp.asarray([10, 500])]
    )
    np.testing.assert_allclose(slope, 1000 if sde == sd.VP() else 999, rtol=1e-6)


def test_log_snr_is_finite_at_pure_noise():
    label = sd.labels.LogSNR()(sd.RectifiedFlow(), jnp.asarray([0.5, 1.0]))
    np.testing.assert_allclose(label, [0.0, -60.0], atol=1e-5)
