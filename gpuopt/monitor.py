"""Watch the GPUs and the machine in the terminal, a browser, a log or Prometheus."""

import contextlib
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterator
from datetime import datetime
from pathlib import Path
from typing import Any

from hydra.core.hydra_config import HydraConfig
from omegaconf import DictConfig
from rich.console import Console

from gpuopt.entry import checked, run_command, typed_keys
from gpuopt.errors import FaultError, InputError, one_line
from gpuopt.hardware import visible_devices
from gpuopt.logs import logging_to
from gpuopt.monitor_settings import (
    address,
    needed_token,
    refuse_contradictions,
    require_packages,
    serves,
)
from gpuopt.run import latest_run
from gpuopt.schema import MonitorConfig, to_monitor_config
from gpuopt.telemetry import LogWriter, Replay, RunMetrics, Sampler, Subscription
from gpuopt.telemetry.terminal import show_lines, show_live

__all__ = ["main"]

_SHOWN_S = 600  # on the page
_FEWEST_KEPT, _MOST_KEPT = 60, 3600  # samples that the page may be given
_WAIT_S = 0.2


def main() -> None:
    """Run `gpuopt monitor`."""
    run_command("monitor", _monitor)


def _monitor(composed: DictConfig) -> None:
    config = to_monitor_config(checked(composed))
    refuse_contradictions(config, typed_keys(HydraConfig.get()))
    require_packages(config)
    with logging_to(None), contextlib.ExitStack() as stack:
        source = _replay(config) if config.replay is not None else _sampler(config, stack)
        token = needed_token(config)
        server = _server(config, source, token) if serves(config) else None
        writer = _writer(config, source)
        shown = source.subscribe()
        is_over = stack.enter_context(_ending(config.duration))
        try:
            if server is not None:
                server.start()
                sys.stderr.write(f"{address(config, server.port, token)}\n")
            source.start()
            _show(config, shown, is_over, is_quiet=bool(writer or server))
        finally:
            source.stop()
            if writer is not None:
                writer.finish()
            if server is not None:
                server.stop()
    _tell_of_log(writer)


def _sampler(config: MonitorConfig, stack: contextlib.ExitStack) -> Sampler:
    """Make the source of samples of this machine, and follow the run."""
    metrics = None
    if config.run is not None:
        folder = latest_run() if config.run == "latest" else Path(config.run).expanduser()
        if not folder.is_dir():
            raise InputError(f"run={config.run} is no folder: name a run's folder, or latest")
        metrics = RunMetrics(folder, config.interval)
    devices = visible_devices()
    if config.gpu_ids is not None:
        known = [device.index for device in devices]
        for index in config.gpu_ids:
            if index not in known:
                raise InputError(f"gpu_ids: there is no GPU {index}; found: {known or 'none'}")
        devices = [device for device in devices if device.index in config.gpu_ids]
    if metrics is not None:
        _tell_of_run(folder, metrics.written_at_s())
        metrics.start()
        stack.callback(metrics.stop)
    return Sampler(devices, config.interval, training=metrics.latest if metrics else None)


def _tell_of_run(folder: Path, written_at_s: float | None) -> None:
    """Say which run is followed, and how old its metrics are: it may have ended long ago."""
    words = "no metrics yet"
    if written_at_s is not None:
        words = f"metrics last written {datetime.fromtimestamp(written_at_s):%Y-%m-%d %H:%M:%S}"
    sys.stderr.write(one_line(f"run {folder}: {words}") + "\n")


def _replay(config: MonitorConfig) -> Replay:
    assert config.replay is not None  # asked before
    return Replay(Path(config.replay).expanduser(), config.replay_speed, config.gpu_ids)


def _writer(config: MonitorConfig, source: Sampler | Replay) -> LogWriter | None:
    if config.log is None:
        return None
    return LogWriter(Path(config.log).expanduser(), source.subscribe(_MOST_KEPT))


def _server(config: MonitorConfig, source: Sampler | Replay, token: str | None) -> Any:
    # Only now: the packages are of an extra.
    from gpuopt.telemetry.web import WebServer

    kept = _MOST_KEPT if config.replay else int(_SHOWN_S / config.interval)
    return WebServer(
        source.subscribe(_MOST_KEPT),
        config.host,
        config.port,
        history=min(max(kept, _FEWEST_KEPT), _MOST_KEPT),
        has_page=config.view == "web",
        has_metrics=config.prometheus,
        token=token,
        allowed_hosts=config.allowed_hosts,
    )


def _show(
    config: MonitorConfig, shown: Subscription, is_over: Callable[[], bool], *, is_quiet: bool
) -> None:
    """Show the samples until the end; with nothing to show, wait for it."""
    console = Console(highlight=False)
    if config.view == "web":
        shown.close()
        while not is_over():
            time.sleep(_WAIT_S)
    elif console.is_terminal:
        show_live(shown, console, is_over)
    elif is_quiet:
        while not (is_over() or shown.is_ended):
            shown.get(_WAIT_S)
    else:
        show_lines(shown, is_over)


@contextlib.contextmanager
def _ending(duration_s: float | None) -> Iterator[Callable[[], bool]]:
    """Let signals, and the time, end the monitor in order; yields whether one has."""
    until_s = None if duration_s is None else time.monotonic() + duration_s
    stopping = threading.Event()
    numbers = [signal.SIGINT, signal.SIGTERM]
    if signal.getsignal(signal.SIGHUP) is not signal.SIG_IGN:  # as under nohup
        numbers.append(signal.SIGHUP)
    previous = {number: signal.signal(number, lambda *_: stopping.set()) for number in numbers}
    try:
        yield lambda: stopping.is_set() or (until_s is not None and time.monotonic() >= until_s)
    finally:
        for number, handler in previous.items():
            signal.signal(number, handler)


def _tell_of_log(writer: LogWriter | None) -> None:
    if writer is None:
        return
    sys.stderr.write(one_line(f"{writer.log.written} samples in {writer.log.path}") + "\n")
    if writer.lost:
        reason = writer.log.reason or "the disk was too slow"
        raise FaultError(f"log={writer.log.path}: {writer.lost} samples are missing ({reason})")


if __name__ == "__main__":
    main()
