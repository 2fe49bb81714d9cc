"""Views of image files against ttach and against one pass per view, in turns in one process."""

import argparse
import contextlib
import tempfile
from collections.abc import Callable, Iterator, Mapping
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from benchmarks.job import Job
from benchmarks.loader import time_passes
from benchmarks.opened_run import OpenedRun
from benchmarks.record import Row
from benchmarks.step_setting import synchronizer
from benchmarks.view_peers import (
    VIEWS,
    PeerSetting,
    has_ttach,
    per_view_pass,
    ttach_model,
    ttach_pass,
)
from gpuopt.hardware import available_cpus
from gpuopt.measure.pairs import paired_ratio, spread, verdict
from gpuopt.session.forward_pass import autocast_of
from gpuopt.session.prediction import open_images
from gpuopt.session.weights import load_described
from gpuopt.storage.checkpoint import read_checkpoint
from gpuopt.tta import LastPass, PredictionFile, TtaPredictor, apply_view, stream_pass

__all__ = ["measure_peers", "peer_rows"]

_PER_VIEW, _TTACH = "one pass per view", "ttach"
_GOALS = {_TTACH: ">= 1.5", _PER_VIEW: ">= 3"}
_COMPARED_IMAGES = 32
_MOST_DIFFERENCE = 1e-5  # in fp32


def measure_peers(job: Job, arguments: argparse.Namespace) -> tuple[list[Row], dict[str, Any]]:
    """Time one model of the run with eight views of the files, by every contestant.

    Args:
        job: Its files and its first model are taken.
        arguments: `peer_images`, `peer_engines`, `peer_batch_size` and `rounds`.
    """
    runs = {
        engine: OpenedRun.open(
            job.words(arguments.peer_images, "tta=essential", f"engine={engine}")
        )
        for engine in arguments.peer_engines
    }
    first = next(iter(runs.values()))
    setting = _peer_setting(job, first, arguments)
    where = (
        f"{job.files(arguments.peer_images)}, the first fold alone, {len(VIEWS)} views, "
        f"the peers with {setting.workers} workers, {job.device}"
    )
    precision, with_ttach = first.setup.precision, has_ttach()
    if not with_ttach:
        print("ttach is not compared, as it is not installed: pip install ttach", flush=True)
    with first.setup.applied(), tempfile.TemporaryDirectory() as name:
        passes: dict[str, Callable[[], Tensor]] = {
            f"gpuopt, {engine}": partial(
                _gpuopt_pass, run, run.predictor(run.ensemble.paths[0], 1, VIEWS), Path(name)
            )
            for engine, run in runs.items()
        }
        passes[_PER_VIEW] = partial(per_view_pass, setting)
        if with_ttach:
            passes[_TTACH] = partial(ttach_pass, setting)
        pass_s = time_passes(
            {name: partial(_count, run) for name, run in passes.items()},
            arguments.rounds,
            arguments.peer_images,
            synchronizer(job.device),
        )
        differences = _differences(first, setting, with_ttach=with_ttach)
    rows = [*peer_rows(pass_s, f"{where}, {precision}"), *_difference_rows(differences, where)]
    return rows, {"pass_s": pass_s, "ttach": with_ttach}


def peer_rows(pass_s: Mapping[str, list[float]], setting: str) -> list[Row]:
    """Turn the durations of passes into figures.

    Args:
        pass_s: Of each contestant, round by round.
        setting: Of all, in words.
    """
    rows = []
    for name, times in pass_s.items():
        middle = spread(times)
        rows.append(Row(f"predicting, {name}", setting, middle.value, "s", middle.low, middle.high))
    for ours in (name for name in pass_s if name.startswith("gpuopt")):
        for peer in (name for name in _GOALS if name in pass_s):
            ratio = paired_ratio(pass_s[peer], pass_s[ours])
            goal = _GOALS[peer]
            rows.append(
                Row(
                    f"time, {peer} / {ours}", setting, ratio.ratio, "ratio", ratio.low, ratio.high,
                    goal, verdict(ratio.low, ratio.high, goal, ratio.pairs),
                )
            )  # fmt: skip
    return rows


