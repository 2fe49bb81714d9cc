"""The process that probes one device for `gpuopt find_batch_size`: fresh, and then gone.

Reads what to measure as a line of JSON from stdin and answers with lines of JSON: each probe, then
the answer or the error. It ends when nobody waits for it any more.
"""

import json
import os
import sys
import threading
from collections.abc import Callable, Mapping
from dataclasses import asdict, replace
from typing import Any

import lightning.pytorch as L
import torch
from lightning.fabric.plugins.environments.lightning import LightningEnvironment
from lightning.pytorch.utilities.exceptions import _TunerExitException

from gpuopt.build import build, build_callbacks
from gpuopt.callbacks.module_probe import ModuleProbe
from gpuopt.errors import FaultError
from gpuopt.find_answer import card_of, make_request
from gpuopt.finding.allocator_snapshot import allocator_snapshot
from gpuopt.finding.answer import CardAnswer, SizedProbe
from gpuopt.finding.measured import DeviceProbe, measured_answer
from gpuopt.finding.prediction_probe import PredictionProbe
from gpuopt.finding.request import FindRequest
from gpuopt.finding.synthetic_images import SyntheticImages
from gpuopt.hardware import Gpu, apply_memory_limit, lightning_precision
from gpuopt.line_protocol import answering
from gpuopt.logs import logging_to
from gpuopt.memory import CONTEXT_BYTES
from gpuopt.memory.probe_meter import CudaProbeMeter, ProbeMeter
from gpuopt.model import Classifier
from gpuopt.schema import FindBatchSizeConfig, to_find_config
from gpuopt.session.compilation import compile_backbone
from gpuopt.session.device import cuda_properties, faults_in_words, torch_settings
from gpuopt.session.forward_pass import autocast_of
from gpuopt.tta import TestTimeAugmentation, TtaPredictor

__all__ = ["Prober", "main"]

# A head as large as ImageNet's: no smaller than the user's, and little beside a backbone.
_CLASSES = 1000
_STEPS = 1000  # of a schedule that nobody follows


class Prober:
    """Measures what is asked on one device.

    Args:
        config: The checked settings.
        request: What is asked.
        card: What is known about the device.
        meter: Reads its memory.
        device: Where the steps run.
        reason: How it is measured, in one clause.
        on_probe: Called after each probe.
    """

    def __init__(
        self,
        config: FindBatchSizeConfig,
        request: FindRequest,
        card: Gpu,
        meter: ProbeMeter,
        device: torch.device,
        reason: str,
        on_probe: Callable[[SizedProbe], None],
    ) -> None:
        self._config = config
        self._request = request
        self._card = card
        self._meter = meter
        self._device = device
        self._reason = reason
        self._on_probe = on_probe

    def answer(self) -> tuple[CardAnswer, dict[str, Any]]:
        """Probe; returns the answer, and the allocator's snapshot if a profile was asked for.

        Raises:
            InputError: When the model cannot be built.
        """
        precision = self._request.setup_on(self._card).precision
        with torch_settings(
            precision=precision,
            memory_limit_mib=None,  # was set before, less the context
            deterministic=self._config.trainer.deterministic,
            accelerator=self._device.type,
            device_index=self._device.index or 0,
        ):
            if self._request.trains:
                return self._in_training(precision)
            return self._search(self._predicting(precision), reserved_bytes=0)

    def _search(
        self, probe: Callable[[int], Any], reserved_bytes: int
    ) -> tuple[CardAnswer, dict[str, Any]]:
        capacity = self._meter.capacity_bytes() - reserved_bytes
        device = DeviceProbe(probe, capacity, self._device.index or 0)
        answer = measured_answer(
            self._request, self._card, device, self._reason, on_probe=self._on_probe
        )
        if self._config.memory_profile is None:
            return answer, {"absent": "no profile was asked for"}
        if answer.chosen < 1:
            return answer, {"absent": "not one sample fits: there is no step to look at"}
        return answer, allocator_snapshot(lambda: probe(answer.chosen), self._device)

    def _in_training(self, precision: str) -> tuple[CardAnswer, dict[str, Any]]:
        """Begin a fit that ends before its first step, when the probes have run."""
        model, data = self._model(), self._data()
        found: list[tuple[CardAnswer, dict[str, Any]]] = []

        def search(trainer: L.Trainer, module: L.LightningModule) -> None:
            probe = ModuleProbe(
                trainer,
                module,
                data.batch,
                self._meter,
                accumulates=lambda samples: samples < self._request.per_device,
                recovers=self._recovers() and self._ranks == 1,
            )
            # Several ranks reduce their gradients in buckets, which are a copy of them.
            copies = sum(p.nbytes for p in module.parameters() if p.requires_grad)
            found.append(self._search(probe, copies if self._ranks > 1 else 0))

        is_cuda = self._device.type == "cuda"
        trainer = L.Trainer(
            accelerator="gpu" if is_cuda else "cpu",
            devices=[self._device.index or 0] if is_cuda else 1,
            precision=lightning_precision(precision),
            max_epochs=1,
            gradient_clip_val=self._config.trainer.gradient_clip_norm,
            deterministic=self._config.trainer.deterministic,
            callbacks=[*self._averages(), _AtStart(search)],
            plugins=[LightningEnvironment()],
            logger=False,
            num_sanity_val_steps=0,
            enable_checkpointing=False,
            enable_model_summary=False,
            enable_progress_bar=False,
            use_distributed_sampler=False,
        )
        trainer.fit(model, datamodule=data)
        return found[0]

    @property
    def _ranks(self) -> int:
        return len(self._config.gpu_ids or ()) or self._config.trainer.devices

    def _recovers(self) -> bool:
        nodes = self._config.callbacks
        names = ("oom_recovery", "adaptive_batch_size")
        return any(nodes.get(name, {}).get("enabled", False) for name in names)

    def _averages(self) -> list[L.Callback]:
        """Build the callback that keeps averaged weights, the one that takes memory."""
        nodes = self._config.callbacks
        return build_callbacks(nodes, skip=tuple(n for n in nodes if n != "moving_average"))

    def _model(self) -> Classifier:
        config, request = self._config, self._request
        # `auto` is settled by the request, in inference to none: the model knows levels only.
        settled = {
            "name": request.model["name"],
            "pretrained": False,
            "checkpointing": request.checkpointing,
        }
        model: Classifier = build(
            {**config.model, **settled},
            "model",
            num_classes=_CLASSES,
            optimizer=build(request.optimizer, "optimizer"),
            scheduler=build(config.scheduler, "scheduler"),
            global_batch_size=config.global_batch_size,
            total_steps=_STEPS,
        )
        if request.trains:  # predictions have engines, and are not compiled by `compile=`
            # Of sizes below the device's share gradients are added up: no CUDA graphs.
            mode = "default" if config.compile.mode == "reduce-overhead" else config.compile.mode
            compile_backbone(model, mode, config.compile.backend, accumulates=True)
        return model

    def _data(self) -> SyntheticImages:
        node = self._config.data
        augmentation = node.get("augmentation")
        return SyntheticImages(
            classes=_CLASSES,
            image_size=self._request.size_on(self._card),
            mixup_alpha=node.get("mixup_alpha", 0.0),
            cutmix_alpha=node.get("cutmix_alpha", 0.0),
            augmentation=build(augmentation, "data.augmentation") if augmentation else None,
        )

    def _predicting(self, precision: str) -> PredictionProbe:
        model = self._model().to(self._device).eval()
        policy = self._config.tta if self._request.purpose == "tta" else TestTimeAugmentation()

        def make_predictor(samples: int) -> TtaPredictor:
            return TtaPredictor(
                model,
                policy.parsed_views(),
                device=self._device,
                chunk_size=samples,
                merge=policy.merge,
                autocast=autocast_of(precision, self._device),
            )

        return PredictionProbe(make_predictor, self._request.size_on(self._card), self._meter)


