from types import SimpleNamespace

import pytest

from gpuopt.hardware import CardLink
from gpuopt.hardware.topology import read_links


class FakeError(Exception):
    pass


class Nvml:
    """Two cards; `remote` is what each NVLink of the first leads to, None for one that is off."""

    NVMLError = FakeError
    NVML_P2P_CAPS_INDEX_READ = (0,)  # pynvml spells it so

    def __init__(self, remote=(), status=0, level=10):
        self.remote = remote
        self.status = status
        self.level = level

    def nvmlDeviceGetPciInfo(self, handle):
        return SimpleNamespace(busId=f"bus of {handle}")

    def nvmlDeviceGetP2PStatus(self, first, second, index):
        assert index == 0
        return self.status

    def nvmlDeviceGetTopologyCommonAncestor(self, first, second):
        if self.level is None:
            raise FakeError("Not Supported")
        return self.level

    def nvmlDeviceGetNvLinkState(self, handle, number):
        if number >= len(self.remote):
            raise FakeError("Invalid Argument")
        return int(self.remote[number] is not None)

    def nvmlDeviceGetNvLinkRemotePciInfo(self, handle, number):
        return SimpleNamespace(busId=self.remote[number])


@pytest.mark.parametrize(
    ("remote", "count"),
    [
        ((), None),  # a card without NVLink tells nothing
        ((None, None), 0),
        (("bus of b", "bus of b", "bus of c"), 2),
        (("bus of a switch",) * 18, 18),  # which leads to every card
    ],
)
def test_links_to_the_other_card_are_counted(remote, count):
    (link,) = read_links(Nvml(remote), ["a", "b"])
    assert link == CardLink(0, 1, "one PCIe switch", reads_peer=True, nvlinks=count)


def test_a_card_that_may_not_read_the_other_is_told_from_one_that_is_not_known():
    (refused,) = read_links(Nvml(status=5), ["a", "b"])
    assert refused.reads_peer is False
    (unknown,) = read_links(Nvml(level=None, status=0), ["a", "b"])
    assert unknown.path is None


def test_every_pair_is_there_once_but_not_those_of_a_card_without_handle():
    pairs = [(link.first, link.second) for link in read_links(Nvml(), ["a", None, "b", "c"])]
    assert pairs == [(0, 2), (0, 3), (2, 3)]
