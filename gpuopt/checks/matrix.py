"""What each card of the catalogue can do: `gpuopt check report=matrix`."""

import functools
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from gpuopt.checks.cards import asked_cards
from gpuopt.checks.drivers import capability_pair
from gpuopt.checks.request import CheckRequest
from gpuopt.engine.providers import RTX_CAPABILITIES
from gpuopt.errors import InputError
from gpuopt.hardware import Gpu, TorchBuild, resolve_precision
from gpuopt.measure import Interval
from gpuopt.memory import MemoryEstimate, MemorySetup, predict_memory
from gpuopt.report.names import plain_text
from gpuopt.report.tables import new_table
from gpuopt.session.memory import memory_setup
from gpuopt.session.tta_forecast import forecast_tta_time

__all__ = ["CardRow", "MatrixReport", "report"]

# (model, side in pixels) beside the one that is asked for: those of the training modes.
_FITS = (
    ("convnext_base.fb_in22k_ft_in1k_384", 384),
    ("convnext_base.fb_in22k_ft_in1k_384", 224),
    ("efficientnet_b3", 288),
    ("efficientnet_b3", 224),
    ("efficientnet_b0", 224),
)
_TENSORRT_FROM = (7, 5)
_TRITON_FROM = (7, 0)
_BF16_FROM = (8, 0)
# torch.compile tunes matrix products itself only from so many multiprocessors on.
_LEAST_SMS_FOR_TUNING = 68


@dataclass(frozen=True)
class CardRow:
    """What one card can do.

    Attributes:
        preset: What `gpu=` takes.
        gpu: The card.
        precisions: That it computes in, in hardware.
        chosen: What `precision=auto` takes.
        is_driven: Whether the installed PyTorch holds code for it; None where unknown.
        tensorrt: Whether TensorRT supports it; None where its compute capability is unknown.
        tensorrt_rtx: Whether TensorRT for RTX does.
        compile: `no`, `yes`, or `tuned` where max-autotune tunes matrix products as well.
        fits: Largest micro-batch in training by model and side in pixels; None: it cannot.
        tta_minutes: By policy; empty where the speed is unknown.
    """

    preset: str
    gpu: Gpu
    precisions: Sequence[str]
    chosen: str
    is_driven: bool | None
    tensorrt: bool | None
    tensorrt_rtx: bool | None
    compile: str
    fits: Mapping[tuple[str, int], int | None]
    tta_minutes: Mapping[str, Interval]

    def as_dict(self) -> dict[str, Any]:
        """Return plain values."""
        values = asdict(self)
        del values["gpu"], values["preset"]
        return {
            "gpu": self.preset,
            "name": self.gpu.name,
            "compute_capability": self.gpu.compute_capability,
            "fp8": self.gpu.fp8,
            **values,
            "precisions": list(self.precisions),
            "fits": [
                {"model": model, "image_size": side, "largest": count}
                for (model, side), count in self.fits.items()
            ],
        }


@dataclass(frozen=True)
class MatrixReport:
    """The answer.

    Attributes:
        model_name: timm's name.
        image_size: Side in pixels.
        images: How many are predicted.
        build: The installed PyTorch.
        views: Number of views by policy.
        rows: Least memory first.
    """

    model_name: str
    image_size: int
    images: int
    build: TorchBuild
    views: Mapping[str, int]
    rows: Sequence[CardRow]

    def as_dict(self) -> dict[str, Any]:
        """Return plain values."""
        return {
            "model": self.model_name,
            "image_size": self.image_size,
            "images": self.images,
            "torch": self.build.version,
            "architectures": list(self.build.arch_list or ()),
            "evidence": {"features": "table", "fits": "predicted", "tta_minutes": "predicted"},
            "cards": [row.as_dict() for row in self.rows],
        }

    def __rich__(self) -> RenderableType:
        """Lay the answer out for a terminal."""
        return Group(_features_table(self), _fits_table(self), _minutes_table(self))


def report(request: CheckRequest) -> MatrixReport:
    """Compare the cards in question.

    Raises:
        InputError: When timm does not know the model, or the CPU is asked for.
    """
    build, cards = request.look_at_build(), asked_cards(request)
    name = str(request.model["name"])
    size = predict_memory(
        memory_setup(request.model, request.asked_size, "bf16"), cache_dir=request.cache_dir
    ).image_size
    cells = tuple(dict.fromkeys([(name, size), *_FITS]))
    rows = [
        _row(request, build, stem, gpu, cells, size)
        for stem, gpu in request.track(list(cards.items()))
    ]
    views = {policy.name: len(policy.parsed_views()) for policy in request.policies}
    return MatrixReport(name, size, request.images, build, views, rows)


