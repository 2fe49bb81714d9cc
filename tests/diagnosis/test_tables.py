import io

from rich.console import Console

from gpuopt.diagnosis.cleanup import held_memory
from gpuopt.diagnosis.tables import cleanup_table, leak_table, throttle_table
from gpuopt.diagnosis.throttle import throttling_of
from gpuopt.hardware import DeviceProcess
from tests.diagnosis.test_cleanup import Card
from tests.diagnosis.test_leak import diagnosis, growth
from tests.diagnosis.test_throttle import sample


def shown(table):
    out = io.StringIO()
    Console(file=out, width=100).print(table)
    text = out.getvalue()
    assert max(map(len, text.splitlines())) <= 100
    return text


def test_a_leak():
    text = shown(leak_table("net at 32 px", diagnosis(growth())))
    assert text.startswith("Memory leaks: tensors that are never freed")
    assert "net at 32 px" in text
    assert "process" in text
    assert "reserved" not in text  # which a CPU does not have


def test_throttling():
    samples = [sample(0), sample(10, {"power_cap": 5.0, "hardware_thermal": 2.0})]
    text = shown(throttle_table(throttling_of(samples)))
    assert "clock 1500 of 2000 MHz when busy: 25% lost" in text
    assert "300 of 350 W" in text
    assert "power_cap" in text
    assert "50%" in text


def test_held_memory():
    text = shown(cleanup_table(held_memory([Card([DeviceProcess(1, "x\x1b[31m", 2**30)])])))
    assert "3072" in text
    assert "\x1b" not in text
    assert shown(cleanup_table(held_memory([]))).startswith("No NVIDIA GPU")
