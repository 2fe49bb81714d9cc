"""A whole run in this process: what it leaves behind, and that resuming it changes nothing."""

import csv
import json
import os
import shutil
import signal

import pytest
import torch

from gpuopt.callbacks import ExactResume
from gpuopt.errors import FaultError, InputError, PreemptedError
from gpuopt.storage import FileRecord, Sidecar, sha256_of
from gpuopt.storage.checkpoint import read_checkpoint
from gpuopt.worker import main


@pytest.fixture(scope="module")
def finished(train, tmp_path_factory):
    folder = tmp_path_factory.mktemp("run")
    words = ("logger=tensorboard", "tta=legacy", "trainer.max_epochs=2", "micro_batch_size=auto")
    return folder, train(folder, *words, pictures=True)


def test_results_are_what_the_file_holds(finished):
    folder, results = finished
    assert json.loads((folder / "results.json").read_text()) == json.loads(json.dumps(results))
    assert (results["schema"], results["state"]) == (1, "finished")
    assert results["data"]["classes"] == 10
    assert results["training"]["epochs"] == 2
    assert results["training"]["initial_weights"] == "random"


def test_scores_come_with_intervals_and_a_paired_difference(finished):
    metrics = finished[1]["metrics"]
    for name in ("macro_f1", "macro_f1_tta", "accuracy", "accuracy_tta"):
        assert metrics[name]["low"] <= metrics[name]["value"] <= metrics[name]["high"]
    difference = metrics["macro_f1_difference"]["value"]
    assert difference == pytest.approx(
        metrics["macro_f1_tta"]["value"] - metrics["macro_f1"]["value"]
    )


def test_every_automatic_choice_has_its_evidence(finished):
    choices = {choice["key"]: choice for choice in finished[1]["choices"]}
    assert choices.keys() >= {"gpu", "precision", "image_size", "micro_batch_size", "num_workers"}
    assert choices["micro_batch_size"]["value"] == 32
    assert choices["model.channels_last"]["value"] is False  # no BatchNorm in it
    assert choices["precision"]["value"] == "fp32"  # on a CPU, where nothing has to be tried
    assert finished[1]["training"]["precision_probe"] is None
    assert choices["tta.chunk_size"]["value"] == 32
    assert all(choice["reason"] and choice["evidence"] for choice in choices.values())


def test_predictions_agree_with_the_scores(finished):
    folder, results = finished
    with (folder / "predictions.csv").open() as stream:
        rows = list(csv.DictReader(stream))
    assert len(rows) == results["data"]["test_images"]
    right = sum(row["target"] == row["prediction"] for row in rows) / len(rows)
    assert right == pytest.approx(results["metrics"]["accuracy_tta"]["value"])
    shares = [float(value) for key, value in rows[0].items() if key.startswith("p_")]
    assert sum(shares) == pytest.approx(1.0, abs=1e-3)


def test_pictures_and_log_are_there(finished):
    folder = finished[0]
    for name in ("confusion_matrix.png", "samples.png", "misclassified.png"):
        assert (folder / name).read_bytes().startswith(b"\x89PNG")


def test_tensorboard_shows_scalars_pictures_text_and_hparams(finished):
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    tags: dict[str, set[str]] = {"scalars": set(), "images": set(), "tensors": set()}
    for file in (finished[0] / "tensorboard").glob("events*"):
        events = EventAccumulator(str(file))
        events.Reload()
        for kind, found in tags.items():
            found.update(events.Tags()[kind])
    assert tags["scalars"] >= {
        "train/loss_step",
        "val/f1",
        "val/loss",
        "lr/head",
        "throughput/samples_per_second",
        "throughput/data_wait_ratio",
        "test/f1",
        "test/f1_tta",
    }
    assert tags["images"] >= {"test/confusion_matrix", "test/misclassified", "test/samples"}
    assert "config/text_summary" in tags["tensors"]


def test_the_checkpoint_describes_its_model(finished):
    best = read_checkpoint(finished[0] / "checkpoints/best.ckpt")
    assert best["gpuopt"]["model"] == "test_vit"
    assert best["gpuopt"]["class_names"] == [str(digit) for digit in range(10)]
    assert best["gpuopt"]["image_size"] == 32


