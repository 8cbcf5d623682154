"""The authors' Flax release of Song et al. 2021: its configurations, and its checkpoints."""
