"""How much GPU memory a model takes, computed without a GPU.

The model is built on the meta device, where tensors have shapes but no data, and one step is
followed operation by operation. The 39 peaks of live tensors that were measured on a GPU are within
3.5 % of it (`benchmarks/results`, `tests/memory/test_measured_peaks.py`), which corrected it.

Not in it: workspaces of cuDNN above a small reserve, what the allocator keeps in pieces too small
to use, and what a compiler saves. The headroom of a card is there for these.
"""

from pathlib import Path

from gpuopt.errors import InputError
from gpuopt.memory.estimate import FixedMemory, Line, MemoryEstimate, StepMemory, highest_lines
from gpuopt.memory.setup import MemorySetup
from gpuopt.memory.step_cache import StepCache

__all__ = ["CONTEXT_BYTES", "predict_memory"]

# An assumption, not measured: 0.4 to 0.8 GB are usual.
CONTEXT_BYTES = 800_000_000
# What torch's CUDABlas takes on SM 9.0; 8.1 MiB on other cards.
_WORKSPACE_BYTES = 32 * 2**20
# Elements of a parameter from which its optimizer state can be offloaded; as in
# `gpuopt.model.offload`.
_OFFLOADED_FROM = 4096
# For cuDNN's: small batches of ConvNeXt-Base and EfficientNet-B3 took 50 to 100 MiB more on an
# H100 than all tensors together.
_CONVOLUTION_WORKSPACE_BYTES = 64 * 2**20


def predict_memory(
    setup: MemorySetup, *, cache_dir: str | Path | None = None, keep: bool = True
) -> MemoryEstimate:
    """Predict the memory of training one timm model with cross-entropy, or of inference.

    A new answer takes seconds and is kept; a known one takes none and imports no torch.

    Args:
        setup: What is asked for.
        cache_dir: Folder of all caches; None means the user's cache folder.
        keep: Whether a new answer is kept there.

    Raises:
        InputError: timm does not know the model, or the model does not take that image size
            or cannot be run without data.
    """
    cache = StepCache(cache_dir)
    step = cache.read(setup)
    if step is None:
        step = _follow(setup)
        if keep:
            cache.write(setup, step)
    return _with_optimizer(setup, step)


def _follow(setup: MemorySetup) -> StepMemory:
    # torch and timm take seconds to import.
    from gpuopt.memory.batch_dependence import depends_on_batch
    from gpuopt.memory.meta_model import MetaModel
    from gpuopt.memory.step_trace import step_lines

    try:
        model = MetaModel(setup)
        lines = step_lines(
            model,
            training=setup.training,
            accumulates=setup.accumulates,
            apart=setup.accumulates and bool(depends_on_batch(model.network)),
        )
    # What timm's models raise: TypeError for an option that they lack, AssertionError and
    # ValueError for a size that they do not take, RuntimeError for shapes and for missing data.
    except (RuntimeError, AssertionError, ValueError, TypeError) as error:
        reason = " ".join(str(error).split())[:200]
        size = "" if setup.image_size is None else f" at image_size={setup.image_size}"
        raise InputError(
            f"model.name={setup.model_name}: its memory{size} cannot be predicted "
            f"({reason}); try another image_size, or give micro_batch_size"
        ) from error
    return StepMemory(
        parameters_bytes=sum(parameter.nbytes for parameter in model.parameters),
        buffers_bytes=sum(buffer.nbytes for buffer in model.buffers),
        weight_copies_bytes=model.emulation.weight_copies_bytes,
        lines=lines,
        image_size=model.image_size,
        convolves=model.convolves,
        stages=model.stages,
        small_parameters_bytes=sum(
            parameter.nbytes
            for parameter in model.parameters
            if parameter.numel() < _OFFLOADED_FROM
        ),
    )


def _with_optimizer(setup: MemorySetup, step: StepMemory) -> MemoryEstimate:
    """Add what stays from step to step, and the optimizer's own step, to the passes."""
    weights, buffers, copies = step.parameters_bytes, step.buffers_bytes, step.weight_copies_bytes
    trains = int(setup.training)
    on_card = step.small_parameters_bytes if setup.optimizer_is_offloaded else weights
    fixed = FixedMemory(
        parameters=weights,
        gradients=trains * weights,
        optimizer_state=trains * setup.optimizer_moments * on_card,
        moving_average=trains * int(setup.moving_average) * (weights + buffers),
        buffers=buffers,
        half_precision_weights=copies,
        workspace=_WORKSPACE_BYTES + step.convolves * _CONVOLUTION_WORKSPACE_BYTES,
        context=CONTEXT_BYTES,
    )
    moments = [Line(line.base_bytes - copies, line.bytes_per_sample) for line in step.lines]
    if setup.training and not setup.optimizer_is_fused:
        # Over lists of tensors AdamW and SGD make one new list as large as the weights.
        moments.append(Line(weights - copies, 0))
    return MemoryEstimate(fixed, highest_lines(moments), step.image_size, step.stages)