def test_weights_are_exported_for_others(finished):
    from safetensors.torch import load_file

    exported = load_file(finished[0] / "model.safetensors")
    best = read_checkpoint(finished[0] / "checkpoints/best.ckpt")["state_dict"]
    assert all(torch.equal(best[f"backbone.{name}"], value) for name, value in exported.items())


@pytest.fixture
def disturb(monkeypatch):
    """Let something happen at one step of the next fits, until the returned call undoes it."""
    original = ExactResume.on_train_batch_start

    def at(step, act):
        def disturbed(self, trainer, pl_module, batch, batch_idx):
            original(self, trainer, pl_module, batch, batch_idx)
            if trainer.global_step == step:
                act()

        monkeypatch.setattr(ExactResume, "on_train_batch_start", disturbed)
        return lambda: monkeypatch.setattr(ExactResume, "on_train_batch_start", original)

    return at


def weights(folder):
    return read_checkpoint(folder / "checkpoints/last.ckpt")["state_dict"]


FEW = ("data.test_ratio=0.7",)  # which leaves 4 steps for an epoch
OPTIONS = {
    "plain": (),
    "accumulation": ("micro_batch_size=48",),
    "averaged, mixed, dropped": (
        "callbacks.moving_average.enabled=true",
        "data.mixup_alpha=0.4",
        "data.cutmix_alpha=0.4",
        "model.drop_rate=0.2",
    ),
    "workers": ("num_workers=2",),
}


@pytest.mark.parametrize("options", OPTIONS.values(), ids=OPTIONS.keys())
def test_a_preempted_run_ends_with_the_same_weights(train, tmp_path, disturb, options):
    """Stopped in the first and in the second epoch, weights are equal to the last bit."""
    options = (*FEW, "trainer.max_epochs=2", *options)
    reference = train(tmp_path / "whole", *options)
    for step in (1, 5):
        undo = disturb(step, lambda: os.kill(os.getpid(), signal.SIGTERM))
        with pytest.raises(PreemptedError, match="resume="):
            train(tmp_path / "parts", *options)
        undo()
    resumed = train(tmp_path / "parts", *options)
    whole, parts = weights(tmp_path / "whole"), weights(tmp_path / "parts")
    assert all(torch.equal(whole[name], parts[name]) for name in whole)
    assert resumed["metrics"] == reference["metrics"]


def test_a_run_that_fails_without_a_checkpoint_starts_again_the_same(train, tmp_path, disturb):
    reference = train(tmp_path / "whole")

    def fail():
        raise RuntimeError("injected")

    undo = disturb(2, fail)
    with pytest.raises(RuntimeError, match="injected"):
        train(tmp_path / "parts")
    undo()
    assert train(tmp_path / "parts")["metrics"] == reference["metrics"]


def test_a_run_does_not_go_back_to_fewer_epochs(train, tmp_path):
    train(tmp_path, "trainer.max_epochs=3")
    with pytest.raises(InputError, match="has come to epoch 3"):
        train(tmp_path, "trainer.max_epochs=1")


SAVES_OFTEN = (*FEW, "trainer.max_epochs=2", "callbacks.checkpoint.every_n_steps=1")


@pytest.fixture
def stopped(train, disturb):
    """Train one run whole and stop another in its first epoch; return the newest checkpoint."""

    def stop(folder):
        train(folder / "whole", *SAVES_OFTEN)
        undo = disturb(3, lambda: os.kill(os.getpid(), signal.SIGTERM))
        with pytest.raises(PreemptedError):
            train(folder / "parts", *SAVES_OFTEN)
        undo()
        return folder / "parts/checkpoints/last.ckpt"

    return stop


