import io

from rich.console import Console

from gpuopt.diagnosis.bottleneck import find_bottlenecks
from gpuopt.diagnosis.bottleneck_table import bottleneck_tables
from gpuopt.diagnosis.remedies import RunSetting
from tests.diagnosis.simulated_machine import Training, measure, planted


def shown(diagnosis):
    out = io.StringIO()
    Console(file=out, width=100).print(bottleneck_tables("net at 32 px", diagnosis))
    return out.getvalue()


def test_parts_findings_and_what_to_try():
    setting = RunSetting(num_workers=0, cpus=16, compile_mode="off")
    text = shown(find_bottlenecks(measure(planted(("data",), 1)), setting))
    assert text.startswith("Training is limited by the loader")
    for part in ("data wait", "copy to the device", "callbacks", "optimizer", "backward", "loop"):
        assert part in text
    assert "num_workers=" in text
    assert max(map(len, text.splitlines())) <= 100


def test_nothing_found_is_said_first():
    text = shown(find_bottlenecks(measure(Training())))
    assert text.startswith("Computing itself is the limit")
    assert "sum of parts / step" in text
