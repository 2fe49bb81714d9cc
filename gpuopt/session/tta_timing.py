"""Measure on this device how long predicting with views takes, in a few short predictions."""

import json
import statistics
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing
from pathlib import Path

import torch

from gpuopt.data import ImageDataModule, WindowLoader, decode_image
from gpuopt.data.repeating_sampler import RepeatingSampler
from gpuopt.hardware import available_cpus, processor_name
from gpuopt.model import ImageNetwork
from gpuopt.session.forward_pass import autocast_of
from gpuopt.session.prediction import PredictionSetup
from gpuopt.session.view_passes import (
    HeldOutPart,
    code_versions,
    digest_of_images,
    image_files,
    load_part,
)
from gpuopt.session.weights import ModelDescription
from gpuopt.storage import AnswerCache
from gpuopt.tta.apply import apply_view
from gpuopt.tta.prediction_file import PredictionFile
from gpuopt.tta.predictor import TtaPredictor
from gpuopt.tta.streaming import LastPass, stream_pass
from gpuopt.tta.time_model import TimedPass, TtaTime, fit_tta_time
from gpuopt.tta.views import View, parse_views

__all__ = ["PassTimer", "kept_tta_time", "measure_tta_time"]

_BUDGET_S = 15.0
_REPEATS = 3
_MANY_VIEWS = 5
_LARGER = 4  # times the smaller size
_MOST_BATCHES = 64
_VIEW_REPEATS = 3
_DECODED_FILES = 32


class PassTimer:
    """Predicts a number of images, as `gpuopt predict` does, and says how long it took.

    Args:
        model: In evaluation mode on its device.
        data: Its validation images are predicted, over and over where more are asked for.
        setup: Device, precision and batch.
        chunk_size: Images per forward.
        clock: Monotonic time in seconds.
    """

    def __init__(
        self,
        model: ImageNetwork,
        data: ImageDataModule,
        setup: PredictionSetup,
        chunk_size: int,
        clock: Callable[[], float] = time.perf_counter,
    ) -> None:
        self._model = model
        self._data = data
        self.setup = setup
        self.chunk_size = chunk_size
        self._clock = clock

    def __call__(self, images: int, views: tuple[View, ...]) -> TimedPass:
        """Time one prediction, batch by batch into a file as `gpuopt predict` does.

        Raises:
            FaultError: When outputs are not finite, memory runs out or the disk is full.
        """
        predictor = TtaPredictor(
            self._model,
            views,
            device=self._model.mean.device,
            chunk_size=self.chunk_size,
            autocast=autocast_of(self.setup.precision, self._model.mean.device),
        )
        dataset = self._data.val_dataloader().dataset
        with tempfile.TemporaryDirectory() as folder:
            began = self._clock()
            loader = WindowLoader(
                dataset,
                RepeatingSampler(len(dataset), images, self.setup.batch_size),
                num_workers=self.setup.num_workers,
                pin_memory=self.setup.device == "cuda",
            )
            with closing(loader), closing(PredictionFile(Path(folder) / "timed", {})) as file:
                stream_pass(loader, predictor, file, last=LastPass(1))
                seconds = self._clock() - began
        return TimedPass(images, views, seconds)

    def view_seconds(self, view: View) -> float:
        """Time the making of a view, in seconds per image of a full chunk."""
        device, size = self._model.mean.device, self._data.image_size
        images = torch.randint(0, 256, (self.chunk_size, 3, size, size), dtype=torch.uint8).to(
            device
        )
        times = []
        for _ in range(1 + _VIEW_REPEATS):  # the first one warms up
            _wait_for(device)
            began = self._clock()
            apply_view(view, images)
            _wait_for(device)
            times.append(self._clock() - began)
        return statistics.median(times[1:]) / len(images)

    def decode_seconds(self) -> float:
        """Time the decoding of an image, shared by all processors; 0 without files."""
        files = image_files(self._data)[:_DECODED_FILES]
        if not files:
            return 0.0
        began = self._clock()
        for path in files:
            decode_image(path, self._data.image_size)
        return (self._clock() - began) / len(files) / available_cpus()


