import pytest

from gpuopt.errors import InputError
from gpuopt.hardware import refuse_unsupported, supported_by_build

WHEEL = ["sm_75", "sm_80", "sm_86", "sm_90", "sm_100", "sm_120"]


@pytest.mark.parametrize(
    ("capability", "arch_list", "expected"),
    [
        ("7.5", WHEEL, True),
        ("8.6", ["sm_80"], True),
        ("8.9", WHEEL, True),
        ("12.0", WHEEL, True),
        ("12.1", WHEEL, True),
        ("7.0", WHEEL, False),
        ("8.0", ["sm_86"], False),
        ("11.0", WHEEL, False),
        ("12.0", ["sm_80", "sm_90"], False),
        ("12.0", ["sm_80", "compute_90"], True),
        ("8.6", ["compute_90"], False),
        ("9.0", ["sm_90a"], True),
        ("10.3", ["sm_100a"], False),
        ("10.3", ["sm_100f"], True),
        ("12.0", ["compute_100f"], False),
        ("12.0", ["compute_100a"], False),
        ("8.6", [], False),
        ("9.0", ["gfx90a"], False),
    ],
)
def test_binary_and_ptx_compatibility(capability, arch_list, expected):
    assert supported_by_build(capability, arch_list) is expected


def test_an_unsupported_card_is_refused_in_one_line():
    with pytest.raises(InputError, match=r"Tesla V100 \(SM 7.0\).*sm_75, sm_80") as caught:
        refuse_unsupported("Tesla V100", "7.0", WHEEL)
    assert "\n" not in str(caught.value)
    refuse_unsupported("T4", "7.5", WHEEL)


def test_the_builds_own_list_is_asked_for(monkeypatch):
    monkeypatch.setattr("torch.cuda.get_arch_list", lambda: ["sm_90"])
    refuse_unsupported("H200", "9.0")
    with pytest.raises(InputError, match="holds sm_90;"):
        refuse_unsupported("T4", "7.5")
    monkeypatch.setattr("torch.cuda.get_arch_list", list)
    with pytest.raises(InputError, match="no CUDA at all"):
        refuse_unsupported("T4", "7.5")
