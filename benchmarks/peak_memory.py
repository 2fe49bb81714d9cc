"""`gpuopt predict` that notes the most memory it had: `python -m benchmarks.peak_memory FILE ...`.

Only at its end something is added: the file is written.
"""

import json
import resource
import sys
from pathlib import Path

import gpuopt.predict

__all__ = ["main", "peak_bytes"]


def main() -> None:
    """Run the command with the words after the file's name."""
    file = Path(sys.argv[1])
    sys.argv[1:] = sys.argv[2:]
    try:
        gpuopt.predict.main()
    finally:
        file.write_text(json.dumps({"peak_bytes": peak_bytes()}), "utf-8")


def peak_bytes() -> int:
    """Return the peak of what tensors took on the GPU; without one, of this process's memory."""
    import torch

    if torch.cuda.is_available() and torch.cuda.is_initialized():
        return torch.cuda.max_memory_allocated()
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


if __name__ == "__main__":
    main()
