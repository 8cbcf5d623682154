"""A VE diffusion model of Fashion-MNIST, 28×28 (Xiao et al. 2017, arXiv:1708.07747).

    python experiments/fashion_ve.py               # --help lists every setting
    python experiments/fashion_ve.py --smoke       # 2 steps of a tiny network on noise

The same command, given again, resumes an interrupted run. --smoke only checks that everything
runs.

Data: apt install dataset-fashion-mnist, or --folder with the four idx files;
pip install 'scoresde[data,experiments]'.

Hardware: 2 CPU cores, about 12 minutes. For a larger network on a GPU see `fashion_vp.py`.

Expect (seed 0, 0.28 M parameters): 3.674 ± 0.049 bits/dim on 256 held-out images, against 6.66
for a fitted Gaussian; a Fréchet distance of 22.3 for 500 samples (the Gaussian 48.4, the 256
held-out images 15.0). Song et al. 2021 report no figure for this data set. The report's "While
training" follows both figures from checkpoint to checkpoint, on 32 images and 256 samples; after
500, 1000, 1500, 2000 steps: 3.862, 3.729, 3.690, 3.680 bits/dim and distances 87, 50, 49.5, 41.
"""

from __future__ import annotations

if __name__ == "__main__":
    from scoresde.cli.start import end_on_signals

    end_on_signals()  # before the imports below, which take seconds

import fashion

import scoresde as sd
from scoresde.cli.flags import run_script

EXPERIMENT = fashion.Fashion(
    name="fashion_ve",
    sde=sd.VE(sigma_min=0.01, sigma_max=50.0),
)


if __name__ == "__main__":
    run_script(fashion.run, EXPERIMENT, description=__doc__)
