"""Optimizer-step time of gpuopt against a bare PyTorch loop and timm's own step."""

import argparse
import copy
import statistics
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path

import torch

from benchmarks.peer_loops import BareLoop, NormalisedNetwork, Peer, TimmLoop
from benchmarks.record import Row, add_common_arguments, format_rows, save
from benchmarks.step_setting import (
    MemoryImages,
    StepSetting,
    draw_bank,
    endless_batches,
    make_classifier,
    parse_setting,
)
from benchmarks.trainer_segments import GPUOPT, Design, time_fit
from gpuopt.measure.pairs import PairedRatio, paired_ratio, verdict
from gpuopt.model import Classifier

__all__ = ["compare_steps", "main", "step_ratios", "step_rows"]

_BARE, _TIMM, _CONTROL = "bare loop", "timm loop", "bare loop again"
_GOALS = {"cpu": "<= 1.05", "cuda": "<= 1.02"}


def main(words: Sequence[str] | None = None) -> Path:
    """Run the program and return its result's path."""
    parser = _parser()
    arguments = parser.parse_args(words)
    if arguments.quick:
        arguments.model, arguments.image_size = "test_resnet", 32
        arguments.micro_batch_size, arguments.global_batch_size = 4, 8
        arguments.pairs, arguments.steps, arguments.warmup_steps = 2, 1, 0
    setting = parse_setting(arguments, parser)
    design = Design(
        rounds=arguments.pairs,
        steps=arguments.steps,
        warmup_steps=arguments.warmup_steps,
        prelude_steps=1 if arguments.quick else 3,
    )
    step_s = compare_steps(setting, design, with_control=arguments.control)
    rows = step_rows(step_s, setting)
    ratios = {name: ratio.as_dict() for name, ratio in step_ratios(step_s).items()}
    details = {"setting": str(setting), "segment_step_s": step_s, "ratios": ratios}
    path = save("step_time", rows, arguments, parser, details)
    print(format_rows(rows))
    return path


def compare_steps(
    setting: StepSetting, design: Design, *, with_control: bool = False
) -> dict[str, list[float]]:
    """Measure gpuopt, the bare loop and timm's loop in alternating segments.

    Args:
        setting: Of the step, the same for all.
        design: The segments.
        with_control: Also let a second bare loop run, whose ratio to the first shows the noise.

    Returns:
        Mean step of each segment in seconds, by contestant.
    """
    torch.manual_seed(0)
    total_steps = design.trainer_steps
    model = make_classifier(setting, total_steps)
    bank = draw_bank(setting.image_size)
    names = (_BARE, _TIMM, _CONTROL) if with_control else (_BARE, _TIMM)
    peers: dict[str, Peer] = {}
    for name in names:
        network, batches = _network(model, setting), endless_batches(bank, setting)
        peers[name] = (
            TimmLoop(network, batches, setting)
            if name == _TIMM
            else BareLoop(network, batches, setting, total_steps)
        )
    with tempfile.TemporaryDirectory() as folder:
        return time_fit(
            setting,
            design,
            model,
            MemoryImages(bank, setting, total_steps),
            Path(folder),
            {name: peer.step for name, peer in peers.items()},
        )


def step_ratios(step_s: Mapping[str, Sequence[float]]) -> dict[str, PairedRatio]:
    """Compare gpuopt with each peer, and the control with the bare loop, by name of the pair."""
    names = [name for name in step_s if name != GPUOPT]
    pairs = [(name, _BARE) if name == _CONTROL else (GPUOPT, name) for name in names]
    return {f"{a} / {b}": paired_ratio(step_s[a], step_s[b]) for a, b in pairs}


def step_rows(step_s: Mapping[str, Sequence[float]], setting: StepSetting) -> list[Row]:
    """Turn segment means into figures: the median step of each, and the ratios."""
    rows = [
        Row(f"step, {name}", str(setting), 1000 * statistics.median(values), "ms")
        for name, values in step_s.items()
    ]
    for name, ratio in step_ratios(step_s).items():
        goal = _GOALS[setting.device] if name == f"{GPUOPT} / {_BARE}" else None
        outcome = verdict(ratio.low, ratio.high, goal, ratio.pairs) if goal else None
        figures = (ratio.ratio, "ratio", ratio.low, ratio.high)
        rows.append(Row(f"step, {name}", str(setting), *figures, goal, outcome))
    return rows


def _network(model: Classifier, setting: StepSetting) -> NormalisedNetwork:
    """Copy the classifier's network, so that all begin with the same weights."""
    network = copy.deepcopy(model.backbone).to(setting.device).train()
    if setting.compile_backend is not None:
        network.compile(backend=setting.compile_backend)
    wrapped = NormalisedNetwork(network, model.mean, model.std, model.uses_channels_last)
    return wrapped.to(setting.device).train()


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m benchmarks step_time", description=__doc__)
    parser.add_argument("--model", default="tf_efficientnet_lite0", help="timm model")
    parser.add_argument("--image-size", type=int, default=128, help="pixels")
    parser.add_argument("--micro-batch-size", type=int, default=32)
    parser.add_argument("--global-batch-size", type=int, default=32)
    precisions = ["auto", "fp32", "tf32", "bf16", "fp16"]
    parser.add_argument("--precision", default="auto", choices=precisions)
    parser.add_argument("--device", default="auto", choices=["auto", "cpu", "cuda"])
    parser.add_argument("--workers", type=int, help="loader processes of each contestant")
    parser.add_argument("--compile-backend", help="compile all networks, such as inductor")
    parser.add_argument("--pairs", type=int, default=10, help="segments of each contestant")
    parser.add_argument("--steps", type=int, default=8, help="optimizer steps per segment")
    parser.add_argument("--warmup-steps", type=int, default=1, help="untimed ones before them")
    parser.add_argument("--control", action="store_true", help="run the bare loop twice")
    add_common_arguments(parser)
    return parser
