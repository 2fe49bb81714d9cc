"""A real training on the CPU, measured in whatever way is asked."""

import queue

import pytest
import torch

from gpuopt import tuner
from gpuopt.parallel.rank import ALONE
from gpuopt.run_parts import plan_run, process_settings
from gpuopt.schema import to_train_config
from gpuopt.tuner import TrainingBench
from gpuopt.tuning.loader_setting import LoaderSetting

WORDS = ("compile.backend=eager",)  # which compiles in no time


@pytest.fixture(scope="module")
def bench(compose, tiny):
    config = to_train_config(compose(*tiny, *WORDS))
    plan = plan_run(config, ALONE)
    with process_settings(config, plan, ALONE):
        yield TrainingBench(config, plan, probe_s=0.01)


def test_the_facts_are_those_of_the_training(bench):
    facts = bench.answer({"do": "facts"})
    assert (facts["accelerator"], facts["precision"]) == ("cpu", "fp32")
    assert (facts["micro_batch_size"], facts["batches_per_step"]) == (64, 2)
    assert facts["steps"] == facts["steps_per_epoch"] > 1
    assert LoaderSetting(**facts["setting"]) == LoaderSetting(0)
    assert {choice["key"] for choice in facts["choices"]} >= {"precision", "micro_batch_size"}


def test_steps_are_timed_with_the_loader_and_without_and_the_loader_alone(bench):
    reading = bench.answer({"do": "reading"})
    assert reading["batch_bytes"] > 64 * 3 * 32 * 32
    alone = bench.answer({"do": "alone"})
    setting = {"num_workers": 1, "prefetch_factor": 3, "pin_memory": False}
    beside = bench.answer({"do": "beside", "setting": setting})
    for figures in (alone, beside):
        assert figures["samples_per_second"] > 0
        assert figures["memory_bytes"] > 2**20
    assert (bench._data.num_workers, bench._data.prefetch_factor) == (1, 3)
    assert "train_dataloader" not in vars(bench._data)


def test_loading_is_part_of_what_is_timed_beside_it_and_not_alone(bench, monkeypatch):
    loaded = []
    original = type(bench._data).train_dataloader

    def counted(self):
        for batch in original(self):
            loaded.append(1)
            yield batch

    class Counting:
        def __init__(self, data):
            self.data = data

        def __iter__(self):
            return counted(self.data)

    monkeypatch.setattr(type(bench._data), "train_dataloader", lambda self: Counting(self))
    bench.answer({"do": "alone"})
    assert len(loaded) == 1
    setting = {"num_workers": 0, "prefetch_factor": 2, "pin_memory": False}
    bench.answer({"do": "beside", "setting": setting})
    assert len(loaded) > 8


def test_modes_of_compilation_are_tried_however_short_the_run(bench, monkeypatch):
    seen = {}

    def choose(step_eager, make_compiled, steps_left, **options):
        seen.update(steps_left=steps_left)
        step_eager()
        from gpuopt.measure.compile_choice import CompileChoice

        return CompileChoice("off", "not surely faster", steps_left, 0.1)

    monkeypatch.setattr("gpuopt.callbacks.compile_chooser.choose_compile_mode", choose)
    found = bench.answer({"do": "compile"})
    assert seen["steps_left"] >= 10**9
    assert found["reason"] == "not surely faster"
    assert bench._model.backbone._compiled_call_impl is None


def test_the_steps_are_those_of_the_run(bench):
    trainer = bench._trainer([])
    assert trainer.accumulate_grad_batches == 2
    assert trainer.gradient_clip_val == 1.0
    names = {type(callback).__name__ for callback in trainer.callbacks}
    assert "OomRecovery" in names
    assert not names & {"DurableCheckpoint", "EarlyStopping", "ModelCheckpoint"}


def test_requests_are_answered_one_by_one(compose, tiny, monkeypatch):
    import json

    sent = []
    requests = queue.Queue()
    requests.put(json.dumps({"settings": compose(*tiny), "probe_s": 0.01}))
    requests.put(json.dumps({"do": "facts"}))

    def send(message):
        sent.append(json.loads(json.dumps(message)))
        if len(sent) == 2:
            raise InterruptedError

    with pytest.raises(InterruptedError):
        tuner._serve(requests, send)
    assert sent[0] == sent[1]
    assert sent[0]["result"]["device"] == "cpu"
    assert torch.get_num_threads() == 1
