"""One of several processes that train together until one of them is killed.

`python lost_process.py PORT COUNT PROCESS FOLDER STEP` is ended by SIGKILL, if it is the last
process, once the checkpoint of STEP is there; STEP 0 lets it train to the end.
"""

import dataclasses
import sys
from pathlib import Path

import two_processes

import scoresde as sd

TRAINING = dataclasses.replace(two_processes.TRAINING, steps=60)


def main(port: str, count: int, process: int, run: Path, step: int) -> None:
    if count > 1:
        sd.join_processes(f"127.0.0.1:{port}", count, process)

    dies = step > 0 and process == count - 1
    manifest = two_processes.checkpoint_of(run, step)
    data = two_processes.Rows(50, killed_after=manifest if dies else None)
    fit = two_processes.train(run, training=TRAINING, data=data)
    print(f"finished at step {fit.step}")


if __name__ == "__main__":
    main(sys.argv[1], int(sys.argv[2]), int(sys.argv[3]), Path(sys.argv[4]), int(sys.argv[5]))
