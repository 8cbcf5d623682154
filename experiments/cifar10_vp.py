"""DDPM++ on CIFAR-10 under the VP SDE, trained in continuous time (Song et al. 2021).

    python experiments/cifar10_vp.py               # --help lists every setting
    python experiments/cifar10_vp.py --smoke       # 2 steps of a tiny network on noise
    python experiments/cifar10_vp.py --name cifar10_vp_deep --net.num-blocks 8 \\
        --training.steps 950000
    python experiments/cifar10_vp.py --name cifar10_vp_ncsnpp --net.fir --net.input-path residual

The same command, given again, resumes an interrupted run. --smoke only checks that everything
runs.

Source: configs/vp/cifar10_ddpmpp_continuous.py of the authors' release.

Data: the TFDS data set cifar10, already prepared; --download lets TFDS fetch and prepare it.
pip install 'scoresde[data,experiments]'.

Hardware: one GPU with 40 GB, days. Activations take 21 GiB, counted from shapes; those of the
deep network 37 GiB, so add --training.accumulate 2 there.

Expect: 61.8 M parameters (deep 106.6 M). Published by the probability flow: FID 3.93 and 3.16
bits/dim (deep 3.08 and 3.13). Published FID of the best checkpoint by 1000 steps: 2.55 (deep
2.41). Not trained here.
"""

from __future__ import annotations

if __name__ == "__main__":
    from scoresde.cli.start import end_on_signals

    end_on_signals()  # before the imports below, which take seconds

import photographs

from scoresde.cli.flags import run_script
from scoresde.originals.configurations import ORIGINALS

ORIGINAL = ORIGINALS["vp/cifar10_ddpmpp_continuous"]

EXPERIMENT = photographs.Photographs(
    name="cifar10_vp",
    sde=ORIGINAL.sde,
    net=ORIGINAL.net,
    parameterization=ORIGINAL.parameterization,
    sampler=ORIGINAL.sampler,
)


if __name__ == "__main__":
    run_script(photographs.run, EXPERIMENT, description=__doc__)
