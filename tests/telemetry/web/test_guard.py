"""Nobody but who may asks anything, whatever is asked for."""

import pytest
from starlette.responses import PlainTextResponse

from gpuopt.telemetry.web.guard import Guard
from tests.telemetry.web.asking import ask

TOKEN = "0123456789abcdef"


def guard(**options):
    return Guard(PlainTextResponse("secret"), **{"host": "127.0.0.1", "port": 8080, **options})


@pytest.mark.parametrize(
    "host", ["127.0.0.1:8080", "127.0.0.1", "localhost:8080", "LOCALHOST", "[::1]:8080", "[::1]"]
)
def test_own_names_pass(host):
    assert ask(guard(), host=host)[0] == 200


@pytest.mark.parametrize(
    "host",
    [
        "evil.example",
        "evil.example:8080",
        "127.0.0.1.evil.example",
        "10.0.0.1:8080",
        "127.0.0.1:8080@evil.example",
        "127.0.0.1:x",
        "[::1",
        "",
        None,
    ],
)
@pytest.mark.parametrize("method", ["GET", "POST"])
def test_other_names_are_refused_before_all_else(host, method):
    status, _, content = ask(guard(token=TOKEN), host=host, method=method, path="/nowhere")
    assert (status, b"secret" in content) == (403, False)


def test_two_names_are_refused():
    assert ask(guard(), headers=[("host", "localhost")])[0] == 403


@pytest.mark.parametrize("method", ["POST", "PUT", "DELETE", "OPTIONS", "PATCH", "TRACE"])
def test_there_is_only_reading(method):
    status, headers, content = ask(guard(), method=method)
    assert (status, headers["allow"], b"secret" in content) == (405, "GET, HEAD", False)


@pytest.mark.parametrize("status", [200, 401, 403, 405])
def test_every_answer_is_locked_down(status):
    host = "evil.example" if status == 403 else "localhost"
    method = "POST" if status == 405 else "GET"
    found, headers, _ = ask(guard(token=TOKEN if status == 401 else None), host=host, method=method)
    assert found == status
    assert headers["content-security-policy"].startswith("default-src 'none'; script-src 'self'")
    assert headers["x-content-type-options"] == "nosniff"
    assert headers["cache-control"] == "no-store"
    assert not [name for name in headers if name.startswith("access-control")]


def test_bound_elsewhere_addresses_and_own_names_pass_and_others_do_not():
    import socket

    app = guard(host="0.0.0.0")
    for host in ("10.0.0.1:8080", "[fe80::1]:8080", socket.gethostname(), "localhost"):
        assert ask(app, host=host)[0] == 200, host
    assert ask(app, host="evil.example")[0] == 403
    assert ask(guard(allowed_hosts=["Proxy.example"]), host="proxy.example")[0] == 200


@pytest.mark.parametrize(
    ("headers", "status"),
    [
        ([], 401),
        ([("authorization", f"Bearer {TOKEN}")], 200),
        ([("authorization", f"bearer {TOKEN}")], 200),
        ([("authorization", "Bearer wrong")], 401),
        ([("authorization", f"Basic {TOKEN}")], 401),
        ([("cookie", f"gpuopt_monitor_8080={TOKEN}")], 200),
        ([("cookie", f"gpuopt_monitor_8081={TOKEN}")], 401),
        ([("cookie", "gpuopt_monitor_8080=wrong")], 401),
        ([("cookie", "=;=,\x01")], 401),
        ([("authorization", "Bearer \xe9")], 401),
    ],
)
def test_a_token_is_asked_for(headers, status):
    for path in ("/", "/samples", "/metrics", "/nowhere"):
        found, answer, content = ask(guard(token=TOKEN), path, headers=headers)
        assert (found, b"secret" in content) == (status, status == 200)
        assert TOKEN.encode() not in content
        assert ("www-authenticate" in answer) == (status == 401)


def test_the_token_of_the_address_moves_into_a_cookie():
    status, headers, _ = ask(guard(token=TOKEN), query=f"token={TOKEN}".encode())
    assert (status, headers["location"]) == (303, "/")
    cookie = headers["set-cookie"]
    assert cookie.startswith(f"gpuopt_monitor_8080={TOKEN};")
    assert "HttpOnly" in cookie
    assert "SameSite=strict" in cookie
    assert ask(guard(token=TOKEN), query=b"token=wrong")[0] == 401
    assert ask(guard(token=TOKEN), "/samples", query=f"token={TOKEN}".encode())[0] == 401
