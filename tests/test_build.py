import pytest

from gpuopt.build import build, build_callbacks
from gpuopt.callbacks import GpuStats
from gpuopt.errors import InputError
from gpuopt.model import AdamW, CosineSchedule


def test_it_builds_what_is_named():
    assert build({"_target_": "gpuopt.model.AdamW", "beta1": 0.5}, "optimizer") == AdamW(beta1=0.5)


def test_given_objects_arrive_as_they_are():
    node = {"_target_": "gpuopt.model.Classifier", "name": "test_vit"}
    schedule = CosineSchedule(final_ratio=0.5)
    model = build(node, "model", num_classes=2, scheduler=schedule)
    assert model._scheduler is schedule


@pytest.mark.parametrize(
    "target",
    [
        "os.system",
        "builtins.eval",
        "subprocess.run",
        "distutils.spawn.spawn",
        "numpy.load",
        "hydra.utils.instantiate",
        "gpuopt_evil.x",
        "pathlib.Path",
    ],
)
def test_other_packages_are_never_called(target, tmp_path):
    canary = tmp_path / "canary"
    with pytest.raises(InputError, match="is refused"):
        build({"_target_": target, "command": f"touch {canary}"}, "data")
    assert not canary.exists()


def test_a_nested_target_is_checked_too():
    node = {
        "_target_": "gpuopt.data.Digits",
        "augmentation": {"_target_": "os.system", "command": "true"},
    }
    with pytest.raises(InputError, match="is refused"):
        build(node, "data", image_size=32, micro_batch_size=4, global_batch_size=4)


@pytest.mark.parametrize(
    "target", ["torch.hub.load", "torch.load", "torch.utils.cpp_extension.load_inline"]
)
def test_code_loading_functions_of_allowed_packages_are_refused(target):
    with pytest.raises(InputError, match="is refused"):
        build({"_target_": target}, "model")


def test_a_missing_argument_is_one_line():
    with pytest.raises(InputError, match=r"model: .*num_classes"):
        build({"_target_": "gpuopt.model.Classifier", "name": "test_vit"}, "model")


def test_only_enabled_callbacks_are_built():
    nodes = {
        "gpu_stats": {"_target_": "gpuopt.callbacks.GpuStats", "enabled": True},
        "early_stopping": {"_target_": "gpuopt.callbacks.EarlyStopping", "enabled": False},
        "checkpoint": {"_target_": "gpuopt.callbacks.DurableCheckpoint"},
    }
    built = build_callbacks(nodes, skip=("checkpoint",))
    assert [type(callback) for callback in built] == [GpuStats]


def test_an_error_inside_a_constructor_is_not_called_bad_input(monkeypatch):
    def broken(self, **kwargs):
        raise TypeError("a bug of ours")

    monkeypatch.setattr(AdamW, "__init__", broken)
    with pytest.raises(TypeError, match="a bug of ours"):
        build({"_target_": "gpuopt.model.AdamW"}, "optimizer")
