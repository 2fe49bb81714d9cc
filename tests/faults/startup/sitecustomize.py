"""Python imports this first of all in a process that has this folder on its path."""

import os
import sys
from pathlib import Path

if "GPUOPT_TEST_FAULTS" in os.environ:
    sys.path.append(str(Path(__file__).parents[3]))
    from tests.faults.injection import install

    install()
