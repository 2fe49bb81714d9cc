"""The command line of Nvidia's Nsight Systems for one of ours."""

from collections.abc import Sequence
from pathlib import Path

__all__ = ["REPORT", "nsys_command"]

REPORT = "training_profile"  # nsys adds .nsys-rep


def nsys_command(
    program: Sequence[str],
    folder: Path,
    *,
    has_cuda: bool,
    memory: bool = False,
    stacks: bool = False,
) -> list[str]:
    """Word the call of nsys that records a program.

    With a GPU it records between `cudaProfilerStart` and `cudaProfilerStop`, which `NsysMarks`
    calls. Without one there is no such range: it samples the whole program.

    Args:
        program: What nsys starts.
        folder: Where the report goes.
        has_cuda: Whether there is a GPU to record.
        memory: Follow the device's memory as well.
        stacks: The lines of Python at each call of CUDA, or sampled without a GPU.
    """
    options = [f"--output={folder / REPORT}"]
    if has_cuda:
        options += [
            "--trace=cuda,nvtx,osrt,cudnn,cublas",
            "--capture-range=cudaProfilerApi",
            "--capture-range-end=stop",
        ]
        options += ["--cuda-memory-usage=true"] if memory else []
        options += ["--python-backtrace=cuda"] if stacks else []
    else:
        options += ["--trace=nvtx,osrt", "--sample=process-tree"]
        options += ["--python-sampling=true"] if stacks else []
    return ["nsys", "profile", *options, *program]
