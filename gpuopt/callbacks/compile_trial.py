"""Eager and compiled steps of a real module, inside of a fit that has not begun."""

import contextlib
import logging
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from typing import Any

import lightning.pytorch as L
import torch
from torch import Tensor, nn

from gpuopt.callbacks.agreement import any_rank, largest_of_ranks
from gpuopt.callbacks.trial_steps import TrialSteps
from gpuopt.measure.compile_choice import CompileFailedError
from gpuopt.measure.kept_state import restarted_generators
from gpuopt.measure.logit_difference import compare_logits
from gpuopt.measure.timing import duration_text
from gpuopt.memory.device_errors import free_memory, is_device_lost, is_out_of_memory
from gpuopt.steps.compiled_part import CallCount, CompiledPart, without_chance
from gpuopt.steps.compiler_cache import CompilerCache
from gpuopt.steps.compiling import (
    CompileTask,
    PartCall,
    left_memory_ratio,
    matmul_precision,
    run_part,
)
from gpuopt.steps.compiling_process import CompilingProcess, compiler_words
from gpuopt.steps.fit_state import FitState
from gpuopt.steps.split_step import is_fit_for

__all__ = ["CompileTrial", "is_first_of_device"]

_log = logging.getLogger(__name__)

# Largest difference between eager and compiled logits that is rounding; see `PrecisionProbe`.
# Compiled code keeps numbers in fp32 between operations that are eager in half precision.
_MOST_DIFFERENCE = {torch.bfloat16: 0.3, torch.float16: 0.1, torch.float32: 1e-3}
_MOST_DIFFERENCE_TF32 = 0.02
_LEAST_AGREEMENT = 0.995
# Of CUDA graphs the first call warms up, the second records and the third replays.
_WARM_STEPS = 3
_POLL_S = 0.05
_NO_MEMORY = "memory ran out in the trial"


