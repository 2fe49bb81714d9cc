"""The real nvidia-ml-py on a fake libnvidia-ml.so.1: any card and any fault, on any machine.

The loader reads LD_LIBRARY_PATH when a process starts, so each case is a process of its own.
"""

import csv
import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

pytestmark = pytest.mark.slow

SOURCE = Path(__file__).with_name("fake_nvml.c")
CARD = "NVIDIA GeForce RTX 3060|12288"

# NVML cannot make CUDA believe in a card, and no card is needed to recognise one: a module in
# torch's place reports what the fake library does, with the UUIDs by which the two are matched.
READ = """
import json, logging, os, sys
from types import SimpleNamespace
sys.path.insert(0, os.getcwd())
logging.basicConfig(format="%(message)s")
cards = [card.split("|") for card in os.environ["FAKE_NVML_CARDS"].split(";")]
properties = [
    SimpleNamespace(
        name=name, total_memory=int(mib) * 2**20, multi_processor_count=28, major=8, minor=6,
        clock_rate=1_777_000, memory_clock_rate=7_501_000, memory_bus_width=192,
        uuid=f"{number:08x}-0000-0000-0000-000000000000",
    )
    for number, (name, mib) in enumerate(cards)
]
sys.modules["torch"] = SimpleNamespace(cuda=SimpleNamespace(
    is_available=lambda: True,
    device_count=lambda: len(properties),
    get_device_properties=lambda index: properties[index],
))

from gpuopt.hardware import cuda_devices, load_catalogue, recognise, select_gpu
from gpuopt.schema import CONF_DIR

catalogue = load_catalogue(CONF_DIR / "gpu")
found = []
for device in cuda_devices():
    readings = [vars(device.read()) for _ in range(3)]
    first, known = readings[0], properties[device.index]
    card, choice = select_gpu(catalogue["auto"], known, catalogue)
    mib = (first["memory_total_bytes"] or 0) / 2**20
    found.append({
        "readings": readings, "card": vars(card) | {"seed": None}, "choice": str(choice),
        "stem": recognise(first["name"] or "", mib, catalogue),
    })
print(json.dumps(found))
"""

# The driver's name and MiB of a card, and the preset that it is.
CARDS = {
    "NVIDIA GeForce RTX 3060|12288": "rtx3060",
    "NVIDIA GeForce RTX 3060|8192": "rtx3060_8gb",
    "NVIDIA GeForce RTX 3060|6144": None,
    "NVIDIA GeForce RTX 3060 Laptop GPU|6144": None,
    "NVIDIA GeForce RTX 3080|10240": "rtx3080",
    "NVIDIA GeForce RTX 3080|12288": "rtx3080_12gb",
    "NVIDIA GeForce RTX 3080|11264": None,
    "NVIDIA A100-SXM4-40GB|40960": "a100",
    "NVIDIA A100-SXM4-80GB|81920": "a100_80gb",
    "NVIDIA H200|143771": "h200",
    "NVIDIA H200|81559": None,
    "NVIDIA H100 80GB HBM3|81559": "h100",
    "NVIDIA H100 NVL|95830": None,
    "NVIDIA GeForce RTX 4090 D|24564": None,
    "NVIDIA <b>Quantum</b> \\x1b[31m 9000|49152": None,
}


@pytest.fixture(scope="module")
def library(tmp_path_factory):
    """The folder of the compiled library."""
    compiler = shutil.which("cc") or shutil.which("gcc") or shutil.which("clang")
    if compiler is None:
        pytest.skip("compiling the fake library takes a C compiler (cc, gcc or clang)")
    folder = tmp_path_factory.mktemp("nvml")
    target = folder / "libnvidia-ml.so.1"
    subprocess.run([compiler, "-shared", "-fPIC", "-o", target, SOURCE], check=True)
    return folder


def run(code, folder, cwd, *words, **settings):
    known = {f"FAKE_NVML_{name.upper()}": str(value) for name, value in settings.items()}
    return subprocess.run(
        [sys.executable, "-c", code, *words],
        cwd=cwd,
        env={**os.environ, "OMP_NUM_THREADS": "1", "LD_LIBRARY_PATH": str(folder), **known},
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )


