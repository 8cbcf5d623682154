"""The file of a set's likelihoods: resumed with the same key, refused with another.

That it resumes after a stop is tested through the command line, in tests/cli.
"""

import jax
import numpy as np
import pytest

import scoresde as sd
from scoresde.likelihood.dataset import likelihood_of_set


def test_a_file_of_another_key_is_not_resumed(tmp_path, mixture):
    """Its rows were drawn with other noise; the same key finds them all."""
    x = np.asarray(mixture.sample(jax.random.key(0), 5))

    def likelihoods(seed):
        return likelihood_of_set(
            jax.random.key(seed),
            sd.VP(),
            mixture.score(sd.VP()),
            x,
            dequantization=None,
            path=tmp_path / "rows.jsonl",
            about={},
            tolerance=1e-3,
            divergence=sd.Hutchinson(2),
            t_min=1e-3,
            progress=False,
        )

    first = likelihoods(0)
    again = likelihoods(0)
    np.testing.assert_array_equal(first.nats, again.nats)
    assert first.dequantization is None
    with pytest.raises(ValueError, match="other settings"):
        likelihoods(1)
