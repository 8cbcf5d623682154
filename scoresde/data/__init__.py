"""Data: arrays and images to train on, and how they are prepared."""

from scoresde.data import arrays as arrays
from scoresde.data import images as images
from scoresde.data import prepare as prepare
