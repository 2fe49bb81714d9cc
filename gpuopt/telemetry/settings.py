"""What a monitor can be told."""

from dataclasses import dataclass, field

__all__ = ["MonitorConfig"]


@dataclass
class MonitorConfig:
    """Everything that `gpuopt monitor` can be told; see `conf/monitor.yaml`."""

    view: str = "terminal"
    interval: float = 1.0
    duration: float | None = None
    gpu_ids: list[int] | None = None
    run: str | None = None
    log: str | None = None
    prometheus: bool = False
    replay: str | None = None
    replay_speed: float = 1.0
    host: str = "127.0.0.1"
    port: int = 8080
    token: str | None = None
    allowed_hosts: list[str] = field(default_factory=list)
    debug: bool = False
