"""The commands on a run's folder: settings objects that do their work when called, and return what they found."""

from scoresde.commands.folder import ImportCheckpoint as ImportCheckpoint
from scoresde.commands.folder import Info as Info
from scoresde.commands.folder import Report as Report
from scoresde.commands.likelihood import Likelihood as Likelihood
from scoresde.commands.sample import Sample as Sample
