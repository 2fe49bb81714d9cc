"""A real headless Chromium, driven over a pipe by its own protocol: no driver, no port."""

import base64
import itertools
import json
import os
import shutil
import subprocess
import time
from pathlib import Path

__all__ = ["Browser", "chromium"]

_OPTIONS = [
    "--headless",
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--disable-extensions",
    "--disable-dev-shm-usage",
    "--mute-audio",
    "--remote-debugging-pipe",
]
_NAMES = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable", "chrome")
_LIMIT_S = 60.0


def chromium() -> str | None:
    """Find the program."""
    return next(filter(None, map(shutil.which, _NAMES)), None)


class Browser:
    """One page of it.

    Attributes:
        problems: What the page wrote to its console as an error, and what it threw.
    """

    def __init__(self, program: str, profile: Path) -> None:
        theirs_in, ours_out = os.pipe()
        ours_in, theirs_out = os.pipe()
        script = f'exec "$@" 3<&{theirs_in} 4>&{theirs_out}'
        self._process = subprocess.Popen(
            ["bash", "-c", script, "bash", program, *_OPTIONS, f"--user-data-dir={profile}"],
            pass_fds=(theirs_in, theirs_out),
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
        os.close(theirs_in)
        os.close(theirs_out)
        self._to, self._from = os.fdopen(ours_out, "wb"), os.fdopen(ours_in, "rb")
        self._numbers = itertools.count(1)
        self._left = b""
        self._session: str | None = None
        self.problems: list[str] = []
        target = self.call("Target.createTarget", url="about:blank")["targetId"]
        attached = self.call("Target.attachToTarget", targetId=target, flatten=True)
        self._session = attached["sessionId"]
        for domain in ("Page", "Runtime", "Log"):
            self.call(f"{domain}.enable")

    def call(self, method, **parameters):
        """Call a method of the protocol and return its result."""
        number = next(self._numbers)
        message = {"id": number, "method": method, "params": parameters}
        if self._session is not None:
            message["sessionId"] = self._session
        self._to.write(json.dumps(message).encode() + b"\0")
        self._to.flush()
        while (answer := self._next()).get("id") != number:
            self._note(answer)
        assert "error" not in answer, answer
        return answer["result"]

    def show(self, address, *, width=1280, height=900, dark=False, phone=False):
        """Open an address in a window of a size."""
        self.call(
            "Emulation.setDeviceMetricsOverride",
            width=width,
            height=height,
            deviceScaleFactor=2 if phone else 1,
            mobile=phone,
        )
        scheme = {"name": "prefers-color-scheme", "value": "dark" if dark else "light"}
        self.call("Emulation.setEmulatedMedia", features=[scheme])
        self.call("Page.navigate", url=address)

    def run(self, code):
        """Evaluate JavaScript in the page."""
        done = self._evaluate(code)
        assert "exceptionDetails" not in done, done
        return done["result"].get("value")

    def wait_for(self, code, limit_s=_LIMIT_S):
        """Wait until JavaScript gives something that is true, and return it."""
        deadline = time.monotonic() + limit_s
        while True:
            done = self._evaluate(code)
            # While the page is being loaded there is nothing to ask yet.
            if "exceptionDetails" not in done and (value := done["result"].get("value")):
                return value
            assert time.monotonic() < deadline, f"waited in vain for {code}: {self.problems}"
            time.sleep(0.02)

    def picture(self, path):
        """Save what is seen as a PNG file."""
        path.write_bytes(base64.b64decode(self.call("Page.captureScreenshot")["data"]))

    def close(self):
        """End the program."""
        self._to.close()
        try:
            self._process.wait(10)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
        self._from.close()

    def _evaluate(self, code):
        return self.call("Runtime.evaluate", expression=code, returnByValue=True, awaitPromise=True)

    def _next(self):
        while b"\0" not in self._left:
            content = os.read(self._from.fileno(), 1 << 16)
            assert content, "the browser has ended"
            self._left += content
        message, _, self._left = self._left.partition(b"\0")
        return json.loads(message)

    def _note(self, message):
        method, told = message.get("method"), message.get("params", {})
        if method == "Runtime.exceptionThrown":
            self.problems.append(json.dumps(told["exceptionDetails"]))
        elif method == "Runtime.consoleAPICalled" and told["type"] == "error":
            self.problems.append(json.dumps(told["args"]))
        elif method == "Log.entryAdded" and told["entry"]["level"] == "error":
            self.problems.append(told["entry"]["text"])
