"""The batch of a card that is not there, predicted; and what there is to say about a CPU."""

from dataclasses import asdict

from gpuopt.errors import InputError
from gpuopt.finding.answer import CardAnswer, SizedProbe
from gpuopt.finding.request import FindRequest
from gpuopt.hardware import Gpu, resolve_precision
from gpuopt.memory import MemoryEstimate, choose_micro_batch, predict_memory
from gpuopt.recomputation import AUTO, NONE, levels
from gpuopt.session.checkpointing import choose_checkpointing
from gpuopt.session.offloading import check_offload

__all__ = [
    "answer_for_cpu",
    "predict",
    "predict_answer",
    "predict_levels",
    "predict_parts",
    "settled_checkpointing",
    "settled_offload",
]


def predict(request: FindRequest, card: Gpu) -> MemoryEstimate:
    """Predict the memory of what is asked on a card; raises as `predict_memory`."""
    setup = request.setup_on(card)
    return predict_memory(setup, cache_dir=request.cache_dir, keep=request.keeps)


def settled_checkpointing(request: FindRequest, card: Gpu) -> FindRequest:
    """Settle `model.checkpointing=auto` as training does; aggressive means the deepest level.

    Raises:
        InputError: As `predict_memory`.
    """
    if not request.trains:
        return request
    if request.aggressive:
        plain = predict(request.with_checkpointing(NONE), card)
        return request.with_checkpointing(levels(plain.stages)[-1])
    wanted = request.target or request.per_device
    choice = choose_checkpointing(
        request.checkpointing,
        lambda level: predict(request.with_checkpointing(level), card),
        card.budget_bytes() if request.checkpointing == AUTO else 0,
        min(wanted, request.maximum or wanted),
    )
    return request.with_checkpointing(str(choice.value))


def settled_offload(request: FindRequest, card: Gpu, devices: int) -> tuple[FindRequest, str]:
    """Let an aggressive request keep the optimizer's state in host memory, where that is possible.

    Args:
        request: What is asked.
        card: It runs on.
        devices: How many train together.

    Returns:
        The request, and why the state stays on the card, or an empty string.

    Raises:
        InputError: When offloading was asked for and is not possible.
    """
    if not request.trains:
        return request, ""
    precision = request.setup_on(card).precision
    wanted = request.with_offload(True) if request.aggressive else request
    try:
        check_offload(wanted.optimizer, is_cuda=True, devices=devices, precision=precision)
    except InputError as error:
        if request.offloads:
            raise
        return request, str(error).partition(": ")[2]
    return wanted, ""


def predict_answer(request: FindRequest, card: Gpu, reason: str) -> CardAnswer:
    """Predict the batch of a card: 0 when not one sample fits.

    Args:
        request: What is asked.
        card: With its memory.
        reason: Why it is not measured.

    Raises:
        InputError: When timm does not know the model, it does not take the image size, the card
            cannot compute in the precision.
    """
    estimate = predict(request, card)
    budget_bytes = card.budget_bytes()
    largest = estimate.largest_batch(budget_bytes)
    chosen, why = request.choose(largest)
    if largest < 1:
        why = (
            f"not one sample fits: {_gib(estimate.allocated_bytes(1))} predicted, "
            f"{_gib(max(0, budget_bytes - estimate.fixed.context))} usable beside the CUDA context"
        )
    usable_mib = min(card.memory_mib or 0, card.memory_limit_mib or card.memory_mib or 0)
    context_bytes = estimate.fixed.context
    return CardAnswer(
        card=card.name,
        device_index=None,
        evidence="predicted",
        reason=reason,
        precision=request.setup_on(card).precision,
        headroom_ratio=card.headroom("predicted"),
        context_bytes=context_bytes,
        free_bytes=max(0, usable_mib * 2**20 - context_bytes),
        budget_bytes=max(0, budget_bytes - context_bytes),
        largest=largest,
        knee=None,
        chosen=chosen,
        why=why,
        probes=[
            SizedProbe(
                size,
                estimate.allocated_bytes(size),
                None,
                size <= largest,
                with_context_bytes=estimate.peak_bytes(size),
            )
            for size in sorted({1, chosen or 1, largest or 1, largest + 1})
        ],
        levels=predict_levels(request, card, budget_bytes),
        parts=predict_parts(estimate, chosen or 1),
    )


def predict_levels(request: FindRequest, card: Gpu, budget_bytes: int) -> dict[str, int]:
    """Predict the largest batch of each level of checkpointing that the model has."""
    if not request.trains:
        return {}
    plain = predict(request.with_checkpointing(NONE), card)
    return {
        level: predict(request.with_checkpointing(level), card).largest_batch(budget_bytes)
        for level in levels(plain.stages)
    }


def predict_parts(estimate: MemoryEstimate, samples: int) -> dict[str, int]:
    """Predict what takes the memory at a batch, in bytes."""
    return {**asdict(estimate.fixed), "activations": estimate.varying_bytes(samples)}


def answer_for_cpu(request: FindRequest, card: Gpu, reason: str) -> CardAnswer:
    """Say what a run on the CPU does, where the memory of a card is no limit.

    Args:
        request: What is asked.
        card: The preset `cpu`.
        reason: Why there is no other card.

    Raises:
        InputError: When something must fit, which only a card can tell, or the CPU cannot compute
            in the precision.
    """
    if request.target is not None or request.minimum > 1:
        asked = "min_batch_size" if request.target is None else "target"
        raise InputError(
            f"{asked} is about the memory of a GPU and {reason}: name a card to predict for, such "
            "as gpu=rtx3060 or gpu.memory_gib=6"
        )
    most = request.per_device if request.trains else request.bounded(2**31)
    most = min(most, request.maximum or most)
    choice = choose_micro_batch(card, None, most)
    return CardAnswer(
        card=card.name,
        device_index=None,
        evidence="table",
        reason=f"{reason}, so nothing was measured",
        precision=str(resolve_precision(request.precision, card, is_cuda=False).value),
        headroom_ratio=None,
        context_bytes=None,
        free_bytes=None,
        budget_bytes=None,
        largest=None,
        knee=None,
        chosen=int(choice.value),
        why=choice.reason,
    )


def _gib(size_bytes: int) -> str:
    return f"{size_bytes / 2**30:.2f} GiB"
