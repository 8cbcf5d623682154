"""What must be there when a run resumes."""

import pytest

from scoresde.runs.folder import RunFolder
from scoresde.train.resuming import check_none_is_lost


@pytest.mark.parametrize("step", ["1e999", "NaN", "1.5"])
def test_a_row_whose_checkpoint_has_no_step_loses_none(tmp_path, step):
    folder = RunFolder(tmp_path)
    folder.metrics.write_text(f'{{"step": 1, "checkpoint": {step}}}\n')
    check_none_is_lost(folder, [], folder.rows())