def _difference_rows(differences: Mapping[tuple[str, str], float], setting: str) -> list[Row]:
    """Word how far probabilities lie apart; only fp32 has a goal, as half precision rounds."""
    rows = []
    for (peer, precision), value in differences.items():
        measure = f"largest difference of a probability, gpuopt and {peer}, same pixels"
        row = Row(measure, f"{setting}, {precision}", value, "")
        if precision == "fp32":
            outcome = "met" if value <= _MOST_DIFFERENCE else "missed"
            row = replace(row, goal=f"<= {_MOST_DIFFERENCE:g}", verdict=outcome)
        rows.append(row)
    return rows


def _peer_setting(job: Job, run: OpenedRun, arguments: argparse.Namespace) -> PeerSetting:
    path = run.ensemble.paths[0]
    model, description = load_described(read_checkpoint(path), str(path))
    return PeerSetting(
        sorted(job.images(arguments.peer_images).glob("*.jpg")),
        model.to(run.device),
        description.image_size,
        arguments.peer_batch_size,
        _peer_workers(job.device),
        run.device,
        autocast_of(run.setup.precision, run.device),
    )


def _peer_workers(device: str) -> int:
    """Give the peers, who decode in their loaders, every processor; a CPU has its own to do."""
    return available_cpus() if device == "cuda" else 0


def _count(run: Callable[[], Tensor], number: int) -> int:
    del number  # of the pass: all are alike
    return len(run())


def _gpuopt_pass(run: OpenedRun, predictor: TtaPredictor, folder: Path) -> Tensor:
    """Predict as the command does, from JPEG files on; what it decodes is kept by no pass.

    Returns:
        Mean probabilities, float32 [n, classes].
    """
    with tempfile.TemporaryDirectory(dir=folder) as name:
        images = open_images(run.source, run.ensemble.description, run.setup, name)
        file = PredictionFile(Path(name) / "part", {"schema": 1})
        with contextlib.closing(file), contextlib.closing(images.loader):
            stream_pass(images.loader, predictor, file, last=LastPass(1))
            return torch.cat([torch.from_numpy(block.probabilities) for block in file.blocks()])


def _differences(
    run: OpenedRun, setting: PeerSetting, *, with_ttach: bool
) -> dict[tuple[str, str], float]:
    """Compare probabilities of the same pixels, in the run's precision and in fp32.

    Returns:
        The largest difference, by peer and precision.
    """
    with tempfile.TemporaryDirectory() as name:
        images = open_images(run.source, run.ensemble.description, run.setup, name)
        with contextlib.closing(images.loader):
            pixels = next(iter(images.loader)).images[:_COMPARED_IMAGES].to(setting.device)
    found = {}
    for precision in dict.fromkeys((run.setup.precision, "fp32")):
        autocast = autocast_of(precision, setting.device)
        predictor = TtaPredictor(
            setting.model, VIEWS, device=setting.device, chunk_size=run.plan.chunk_size,
            autocast=autocast,
        )  # fmt: skip
        peers = {_PER_VIEW: _mean_of_views}
        if with_ttach:
            peers[_TTACH] = lambda model, pixels: ttach_model(model)(pixels)
        with _exact(precision), torch.inference_mode():
            ours = predictor(pixels)
            for peer, predict in peers.items():
                with autocast():
                    theirs = predict(setting.model, pixels)
                found[peer, precision] = float((ours - theirs).abs().max())
    return found


def _mean_of_views(model: nn.Module, pixels: Tensor) -> Tensor:
    """Predict one view after the other, uint8 [n, 3, s, s] to mean probabilities [n, classes]."""
    of_views = [torch.softmax(model(apply_view(view, pixels)).float(), dim=1) for view in VIEWS]
    return torch.stack(of_views).mean(0)


@contextlib.contextmanager
def _exact(precision: str) -> Iterator[None]:
    """Let fp32 be fp32 on a card, which rounds to TF32 where that is allowed."""
    if precision != "fp32":
        yield
        return
    before = torch.get_float32_matmul_precision(), torch.backends.cudnn.allow_tf32
    torch.set_float32_matmul_precision("highest")
    torch.backends.cudnn.allow_tf32 = False
    try:
        yield
    finally:
        torch.set_float32_matmul_precision(before[0])
        torch.backends.cudnn.allow_tf32 = before[1]
