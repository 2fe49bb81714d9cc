"""The samples in a browser, and for Prometheus. Needs the extra `monitor`."""

from gpuopt.telemetry.web.server import WebServer

__all__ = ["WebServer"]
