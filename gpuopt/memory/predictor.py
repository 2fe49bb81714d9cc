"""How much GPU memory a model takes, computed without a GPU.

The model is built on the meta device, where tensors have shapes but no data, and one step is
followed operation by operation. At batch 256 of ConvNeXt-Base at 384 px this gave the 94.1 GiB
that an H200 measured; see `benchmarks/results`.
"""

from pathlib import Path

from gpuopt.errors import InputError
from gpuopt.memory.estimate import FixedMemory, Line, MemoryEstimate, highest_lines
from gpuopt.memory.estimate_cache import EstimateCache
from gpuopt.memory.setup import MemorySetup

__all__ = ["CONTEXT_BYTES", "predict_memory"]

# An assumption, not measured: 0.4 to 0.8 GB are usual.
CONTEXT_BYTES = 800_000_000
# What torch's CUDABlas takes on SM 9.0; 8.1 MiB on other cards.
_WORKSPACE_BYTES = 32 * 2**20
_FLOAT_BYTES = 4


def predict_memory(setup: MemorySetup, *, cache_dir: str | Path | None = None) -> MemoryEstimate:
    """Predict the memory of training one timm model with cross-entropy, or of inference.

    A new answer takes seconds and is kept; a known one takes none and imports no torch.

    Args:
        setup: What is asked for.
        cache_dir: Folder of all caches; None means the user's cache folder.

    Raises:
        InputError: timm does not know the model, or the model does not take that image size
            or cannot be run without data.
    """
    cache = EstimateCache(cache_dir)
    known = cache.read(setup)
    if known is not None:
        return known
    try:
        estimate = _predict(setup)
    # What timm's models raise: TypeError for an option that they lack, AssertionError and
    # ValueError for a size that they do not take, RuntimeError for shapes and for missing data.
    except (RuntimeError, AssertionError, ValueError, TypeError) as error:
        reason = " ".join(str(error).split())[:200]
        size = "" if setup.image_size is None else f" at image_size={setup.image_size}"
        raise InputError(
            f"model.name={setup.model_name}: its memory{size} cannot be predicted "
            f"({reason}); try another image_size, or give micro_batch_size"
        ) from error
    cache.write(setup, estimate)
    return estimate


def _predict(setup: MemorySetup) -> MemoryEstimate:
    # torch and timm take seconds to import.
    from gpuopt.memory.meta_model import MetaModel
    from gpuopt.memory.step_trace import step_lines

    model = MetaModel(setup)
    lines = step_lines(model, training=setup.training)
    count = sum(parameter.numel() for parameter in model.parameters)
    weights = sum(parameter.nbytes for parameter in model.parameters)
    buffers = sum(buffer.nbytes for buffer in model.buffers)
    copies = model.emulation.weight_copies_bytes
    training = int(setup.training)
    fixed = FixedMemory(
        parameters=weights,
        gradients=training * weights,
        optimizer_state=training * _FLOAT_BYTES * setup.optimizer_moments * count,
        moving_average=training * int(setup.moving_average) * (weights + buffers),
        buffers=buffers,
        half_precision_weights=copies,
        workspace=_WORKSPACE_BYTES,
        context=CONTEXT_BYTES,
    )
    moments = [Line(line.base_bytes - copies, line.bytes_per_sample) for line in lines]
    if setup.training and not setup.optimizer_is_fused:
        # The step of AdamW and SGD over lists of tensors makes one new list of that size.
        moments.append(Line(_FLOAT_BYTES * count - copies, 0))
    return MemoryEstimate(fixed, highest_lines(moments), model.image_size)
