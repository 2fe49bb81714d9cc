import shlex

import pytest

from gpuopt.errors import InputError
from gpuopt.finding.found_settings import FoundSettings, refuse_deletions

SETTINGS = {
    "data": {"augmentation": {"blur": 0.1}},
    "debug": True,
    "gpu": {"memory_gib": 6.0, "headroom_ratio": 0.1},
    "micro_batch_size": "auto",
    "model": {"name": "it's a model", "checkpointing": "none"},
    "target": 8,
}
WORDS = [
    "model=timm",
    "model.name='it\\'s a model'",
    "data.augmentation={blur:0.1}",
    "gpu.memory_gib=6",
    "gpu.headroom_ratio=0.1",
    "model.checkpointing=none",
    "target=8",
    "debug=true",
]


def found(**settings):
    keys = ("data", "debug", "gpu", "micro_batch_size", "model")
    return FoundSettings.of(WORDS, SETTINGS, ["model", "gpu"], keys, settings)


def test_what_was_typed_is_kept_and_what_was_found_takes_its_place():
    use = found(micro_batch_size=4, **{"model.checkpointing": "stages=2"})
    assert use.groups == {"model": "timm"}
    assert use.values == {
        "model.name": "it's a model",
        "data.augmentation": {"blur": 0.1},
        "gpu.headroom_ratio": 0.1,
    }
    assert shlex.split(use.command("train")) == [
        *("gpuopt", "train", *WORDS[:3], "gpu.headroom_ratio=0.1"),
        *("micro_batch_size=4", "model.checkpointing=stages=2"),
    ]


def test_devices_and_options_stand_before_the_settings(monkeypatch):
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    line = found(**{"optimizer.offload": True}).command(
        "train", options=["--config-dir", "a b"], devices=[1, 0]
    )
    assert line.startswith("CUDA_VISIBLE_DEVICES=1,0 gpuopt train --config-dir 'a b' model=timm ")
    assert line.endswith(" optimizer.offload=true")


def test_what_was_taken_away_stays_away_and_has_no_value():
    words = ["~model.drop_rate", "model.name=net", "~debug"]
    use = FoundSettings.of(words, SETTINGS, ["model"], ["model"], {"micro_batch_size": 4})
    assert use.values == {"model.name": "it's a model"}
    assert use.groups == {}
    assert shlex.split(use.command("train"))[2:] == [*words[:2], "micro_batch_size=4"]
    refuse_deletions(words[1:2], "mine")
    with pytest.raises(InputError, match=r"save_config=mine: .*~model.drop_rate out"):
        refuse_deletions(words, "mine")


@pytest.mark.parametrize(
    ("visible", "devices", "named"),
    [
        ("2,3", [1], "3"),
        ("2, 3", [1, 0], "3,2"),
        ("GPU-aa,GPU-bb", [1], "GPU-bb"),
        ("", [1], "1"),
    ],
)
def test_devices_are_named_as_the_variable_that_is_set_names_them(
    monkeypatch, visible, devices, named
):
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", visible)
    line = found().command("train", devices=devices)
    assert line.startswith(f"CUDA_VISIBLE_DEVICES={named} gpuopt train")
    assert "CUDA_VISIBLE_DEVICES" not in found().command("train")
