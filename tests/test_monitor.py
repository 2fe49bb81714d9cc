"""`gpuopt monitor` as people and programs call it."""

import contextlib
import json
import re
import signal
import socket
import time
from pathlib import Path

import pytest

from gpuopt.telemetry import JsonlLog
from gpuopt.telemetry.replay import read_log
from tests.faults.commands import Command
from tests.telemetry.samples import FULL, card, sample
from tests.telemetry.web.asking import request, stream_of

pytestmark = pytest.mark.slow


@pytest.fixture
def monitor(tmp_path, light):
    """Start monitors in a folder; none outlives the test."""
    started = []

    def start(*words, **options):
        started.append(Command("gpuopt.monitor", *words, cwd=tmp_path, warm=light, **options))
        return started[-1]

    yield start
    for command in started:
        command.give_up()


@pytest.fixture
def recorded(tmp_path):
    """A log of an emulated card, half a minute long."""
    log = JsonlLog(tmp_path / "recorded.jsonl")
    for number in range(30):
        known = {**FULL, "utilisation_ratio": number / 100}
        log.write(sample(number, card(0, **known), card(1, power_w=10.0)))
    log.close()
    return "replay=recorded.jsonl"


def port_of(command):
    """Wait until a monitor says where it answers."""
    found = []

    def says():
        with contextlib.suppress(FileNotFoundError):  # a forked one has not begun to speak yet
            found[:] = re.findall(r"http://127\.0\.0\.1:(\d+)/", command.said())
        return found

    command.wait_until(says)
    return int(found[0])


def test_a_log_of_a_given_duration_is_complete(monitor, tmp_path):
    began_s = time.time()
    done = monitor("log=deep/log.jsonl", "interval=0.1", "duration=1").end()
    assert (done.code, done.stdout) == (0, "")
    taken = list(read_log(tmp_path / "deep/log.jsonl"))
    assert done.last_line == f"{len(taken)} samples in deep/log.jsonl"
    assert [found.number for found in taken] == list(range(len(taken)))
    assert len(taken) >= 3
    assert began_s <= taken[0].time_s < taken[-1].time_s <= time.time()
    assert taken[-1].host.memory_total_bytes > 0
    for line in (tmp_path / "deep/log.jsonl").read_text("utf-8").splitlines():
        record = json.loads(line, parse_constant=pytest.fail)
        assert {"schema", "time_s", "devices", "host", "throttled_s"} <= record.keys()
    assert sorted(path.name for path in tmp_path.iterdir()) == ["deep"]


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGHUP])
def test_a_signal_ends_it_in_order(monitor, tmp_path, number):
    command = monitor("log=log.jsonl", "interval=0.1")
    path = tmp_path / "log.jsonl"
    command.wait_until(lambda: path.exists() and path.read_bytes().count(b"\n") > 2)
    command.send(number)
    done = command.end()
    assert done.code == 0, done.stderr
    taken = list(read_log(path))
    assert done.last_line == f"{len(taken)} samples in log.jsonl"
    assert path.read_bytes().count(b"\n") == len(taken)


def test_a_killed_monitor_leaves_a_log_that_the_next_one_goes_on_with(monitor, tmp_path):
    path = tmp_path / "log.jsonl"
    command = monitor("log=log.jsonl", "interval=0.1")
    command.wait_until(lambda: path.exists() and path.read_bytes().count(b"\n") > 2)
    command.send(signal.SIGKILL)
    command.end()
    before = len(list(read_log(path)))
    assert monitor("log=log.jsonl", "duration=0.1").end().code == 0
    assert len(list(read_log(path))) > before


def test_two_monitors_at_once(monitor, tmp_path):
    first, second = (
        monitor(f"log={name}.jsonl", "view=web", "port=0", "interval=0.1") for name in "ab"
    )
    ports = port_of(first), port_of(second)
    assert ports[0] != ports[1]
    refused = monitor("log=a.jsonl").end()
    assert refused.code == 2
    assert refused.last_line == (
        "gpuopt monitor: log=a.jsonl is written by another monitor: name another file"
    )
    for command in (first, second):
        command.send(signal.SIGINT)
        assert command.end().code == 0


def test_plain_lines_in_a_pipe(monitor):
    done = monitor("duration=0.3", "interval=0.1").end()
    assert done.code == 0
    assert re.search(
        r"^\d\d:\d\d:\d\d host: CPU (n/a|\d+ %), memory [\d.]+ / [\d.]+ GiB$",
        done.stdout,
        re.MULTILINE,
    )
    if "no GPU" in done.stdout:
        assert "no GPU: utilisation n/a, memory n/a, power n/a" in done.stdout


def test_a_replay_shows_every_sample_and_ends(monitor, recorded):
    done = monitor(recorded, "replay_speed=1000").end()
    assert (done.code, done.stderr) == (0, "")
    found = re.findall(r"GPU 0  NVIDIA H100 80GB HBM3: utilisation (\d+) %", done.stdout)
    assert found == [str(number) for number in range(30)]
    assert "GPU 1  n/a: utilisation n/a" in done.stdout
    one = monitor(recorded, "replay_speed=1000", "gpu_ids=[1]").end()
    assert "GPU 1" in one.stdout
    assert "GPU 0" not in one.stdout


