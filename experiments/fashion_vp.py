"""A VP diffusion model of Fashion-MNIST, 28×28 (Xiao et al. 2017, arXiv:1708.07747).

    python experiments/fashion_vp.py               # --help lists every setting
    python experiments/fashion_vp.py --smoke       # 2 steps of a tiny network on noise

The same command, given again, resumes an interrupted run. --smoke only checks that everything
runs.

Data: apt install dataset-fashion-mnist, or --folder with the four idx files;
pip install 'scoresde[data,experiments]'.

Hardware: 2 CPU cores, about 12 minutes.

Expect (seed 0, 0.28 M parameters): 3.829 ± 0.051 bits/dim on 256 held-out images, against 6.66
for a fitted Gaussian; a Fréchet distance of 14.1 for 500 samples (the Gaussian 48.4, the 256
held-out images 15.0). Song et al. 2021 report no figure for this data set. The report's "While
training" follows both figures from checkpoint to checkpoint, on 32 images and 256 samples; after
500, 1000, 1500, 2000 steps: 4.158, 3.976, 3.884, 3.849 bits/dim and distances 67, 31, 29, 23.

A larger network on a GPU, 8 minutes on one NVIDIA H100 80GB HBM3 including compilation:

    python experiments/fashion_vp.py --name fashion_vp_gpu --net.channels 64 --net.num-blocks 2 \\
        --held-out 1000 --training.batch-size 256 --training.steps 12000 --num-samples 1000 \\
        --training.validate-every 3000 --training.log-every 300 --training.learning-rate 1e-3

Expect (6.5 M parameters): 2.936 ± 0.025 bits/dim on 1000 held-out images, a distance of 4.39 for
1000 samples (held-out images 4.39); 11 960 images/s in training, 4.9 GiB of the device's memory.
Every 3000 steps: 3.195, 3.086, 3.026, 2.990 bits/dim.
"""

from __future__ import annotations

if __name__ == "__main__":
    from scoresde.cli.start import end_on_signals

    end_on_signals()  # before the imports below, which take seconds

import fashion

import scoresde as sd
from scoresde.cli.flags import run_script

EXPERIMENT = fashion.Fashion(name="fashion_vp", sde=sd.VP())


if __name__ == "__main__":
    run_script(fashion.run, EXPERIMENT, description=__doc__)
