"""Conditions and guidance: functions of a score that are scores themselves."""

from scoresde.guidance.auto import Autoguidance as Autoguidance
from scoresde.guidance.classifier import ClassifierGuidance as ClassifierGuidance
from scoresde.guidance.classifier_free import ClassifierFreeGuidance as ClassifierFreeGuidance
from scoresde.guidance.conditioned import Conditioned as Conditioned
from scoresde.guidance.conditioned import conditioned as conditioned