def test_a_page_and_metrics_of_a_replay_until_ctrl_c(monitor, recorded):
    command = monitor(recorded, "replay_speed=1000", "view=web", "prometheus=true", "port=0")
    port = port_of(command)
    with stream_of(port) as stream:
        content = b""
        while b"event: end" not in content:
            content += stream.recv(1 << 16)
    assert content.count(b"\nid: ") == 30
    assert b"<title>gpuopt monitor</title>" in request(port)
    metrics = request(port, "/metrics").decode()
    assert re.search(r"^gpu_utilization_ratio{gpu=\"0\".*} 0.29$", metrics, re.MULTILINE)
    assert request(port, "/", "X: Y\r\n").startswith(b"HTTP/1.1 200")
    assert command.code() is None
    assert "libtorch" not in Path(f"/proc/{command.pid}/maps").read_text()
    command.send(signal.SIGINT)
    done = command.end()
    assert (done.code, done.stdout) == (0, "")
    assert done.stderr == f"http://127.0.0.1:{port}/\n"


def test_metrics_beside_plain_words(monitor):
    command = monitor("prometheus=true", "port=0", "interval=0.1")
    port = port_of(command)
    command.wait_until(lambda: b"host_memory_size_bytes" in request(port, "/metrics"))
    assert request(port).startswith(b"HTTP/1.1 404")
    command.send(signal.SIGTERM)
    assert command.end().code == 0


def test_a_token_is_asked_for_as_told(monitor):
    command = monitor("view=web", "port=0", "token=0123456789abcdef", "allowed_hosts=[mine.test]")
    port = port_of(command)
    assert "0123456789abcdef" not in command.said()
    assert request(port).startswith(b"HTTP/1.1 401")
    bearer = "Authorization: Bearer 0123456789abcdef\r\n"
    assert request(port, "/", bearer).startswith(b"HTTP/1.1 200")
    with socket.create_connection(("127.0.0.1", port), 30) as connection:
        connection.sendall(f"GET / HTTP/1.1\r\nHost: mine.test\r\n{bearer}\r\n".encode())
        assert connection.recv(12) == b"HTTP/1.1 200"


def test_the_metrics_of_a_run_are_shown_beside_the_machines(monitor, tmp_path):
    run = tmp_path / "outputs/train/2026-01-01_00-00-00"
    (run / "csv").mkdir(parents=True)
    (run / "config.yaml").write_text("logger:\n  name: csv\n")
    (run / "csv/metrics.csv").write_text("train/loss_step,step\n0.25,7\n")
    command = monitor("run=latest", "log=log.jsonl", "interval=0.1")
    path = tmp_path / "log.jsonl"
    command.wait_until(lambda: path.exists() and b"train/loss_step" in path.read_bytes())
    command.send(signal.SIGINT)
    done = command.end()
    assert done.code == 0
    assert list(read_log(path))[-1].training == {"train/loss_step": 0.25, "step": 7.0}
    (line,) = [line for line in done.stderr.splitlines() if line.startswith("run ")]
    assert re.fullmatch(rf"run \S*{run.name}: metrics last written \d{{4}}-\d\d-\d\d [\d:]+", line)


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="needs /dev/full")
def test_a_full_disk_is_one_warning_and_told_at_the_end(monitor):
    done = monitor("log=/dev/full", "interval=0.1", "duration=0.5").end()
    assert done.code == 3
    assert done.stderr.count("samples are lost (No space left on device)") == 1
    assert re.fullmatch(
        r"gpuopt monitor: log=/dev/full: \d+ samples are missing \(No space left on device\)",
        done.last_line,
    )


@pytest.mark.parametrize(
    ("words", "last"),
    [
        (["gpu_ids=[97]"], "gpu_ids: there is no GPU 97; found: "),
        (["run=nowhere"], "run=nowhere is no folder: name a run's folder, or latest"),
        (["run=latest"], "there is no run under outputs/train"),
        (["log=."], "log=. cannot be written (Is a directory): name another file"),
        (["gpu_ids=0"], "gpu_ids=0: give a list, such as gpu_ids=[0]"),
        (["replay_speed=3"], "replay_speed= is for replay=FILE"),
        (["--dashboard"], "--dashboard: options are key=value here: view=web"),
        (["-m", "interval=1,2"], "only `gpuopt train` takes -m"),
    ],
)
def test_bad_settings_end_in_one_line(monitor, tmp_path, words, last):
    done = monitor(*words).end()
    assert done.code == 2, done.stderr
    assert done.last_line.startswith(f"gpuopt monitor: {last}")
    assert list(tmp_path.iterdir()) == []


def test_a_port_in_use_is_one_line_and_leaves_no_log(monitor, tmp_path):
    with socket.create_server(("127.0.0.1", 0)) as other:
        port = other.getsockname()[1]
        done = monitor("view=web", f"port={port}", "log=log.jsonl").end()
    assert done.code == 2
    assert done.last_line == (
        f"gpuopt monitor: port={port} of 127.0.0.1 is in use: stop what uses it, "
        "or give another port"
    )
    assert list(tmp_path.iterdir()) == []
