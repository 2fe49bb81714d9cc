import importlib.util
from dataclasses import replace

import pytest

from gpuopt.errors import InputError
from gpuopt.memory import FixedMemory, Line, MemoryEstimate, MemorySetup, predict_memory
from gpuopt.session.offloading import check_offload, offload_choice

ADAMW = {"_target_": "gpuopt.model.AdamW", "offload": True}
FITS = {"is_cuda": True, "devices": 1, "precision": "bf16"}


@pytest.fixture
def installed(monkeypatch):
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: object())


def test_it_is_off_unless_asked_for():
    assert not check_offload(None, **FITS)
    assert not check_offload({**ADAMW, "offload": False}, **{**FITS, "is_cuda": False})


def test_it_works_on_one_cuda_device(installed):
    assert check_offload(ADAMW, **FITS)


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"is_cuda": False}, "in host memory anyway"),
        ({"devices": 2}, "on one device, not on 2"),
        ({"precision": "fp16"}, "gradient scaler"),
    ],
)
def test_what_it_cannot_do_is_refused(installed, change, reason):
    with pytest.raises(InputError, match=f"optimizer.offload=true: .*{reason}") as caught:
        check_offload(ADAMW, **{**FITS, **change})
    assert "\n" not in str(caught.value)


def test_without_torchao_it_says_what_to_install(monkeypatch):
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(InputError, match=r"pip install 'gpuopt\[offload\]'"):
        check_offload(ADAMW, **FITS)


def stub(*, offloaded, resident, checkpointed, stages=4):
    def predict(level, *, offload):
        largest = checkpointed if level == "full" else offloaded if offload else resident
        state = 0 if offload else 2**30
        return MemoryEstimate(
            FixedMemory(0, optimizer_state=state),
            (Line(1000 - state - 10 * largest, 10),),
            64,
            stages,
        )

    return predict


@pytest.mark.parametrize(
    ("checkpointed", "verdict"), [(94, "94, the better choice"), (11, "11, no better")]
)
def test_it_says_when_checkpointing_is_the_better_choice(checkpointed, verdict):
    predict = stub(offloaded=18, resident=16, checkpointed=checkpointed)
    choice = offload_choice(predict, "none", 1000)
    assert choice.evidence == "predicted"
    assert "keeps 1.00 GiB off the card" in choice.reason
    assert "18 samples fit, 16 without" in choice.reason
    assert f"model.checkpointing=full instead would fit {verdict}" in choice.reason


@pytest.mark.parametrize(("level", "stages"), [("full", 4), ("none", 0)])
def test_there_may_be_no_such_choice(level, stages):
    predict = stub(offloaded=18, resident=16, checkpointed=94, stages=stages)
    assert "instead" not in offload_choice(predict, level, 1000).reason


def test_of_convnext_base_on_8_gib_checkpointing_saves_more():
    setup = MemorySetup("convnext_base", 384, "bf16")

    def predict(level, *, offload):
        return predict_memory(replace(setup, checkpointing=level, optimizer_is_offloaded=offload))

    choice = offload_choice(predict, "none", int(7.4 * 2**30))
    assert "keeps 0.66 GiB" in choice.reason or "keeps 0.65 GiB" in choice.reason
    assert "the better choice" in choice.reason
