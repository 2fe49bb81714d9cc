"""Train image classifiers at the fastest setting that provably fits your GPU."""

__all__ = ["__version__"]

__version__ = "0.1.0"
