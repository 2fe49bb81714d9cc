"""One run, from its folder: read the resolved configuration, train, test, write the results.

Never runs Hydra: what a run does is decided by the configuration in its folder alone, so that a
resumed run, and every rank of one, starts from the same input. `python -m gpuopt.worker FOLDER`
is one rank; `gpuopt train` starts them, and so may torchrun.
"""

import contextlib
import logging
import signal
import sys
from collections.abc import Iterator
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path
from types import FrameType
from typing import Any

from rich.console import Console

from gpuopt.build import build, build_callbacks
from gpuopt.callbacks import DurableCheckpoint, Preemption
from gpuopt.data import ImageDataModule
from gpuopt.endings import ending_clearly
from gpuopt.errors import InputError, PreemptedError
from gpuopt.logs import logging_to
from gpuopt.measure import Stopwatch
from gpuopt.model import Classifier
from gpuopt.parallel.rank import ALONE, Rank
from gpuopt.run import RunFolder
from gpuopt.run_parts import RunParts, build_parts, plan_run, process_settings, total_steps
from gpuopt.schema import TrainConfig, to_train_config
from gpuopt.session.batch_search import searching_where_asked, with_found
from gpuopt.session.calibrating import conclude_validation
from gpuopt.session.callback_arguments import callback_arguments
from gpuopt.session.compilation import (
    compile_choosers,
    with_compiled,
)
from gpuopt.session.console import make_console, print_plan, print_results
from gpuopt.session.device import faults_in_words
from gpuopt.session.evaluation import Evaluation, chosen_in_test, draw_figures, evaluate
from gpuopt.session.fitting import FitSettings, Fitted, fit
from gpuopt.session.forecast import forecast_training_s, samples_seen
from gpuopt.session.plan import Plan
from gpuopt.session.results import assemble_results, log_results, write_artifacts
from gpuopt.session.resuming import checkpoint_to_resume
from gpuopt.session.scalar_logs import make_logger
from gpuopt.session.training_facts import training_facts
from gpuopt.session.weights import export_weights, load_weights
from gpuopt.storage import Sidecar
from gpuopt.storage.checkpoint import read_checkpoint

__all__ = ["main", "stopping_on_signals", "work"]

_log = logging.getLogger("gpuopt.worker")  # also where this file is `__main__`


def main() -> None:
    """Run `python -m gpuopt.worker FOLDER` as one rank."""
    rank = Rank.from_environment()
    rank.die_with_launcher()
    with ending_clearly("worker", debug=False), rank.reporting():
        _work_as(rank, sys.argv[1:])
    sys.exit(0)


def _work_as(rank: Rank, arguments: list[str]) -> None:
    if len(arguments) != 1:
        raise InputError("python -m gpuopt.worker takes one argument, the folder of a run")
    if not (Path(arguments[0]) / "config.yaml").is_file():
        raise InputError(f"{arguments[0]} is not the folder of a run: it holds no config.yaml")
    run = RunFolder(Path(arguments[0]))
    log = rank.log_path(run.log_path)
    if not rank.is_first:
        rank.speak_into(log)
    console = make_console() if rank.is_first else Console(quiet=True)
    takes_lock = rank.is_first and rank.launcher is None
    lock = run.lock if takes_lock else contextlib.nullcontext()
    with lock, logging_to(log, on_screen=rank.is_first):
        work(run, console, rank)


def work(run: RunFolder, console: Console, rank: Rank = ALONE) -> dict[str, Any]:
    """Carry out a run; go on with its newest valid checkpoint when it has one.

    Args:
        run: The folder, locked, with its configuration.
        console: Where the plan and the results are printed.
        rank: This process's place among those that train together. The first one tests and
            writes the results when the others have ended.

    Returns:
        What `results.json` holds; empty for all ranks but the first.

    Raises:
        GpuoptError: See the exit codes in `gpuopt.errors`.
    """
    raw = run.read_config()
    config = to_train_config(raw)
    plan = plan_run(config, rank)
    with stopping_on_signals(run), process_settings(config, plan, rank), _faults(run, plan):
        parts = build_parts(config, plan, rank, run.path)
        trained = _train(run, config, parts, console, rank)
        if not rank.is_first:
            return {}
        evaluation, results = _conclude(run, raw, config, parts, trained, console)
    print_results(console, evaluation, config.data_name, config.tta, run.path)
    return results


@dataclass(frozen=True)
class _Trained:
    """A training that has ended.

    Attributes:
        fitted: Its Trainer and checkpoints.
        plan: With what callbacks chose on the way.
        logger: Still open.
        forecast_s: How long it was to take; None where nothing was predicted.
        training_s: How long it took.
    """

    fitted: Fitted
    plan: Plan
    logger: Any
    forecast_s: float | None
    training_s: float


