"""Which hosts are this machine's own, and which are addresses."""

import pytest

from gpuopt.telemetry.address import is_address, is_loopback


@pytest.mark.parametrize(
    ("host", "expected"),
    [
        ("127.0.0.1", True),
        ("127.9.9.9", True),
        ("::1", True),
        ("LocalHost", True),
        ("0.0.0.0", False),
        ("::", False),
        ("10.0.0.1", False),
        ("localhost.evil.example", False),
        ("", False),
    ],
)
def test_loopback(host, expected):
    assert is_loopback(host) is expected


@pytest.mark.parametrize(
    ("name", "expected"),
    [("10.0.0.1", True), ("[::1]", True), ("evil.example", False), ("1.2.3", False), ("", False)],
)
def test_address(name, expected):
    assert is_address(name) is expected
