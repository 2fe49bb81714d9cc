"""Floor 1: activation checkpointing by stages. Importing this imports no torch."""

from gpuopt.recomputation.level import AUTO, FULL, NONE, check_level, levels, stages_at

__all__ = ["AUTO", "FULL", "NONE", "check_level", "levels", "stages_at"]
