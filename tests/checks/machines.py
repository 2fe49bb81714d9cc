"""Machines that a test describes, instead of the one that it runs on."""

from dataclasses import replace

from gpuopt.checks import CheckRequest, TrainingMode
from gpuopt.hardware import (
    AbsentGpu,
    CardFacts,
    DeviceReading,
    DriverDevice,
    Host,
    InstalledCard,
    Machine,
    TorchBuild,
    load_catalogue,
)
from gpuopt.schema import CONF_DIR

CATALOGUE = load_catalogue(CONF_DIR / "gpu")
HOST = Host(processor="a CPU", cpus=16, machine_cpus=16, memory_bytes=64 * 2**30)
BUILD = TorchBuild(
    version="2.14.1+cu130",
    cuda="13.0",
    arch_list=("sm_75", "sm_80", "sm_86", "sm_90"),
    cudnn="9.24.0",
    nccl="2.30.7",
    onnx_providers=("CPUExecutionProvider",),
    packages={"torch": "2.14.1", "triton": "3.8.0", "torch-tensorrt": None},
)
DEVICE = DriverDevice(0, "NVIDIA GeForce RTX 3060", 12288 * 2**20, 28, 8, 6, "0000-01")
FACTS = CardFacts(
    bus_id="0000:01:00.0",
    numa_node=0,
    power_limit_w=170.0,
    power_default_w=170.0,
    power_range_w=(100.0, 212.0),
    sm_clock_limit_mhz=2100,
    memory_clock_limit_mhz=7501,
    pcie_generation=4,
    pcie_width=16,
    pcie_width_limit=16,
    is_ecc_on=False,
    is_mig_on=False,
)
READING = DeviceReading(
    0,
    name="NVIDIA GeForce RTX 3060",
    memory_total_bytes=12288 * 2**20,
    memory_used_bytes=2**28,
    power_w=30.0,
    temperature_c=41.0,
    throttle_reasons=[],
    processes=[],
)
CARD = InstalledCard(DEVICE, FACTS, READING)
MACHINE = Machine(HOST, (CARD,), driver="580.65.06", driver_cuda="13.0", cards_of_driver=1)
EMPTY = Machine(HOST)
TINY_MODE = TrainingMode(
    name="highperf",
    model={"name": "test_vit", "checkpointing": "none"},
    optimizer={"_target_": "gpuopt.model.AdamW"},
    image_size=64,
    global_batch_size=256,
    max_epochs=15,
    moving_average=False,
    pin_memory=True,
)


def request(machine=EMPTY, build=BUILD, **changes):
    """Ask about a machine, with a model that takes no time to follow."""
    asked = CheckRequest(
        gpu=AbsentGpu(),
        catalogue=CATALOGUE,
        model={"name": "test_vit", "checkpointing": "none"},
        optimizer={"_target_": "gpuopt.model.AdamW"},
        image_size=64,
        images=1000,
        train_images=1000,
        look=lambda: machine,
        look_at_build=lambda: build,
        glance_at_build=lambda: replace(build, arch_list=None, onnx_providers=None),
    )
    return replace(asked, **changes)


def preset(stem, **changes):
    """Return what `gpu=STEM` gives."""
    known = CATALOGUE[stem]
    return AbsentGpu(**{**vars(known), **changes})


def with_card(**changes):
    """Return the machine with another reading of its card."""
    return replace(MACHINE, cards=(replace(CARD, reading=replace(READING, **changes)),))


def with_facts(**changes):
    """Return the machine with other facts of its card."""
    return replace(MACHINE, cards=(replace(CARD, facts=replace(FACTS, **changes)),))
