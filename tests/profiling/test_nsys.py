from pathlib import Path

from gpuopt.profiling.nsys import nsys_command

PROGRAM = ["python", "-m", "gpuopt.profiler", "nsys=marks"]


def test_with_a_gpu_only_the_marked_steps_are_captured():
    command = nsys_command(PROGRAM, Path("logs"), has_cuda=True)
    assert command == [
        "nsys",
        "profile",
        "--output=logs/training_profile",
        "--trace=cuda,nvtx,osrt,cudnn,cublas",
        "--capture-range=cudaProfilerApi",
        "--capture-range-end=stop",
        *PROGRAM,
    ]


def test_without_one_the_whole_program_is_sampled():
    command = nsys_command(PROGRAM, Path("logs"), has_cuda=False)
    assert not any(word.startswith("--capture-range") for word in command)
    assert "--sample=process-tree" in command


def test_memory_and_lines_are_asked_for():
    command = nsys_command(PROGRAM, Path("logs"), has_cuda=True, memory=True, stacks=True)
    assert {"--cuda-memory-usage=true", "--python-backtrace=cuda"} <= set(command)
    assert "--python-sampling=true" in nsys_command([], Path(), has_cuda=False, stacks=True)
