"""Which number format a run computes in, and how the libraries spell it."""

from typing import Literal

from gpuopt.choice import Choice
from gpuopt.errors import InputError, nearest
from gpuopt.hardware.gpu import PRECISIONS, Gpu, capability_of
from gpuopt.hardware.policy import recommended_precision

__all__ = ["float32_matmul_precision", "lightning_precision", "resolve_precision"]

_LIGHTNING: dict[str, Literal["32-true", "bf16-mixed", "16-mixed"]] = {
    "fp32": "32-true",
    "tf32": "32-true",
    "bf16": "bf16-mixed",
    "fp16": "16-mixed",
}
_AMPERE = (8, 0)


def resolve_precision(requested: str, gpu: Gpu | None, is_cuda: bool) -> Choice:
    """Settle the precision of a run.

    Args:
        requested: `auto` or one of `PRECISIONS`.
        gpu: The card that is really there; its `precision` is what `auto` takes on CUDA. None,
            or a card of unknown compute capability, means that a request cannot be checked.
        is_cuda: Whether the run uses CUDA.

    Returns:
        A choice for the key `precision`. TF32 where there is none becomes fp32, which is what
        the hardware computes then.

    Raises:
        InputError: The name is unknown, or the hardware cannot compute in it.
    """
    if requested != "auto" and requested not in PRECISIONS:
        known = nearest(requested, ("auto", *PRECISIONS))
        raise InputError(f"precision={requested}: unknown precision{known}")
    if not is_cuda:
        return _on_cpu(requested)
    if requested == "auto":
        return _recommended(gpu)
    if requested == "tf32" and not _may_have_ampere(gpu):
        name = gpu.name if gpu else "this card"
        return Choice("precision", "fp32", "table", f"{name} has no TF32 (it starts at SM 8.0)")
    _refuse_impossible(requested, gpu)
    return Choice("precision", requested, "given", "asked for")


def lightning_precision(name: str) -> Literal["32-true", "bf16-mixed", "16-mixed"]:
    """Return Lightning's name of a precision.

    Raises:
        InputError: The name is not one of `PRECISIONS`.
    """
    try:
        return _LIGHTNING[name]
    except KeyError:
        known = nearest(name, PRECISIONS)
        raise InputError(f"precision={name}: unknown precision{known}") from None


def float32_matmul_precision(name: str) -> Literal["high", "highest"]:
    """Return what `torch.set_float32_matmul_precision` gets; only fp32 stays out of TF32.

    Raises:
        InputError: The name is not one of `PRECISIONS`.
    """
    lightning_precision(name)
    return "highest" if name == "fp32" else "high"


def _on_cpu(requested: str) -> Choice:
    if requested == "fp16":
        raise InputError(
            "precision=fp16: '16-mixed' on a CPU becomes bf16; give precision=fp32 or bf16"
        )
    if requested == "auto":
        return Choice("precision", "fp32", "table", "a CPU trains slower in bf16 than in fp32")
    if requested == "tf32":
        return Choice("precision", "fp32", "table", "a CPU has no TF32")
    return Choice("precision", requested, "given", "asked for")


def _recommended(gpu: Gpu | None) -> Choice:
    if gpu is None or (gpu.precision is None and gpu.compute_capability is None):
        return Choice("precision", "fp32", "table", "nothing is known about the card")
    name = gpu.precision
    if name is None:
        tensor_cores = gpu.tensor_tflops is not None
        name = recommended_precision(capability_of(gpu.compute_capability or ""), tensor_cores)
    _refuse_impossible(name, gpu)
    cores = "tensor cores" if gpu.tensor_tflops is not None else "no tensor cores"
    reason = f"{gpu.name}, SM {gpu.compute_capability or 'unknown'}, {cores}"
    return Choice("precision", name, "table", reason)


def _may_have_ampere(gpu: Gpu | None) -> bool:
    if gpu is None or gpu.compute_capability is None:
        return True
    return capability_of(gpu.compute_capability) >= _AMPERE


def _refuse_impossible(name: str, gpu: Gpu | None) -> None:
    if gpu is None or gpu.compute_capability is None:
        return
    if name == "bf16" and not _may_have_ampere(gpu):
        raise InputError(
            f"precision=bf16: {gpu.name} (SM {gpu.compute_capability}) only emulates bf16, which "
            f"starts at SM 8.0; give precision={'fp16' if gpu.tensor_tflops else 'fp32'}"
        )
    if name == "fp16" and gpu.tensor_tflops is None and not _may_have_ampere(gpu):
        raise InputError(
            f"precision=fp16: {gpu.name} has no tensor cores and gives NaN in fp16 convolutions "
            "(pytorch#77955); give precision=fp32"
        )