def read(folder, cwd, **settings):
    """Return what was found, and the lines on stderr."""
    done = run(READ, folder, cwd, **{"cards": CARD, **settings})
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout), done.stderr.splitlines()


@pytest.fixture(scope="module")
def found(library, tmp_path_factory):
    devices, _ = read(library, tmp_path_factory.mktemp("cards"), cards=";".join(CARDS))
    return dict(zip(CARDS, devices, strict=True))


@pytest.mark.parametrize("card", CARDS)
def test_a_card_is_recognised_by_its_name_and_its_memory(found, card):
    name, mib = card.split("|")
    first = found[card]["readings"][0]
    assert (first["name"], first["memory_total_bytes"]) == (name, int(mib) * 2**20)
    assert found[card]["stem"] == CARDS[card]
    if CARDS[card]:
        assert found[card]["choice"].startswith(f"gpu={CARDS[card]} ")
        assert "(table" in found[card]["choice"]


@pytest.mark.parametrize("card", [card for card, stem in CARDS.items() if stem is None])
def test_an_unknown_card_gets_a_profile_from_its_measured_properties(found, card):
    name, mib = card.split("|")
    profile = found[card]["card"]
    assert (profile["name"], profile["memory_mib"]) == (name, int(mib))
    assert (profile["compute_capability"], profile["sm_count"]) == ("8.6", 28)
    assert profile["fp32_tflops"] == pytest.approx(12.7, rel=0.01)
    assert profile["memory_bandwidth_gb_per_s"] == pytest.approx(360, rel=0.01)
    assert "is in no preset, so its properties were measured" in found[card]["choice"]


def test_a_good_library_warns_once_of_what_it_lacks(library, tmp_path):
    """Throttling and energy are asked from symbols that this library does not have."""
    (device,), lines = read(library, tmp_path)
    reading = device["readings"][-1]
    assert (reading["utilisation_ratio"], reading["power_w"]) == (0.57, 170.5)
    assert (reading["temperature_c"], reading["sm_clock_mhz"]) == (61, 1980)
    assert (reading["energy_j"], reading["throttle_reasons"]) == (None, None)
    assert len(lines) == 1
    assert "Function Not Found" in lines[0]


@pytest.mark.parametrize(
    ("init", "words"), [(9, "Driver Not Loaded"), (18, "version mismatch"), (999, "Unknown Error")]
)
def test_a_library_that_does_not_start_gives_no_devices_and_one_warning(
    library, tmp_path, init, words
):
    devices, lines = read(library, tmp_path, init=init)
    assert devices == []
    assert len(lines) == 1
    assert "GPUs cannot be monitored: NVML does not start" in lines[0]
    assert words in lines[0]


def test_a_file_that_is_no_library_gives_no_devices_and_one_warning(tmp_path):
    (tmp_path / "libnvidia-ml.so.1").write_bytes(b"")
    devices, lines = read(tmp_path, tmp_path)
    assert devices == []
    assert len(lines) == 1
    assert "Library Not Found" in lines[0]


def test_a_device_that_nvml_does_not_give_is_left_out(library, tmp_path):
    devices, lines = read(library, tmp_path, fault=6)
    assert devices == []
    assert len(lines) == 1
    assert "GPU 0" in lines[0]


@pytest.mark.parametrize(("fault", "words"), [(15, "GPU is lost"), (999, "Unknown Error")])
def test_a_gpu_lost_between_two_readings_keeps_its_name_and_warns_once(
    library, tmp_path, fault, words
):
    (device,), lines = read(library, tmp_path, fault=fault, calls=9)  # the first reading is good
    first, *later = device["readings"]
    assert first["power_w"] == 170.5
    for reading in later:
        assert reading["name"] == first["name"]
        assert reading["power_w"] is None
        assert reading["memory_total_bytes"] is None
    assert [line for line in lines if words in line] == lines[1:]
    assert len(lines) == 2  # the other is of the symbols that are missing