def _train(
    run: RunFolder, config: TrainConfig, parts: RunParts, console: Console, rank: Rank
) -> _Trained:
    """Say what will be done, and do it."""
    plan, model, data = parts.plan, parts.model, parts.data
    steps = total_steps(config, plan, data)
    samples = samples_seen(plan, data.train_size, config.trainer.max_epochs, steps)
    forecast_s = forecast_training_s(plan, model.name, samples, cache_dir=config.cache_dir)
    print_plan(
        console,
        plan,
        model=f"{model.name}, {model.weights_source} weights",
        data_name=config.data_name,
        data=data,
        steps=steps,
        policy=config.tta,
        forecast_s=forecast_s,
    )
    logger = make_logger(config.logger.name, run.path)
    callbacks = build_callbacks(
        searching_where_asked(config.callbacks, config.micro_batch_size),
        skip=("checkpoint",),
        given=callback_arguments(plan, data, config.cache_dir, model.name),
    )
    callbacks += compile_choosers(config, plan, data, steps)
    with Stopwatch() as training_time:
        fitted = _fit(run, config, plan, model, data, callbacks, logger, rank)
    plan = with_compiled(with_found(plan, callbacks), callbacks)
    return _Trained(fitted, plan, logger, forecast_s, training_time.duration_s)


def _conclude(
    run: RunFolder,
    raw: dict[str, Any],
    config: TrainConfig,
    parts: RunParts,
    trained: _Trained,
    console: Console,
) -> tuple[Evaluation, dict[str, Any]]:
    """Test the best weights and write all that stays of the run."""
    model, data, fitted, plan = parts.model, parts.data, trained.fitted, trained.plan
    best = _load_best(model, fitted.checkpoint)
    with Stopwatch() as test_time:
        evaluation = evaluate(
            _to_device(model, fitted),
            data,
            config.tta,
            precision=plan.precision,
            show_progress=sys.stderr.isatty(),
        )
    figures = draw_figures(evaluation, data, f"{config.model['name']} on {config.data_name}")
    write_artifacts(run.path, evaluation, data, figures)
    calibration = conclude_validation(
        run.path,
        model,
        data,
        evaluation,
        config.tta,
        precision=plan.precision,
        calibrates=config.use_calibration,
        console=console,
    )
    export_weights(model, data.class_names, run.file("model.safetensors"))
    last_step = fitted.trainer.global_step
    log_results(trained.logger, raw, evaluation, figures, last_step, plan.learning_rate)
    results = assemble_results(
        plan=plan,
        model=model.name,
        data=data,
        policy=config.tta.name,
        evaluation=evaluation,
        calibration=calibration,
        training={
            "predicted_s": trained.forecast_s,
            "precision_probe": parts.precision_probe,
            **training_facts(fitted, model, best),
        },
        durations_s={
            "data": parts.data_s,
            "training": trained.training_s,
            "test": test_time.duration_s,
        },
        choices=(*plan.choices, *chosen_in_test(evaluation, config.tta)),
    )
    run.write_results(results)
    return evaluation, results


@contextlib.contextmanager
def stopping_on_signals(run: RunFolder) -> Iterator[None]:
    """Outside of training, where a step has to be finished, stop at once but say how to go on."""

    def stop(number: int, frame: FrameType | None) -> None:
        raise PreemptedError(
            f"stopped by {signal.Signals(number).name}; go on with resume={run.path}"
        )

    previous = {number: signal.signal(number, stop) for number in Preemption.signals}
    try:
        yield
    finally:
        for number, handler in previous.items():
            if signal.getsignal(number) is stop:  # a stop leaves a late SIGUSR2 ignored
                signal.signal(number, handler)


def _faults(run: RunFolder, plan: Plan) -> AbstractContextManager[None]:
    smaller = max(1, plan.micro_batch_size // 2)
    return faults_in_words(
        card=plan.gpu.name,
        setting=f"micro_batch_size={plan.micro_batch_size}",
        remedy=f"go on with resume={run.path} micro_batch_size={smaller}, which changes only the "
        "speed",
    )


def _fit(
    run: RunFolder,
    config: TrainConfig,
    plan: Plan,
    model: Classifier,
    data: ImageDataModule,
    callbacks: list[Any],
    logger: Any,
    rank: Rank,
) -> Fitted:
    found = checkpoint_to_resume(run.checkpoints, model, config.trainer.max_epochs)
    if found is not None:
        _log.info("resuming from %s (step %d)", found[0].name, found[1].step)
    checkpoint = build(
        config.callbacks["checkpoint"], "callbacks.checkpoint", folder=run.checkpoints
    )
    settings = FitSettings(
        max_epochs=config.trainer.max_epochs,
        max_steps=config.trainer.max_steps,
        gradient_clip_norm=config.trainer.gradient_clip_norm,
        log_every_n_steps=config.trainer.log_every_n_steps,
        deterministic=config.trainer.deterministic,
    )
    return fit(
        plan,
        settings,
        model,
        data,
        folder=run.path,
        checkpoint=checkpoint,
        callbacks=callbacks,
        logger=logger,
        resume_from=found[0] if found else None,
        rank=rank,
    )


def _load_best(model: Classifier, checkpoint: DurableCheckpoint) -> Path | None:
    """Load the best epoch's weights; without an intact file the trained weights stay."""
    path = checkpoint.best_path
    if Sidecar(path).match() is None:
        if path.exists():
            _log.warning("%s is damaged: the last epoch's weights are tested instead", path.name)
        return None
    load_weights(model, read_checkpoint(path), str(path))
    return path


def _to_device(model: Classifier, fitted: Fitted) -> Classifier:
    """Lightning moves the model back to the CPU after a fit."""
    return model.to(fitted.trainer.strategy.root_device).eval()


if __name__ == "__main__":
    main()