class CompileTrial:
    """Takes steps of a module whose part is eager or compiled; see `running`.

    Args:
        trainer: In `on_fit_start`.
        module: That it fits.
        part: Of the module; called once in a step, and returns one tensor.
        batch: On the host.
        backend: Of torch.compile.
        cache: Where compiled code is kept.
    """

    def __init__(
        self,
        trainer: L.Trainer,
        module: L.LightningModule,
        part: nn.Module,
        batch: Any,
        backend: str,
        cache: CompilerCache,
    ) -> None:
        self._trainer = trainer
        self._module = module
        self._part = part
        self._batch = batch
        self._backend = backend
        self._cache = cache
        self._taker = TrialSteps(trainer, module)
        self._device = module.device
        self._made: dict[str, CompiledPart] = {}
        self._kept: CompiledPart | None = None
        self._call: PartCall | None = None
        self._task: CompileTask | None = None
        self._has_run_out = False

    @contextlib.contextmanager
    def running(self) -> Iterator[None]:
        """Take steps inside; afterwards all is as before, to the bit, but for what `keep` kept.

        Raises:
            CompileFailedError: On all ranks, when a step does not call the part, has no one tensor
                of it or does not fit the memory.
        """
        state = FitState(self._trainer, self._module)
        try:
            with self._taker.quiet(), self._cache.in_use():
                self._watch()
                yield
        except CompileFailedError:
            self.keep("off")
            raise
        finally:
            self._part._compiled_call_impl = None
            state.restore()
            del state
            self._call = None
            free_memory()
        if self._kept is not None:
            self._kept.count_anew()
            self._kept.frozen()

    @property
    def calls(self) -> CallCount:
        """Counts the part's calls after the trial; none when nothing was kept."""
        return CallCount() if self._kept is None else self._kept.calls

    def clock_s(self) -> float:
        """Return monotonic seconds, when all that was queued is done."""
        if self._device.type == "cuda":
            torch.cuda.synchronize(self._device)
        return time.perf_counter()

    def step_eager(self) -> None:
        """Take a step with the part uncompiled."""
        self._part._compiled_call_impl = None
        self._step_if_fit()

    def make_compiled(self, mode: str, limit_s: float) -> Callable[[], None]:
        """Compile in a process that ends at the limit, then here from what it left; check it.

        Raises:
            CompileFailedError: With the reason, also when the logits differ.
        """
        self._fill_cache(mode, limit_s)
        compiled = self._compile(mode)

        def step() -> None:
            compiled.frozen()
            self._step_if_fit()

        return step

    def agree(self, values: Sequence[float]) -> list[float]:
        """Return the largest of each figure over all ranks.

        Raises:
            CompileFailedError: On all ranks, when memory has run out in a step of one of them.
        """
        *most, has_run_out = largest_of_ranks(self._trainer, [*values, float(self._has_run_out)])
        if has_run_out:
            raise CompileFailedError(_NO_MEMORY)
        return most

    def keep(self, mode: str) -> None:
        """Let the part run compiled in a mode, or off, when the trial is over.

        What was compiled in other modes is dropped: graphs hold on to all memory that they use.
        """
        if set(self._made) - {mode}:
            self._made.clear()
            self._part._compiled_call_impl = None
            torch.compiler.reset()
            free_memory()
        if mode != "off":
            self._kept = self._made.get(mode) or self._compile(mode)

    # --- steps --------------------------------------------------------------------------------

    def _step(self) -> None:
        self._taker.train(self._taker.on_device(self._batch))

    def _step_if_fit(self) -> None:
        """Take a step. When memory runs out none is taken any more, and `agree` tells all ranks."""
        if not self._has_run_out:
            self._has_run_out = not is_fit_for(self._step)

    def _watch(self) -> None:
        """See in a step how the part is called, and agree that it can be tried."""
        fault: str | None = None
        try:
            if not is_fit_for(self._note_call):
                fault = _NO_MEMORY
        except CompileFailedError as error:
            fault = str(error)
        if any_rank(self._trainer, fault is not None):
            raise CompileFailedError(fault or "it cannot be tried on another rank")

    def _note_call(self) -> None:
        calls: list[PartCall] = []
        kind = self._device.type

        def note(part: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
            is_on = torch.is_autocast_enabled(kind)
            calls.append(PartCall(args, kwargs, torch.get_autocast_dtype(kind) if is_on else None))

        handle = self._part.register_forward_pre_hook(note, with_kwargs=True)
        try:
            self._step()
        finally:
            handle.remove()
        if not calls:
            raise CompileFailedError(f"a step does not call {type(self._part).__name__}")
        self._call = calls[0]
        try:
            with torch.no_grad():
                outputs = [self._run() for _ in range(2)]
        except TypeError as error:
            raise CompileFailedError(str(error)) from error
        self._task = CompileTask.of(
            self._part,
            self._call,
            self._device,
            self._backend,
            has_chance=not torch.equal(*outputs),
        )

    def _run(self) -> Tensor:
        assert self._call is not None  # noted before anything is run
        return run_part(self._part, self._call, self._device).detach().clone()

    # --- compiling ----------------------------------------------------------------------------

    def _fill_cache(self, mode: str, limit_s: float) -> None:
        """Compile into the cache in a process, once for each card that is not there yet."""
        assert self._task is not None  # described before anything is compiled
        digest, began = self._task.digest(mode), time.perf_counter()
        process, fault = None, None
        if is_first_of_device(self._device, self._trainer.local_rank) and not (
            self._cache.holds(digest)
        ):
            free_memory()  # the process needs some of the device
            try:
                share = left_memory_ratio(self._device)
                process = CompilingProcess(replace(self._task, memory_ratio=share), mode)
            except Exception as error:  # whatever pickling raises
                fault = f"the model cannot be sent to a process: {compiler_words(error)}"
        try:
            if not self._has_ended(process, began + limit_s):
                raise CompileFailedError(f"not compiled within {duration_text(limit_s)}")
            if process is not None:
                fault = process.fault()
        finally:
            if process is not None:
                process.end()
        if any_rank(self._trainer, fault is not None):
            raise CompileFailedError(fault or "it failed on another machine")
        if process is not None:
            self._cache.note(digest, mode, time.perf_counter() - began)

    def _has_ended(self, process: CompilingProcess | None, end_s: float) -> bool:
        """Wait on all ranks; none waits in vain for one that is busy, as long as it may be."""
        while any_rank(self._trainer, process is not None and not process.is_done):
            if any_rank(self._trainer, time.perf_counter() > end_s):
                return False
            time.sleep(_POLL_S)
        return True

    def _compile(self, mode: str) -> CompiledPart:
        """Compile here and see that the result is right.

        Raises:
            CompileFailedError: For whatever goes wrong in a compiler or in what it made.
        """
        try:
            self._made[mode] = compiled = CompiledPart(self._part, mode, self._backend)
            for _ in range(_WARM_STEPS):
                compiled.compiling()
                self._step()
            self._check(compiled)
        except CompileFailedError:
            raise
        except Exception as error:
            if is_device_lost(error):
                raise
            reason = "memory ran out" if is_out_of_memory(error) else compiler_words(error)
            raise CompileFailedError(reason) from None  # frames would hold on to memory
        finally:
            self._part._compiled_call_impl = None
        return compiled

    def _check(self, compiled: CompiledPart) -> None:
        assert self._task is not None
        assert self._call is not None
        # The graph of training itself where it draws no numbers; else it would draw others.
        context: Any = contextlib.ExitStack()
        found = []
        with context, restarted_generators(self._device):
            if self._task.has_chance:
                context.enter_context(torch.no_grad())
                context.enter_context(without_chance(self._part))
            else:
                context.enter_context(torch.enable_grad())
            for use in (compiled.eager, compiled.compiling):
                use()
                logits = self._run().float()
                found.append(logits.reshape(-1, logits.shape[-1]))
        most = _MOST_DIFFERENCE[self._call.autocast or torch.float32]
        if self._call.autocast is None and _uses_tf32(self._device):
            most = _MOST_DIFFERENCE_TF32
        difference = compare_logits(found[0], found[1], most)
        agreement = difference.top1_agreement
        shown = (
            f"logits differ by {difference.ratio:.2g} from eager, at most "
            f"{difference.largest_ratio:.2g} of the largest"
        )
        # Not above: also false when the numbers are not finite.
        if not difference.ratio <= most:
            raise CompileFailedError(f"{shown}: {most} is allowed")
        if agreement is not None and agreement < _LEAST_AGREEMENT:
            raise CompileFailedError(f"{shown}, top-1 {agreement:.1%} the same")
        _log.debug("%s, top-1 %s", shown, agreement)


def is_first_of_device(device: torch.device, local_rank: int) -> bool:
    """Tell whether a rank is the one to compile for its device; ranks share the processor."""
    return device.type == "cuda" or local_rank == 0


def _uses_tf32(device: torch.device) -> bool:
    is_exact = matmul_precision() in (None, "highest")
    return device.type == "cuda" and not (is_exact and not torch.backends.cudnn.allow_tf32)
