import sys
import types
from itertools import product

import numpy as np
import pytest
import torch
from PIL import Image

from benchmarks import job_peers, seed_job, view_peers
from benchmarks.job_peers import peer_rows
from benchmarks.view_peers import VIEWS, PeerSetting, per_view_pass, ttach_pass
from gpuopt.session.forward_pass import autocast_of
from gpuopt.tta import TtaPredictor, apply_view
from tests.benchmarks.test_benchmarks import run_quick


class Wrapper(torch.nn.Module):
    """As ttach 0.0.3 does: one view after another, what the model returns is averaged."""

    def __init__(self, model, transforms, merge_mode):
        super().__init__()
        assert merge_mode == "mean"
        self.model, self.transforms = model, transforms

    def forward(self, images):
        views = product(*[[(one, value) for value in one.values] for one in self.transforms])
        total = 0
        for view in views:
            seen = images
            for one, value in view:
                seen = one(seen, value)
            total = total + self.model(seen)
        return total / np.prod([len(one.values) for one in self.transforms])


class Flip:
    values = (False, True)

    def __call__(self, images, value):
        return images.flip(3) if value else images


class Turn:
    def __init__(self, angles):
        self.values = angles

    def __call__(self, images, value):
        return torch.rot90(images, value // 90, (2, 3))


@pytest.fixture
def ttach(monkeypatch):
    """A stand-in with ttach's names and behaviour, since nothing else here needs the package."""
    module = types.ModuleType("ttach")
    module.ClassificationTTAWrapper, module.Compose = Wrapper, list
    module.HorizontalFlip, module.Rotate90 = Flip, Turn
    monkeypatch.setitem(sys.modules, "ttach", module)
    monkeypatch.setattr(job_peers, "has_ttach", lambda: True)
    return module


@pytest.fixture
def setting(tmp_path):
    generator = np.random.default_rng(0)
    files = []
    for number in range(5):
        files.append(tmp_path / f"{number}.png")
        pixels = generator.integers(0, 256, (16, 16, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(files[-1])
    torch.manual_seed(0)
    layer = torch.nn.Linear(3 * 16 * 16, 4)
    model = torch.nn.Sequential(Scaled(), torch.nn.Flatten(), layer).eval()
    device = torch.device("cpu")
    return PeerSetting(files, model, 16, 2, 0, device, autocast_of("fp32", device))


class Scaled(torch.nn.Module):
    def forward(self, images):
        return images.float() / 64


def test_the_views_are_those_of_the_square():
    images = torch.arange(3 * 4 * 4).reshape(1, 3, 4, 4).to(torch.uint8)
    seen = {tuple(apply_view(view, images).flatten().tolist()) for view in VIEWS}
    assert len(seen) == len(VIEWS) == 8


def test_all_contestants_predict_the_same(setting, ttach):
    pixels = torch.cat(list(setting.loader()))
    with torch.inference_mode():
        ours = TtaPredictor(setting.model, VIEWS)(pixels)
    torch.testing.assert_close(per_view_pass(setting), ours, atol=1e-6, rtol=0)
    torch.testing.assert_close(ttach_pass(setting), ours, atol=1e-6, rtol=0)


@pytest.mark.parametrize("flip", [False, True])
@pytest.mark.parametrize("turn", [0, 90, 180, 270])
def test_a_loader_turns_as_a_view_does(setting, turn, flip):
    plain, turned = (
        torch.cat(list(loader)) for loader in (setting.loader(), setting.loader(turn, flip=flip))
    )
    view = VIEWS[4 * flip + turn // 90]
    assert torch.equal(apply_view(view, plain), turned.float())


def test_the_part_compares_with_both_peers(tmp_path, tmp_path_factory, monkeypatch, ttach):
    cache = tmp_path_factory.getbasetemp() / "seed_job_cache"
    monkeypatch.setattr("benchmarks.job.default_cache_dir", lambda: cache)
    content, rows = run_quick(seed_job, tmp_path, "--parts", "peers", "--device", "cpu")
    assert rows["time, ttach / gpuopt, eager"]["goal"] == ">= 1.5"
    assert rows["time, one pass per view / gpuopt, eager"]["goal"] == ">= 3"
    for peer in ("ttach", "one pass per view"):
        same = rows[f"largest difference of a probability, gpuopt and {peer}, same pixels"]
        assert (same["goal"], same["verdict"]) == ("<= 1e-05", "met")
    assert {len(times) for times in content["details"]["peers"]["pass_s"].values()} == {2}


def test_without_ttach_the_other_peer_is_left(tmp_path, tmp_path_factory, monkeypatch, capsys):
    cache = tmp_path_factory.getbasetemp() / "seed_job_cache"
    monkeypatch.setattr("benchmarks.job.default_cache_dir", lambda: cache)
    monkeypatch.setattr(job_peers, "has_ttach", lambda: False)
    content, rows = run_quick(seed_job, tmp_path, "--parts", "peers", "--device", "cpu")
    assert "pip install ttach" in capsys.readouterr().out
    assert not [name for name in rows if "ttach" in name]
    assert content["details"]["peers"]["ttach"] is False
    assert "time, one pass per view / gpuopt, eager" in rows


def test_five_rounds_decide():
    ours, peer = [1.0, 1.01, 0.99, 1.0, 1.0], [2.0, 2.01, 2.0, 1.99, 2.0]
    pass_s = {"gpuopt, eager": ours, "one pass per view": peer, "ttach": peer}
    rows = {row.measure: row for row in peer_rows(pass_s, "x")}
    assert rows["time, ttach / gpuopt, eager"].verdict == "met"
    assert rows["time, one pass per view / gpuopt, eager"].verdict == "missed"
    fewer = {name: times[:4] for name, times in pass_s.items()}
    rows = {row.measure: row for row in peer_rows(fewer, "x")}
    assert rows["time, ttach / gpuopt, eager"].verdict == "not decided"


def test_logits_are_not_averaged(setting, ttach):
    wrapped = view_peers.ttach_model(setting.model)
    said = wrapped(torch.cat(list(setting.loader())))
    torch.testing.assert_close(said.sum(1), torch.ones(5))
