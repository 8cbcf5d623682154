"""A score that counts its evaluations as they run."""

import jax


def counting(score):
    """The score, counting how often it is really evaluated at run time."""
    count = [0]

    def counted(x, t, *cond):
        jax.debug.callback(lambda: count.__setitem__(0, count[0] + 1))
        return score(x, t, *cond)

    return counted, count
