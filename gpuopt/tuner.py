"""The process that `gpuopt tune` measures in: fresh, and then gone.

Reads the settings of a training as a line of JSON from stdin, then one request a line, and answers
each with a line. It ends when nobody asks any more.
"""

import json
import os
import queue
import tempfile
import threading
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import lightning.pytorch as L
import torch
from lightning.fabric.plugins.environments.lightning import LightningEnvironment

from gpuopt.build import build_callbacks
from gpuopt.callbacks import CompileChooser
from gpuopt.hardware import lightning_precision
from gpuopt.line_protocol import answering
from gpuopt.logs import logging_to
from gpuopt.parallel.rank import ALONE
from gpuopt.run_parts import build_data, build_model, plan_run, process_settings, total_steps
from gpuopt.schema import TrainConfig, to_train_config
from gpuopt.session.device import faults_in_words
from gpuopt.session.plan import Plan
from gpuopt.session.precision_check import settle_precision
from gpuopt.tuning.fit_timing import FitTiming
from gpuopt.tuning.loader_setting import LoaderSetting
from gpuopt.tuning.round_clock import RoundLimits

__all__ = ["TrainingBench", "main"]

# Callbacks that change what a step takes; the others save, stop or report.
_OF_A_STEP = ("adaptive_batch_size", "moving_average", "oom_recovery")
_ENDLESS_STEPS = 10**9


class TrainingBench:
    """One training on one device, measured in whatever way is asked.

    Args:
        config: The checked settings.
        plan: How they run here.
        probe_s: Seconds that steps are timed at least.
    """

    def __init__(self, config: TrainConfig, plan: Plan, probe_s: float) -> None:
        self._config = config
        self._data = build_data(config, plan)
        self._model = build_model(config, plan, self._data)
        with tempfile.TemporaryDirectory() as folder:
            settled = settle_precision(
                plan,
                self._model,
                self._data,
                requested=config.precision.name,
                tries=config.precision_probe,
                folder=Path(folder),
                device=torch.device(plan.accelerator),
                plan_for=lambda precision: plan_run(config, ALONE, precision),
            )
        self._plan = settled.plan.with_workers(
            config.num_workers,
            decoded=self._data.is_decoded,
            prefetch_factor=config.prefetch_factor,
        )
        limits = RoundLimits(least_s=probe_s, most_s=10 * probe_s)
        self._timing = FitTiming(self._trainer, self._model, self._data, limits)

    def facts(self) -> dict[str, Any]:
        """Return what the training is, as plain values."""
        plan, config = self._plan, self._config
        per_epoch = plan.global_batches.steps(self._data.train_size, 1)
        given = LoaderSetting(plan.num_workers, config.prefetch_factor, self._data.pin_memory)
        return {
            "device": plan.gpu.name,
            "accelerator": plan.accelerator,
            "precision": plan.precision,
            "image_size": plan.image_size,
            "micro_batch_size": plan.micro_batch_size,
            "global_batch_size": plan.global_batch_size,
            "checkpointing": plan.checkpointing,
            "batches_per_step": plan.accumulate_grad_batches,
            "steps_per_epoch": per_epoch,
            "steps": total_steps(config, plan, self._data),
            "setting": asdict(given),
            "choices": [choice.as_dict() for choice in plan.choices],
        }

    def answer(self, request: Mapping[str, Any]) -> Any:
        """Measure what is asked.

        Args:
            request: `do` names it: `facts`, `reading`, `alone`, `beside` (with `setting`), or
                `compile`.
        """
        kind = request["do"]
        if kind == "facts":
            return self.facts()
        if kind == "reading":
            return asdict(self._timing.reading())
        if kind == "alone":
            return self._timing.alone().as_dict()
        if kind == "beside":
            return self._timing.beside(LoaderSetting(**request["setting"])).as_dict()
        return self._compile()

    def _compile(self) -> dict[str, Any]:
        data, plan, config = self._data, self._plan, self._config
        size = min(plan.micro_batch_size, plan.global_batch_size)
        chooser = CompileChooser(
            backend=config.compile.backend,
            time_limit_s=config.compile.time_limit_s,
            total_steps=_ENDLESS_STEPS,  # who asks decides what pays back
            batches_per_step=lambda: 1,
            sample_batch=lambda: data.sample_batch(size),
            cache_dir=config.cache_dir,
        )
        self._timing.at_start(chooser)
        assert chooser.choice is not None  # the fit has started
        if chooser.result is None:
            return {"trials": [], "reason": chooser.choice.reason}
        return chooser.result.as_dict()

    def _trainer(self, callbacks: Sequence[L.Callback]) -> L.Trainer:
        plan, config = self._plan, self._config
        nodes = config.callbacks
        own = build_callbacks(nodes, skip=tuple(name for name in nodes if name not in _OF_A_STEP))
        return L.Trainer(
            accelerator="gpu" if plan.accelerator == "cuda" else "cpu",
            devices=1,
            precision=lightning_precision(plan.precision),
            max_epochs=-1,
            accumulate_grad_batches=plan.accumulate_grad_batches,
            gradient_clip_val=config.trainer.gradient_clip_norm,
            deterministic=config.trainer.deterministic,
            callbacks=[*own, *callbacks],
            plugins=[LightningEnvironment()],
            logger=False,
            limit_val_batches=0,
            num_sanity_val_steps=0,
            enable_checkpointing=False,
            enable_model_summary=False,
            enable_progress_bar=False,
            use_distributed_sampler=False,
        )


def main() -> None:
    """Answer requests until nobody asks any more."""
    with answering() as send, logging_to(None, on_screen=False):
        _serve(_requests(), send)


def _serve(requests: "queue.Queue[str]", send: Callable[[Mapping[str, Any]], None]) -> None:
    order = json.loads(requests.get())
    config = to_train_config(order["settings"])
    plan = plan_run(config, ALONE)
    if config.compile.mode == "auto":
        config = replace(config, compile=replace(config.compile, mode="off"))
    words = {
        "card": plan.gpu.name,
        "setting": f"micro_batch_size={plan.micro_batch_size}",
        "remedy": f"try micro_batch_size={max(1, plan.micro_batch_size // 2)}",
    }
    with process_settings(config, plan, ALONE), faults_in_words(**words):
        bench = TrainingBench(config, plan, float(order["probe_s"]))
        send({"result": bench.facts()})
        while True:
            send({"result": bench.answer(json.loads(requests.get()))})


def _requests() -> "queue.Queue[str]":
    """Read stdin in a thread, which ends the process when the one that asks has ended."""
    lines: queue.Queue[str] = queue.Queue()

    def read() -> None:
        # Not `sys.stdin`, which loader processes close: a lock that is held here would hold them.
        with os.fdopen(os.dup(0), encoding="utf-8") as stream:
            for line in stream:
                lines.put(line)
        os._exit(1)

    threading.Thread(target=read, daemon=True).start()
    return lines


if __name__ == "__main__":
    main()
