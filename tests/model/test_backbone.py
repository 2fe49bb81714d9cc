import pytest
import timm
import torch
from torch.nn.functional import softmax

from gpuopt.errors import FaultError, InputError
from gpuopt.model import backbone as module
from gpuopt.model import create_backbone


def test_packaged_weights_fill_all_but_the_head():
    built = create_backbone("tf_efficientnet_lite0", 17, pretrained=True)
    packaged = torch.load(module._lite0_path(), map_location="cpu", weights_only=True)
    own = built.network.state_dict()
    same = [
        torch.equal(a, b)
        for a, b in zip(own.values(), packaged.values(), strict=True)
        if a.shape == b.shape
    ]
    assert all(same)
    assert len(same) == len(own) - 2
    assert built.weights == "package"
    assert built.mean == built.std == (0.5, 0.5, 0.5)


def test_packaged_weights_know_imagenet():
    """The packaged tensors have other names than timm's; a wrong order would destroy this."""
    network = timm.create_model("tf_efficientnet_lite0", num_classes=1000)
    packaged = torch.load(module._lite0_path(), map_location="cpu", weights_only=True)
    network.load_state_dict(dict(zip(network.state_dict(), packaged.values(), strict=True)))
    from sklearn.datasets import load_sample_image

    image = torch.from_numpy(load_sample_image("flower.jpg").copy()).permute(2, 0, 1)[None].float()
    image = torch.nn.functional.interpolate(image, (224, 224), mode="bilinear", antialias=True)
    with torch.inference_mode():
        scores = softmax(network.eval()((image - 127.5) / 127.5), dim=1)[0]
    assert int(scores.argmax()) == 985  # daisy


def test_a_damaged_package_is_refused(tmp_path, monkeypatch):
    broken = tmp_path / "efficientnet-lite0-x.pth"
    broken.write_bytes(module._lite0_path().read_bytes()[:-1])
    monkeypatch.setattr(module, "_lite0_path", lambda: broken)
    with pytest.raises(FaultError, match="checksum"):
        create_backbone("tf_efficientnet_lite0", 2, pretrained=True)


def test_an_unknown_name_gets_the_nearest_ones():
    with pytest.raises(InputError, match=r"'resnet5'.*resnet50"):
        create_backbone("resnet5", 2)


@pytest.mark.parametrize("pretrained", [False, True])
def test_an_unknown_tag_is_refused_also_without_weights(pretrained):
    with pytest.raises(InputError, match=r"named 'resnet18\.a1_in2k' \(nearest: resnet18"):
        create_backbone("resnet18.a1_in2k", 3, pretrained=pretrained, random_if_offline=True)


@pytest.fixture
def offline(monkeypatch):
    original = timm.create_model

    def create(name, pretrained=False, **options):
        if pretrained:
            raise OSError("cannot reach the hub\nsecond line")
        return original(name, pretrained=False, **options)

    monkeypatch.setattr(module.timm, "create_model", create)


def test_offline_is_one_clear_line(offline):
    with pytest.raises(
        InputError, match=r"cannot reach the hub.*model\.pretrained=false"
    ) as caught:
        create_backbone("test_efficientnet", 3, pretrained=True)
    assert "\n" not in str(caught.value)


def test_offline_takes_random_weights_only_when_allowed(offline, caplog):
    built = create_backbone("test_efficientnet", 3, pretrained=True, random_if_offline=True)
    assert built.weights == "random"
    assert "random weights" in caplog.text


def test_drop_options_reach_the_network():
    plain = create_backbone("test_efficientnet", 3).network
    dropped = create_backbone("test_efficientnet", 3, drop_rate=0.5, drop_path_rate=0.2).network
    assert plain.drop_rate == 0.0
    assert dropped.drop_rate == 0.5
    assert any("DropPath" in type(m).__name__ for m in dropped.modules())
