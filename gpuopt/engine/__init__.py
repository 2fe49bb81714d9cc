"""Inference engines: one backend per file behind one protocol, usable without Hydra."""

from gpuopt.engine.protocol import Backend, Engine, EngineRequest, LiveBackend, TrainedNetwork

__all__ = ["Backend", "Engine", "EngineRequest", "LiveBackend", "TrainedNetwork"]
