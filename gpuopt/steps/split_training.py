"""Training steps that split their batch when memory runs out, with the gradients of the whole.

A module's `training_step` returns a loss that is cut off from its graph; Lightning goes on with
that as ever: it divides by the accumulation, scales for fp16, calls every hook, and calls
`backward`, which here takes the gradient that has arrived at the cut through the graph behind it.
So the graph belongs to this file alone, and can be freed before a retry; and when nothing fails
the same operations run in the same order as without it.
"""

from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager
from typing import Any

import lightning.pytorch as L
import torch
from torch import Tensor, nn

from gpuopt.errors import FaultError, InputError
from gpuopt.memory.device_errors import free_memory
from gpuopt.steps.accumulation_window import is_first_of_window, loss_divisor, loss_weight
from gpuopt.steps.batch_parts import cut, join, largest_part, sample_count, spans
from gpuopt.steps.gradients import (
    add_gradients,
    deliver,
    drop_gradients,
    optimized_parameters,
    put_gradients,
    sum_of,
    take_gradients,
    zeros_for_none,
)
from gpuopt.steps.hook_changes import HookChanges
from gpuopt.steps.loss_scale import LossScale
from gpuopt.steps.split_rule import SplitRule
from gpuopt.steps.split_size import SplitSize
from gpuopt.steps.split_step import (
    Binding,
    Observer,
    check_unwritten,
    is_fit_for,
    smaller,
    versions_of,
)
from gpuopt.steps.split_work import Arguments, Work, loss_of, without_loss
from gpuopt.steps.step_logs import merged, recorded_logs, replay
from gpuopt.steps.step_state import StateKeeper, StepState
from gpuopt.steps.window_gradients import WindowGradients

__all__ = ["SplitTraining"]

_HOOK = "training_step"


