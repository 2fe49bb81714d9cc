"""Synthetic document images, drawn with Pillow from a seed. Imports no torch."""

from gpuopt.data.drawing.catalogue import CLASS_NAMES, SAMPLES_PER_CLASS, draw_document
from gpuopt.data.drawing.dice import Dice
from gpuopt.data.drawing.disturbance import CLEAN, Disturbance, disturb, draw_disturbance
from gpuopt.data.drawing.folder import DocumentSet
from gpuopt.data.drawing.samples import GENERATOR_VERSION, Sample, draw_sample, list_samples

__all__ = [
    "CLASS_NAMES",
    "CLEAN",
    "GENERATOR_VERSION",
    "SAMPLES_PER_CLASS",
    "Dice",
    "Disturbance",
    "DocumentSet",
    "Sample",
    "disturb",
    "draw_disturbance",
    "draw_document",
    "draw_sample",
    "list_samples",
]