def test_fields_that_are_not_supported_are_absent_and_the_others_stay(library, tmp_path):
    (device,), lines = read(library, tmp_path, lacks="Power,Utilization,Memory")
    reading = device["readings"][-1]
    for name in ("power_w", "utilisation_ratio", "memory_total_bytes"):
        assert reading[name] is None
    assert reading["temperature_c"] == 61
    assert len(lines) == 2
    assert "Not Supported" in lines[0]


# A training on the CPU asks for no GPU. GpuStats is given the fake card here, as only then does a
# training read the library on a machine without CUDA.
TRAIN = """
import sys, time
from gpuopt.callbacks import gpu_stats
from gpuopt.hardware import cuda_devices

start = gpu_stats.GpuStats.on_train_start

def with_the_card(self, trainer, module):
    self._devices = cuda_devices(uuids=["GPU-00000000-0000-0000-0000-000000000000"])
    self._interval_s = 0.02
    start(self, trainer, module)
    while self._stats._sampler.latest() is None:  # while the card is still there
        time.sleep(0.01)

gpu_stats.GpuStats.on_train_start = with_the_card
from gpuopt.train import main
sys.argv[0] = "gpuopt train"
main()
"""


def test_training_goes_on_when_the_gpu_is_lost_and_says_so_once(library, tmp_path, tiny):
    options = ("logger=csv", "trainer.max_epochs=2", "trainer.log_every_n_steps=1")
    done = run(
        TRAIN,
        library,
        tmp_path,
        *tiny,
        *options,
        "run=run",
        cards=CARD,
        fault=15,
        calls=9,
    )
    assert done.returncode == 0, done.stderr
    assert done.stderr.count("GPU is lost") == 1
    assert "Traceback" not in done.stderr
    assert json.loads((tmp_path / "run/results.json").read_text())["state"] == "finished"
    (table,) = (tmp_path / "run").rglob("metrics.csv")
    with table.open() as stream:
        rows = list(csv.DictReader(stream))
    power = [row["gpu0/power_w"] for row in rows if row["throughput/step_ms"]]
    assert len(power) > 5
    assert set(power) == {"170.5", ""}
    assert power[-1] == ""
    assert "joules_per_sample" not in json.loads((tmp_path / "run/results.json").read_text())


WATCH = "import sys; from gpuopt.monitor import main; sys.argv[0] = 'gpuopt monitor'; main()"


def watch(folder, cwd, *words, **settings):
    """Run the monitor for a moment; without CUDA's driver it shows what NVML knows."""
    words = ("log=log.jsonl", "interval=0.1", *words)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("CUDA_VISIBLE_DEVICES", "")
        done = run(WATCH, folder, cwd, *words, cards=f"{CARD};{CARD}", **settings)
    lines = (cwd / "log.jsonl").read_text().splitlines() if (cwd / "log.jsonl").exists() else []
    return done, [json.loads(line) for line in lines]


def test_the_monitor_watches_the_devices_that_it_is_told_of(library, tmp_path):
    done, records = watch(library, tmp_path, "gpu_ids=[1]", "duration=0.5")
    assert done.returncode == 0, done.stderr
    for record in records:
        (device,) = record["devices"]
        assert (device["index"], device["power_w"]) == (1, 170.5)
        assert device["energy_j"] is None
    assert records[-1]["used_j"]["1"] > 0  # from the power, without a counter
    done, records = watch(library, tmp_path, "gpu_ids=[0,2]", "duration=1")
    assert done.returncode == 2
    last = done.stderr.splitlines()[-1]
    assert last == "gpuopt monitor: gpu_ids: there is no GPU 2; found: [0, 1]"


def test_the_monitor_goes_on_when_the_gpu_is_lost_and_says_so_once(library, tmp_path):
    done, records = watch(library, tmp_path, "duration=1", fault=15, calls=40)
    assert done.returncode == 0, done.stderr
    assert records[0]["devices"][0]["power_w"] == 170.5
    assert records[-1]["devices"][0]["power_w"] is None
    assert records[-1]["host"]["memory_used_bytes"] > 0
    assert done.stderr.count("GPU 0: GPU is lost") == 1
    assert "Traceback" not in done.stderr
