"""What a compiling process is told to do in tests; importable in that process, without torch."""

import os
import subprocess
import sys
import time
from pathlib import Path

import torch


class Task:
    """Does one of a few things instead of compiling."""

    def __init__(self, act, place=None):
        self.act, self.place = act, place

    def compile(self, mode):
        getattr(self, self.act)(mode)

    def write(self, mode):
        Path(self.place).write_text(f"{mode} {os.environ.get('TORCHINDUCTOR_CACHE_DIR')}")

    def fail(self, mode):
        raise ValueError(f"no {mode} kernel for that\n{'a whole program ' * 200}")

    def run_out(self, mode):
        raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB.")

    def crash(self, mode):
        os.abort()

    def hang(self, mode):
        """Start a compiler that never ends, and wait for it."""
        code = "import time; time.sleep(600)"
        with subprocess.Popen([sys.executable, "-c", code]) as compiler:
            Path(self.place).write_text(str(compiler.pid))
            time.sleep(600)
