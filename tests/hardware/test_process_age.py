import subprocess
import sys
from pathlib import Path

import pytest

from gpuopt.hardware import process_age_s


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="reads /proc")
def test_a_process_knows_its_age():
    code = (
        "import time; began = time.monotonic(); time.sleep(0.3)\n"
        "from gpuopt.hardware import process_age_s\n"
        "assert process_age_s() > time.monotonic() - began - 0.02\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


def test_a_system_that_does_not_tell_is_no_error(monkeypatch):
    def missing(self, *_):
        raise FileNotFoundError(self)

    monkeypatch.setattr(Path, "read_text", missing)
    assert process_age_s() is None