def test_a_damaged_checkpoint_falls_back_to_the_one_before(train, tmp_path, stopped, caplog):
    last = stopped(tmp_path)
    content = bytearray(last.read_bytes())
    content[len(content) // 2] ^= 1
    last.write_bytes(bytes(content))
    with caplog.at_level("INFO", "gpuopt"):
        train(tmp_path / "parts", *SAVES_OFTEN)
    assert "last.ckpt is damaged" in caplog.text
    assert "resuming from previous.ckpt" in caplog.text
    whole, parts = weights(tmp_path / "whole"), weights(tmp_path / "parts")
    assert all(torch.equal(whole[name], parts[name]) for name in whole)


def test_a_late_signal_of_the_launcher_is_ignored_once_the_run_has_saved(train, tmp_path, disturb):
    before = signal.getsignal(signal.SIGUSR2)
    disturb(3, lambda: os.kill(os.getpid(), signal.SIGUSR2))
    try:
        with pytest.raises(PreemptedError, match="saved"):
            train(tmp_path)
        assert signal.getsignal(signal.SIGUSR2) is signal.SIG_IGN
    finally:
        signal.signal(signal.SIGUSR2, before)


def test_a_vouched_for_checkpoint_that_would_run_code_is_passed_over(
    train, tmp_path, stopped, caplog
):
    """Somebody who can write the file can write its checksum as well."""
    last = stopped(tmp_path)
    content = read_checkpoint(last)
    torch.save({**content, "hyper_parameters": {"_instantiator": "os.system"}}, last)
    size_bytes = last.stat().st_size
    Sidecar(last).vouch(FileRecord(size_bytes, sha256_of(last), content["global_step"], 0))
    with caplog.at_level("INFO", "gpuopt"):
        train(tmp_path / "parts", *SAVES_OFTEN)
    assert "asks to call code (_instantiator); it is not used" in caplog.text
    assert "resuming from previous.ckpt" in caplog.text
    whole, parts = weights(tmp_path / "whole"), weights(tmp_path / "parts")
    assert all(torch.equal(whole[name], parts[name]) for name in whole)


def test_a_checkpoint_of_another_model_is_refused(train, tmp_path):
    train(tmp_path / "other", "model.name=test_resnet")
    (tmp_path / "run").mkdir()
    shutil.copytree(tmp_path / "other/checkpoints", tmp_path / "run/checkpoints")
    with pytest.raises(InputError, match="weights of another model than test_vit"):
        train(tmp_path / "run", "trainer.max_epochs=2")


def test_another_micro_batch_only_changes_the_speed(train, tmp_path):
    """The optimizer sees the same global batches; a ViT has no batch statistics."""
    one = train(tmp_path / "a", "micro_batch_size=128")
    other = train(tmp_path / "b", "micro_batch_size=37")
    assert one["plan"]["accumulate_grad_batches"] == 1
    assert other["plan"]["accumulate_grad_batches"] == 4
    first, second = weights(tmp_path / "a"), weights(tmp_path / "b")
    for name, value in first.items():
        torch.testing.assert_close(value, second[name], rtol=1e-3, atol=2e-4)


def test_nan_loss_names_the_samples(train, tmp_path, monkeypatch):
    from gpuopt.model import Classifier

    original = Classifier.training_step
    monkeypatch.setattr(
        Classifier,
        "training_step",
        lambda self, batch, i: original(self, batch, i) * (float("nan") if i == 2 else 1.0),
    )
    with pytest.raises(FaultError, match="not finite"):
        train(tmp_path)
    report = json.loads((tmp_path / "bad_batch.json").read_text())
    assert len(report["samples"]) == 64
    assert report["samples"][0].startswith("digit_")


def test_running_out_of_memory_says_how_to_go_on(train, tmp_path, disturb):
    def fail():
        raise torch.OutOfMemoryError("CUDA out of memory.")

    undo = disturb(2, fail)
    with pytest.raises(FaultError, match=r"resume=.* micro_batch_size=32"):
        train(tmp_path)
    undo()
    resumed = train(tmp_path, "micro_batch_size=32")
    assert resumed["plan"]["accumulate_grad_batches"] == 4


# PyTorch raises out of its handler of SIGCHLD, wherever this process happens to be.
@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
def test_a_killed_loader_process_is_one_line(train, tmp_path, disturb):
    import multiprocessing

    def kill():
        for child in multiprocessing.active_children():
            os.kill(child.pid, signal.SIGKILL)

    disturb(2, kill)
    with pytest.raises(FaultError, match="worker"):
        train(tmp_path, "num_workers=2", "micro_batch_size=8")


def test_every_callback_can_be_switched_on_together(train, tmp_path):
    results = train(
        tmp_path,
        "callbacks.early_stopping.enabled=true",
        "callbacks.early_stopping.patience=1",
        "callbacks.early_stopping.min_delta=1.0",
        "callbacks.moving_average.enabled=true",
        "callbacks.gpu_stats.enabled=false",
        "trainer.max_epochs=5",
        "trainer.gradient_clip_norm=null",
        "optimizer=sgd",
        "scheduler=constant",
        "logger=csv",
        "data.class_weights=balanced",
    )
    assert results["training"]["epochs"] == 2  # the second did not improve by 1.0
    assert "samples_per_second" not in results["training"]
    assert (tmp_path / "csv/metrics.csv").is_file()


def test_steps_and_determinism_are_respected(train, tmp_path):
    results = train(tmp_path, "trainer.max_steps=3", "trainer.deterministic=true")
    assert results["training"]["steps"] == 3
    assert not torch.are_deterministic_algorithms_enabled()  # given back


@pytest.mark.parametrize("precision", ["fp32", "tf32", "bf16"])
def test_precisions_train_with_clipping_and_a_fused_optimizer(train, tmp_path, precision):
    results = train(tmp_path, f"precision={precision}", "trainer.max_steps=3")
    # A CPU has no TF32 and says so.
    assert results["plan"]["precision"] == ("fp32" if precision == "tf32" else precision)


def test_fp16_on_a_cpu_is_refused(train, tmp_path):
    with pytest.raises(InputError, match="precision=fp16"):
        train(tmp_path, "precision=fp16")


def test_a_compiled_backbone_gives_the_same_scores(train, tmp_path):
    plain = train(tmp_path / "plain", "trainer.max_steps=3")
    compiled = train(
        tmp_path / "compiled",
        "trainer.max_steps=3",
        "compile.mode=default",
        "compile.backend=eager",
    )
    assert plain["metrics"] == compiled["metrics"]


def test_a_run_too_short_to_pay_back_compiling_stays_eager_and_says_so(train, tmp_path):
    plain = train(tmp_path / "plain", "trainer.max_steps=3")
    found = train(
        tmp_path / "auto",
        "trainer.max_steps=3",
        "compile.mode=auto",
        "compile.backend=eager",
        "compile.time_limit_s=30",
    )
    assert plain["metrics"] == found["metrics"]
    assert plain["training"]["compile"] is None
    trial = found["training"]["compile"]
    # Of the 64 that each of two micro-batches per step has.
    assert (trial["mode"], trial["steps_left"], trial["trials"]) == ("off", 6, [])
    (choice,) = (c for c in found["choices"] if c["key"] == "compile.mode")
    assert (choice["value"], choice["evidence"]) == ("off", "measured")
    assert "too few to pay back compiling" in choice["reason"]


def test_every_tta_preset_tests(train, tmp_path):
    whole = train(tmp_path, "tta=doc15", "trainer.max_steps=2")
    assert whole["metrics"]["tta"] == "doc15"
    again = train(tmp_path, "trainer.max_steps=2", "tta=comprehensive")  # resumes, only tests
    assert again["metrics"]["macro_f1"] == whole["metrics"]["macro_f1"]
    assert again["metrics"]["tta"] == "comprehensive"


def test_one_process_of_several_is_refused(train, tmp_path):
    with pytest.raises(InputError, match=r"trainer\.devices=2 and 1 process"):
        train(tmp_path, "trainer.devices=2")


@pytest.mark.parametrize("words", [[], ["nowhere"], ["a", "b"]])
def test_a_rank_takes_the_folder_of_a_run(monkeypatch, capsys, words):
    monkeypatch.setattr("sys.argv", ["worker", *words])
    with pytest.raises(SystemExit) as ended:
        main()
    assert ended.value.code == 2
    assert "the folder of a run" in capsys.readouterr().err.splitlines()[-1]


def test_a_folder_without_a_configuration_is_refused_and_left_alone(monkeypatch, capsys, tmp_path):
    monkeypatch.setattr("sys.argv", ["worker", str(tmp_path)])
    with pytest.raises(SystemExit) as ended:
        main()
    assert ended.value.code == 2
    assert "config.yaml" in capsys.readouterr().err.splitlines()[-1]
    assert not list(tmp_path.iterdir())
