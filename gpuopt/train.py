"""Train, test with and without test-time augmentation, and write a run folder."""

from pathlib import Path

from hydra.core.hydra_config import HydraConfig
from omegaconf import DictConfig

from gpuopt.configuration import check_machine
from gpuopt.entry import checked, run_command, typed_keys
from gpuopt.multirun import is_job, register_sweeps, run_sweep_job
from gpuopt.run import RunFolder, is_fold, resumed_settings

__all__ = ["main"]


def main() -> None:
    """Run `gpuopt train`."""
    register_sweeps()
    run_command("train", _train, leaves_files=True)


def _train(config: DictConfig) -> None:
    if is_job():
        run_sweep_job(config)
        return
    settings = checked(config)
    run = RunFolder(Path(HydraConfig.get().runtime.output_dir))
    with run.lock, run.discarded_on_bad_input():
        if settings["resume"]:
            settings = resumed_settings(settings, run.path, typed_keys(HydraConfig.get()))
            check_machine(settings)
        run.write_config(settings)
        # Only now: torch and Lightning take seconds to import, and bad input ends before.
        from gpuopt.logs import logging_to
        from gpuopt.session.console import make_console

        if settings.get("folds") and not is_fold(run.path):
            from gpuopt.fold_runs import train_folds

            train_folds(run, settings, make_console())
        elif (devices := settings["trainer"]["devices"]) > 1:
            from gpuopt.parallel.ranks import run_ranks

            run_ranks(run.path, devices, on_cpu=settings["gpu"]["name"] == "cpu")
        else:
            from gpuopt.worker import work

            with logging_to(run.log_path):
                work(run, make_console())


if __name__ == "__main__":
    main()
