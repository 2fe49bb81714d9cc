import logging
from types import SimpleNamespace

import lightning.pytorch as L
import pytest
import torch
from torch import nn
from torch.utils.data import DataLoader, IterableDataset

from gpuopt.callbacks import EngineExport, TensorRTExport
from gpuopt.callbacks import engine_export as module
from gpuopt.engine.protocol import EngineRequest
from gpuopt.errors import FaultError


class Plain(L.LightningModule):
    """Anyone's module: its network in an attribute, normalisation in its own code."""

    def __init__(self):
        super().__init__()
        self.net = nn.Sequential(nn.Conv2d(3, 4, 3), nn.AdaptiveAvgPool2d(1), nn.Flatten())

    def training_step(self, batch, index):
        images, targets = batch
        return nn.functional.cross_entropy(self.net(images.float() / 255), targets)

    validation_step = training_step

    def configure_optimizers(self):
        return torch.optim.SGD(self.parameters(), 0.1)


@pytest.fixture
def exports(monkeypatch):
    """Records what would be exported."""
    found = []

    def export(engine, request, network, output, proof, **options):
        found.append(SimpleNamespace(**locals()))
        return SimpleNamespace(path=output)

    monkeypatch.setattr(module, "export_engine", export)
    return found


def pairs(count, kind=torch.uint8):
    generator = torch.Generator().manual_seed(0)
    images = torch.randint(0, 256, (count, 3, 8, 8), generator=generator).to(kind)
    return list(zip(images, torch.arange(count) % 4, strict=True))


def fit(callback, tmp_path, kind=torch.uint8, *callbacks, **options):
    trainer = L.Trainer(
        max_epochs=1,
        accelerator="cpu",
        logger=False,
        default_root_dir=tmp_path,
        callbacks=[callback, *callbacks],
        enable_progress_bar=False,
        enable_model_summary=False,
        enable_checkpointing=bool(callbacks),
        **options,
    )
    model = Plain()
    loaders = DataLoader(pairs(8, kind), batch_size=4), DataLoader(pairs(600, kind), batch_size=50)
    trainer.fit(model, *loaders)
    return model


OPTIONS = {"backbone": "net", "mean": (0.0,) * 3, "std": (255.0,) * 3}


def test_any_trainer_ends_with_an_engine(exports, tmp_path, monkeypatch):
    monkeypatch.setattr(
        module, "choose_engine", lambda engine, request, provider: SimpleNamespace(value="onnx")
    )
    callback = EngineExport(max_batch_size=16, optimal_batch_size=8, **OPTIONS)
    model = fit(callback, tmp_path)
    (found,) = exports
    assert found.request == EngineRequest(8, 4, "fp32", 8, 16, torch.device("cpu"))
    assert callback.path == found.output == tmp_path / "engines" / "onnx_fp32.onnx"
    assert torch.equal(found.network.backbone[0].weight, model.net[0].weight)
    assert found.network.backbone is not model.net
    images = found.proof()
    assert images.images.shape == (500, 3, 8, 8)
    assert torch.equal(images.images[7], pairs(600)[7][0])


def test_the_best_weights_are_taken(exports, tmp_path):
    class Best(L.Callback):
        best_model_path = str(tmp_path / "checkpoints" / "best.ckpt")

    state = Plain().state_dict()
    (tmp_path / "checkpoints").mkdir()
    torch.save({"state_dict": state}, Best.best_model_path)
    fit(EngineExport(engine="onnx", **OPTIONS), tmp_path / "other", torch.uint8, Best())
    (found,) = exports
    assert torch.equal(found.network.backbone[0].weight, state["net.0.weight"])
    assert found.output == tmp_path / "engines" / "onnx_fp32.onnx"


def test_without_uint8_images_the_size_must_be_given(exports, tmp_path, caplog):
    with caplog.at_level(logging.WARNING):
        fit(EngineExport(engine="onnx", **OPTIONS), tmp_path, torch.float32)
    assert "no engine was written: the validation images are no uint8 tensors" in caplog.text
    assert "not compared" not in caplog.text


def test_without_uint8_images_an_engine_is_not_proved_and_that_is_said(exports, tmp_path, caplog):
    fit(EngineExport(engine="onnx", image_size=8, **OPTIONS), tmp_path, torch.float32)
    assert exports[0].proof is None
    assert caplog.text.count("so the engine is not compared with PyTorch") == 1


def test_a_failure_does_not_spoil_the_training(tmp_path, caplog, monkeypatch):
    def fail(*args, **options):
        raise FaultError("the compiler gave up")

    monkeypatch.setattr(module, "export_engine", fail)
    callback = EngineExport(engine="onnx", output=str(tmp_path / "x.onnx"), **OPTIONS)
    with caplog.at_level(logging.WARNING):
        fit(callback, tmp_path)
    assert "no engine was written: the compiler gave up" in caplog.text
    assert callback.path is None


def test_no_error_at_all_spoils_the_training(tmp_path, caplog, monkeypatch):
    def fail(*args, **options):
        raise RuntimeError("no such operator\nand a long report")

    monkeypatch.setattr(module, "export_engine", fail)
    with caplog.at_level(logging.WARNING):
        fit(EngineExport(engine="onnx", **OPTIONS), tmp_path)
    assert "no engine was written: RuntimeError: no such operator" in caplog.text
    assert "long report" not in caplog.text


def test_the_engine_is_for_the_device_of_the_training(exports, tmp_path, monkeypatch):
    class Elsewhere(L.Callback):
        def on_fit_end(self, trainer, pl_module):
            trainer.strategy._root_device = torch.device("meta")  # there is no GPU to train on

    monkeypatch.setattr(
        module, "choose_engine", lambda engine, request, provider: SimpleNamespace(value="onnx")
    )
    trainer = L.Trainer(
        max_epochs=1,
        accelerator="cpu",
        logger=False,
        default_root_dir=tmp_path,
        callbacks=[Elsewhere(), EngineExport(**OPTIONS)],
        enable_progress_bar=False,
        enable_model_summary=False,
        enable_checkpointing=False,
    )
    data = pairs(600)
    trainer.fit(Plain(), DataLoader(data[:8], batch_size=4), DataLoader(data, batch_size=50))
    (found,) = exports
    assert found.request.device == torch.device("meta")
    assert {p.device.type for p in found.network.backbone.parameters()} == {"meta"}


def test_images_of_a_stream_prove_an_engine():
    class Stream(IterableDataset):
        def __iter__(self):
            return iter(pairs(6))

    trainer = SimpleNamespace(
        datamodule=None, val_dataloaders=[None, DataLoader(Stream(), batch_size=4)]
    )
    assert len(module._proof_images(trainer, 5).images) == 5


def test_no_more_images_than_needed_are_read():
    class Second:
        def __iter__(self):
            raise AssertionError("not needed")

    first = DataLoader([{"name": "a", "image": image} for image, _ in pairs(6)], batch_size=3)
    trainer = SimpleNamespace(datamodule=None, val_dataloaders=[first, Second()])
    assert torch.equal(
        module._proof_images(trainer, 5).images, torch.stack([i for i, _ in pairs(5)])
    )


def test_a_try_of_one_batch_writes_nothing(exports, tmp_path):
    fit(EngineExport(engine="onnx", **OPTIONS), tmp_path, fast_dev_run=True)
    assert exports == []


def test_tensorrt_is_the_same_with_another_engine(tmp_path, caplog):
    with caplog.at_level(logging.WARNING):
        fit(TensorRTExport(precision="fp16", **OPTIONS), tmp_path)
    assert "engine=tensorrt needs an NVIDIA GPU" in caplog.text
