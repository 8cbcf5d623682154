"""The metrics of the steps between two rows."""

from __future__ import annotations

import time

import numpy as np

from scoresde.train.step import Metrics


class Window:
    """Collects the metrics since the last row, and times the steps.

    Metrics stay on the device until they are read, so that the host does not wait for them.
    """

    def __init__(self, step: int, waited: float):
        self.dispatches: list[Metrics] = []
        self._first_step = step
        self._waited = waited
        self._start = time.perf_counter()

    def skipped_in_a_row(self, late: bool) -> int:
        """Returns the most non-finite steps in a row that the newest dispatch saw.

        late: read the dispatch before it instead, which has already finished, so that the device
        never waits for the host. Without such a dispatch the answer is 0.
        """
        dispatches = self.dispatches[-2:-1] if late else self.dispatches[-1:]
        if not dispatches:
            return 0
        return int(np.max(dispatches[0]["skipped_in_a_row"]))

    def averages(self) -> dict[str, float | None]:
        """Returns loss and gradient norm, averaged over finite steps; None if there was none."""
        loss = self._steps("loss")
        norm = self._steps("grad_norm")
        finite = np.isfinite(loss) & np.isfinite(norm)
        if not finite.any():
            return {"loss": None, "grad_norm": None}

        return {"loss": float(loss[finite].mean()), "grad_norm": float(norm[finite].mean())}

    def timings(self, step: int, waited: float) -> dict[str, float]:
        """Returns the steps per second, and the fraction of the time spent waiting for data.

        step: the last step taken; waited: seconds spent waiting for data since training started.
        """
        seconds = time.perf_counter() - self._start
        return {
            "steps_per_second": (step - self._first_step) / seconds,
            "data_wait": (waited - self._waited) / seconds,
        }

    def _steps(self, name: str) -> np.ndarray:
        """Returns a metric of every step, (steps,); a dispatch holds one step or several."""
        return np.concatenate([np.atleast_1d(metrics[name]) for metrics in self.dispatches])