class _AtStart(L.Callback):
    """Calls a function when a fit begins, and ends the fit."""

    def __init__(self, function: Callable[[L.Trainer, L.LightningModule], None]) -> None:
        self._function = function

    def on_fit_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        self._function(trainer, pl_module)
        raise _TunerExitException  # Lightning's own way to end a fit that was a search


def main() -> None:
    """Answer one order."""
    with answering() as send, logging_to(None):
        order = json.loads(sys.stdin.readline())
        threading.Thread(target=_end_with_parent, daemon=True).start()
        answer, snapshot = _measure(order, lambda probe: send({"probe": asdict(probe)}))
        send({"answer": answer.as_dict(), "snapshot": snapshot})


def _measure(
    order: Mapping[str, Any], on_probe: Callable[[SizedProbe], None]
) -> tuple[CardAnswer, dict[str, Any]]:
    config, index = to_find_config(order["settings"]), int(order["device"])
    request = replace(make_request(config), image_size=order["image_size"])
    if request.trains:
        request = request.with_checkpointing(order["checkpointing"])
        request = request.with_offload(order["offload"])
    properties = cuda_properties(config.gpu, index + 1, index)
    if properties is None:
        raise FaultError(
            f"device {index}: the driver has it, and PyTorch cannot use it: install a build of "
            "PyTorch for CUDA that the driver is new enough for, or predict with gpu.memory_gib=N"
        )
    card = card_of(config.gpu, properties)
    if card.memory_limit_mib is not None:
        apply_memory_limit(card.memory_limit_mib, index, CONTEXT_BYTES)
    device = torch.device("cuda", index)
    prober = Prober(
        config, request, card, CudaProbeMeter(device), device, order["reason"], on_probe
    )
    with faults_in_words(
        card=card.name,
        setting="the model alone, before any batch",
        remedy="free the device, or take a smaller model",
    ):
        return prober.answer()


def _end_with_parent() -> None:
    sys.stdin.read()  # returns when the parent has ended, however it did
    os._exit(1)


if __name__ == "__main__":
    main()