class SplitTraining:
    """Binds itself between a Trainer and its module's `training_step` and `backward`.

    Args:
        trainer: Fits the module.
        module: With automatic optimization.
        sizes: How many samples to take at a time.
        observer: Is told of every event.
    """

    def __init__(
        self, trainer: L.Trainer, module: L.LightningModule, sizes: SplitSize, observer: Observer
    ) -> None:
        # Before the first batch of the running accumulation window.
        self._window_start: StepState | None = None
        self._trainer = trainer
        self._module = module
        self._sizes = sizes
        self._observer = observer
        self._keeper = StateKeeper(trainer, module)
        self._rule = SplitRule(module, self._keeper, self._call, self._give_up, self._weigh)
        self._scale = LossScale(trainer)
        self._gradients = WindowGradients(module)
        self._hooks = HookChanges(trainer, module, self._keeper)
        self._work: Work | None = None
        self._corrected: Tensor | None = None
        # Of the newest batch: how many samples were taken at a time, and whether all went well.
        self.part = 0
        self.is_undisturbed = True
        self._parameters: list[nn.Parameter] = []
        # The parameters whose gradient is complete, in a pass that ranks reduce as it goes on.
        self._done: list[Tensor] = []
        self._handles: list[Any] = []
        self._binding = Binding(module)

    @property
    def _is_shared(self) -> bool:
        return self._trainer.world_size > 1

    def bind(self) -> None:
        """Take the place of the module's methods."""

        def stepping(method: Any) -> Any:
            self._own_step = method
            return lambda batch, *args, **options: self._step(batch, args, options)

        def going_back(method: Any) -> Any:
            self._own_backward = method
            own = getattr(method, "__func__", None)
            self._is_plain_backward = own is L.LightningModule.backward
            return lambda loss, *args, **options: self._backward(loss, args, options)

        self._binding.put(_HOOK, stepping)
        self._binding.put("backward", going_back)

    def start(self) -> None:
        """Look at the module, which lies on its device by now."""
        optimized = [
            p for optimizer in self._trainer.optimizers for p in optimized_parameters(optimizer)
        ]
        self._parameters = list(dict.fromkeys([*self._module.parameters(), *optimized]))
        self._gradients = WindowGradients(self._module)
        self._hooks = HookChanges(self._trainer, self._module, self._keeper)
        if self._is_shared:
            self._handles = [
                parameter.register_post_accumulate_grad_hook(self._done.append)
                for parameter in self._parameters
                if parameter.requires_grad
            ]

    def lifted(self) -> AbstractContextManager[None]:
        """Let the module have its own methods for a while."""
        return self._binding.lifted()

    def undo(self) -> None:
        """Give the methods back."""
        self._binding.undo()
        for handle in self._handles:
            handle.remove()
        self._handles, self._work, self._parameters = [], None, []
        self._window_start = None
        self._hooks.forget()
        self._done.clear()

    def correct(self, outputs: Any) -> None:
        """Put the loss of a batch that was split in its backward pass into Lightning's outputs."""
        corrected, self._corrected = self._corrected, None
        if corrected is not None and isinstance(outputs, dict):
            outputs["loss"].copy_(corrected / loss_divisor(self._trainer))
        size = self._sizes.succeeded()
        if size is not None:
            self._observer.grown("training", size)

    def return_to_window_start(self) -> None:
        """Bring buffers and generators back to before the step that is under way."""
        if self._window_start is not None:
            self._keeper.restore(self._window_start)

    # --- the forward pass --------------------------------------------------------------------

    def _step(self, batch: Any, args: tuple[Any, ...], options: dict[str, Any]) -> Any:
        count = sample_count(batch)
        work = Work(
            batch,
            (args, options),
            count,
            self._sizes.start(count),
            self._keeper.take(),
            versions_of(batch),
        )
        self.part, self.is_undisturbed = work.largest_part(), True
        if self._is_first_of_window():
            self._window_start = work.before
        self._rule.begin()
        if work.size < count:
            self._observer.is_split()
            self._rule.settle(work.batch, work.count, work.arguments)
        while not is_fit_for(lambda: self._go_forward(work)):
            self._shrink(work, "forward pass")
        self._gradients.see_forward(work.before.generators)
        if not self._hooks.are_there:  # else buffers that only hooks write to are copied as well
            self._keeper.learn(work.before)
        if work.logs:
            self._replay(work)
        if work.loss is None:
            return None
        work.cut = work.loss.detach().requires_grad_()
        self._work = work
        self._hooks.begin()
        rest = work.outputs[0] if len(work.outputs) == 1 else join(work.outputs, work.counts())
        return {"loss": work.cut, **rest} if isinstance(rest, Mapping) else work.cut

    def _go_forward(self, work: Work) -> None:
        """Run all parts, and the backward passes of all but the last."""
        if work.is_whole:
            self._run_parts(work)
            return
        kept = take_gradients(self._parameters)
        # Lightning drops them after this step.
        if self._is_first_of_window() and not self._hooks.see_last_gradients:
            kept = [None] * len(kept)
        try:
            self._run_parts(work)
            work.earlier = take_gradients(self._parameters)
        finally:
            put_gradients(self._parameters, kept)

    def _run_parts(self, work: Work, scale: Tensor | None = None) -> None:
        """Run the parts; those before the last backwards, and with a `scale` the last as well."""
        parts = work.spans()
        for span in parts:
            piece = work.batch if len(parts) == 1 else cut(work.batch, span, work.count)
            is_held = len(parts) > 1 or self._is_shared
            output = self._run(work, piece, is_held=is_held, is_entered=scale is None)
            loss = loss_of(output)
            work.outputs.append(without_loss(output))
            if loss is None:
                continue
            weight = self._weight(work, span)
            share = loss.detach() if len(parts) == 1 else loss.detach() * weight
            work.loss = share if work.loss is None else work.loss + share
            if span is parts[-1] and scale is None:
                work.waiting, work.span, work.weight = loss, span, weight
                return
            work.scale = self._scale.foreseen(loss) if scale is None else scale
            with torch.autocast(self._module.device.type, enabled=False):
                self._own_backward(loss * (work.scale * weight))
            del loss, output
            torch.clear_autocast_cache()  # casts of weights belong to the graph that is gone

    def _run(self, work: Work, piece: Any, *, is_held: bool, is_entered: bool = False) -> Any:
        """Call the module; `is_entered`: Lightning is in the context of a training step."""
        if not is_held and is_entered:
            args, options = work.arguments
            return self._own_step(piece, *args, **options)
        if not is_held:
            return self._call(piece, work.arguments)
        with recorded_logs(self._module) as calls:
            output = self._call(piece, work.arguments)
        work.logs.append(calls)
        return output

    def _call(self, batch: Any, arguments: Arguments) -> Any:
        args, options = arguments
        with self._trainer.precision_plugin.train_step_context():
            return self._own_step(batch, *args, **options)

    def _give_up(self) -> FaultError:
        return self._observer.give_up("forward pass", may_save=not self._is_shared)

    def _replay(self, work: Work) -> None:
        shares = [self._share(work, span) for span in work.spans()]
        calls = merged(work.logs, work.counts(), self._rule.logs, shares)
        replay(self._module, calls, _HOOK)

    def _weight(self, work: Work, span: slice) -> Any:
        if self._rule.loss == "sum":
            return 1.0
        return self._share(work, span)

    def _share(self, work: Work, span: slice) -> Any:
        if work.is_whole:
            return 1.0
        part = self._weigh(cut(work.batch, span, work.count), span.stop - span.start)
        return part / self._weigh(work.batch, work.count)

    def _weigh(self, batch: Any, count: int) -> Any:
        return loss_weight(self._trainer, batch, count)

    def _is_first_of_window(self) -> bool:
        return is_first_of_window(self._trainer)

    # --- the backward pass -------------------------------------------------------------------

    def _backward(self, loss: Tensor, args: tuple[Any, ...], options: dict[str, Any]) -> None:
        work, self._work = self._work, None
        if work is None or work.cut is None:
            self._own_backward(loss, *args, **options)
            return
        self._hooks.end()
        # Through Lightning's division and scaling alone.
        scale = self._scale.arrived(work.cut, loss, is_untouched=not self._hooks.are_there)
        if scale is None:
            raise InputError(
                "the loss that comes to backward() does not follow from that of training_step: "
                "use callbacks.oom_recovery.enabled=false"
            )
        self._scale.check(work.scale, scale)
        if self._is_shared:
            self._go_back_shared(work, scale, args, options)
        else:
            self._go_back_alone(work, scale, args, options)

    def _go_back_alone(
        self, work: Work, scale: Tensor, args: tuple[Any, ...], options: dict[str, Any]
    ) -> None:
        held = self._gradients.held(self._parameters, apart=bool(work.earlier))
        if work.earlier:
            put_gradients(self._parameters, work.earlier)
            work.earlier = []  # a failure repeats all parts
        if not is_fit_for(lambda: self._finish_watched(work, scale, args, options)):
            held.part()
            self._shrink(work, "backward pass")
            while not is_fit_for(lambda: self._run_parts(work, scale)):
                self._shrink(work, "backward pass")
            self._replay(work)
            self._hooks.reapply()
            self._corrected = work.loss
        held.join()

    def _finish_watched(
        self, work: Work, scale: Tensor, args: tuple[Any, ...], options: dict[str, Any]
    ) -> None:
        with self._gradients.watched(self._parameters):
            self._finish_last(work, scale, args, options)

    def _go_back_shared(
        self, work: Work, scale: Tensor, args: tuple[Any, ...], options: dict[str, Any]
    ) -> None:
        """Go back where ranks exchange gradients while the pass goes on.

        What has been sent cannot be taken back, and is complete. After a failure only the
        gradients that are missing are computed in parts; the forward pass, what it logged and the
        buffers stay those of the whole. So every rank sends and logs exactly once.
        """
        if work.earlier:
            add_gradients(self._parameters, work.earlier)
        self._done.clear()
        if is_fit_for(lambda: self._finish_last(work, scale, args, options)):
            return
        done = {id(parameter) for parameter in self._done}
        missing = [p for p in self._parameters if p.requires_grad and id(p) not in done]
        work.waiting = None
        if not missing:  # it failed in the exchange itself, of which nothing can be taken back
            raise self._observer.give_up("exchange of gradients", may_save=False)
        free_memory()  # before the copies
        after = self._keeper.take()
        gradients: list[Tensor | None] = []
        while True:
            self._shrink_last(work, after)
            if is_fit_for(lambda: gradients.extend(self._missing(work, missing, scale))):
                break
        self._observer.lost(self._keeper.restore(after))
        # None would leave the other ranks waiting for it.
        deliver(missing, [zeros_for_none(g, p) for g, p in zip(gradients, missing, strict=True)])

    def _finish_last(
        self, work: Work, scale: Tensor, args: tuple[Any, ...], options: dict[str, Any]
    ) -> None:
        loss, work.waiting = work.waiting, None
        if loss is None:
            return
        if work.is_whole and self._is_plain_backward and self._scale.is_one(scale):
            self._own_backward(loss, *args, **options)
            return
        factor = scale if work.is_whole else scale * work.weight
        # A factor instead of an argument: the module may have a backward() of its own.
        self._own_backward(loss * factor, *args, **options)

    def _missing(
        self, work: Work, parameters: Sequence[nn.Parameter], scale: Tensor
    ) -> list[Tensor | None]:
        """Compute the last part's gradients of some parameters in smaller parts."""
        total: list[Tensor | None] = [None] * len(parameters)
        first = work.span.start
        for span in spans(work.span.stop - first, work.size):
            place = slice(first + span.start, first + span.stop)
            loss = loss_of(self._run(work, cut(work.batch, place, work.count), is_held=True))
            if loss is None:
                continue
            weight = self._weight(work, place)
            gained = torch.autograd.grad(loss * (scale * weight), parameters, allow_unused=True)
            del loss
            total = [sum_of(one, other) for one, other in zip(total, gained, strict=True)]
            torch.clear_autocast_cache()
        return total

    # --- after a failure ---------------------------------------------------------------------

    def _shrink(self, work: Work, phase: str) -> None:
        """Undo a failed attempt and choose a smaller size."""
        work.clear()
        if phase == "backward pass":  # in the forward pass they were put back already
            drop_gradients(self._parameters)
        self._observer.lost(self._keeper.restore(work.before))
        check_unwritten(work.batch, work.versions, _HOOK)
        may_save = not self._is_shared
        part = work.largest_part()
        work.size = smaller(self._sizes, self._observer, phase, part, may_save=may_save)
        self._observer.is_split()
        self.part, self.is_undisturbed = work.largest_part(), False
        self._rule.settle(work.batch, work.count, work.arguments)

    def _shrink_last(self, work: Work, after: StepState) -> None:
        self._keeper.restore(after)
        part = largest_part(work.span.stop - work.span.start, work.size)
        work.size = smaller(self._sizes, self._observer, "backward pass", part, may_save=False)
        self._observer.is_split()
        self.part, self.is_undisturbed = work.largest_part(), False
        self._rule.settle(work.batch, work.count, work.arguments)
        self._keeper.restore(after)