def kept_tta_time(
    part: HeldOutPart,
    description: ModelDescription,
    setup: PredictionSetup,
    views: Sequence[View],
    cache: AnswerCache,
    *,
    chunk_size: int,
    startup_s: float,
) -> TtaTime:
    """Measure the time of predictions, or read what was measured with all the same before.

    Args:
        part: A model and images to predict, which are set up.
        description: What the model was trained on.
        setup: Device, precision and batch.
        views: All that a policy may have.
        cache: Of what was measured before.
        chunk_size: Images per forward.
        startup_s: Seconds that this command needed before its work.
    """
    question = {
        "kind": "time of predictions into a file",
        "model": description.model,
        "image_size": description.image_size,
        "classes": len(description.class_names),
        "images": digest_of_images(part.data),
        "cache": [part.data.cache, part.data.cache_limit_gib],
        "device": _name(setup),
        "processors": [processor_name(), available_cpus()],  # decode, also for a card
        "precision": setup.precision,
        "batch_size": setup.batch_size,
        "chunk_size": chunk_size,
        "num_workers": setup.num_workers,
        "views": [view.name for view in views],
        **code_versions(),
    }
    answer = cache.read(question)
    if answer is not None:
        return TtaTime(**json.loads(answer))
    with setup.applied():  # words what may go wrong on the device
        model = load_part(part, description).to(setup.device)
    timer = PassTimer(model, part.data, setup, chunk_size)
    time_s = measure_tta_time(timer, views, startup_s=startup_s)
    cache.write(question, json.dumps(time_s.as_dict()).encode())
    return time_s


def measure_tta_time(
    timer: PassTimer,
    views: Sequence[View],
    *,
    startup_s: float = 0.0,
    budget_s: float = _BUDGET_S,
) -> TtaTime:
    """Fit the time of predictions to passes of two sizes and two numbers of views.

    Args:
        timer: Runs the passes.
        views: All that a policy may have; the image as it is among them.
        startup_s: Seconds that a command needs before it predicts.
        budget_s: About how long the passes may take in all; on a slow device they take longer.
    """
    setup = timer.setup
    with setup.applied(), torch.inference_mode():
        few, many = (View(),), tuple(views[:_MANY_VIEWS])
        if len(many) < 2:  # two numbers of views tell what one costs
            many = (View(), *parse_views([{"hflip": True}]))
        cold = timer(setup.batch_size, few)
        warm = timer(setup.batch_size, few)
        batch_s = timer(setup.batch_size, many).seconds / len(many)
        passes = [
            timer(images, seen)._replace(turn=turn)
            for turn, images, seen in _design(setup.batch_size, few, many, batch_s, budget_s)
        ]
        view_s = {view.name: timer.view_seconds(view) for view in dict.fromkeys((*views, *many))}
        decode_s = timer.decode_seconds()
    how = f"{len(passes)} short predictions, engine=eager"
    return fit_tta_time(
        passes,
        view_s,
        chunk_size=timer.chunk_size,
        reason=f"{how}, on {_name(setup)} in {setup.precision}",
        decode_s=decode_s,
        startup_s=startup_s + max(0.0, cold.seconds - warm.seconds),
    )


def _design(
    batch_size: int,
    few: tuple[View, ...],
    many: tuple[View, ...],
    batch_s: float,
    budget_s: float,
) -> Iterator[tuple[int, int, tuple[View, ...]]]:
    """Choose sizes whose passes take about the budget, in turns in which drifts cancel."""
    units = (1 + _LARGER) * (len(few) + len(many))  # batches of views in a turn of one-batch passes
    turn_s = units * max(batch_s, 1e-9)
    batches, repeats, larger = int(budget_s / (_REPEATS * turn_s)), _REPEATS, _LARGER
    if turn_s > budget_s:  # a slow device: fewer and smaller passes
        repeats, larger, many = 1, 2, many[:2]
    batches = max(1, min(_MOST_BATCHES, batches))
    cells = [
        (size * batch_size, views) for size in (batches, batches * larger) for views in (few, many)
    ]
    for turn in range(repeats):
        for images, views in cells if turn % 2 == 0 else reversed(cells):
            yield turn, images, views


def _name(setup: PredictionSetup) -> str:
    return setup.gpu.name if setup.device == "cuda" else f"{available_cpus()} processors"


def _wait_for(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)
