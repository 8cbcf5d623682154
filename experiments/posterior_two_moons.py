"""The posterior of two moons (Greenberg et al. 2019, arXiv:1905.07488), thin and in two parts.

    python experiments/posterior_two_moons.py      # --help lists every setting

The same command, given again, resumes an interrupted run. posterior.py says what is compared.

Hardware: 2 CPU cores, 6 minutes, of which training takes 3.

Expect (seed 0, 10 observations): a C2ST of 0.524 ± 0.037 against exact draws (0.50 cannot be told
apart; the one observation at the edge of the prior's box has 0.61); log p(theta | y) 0.053 nats a
parameter below exact on average; ranks of 1000 true parameters inside their simultaneous band.
"""

from __future__ import annotations

if __name__ == "__main__":
    from scoresde.cli.start import end_on_signals

    end_on_signals()  # before the imports below, which take seconds

import dataclasses

from posterior import Posterior, run
from simulators import TwoMoons

import scoresde as sd
from scoresde.cli.flags import run_script

EXPERIMENT = Posterior(
    name="posterior_two_moons",
    simulator=TwoMoons(),
    training=dataclasses.replace(
        Posterior.training, steps=20_000, validate_every=5000, optimizer=sd.optimizers.Adam()
    ),
)


if __name__ == "__main__":
    run_script(run, EXPERIMENT, description=__doc__)
