import io
import os
import re
import signal
import sys

import pytest
from hydra.errors import HydraException
from omegaconf.errors import OmegaConfBaseException

from gpuopt.config import compose_settings
from gpuopt.endings import explain
from gpuopt.entry import run_command
from gpuopt.errors import (
    InputError,
    nearest,
    one_line,
)

BAD = {
    "gpu=rtx306": r"gpu=rtx306: no such option \(nearest: rtx3060",
    "tta=esential": r"tta=esential: no such option \(nearest: essential\)",
    "mode=highpref": r"nearest: highperf",
    "model=resnet": r"no such option.*resnet50",
    "foo=1": r"foo is no setting",
    "+foo=1": r"foo is no setting",
    "seeed=1": r"seeed is no setting \(nearest: seed\)",
    "trainer.max_epoch=1": r"trainer.max_epoch is no setting \(nearest: max_epochs",
    "model.learnin_rate=1": r"model.learnin_rate is no setting \(nearest: learning_rate",
    "+model.foo=1": r"model has no key 'foo'",
    "+data.augmentation.foo=1": r"data.augmentation has no key 'foo'",
    "+callbacks.gpu_stats.foo=1": r"callbacks.gpu_stats has no key 'foo'",
    "+trainer.foo=1": r"trainer.foo is no setting",
    "data=null": r"choose an option of data",
    "model=5": r"choose an option of model",
    "~data": r"cannot be taken away",
    "gpu": r"settings are written key=value",
    "model.learning_rate=abc": r"model.learning_rate='abc' is not of type float",
    "model.learning_rate=-1": r"out of range",
    "model.learning_rate=nan": r"out of range",
    "model.learning_rate=inf": r"out of range",
    "model.pretrained=maybe": r"model.pretrained='maybe' is not of type bool",
    "model.label_smoothing=1.5": r"out of range",
    "model.checkpointing=half": r"not one of none, auto, full, and not stages=K",
    "model.checkpointing=stages=0": r"stages=K with K from 1",
    "model.channels_last=perhaps": r"channels_last",
    "micro_batch_size=-4": r"micro_batch_size=-4 is out of range",
    "micro_batch_size=0": r"out of range",
    "micro_batch_size=big": r"neither auto nor a whole number",
    "micro_batch_size=1.5": r"neither auto nor a whole number",
    "global_batch_size=0": r"out of range",
    "global_batch_size=x": r"could not be converted",
    "accumulate_grad_batches=0": r"out of range",
    "image_size=8": r"out of range",
    "image_size=large": r"neither auto nor a whole number",
    "num_workers=-1": r"out of range",
    "num_workers=many": r"neither auto",
    "seed=-1": r"out of range",
    "folds=1": r"folds=1 is out of range: 2 to 20",
    "folds=21": r"out of range",
    "folds=x": r"could not be converted",
    "folds=2.5": r"could not be converted",
    "fold=0": r"fold=0 is one of several: say of how many with folds=N",
    "fold=-1": r"out of range",
    "seed=1.5": r"could not be converted",
    "debug=perhaps": r"could not be converted|not a valid bool",
    "trainer.max_epochs=0": r"out of range",
    "trainer.max_epochs=x": r"could not be converted",
    "trainer.devices=0": r"out of range",
    "trainer.gradient_clip_norm=0": r"out of range",
    "trainer.max_steps=-2": r"out of range",
    "precision=fp8": r"no such option",
    "precision.name=fp8": r"not one of",
    "compile.mode=max": r"not one of off, auto, default",
    "logger=wandb": r"no such option",
    "optimizer=adam": r"nearest: adamw",
    "optimizer.weight_decay=-1": r"out of range",
    "scheduler.final_ratio=2": r"out of range",
    "scheduler.warmup_samples=-1": r"out of range",
    "callbacks.checkpoint.mode=best": r"not one of max, min",
    "callbacks.checkpoint.every_n_steps=0": r"out of range",
    "callbacks.early_stopping.patience=0": r"out of range",
    "callbacks.gpu_stats.enabled=yep": r"true or false|not of type bool",
    "callbacks.moving_average.decay=1": r"out of range",
    "data.validation_ratio=1.5": r"out of range|validation_ratio",
    "data.cache=sometimes": r"not one of auto, on, off",
    "data.class_weights=some": r"not one of none, balanced",
    "data.mixup_alpha=-1": r"out of range|mixup",
    "data.augmentation.noise=-1": r"out of range|noise",
    "gpu.headroom_ratio=2": r"headroom_ratio",
    "gpu.memory_limit_mib=-1": r"memory_limit_mib",
    "tta.merge=median": r"tta.merge=median",
    "tta.chunk_size=0": r"tta.chunk_size",
    "tta.views=[{rotat:90}]": r"unknown operation 'rotat' \(nearest: rotate",
    "data._target_=os.system": r"is refused",
    "model._target_=torch.hub.load": r"is refused",
    "model._target_=gpuopt.model.Nothing": r"names no class",
}


