"""The folder of a run: its settings, metrics, checkpoints, pictures and report."""

from scoresde.runs.checkpoint import CheckpointError as CheckpointError
from scoresde.runs.checkpoint import Checkpoints as Checkpoints
from scoresde.runs.lock import RunHeldError as RunHeldError
from scoresde.runs.settings import ConfigError as ConfigError
