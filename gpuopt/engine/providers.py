"""Which of ONNX Runtime's execution providers runs a network: a table, printed with its reason."""

from collections.abc import Sequence

from gpuopt.choice import Choice
from gpuopt.errors import InputError

__all__ = ["PROVIDERS", "RTX_CAPABILITIES", "choose_provider", "fallbacks"]

# By the words of `provider=`, fastest first.
PROVIDERS = {
    "tensorrt": "TensorrtExecutionProvider",
    "tensorrt_rtx": "NvTensorRTRTXExecutionProvider",
    "cuda": "CUDAExecutionProvider",
    "cpu": "CPUExecutionProvider",
}
# TensorRT for RTX is released for GeForce RTX 30, 40 and 50. On Turing it returned zeros without
# a word and crashed in bf16 (pytorch/TensorRT#4643), and the data-centre cards have TensorRT.
RTX_CAPABILITIES = ((8, 6), (8, 9), (12, 0))
_TENSORRT_FROM = (7, 5)


def choose_provider(
    available: Sequence[str], capability: tuple[int, int] | None, requested: str = "auto"
) -> Choice:
    """Choose the first provider that is installed and supports the device.

    Args:
        available: ONNX Runtime's names of the providers that are installed.
        capability: Compute capability of the CUDA device; None for the CPU.
        requested: `auto` or a key of `PROVIDERS`.

    Returns:
        A choice for the key `provider`.

    Raises:
        InputError: When the provider that was asked for is not installed or does not support the
            device, or none is left for a CUDA device.
    """
    reasons = {word: _against(word, available, capability) for word in PROVIDERS}
    if requested != "auto":
        if reason := reasons[requested]:
            raise InputError(f"provider={requested}: {reason}; take provider=auto")
        return Choice("provider", requested, "given", "asked for")
    chosen = next((word for word, reason in reasons.items() if not reason), None)
    if chosen is None:
        raise InputError(
            "engine=onnx: the installed ONNX Runtime has no provider for this GPU "
            f"({', '.join(available)}): pip uninstall onnxruntime, then pip install "
            "'gpuopt[onnx-gpu]'; or take engine=aot_inductor"
        )
    before = [f"{word}: {reasons[word]}" for word in PROVIDERS if reasons[word]]
    passed = before[: list(PROVIDERS).index(chosen)]
    return Choice("provider", chosen, "table", "; ".join(passed) or "installed, and the fastest")


def fallbacks(available: Sequence[str], choice: Choice, requested: str = "auto") -> tuple[str, ...]:
    """List the providers to try in turn: the chosen one and, where it was not asked for, CUDA.

    TensorRT is listed as installed wherever ONNX Runtime is built with it; whether its libraries
    are there shows when a session starts.

    Args:
        available: As for `choose_provider`.
        choice: Its answer.
        requested: What it was asked for.
    """
    chosen = str(choice.value)
    may_fall_back = requested == "auto" and chosen not in ("cuda", "cpu")
    next_one = ("cuda",) if may_fall_back and PROVIDERS["cuda"] in available else ()
    return (chosen, *next_one)


def _against(word: str, available: Sequence[str], capability: tuple[int, int] | None) -> str | None:
    """Say what speaks against a provider; None when nothing does."""
    if (word == "cpu") != (capability is None):
        return "the device is a CPU" if capability is None else "the device is a GPU"
    if PROVIDERS[word] not in available:
        return "not installed"
    shown = ".".join(map(str, capability)) if capability else ""
    if word == "tensorrt" and capability is not None and capability < _TENSORRT_FROM:
        return f"not for SM {shown}"
    if word == "tensorrt_rtx" and capability not in RTX_CAPABILITIES:
        return f"not for SM {shown}"
    return None