@pytest.mark.parametrize("override", BAD)
def test_each_bad_setting_is_one_clear_line(override):
    with pytest.raises((InputError, HydraException, OmegaConfBaseException)) as caught:
        compose_settings("train", [override])
    message = explain(caught.value)
    assert re.search(BAD[override], message), message
    assert "\n" not in message
    assert len(message) < 400


def test_three_batch_sizes_that_disagree_show_the_arithmetic():
    with pytest.raises(InputError, match=r"16 x trainer\.devices=1 x .*=2 = 32"):
        compose_settings(
            "train",
            ["global_batch_size=100", "micro_batch_size=16", "accumulate_grad_batches=2"],
        )


def test_predict_has_its_own_settings():
    with pytest.raises(HydraException) as caught:
        compose_settings("predict", ["trainer.max_epochs=1"])
    assert "trainer is no setting" in explain(caught.value)
    assert compose_settings("predict", ["batch_size=16"])["batch_size"] == 16


def test_a_message_is_one_line_of_bounded_length_and_keeps_its_remedy():
    assert one_line("a\nb\x1b[2J\u202ec, é 日本") == "a\\nb\\x1b[2J\\u202ec, é 日本"
    assert one_line("short") == "short"
    long = one_line(f"key={'x' * 10_000}: give a shorter one")
    assert len(long) <= 2000
    assert long.startswith("key=xxx")
    assert long.endswith("xxx: give a shorter one")


def test_nearest_names_are_offered_only_when_they_help():
    assert nearest("rtx306", ["rtx3060", "cpu"]) == " (nearest: rtx3060)"
    assert nearest("zzz", ["a", "b"]) == " (known: a, b)"
    assert nearest("zzz", [f"name{i}" for i in range(50)]) == ""


@pytest.mark.parametrize(
    ("number", "name"),
    [(signal.SIGTERM, "SIGTERM"), (signal.SIGUSR1, "SIGUSR1"), (signal.SIGINT, "Ctrl-C")],
)
def test_a_scheduler_may_stop_a_command_before_it_answers_signals_itself(
    monkeypatch, capsys, number, name
):
    def task(config):
        os.kill(os.getpid(), number)

    before = signal.getsignal(number)
    monkeypatch.setattr("hydra.main", lambda **options: lambda task: lambda: task(None))
    monkeypatch.setattr("sys.argv", ["train"])
    with pytest.raises(SystemExit) as caught:
        run_command("train", task)
    assert caught.value.code == 75
    assert capsys.readouterr().err.splitlines()[-1] == (
        f"gpuopt train: stopped by {name}; the same command starts again"
    )
    assert signal.getsignal(number) is before


def test_a_terminal_that_lacks_a_character_gets_another(monkeypatch):
    content = io.BytesIO()
    monkeypatch.setattr("sys.stdout", io.TextIOWrapper(content, encoding="ascii"))
    monkeypatch.setattr("hydra.main", lambda **options: lambda task: lambda: task(None))
    monkeypatch.setattr("sys.argv", ["monitor"])
    with pytest.raises(SystemExit) as caught:
        run_command("monitor", lambda config: print("61 °C"))
    assert caught.value.code == 0
    sys.stdout.flush()
    assert content.getvalue() == b"61 ?C\n"