def _row(
    request: CheckRequest,
    build: TorchBuild,
    stem: str,
    gpu: Gpu,
    cells: Sequence[tuple[str, int]],
    size: int,
) -> CardRow:
    pair = capability_pair(gpu)
    try:
        chosen = str(resolve_precision(request.precision, gpu, is_cuda=True).value)
    except InputError:  # the card cannot compute in it, another one can
        chosen = ""
    return CardRow(
        stem,
        gpu,
        _precisions(gpu, pair),
        chosen,
        build.drives(gpu.compute_capability),
        None if pair is None else pair >= _TENSORRT_FROM,
        None if pair is None else pair in RTX_CAPABILITIES,
        _compiles(gpu, pair),
        {(model, side): _largest(request, gpu, chosen, model, side) for model, side in cells},
        _tta_minutes(request, gpu, chosen, size),
    )


def _precisions(gpu: Gpu, pair: tuple[int, int] | None) -> list[str]:
    if pair is None:
        return ["fp32"]
    found = ["fp32"]
    if gpu.tensor_tflops is not None:
        found.append("fp16")
    return [*found, "tf32", "bf16"] if pair >= _BF16_FROM else found


def _compiles(gpu: Gpu, pair: tuple[int, int] | None) -> str:
    if pair is not None and pair < _TRITON_FROM:
        return "no"
    return "tuned" if (gpu.sm_count or 0) >= _LEAST_SMS_FOR_TUNING else "yes"


def _largest(request: CheckRequest, gpu: Gpu, precision: str, model: str, side: int) -> int | None:
    if not precision:
        return None
    setup = memory_setup(
        {**request.model, "name": model},
        side,
        "fp32" if precision in ("fp32", "tf32") else "bf16",  # fp16 takes the same memory
        optimizer=request.optimizer,
        moving_average=request.moving_average,
    )
    estimate = _memory(setup, request.cache_dir)
    return None if estimate is None else estimate.largest_batch(gpu.budget_bytes())


@functools.cache  # the cards of a catalogue share it
def _memory(setup: MemorySetup, cache_dir: str | None) -> MemoryEstimate | None:
    try:
        return predict_memory(setup, cache_dir=cache_dir)
    except InputError:  # a size or a level that the model does not take
        return None


def _tta_minutes(request: CheckRequest, gpu: Gpu, precision: str, size: int) -> dict[str, Interval]:
    if not precision:
        return {}
    try:
        time = forecast_tta_time(
            str(request.model["name"]),
            size,
            gpu,
            precision=precision,
            cache_dir=request.cache_dir,
        )
    except InputError:  # its rates are unknown, or not one image fits
        return {}
    return {
        policy.name: time.minutes(request.images, policy.parsed_views())
        for policy in request.policies
    }


def _features_table(answer: MatrixReport) -> Table:
    table = new_table("Cards and features, from their compute capability", is_dense=True)
    build = answer.build
    table.caption = Text(
        f"auto: what precision=auto takes; wheel: torch {build.version} holds code for it; TRT: "
        "TensorRT; RTX: TensorRT for RTX; compile: tuned where max-autotune tunes matrix products "
        "as well",
        style="dim",
    )
    table.caption_justify = "left"
    table.add_column("gpu=", no_wrap=True, style="bold")
    for heading in ("SM", "auto", "fp16", "bf16", "tf32", "fp8", "wheel", "TRT", "RTX"):
        table.add_column(heading, no_wrap=True)
    table.add_column("compile", no_wrap=True)
    for row in answer.rows:
        table.add_row(
            Text(plain_text(row.preset)),
            row.gpu.compute_capability or "n/a",
            row.chosen or "cannot",
            *(_mark(name in row.precisions) for name in ("fp16", "bf16", "tf32")),
            *map(_mark, (row.gpu.fp8, row.is_driven, row.tensorrt, row.tensorrt_rtx)),
            row.compile,
        )
    return table


def _fits_table(answer: MatrixReport) -> Table:
    table = new_table("Largest micro-batch in training, predicted", is_dense=True)
    table.add_column("gpu=", no_wrap=True, style="bold")
    table.add_column("GiB", justify="right", no_wrap=True)
    for model, side in answer.rows[0].fits:
        words = plain_text(model).partition(".")[0].replace("_", " ")  # wrapped at blanks
        table.add_column(Text(f"{words}\n{side} px"), justify="right", overflow="fold")
    for row in answer.rows:
        table.add_row(
            Text(plain_text(row.preset)),
            f"{(row.gpu.memory_mib or 0) / 1024:.0f}",
            *("n/a" if count is None else str(count) for count in row.fits.values()),
        )
    return table


def _minutes_table(answer: MatrixReport) -> Table:
    size = f"{answer.model_name} at {answer.image_size} px"
    table = new_table(f"{size}: minutes for {answer.images} images, predicted")
    table.add_column("gpu=", no_wrap=True, style="bold")
    for name, count in answer.views.items():
        heading = f"{plain_text(name)}\n{count} view{'' if count == 1 else 's'}"
        table.add_column(Text(heading), justify="right")
    for row in answer.rows:
        minutes = (row.tta_minutes.get(name) for name in answer.views)
        table.add_row(
            Text(plain_text(row.preset)),
            *("n/a" if found is None else f"{found.value:.3g}" for found in minutes),
        )
    return table


def _mark(value: bool | None) -> Text:
    if value is None:
        return Text("n/a")
    return Text("yes", style="green") if value else Text("no", style="dim")
