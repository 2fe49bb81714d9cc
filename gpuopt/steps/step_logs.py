"""Hold back the `self.log` calls of parts of a batch, and make them once for the whole."""

import contextlib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import lightning.pytorch as L
import torch
from torch import Tensor
from torchmetrics import Metric

__all__ = ["LogCall", "merged", "recorded_logs", "replay", "weighted_sum"]


@dataclass(frozen=True)
class LogCall:
    """A call of `LightningModule.log` that was held back.

    Attributes:
        name: What is logged.
        value: A number, a tensor or a metric.
        arguments: Further positional ones.
        options: Keyword arguments.
        of_batch: A metric's value of the part alone, which is what it logs on a step.
    """

    name: str
    value: Any
    arguments: tuple[Any, ...]
    options: dict[str, Any]
    of_batch: Any = None

    def samples(self, count: int) -> int:
        """Return for how many samples the value stands, of `count` in the part."""
        return int(self.options.get("batch_size") or 0) if "batch_size" in self.options else count


@contextlib.contextmanager
def recorded_logs(module: L.LightningModule) -> Iterator[list[LogCall]]:
    """Hold back what the module logs; `log_dict` calls `log`."""
    calls: list[LogCall] = []

    def log(name: str, value: Any, *arguments: Any, **options: Any) -> None:
        of_batch = value._forward_cache if isinstance(value, Metric) else None
        value = value.detach() if isinstance(value, Tensor) else value
        calls.append(LogCall(name, value, arguments, options, of_batch))

    logging: Any = module  # whose method is replaced for a while
    own = vars(module).get("log")
    logging.log = log
    try:
        yield calls
    finally:
        if own is None:
            del logging.log
        else:
            logging.log = own


def replay(module: L.LightningModule, calls: Sequence[LogCall], hook: str) -> None:
    """Make the calls, as from inside of `hook`."""
    before, module._current_fx_name = module._current_fx_name, hook
    try:
        for call in calls:
            if isinstance(call.value, Metric):
                call.value._forward_cache = call.of_batch
            module.log(call.name, call.value, *call.arguments, **call.options)
    finally:
        module._current_fx_name = before


def merged(
    parts: Sequence[Sequence[LogCall]],
    counts: Sequence[int],
    rules: Mapping[str, str],
    loss_shares: Sequence[Any] = (),
) -> list[LogCall]:
    """Word the calls of all parts as those of the whole batch.

    Args:
        parts: The calls of each part.
        counts: Samples of each part.
        rules: By name `sum` for values that add up over the parts, `weighted` for those that are
            means as the loss is; all others are means over samples.
        loss_shares: Share of each part's loss in that of the batch.
    """
    if len(parts) == 1:
        return list(parts[0])
    found: dict[tuple[str, int], list[tuple[LogCall, int, Any]]] = {}
    for calls, count, share in zip(parts, counts, loss_shares or counts, strict=True):
        seen: dict[str, int] = {}
        for call in calls:
            seen[call.name] = seen.get(call.name, 0) + 1
            found.setdefault((call.name, seen[call.name]), []).append((call, count, share))
    return [_merged_call(members, rules.get(name, "mean")) for (name, _), members in found.items()]


def weighted_sum(values: Sequence[Any], weights: Sequence[float]) -> Any:
    """Add up numbers or tensors, each times its weight."""
    return sum(value * weight for value, weight in zip(values, weights, strict=True))


def _merged_call(members: Sequence[tuple[LogCall, int, Any]], rule: str) -> LogCall:
    last = members[-1][0]
    counts = [count for _, count, _ in members]
    samples = [call.samples(count) for call, count, _ in members]
    options = dict(last.options)
    # Rows of the part that count; a larger number is a setting that knows nothing of parts.
    if "batch_size" in options and all(s <= n for s, n in zip(samples, counts, strict=True)):
        options["batch_size"] = sum(samples)
    total = sum(samples)
    shares = [n / total for n in samples] if total else [1 / len(members)] * len(members)
    of_batch = [call.of_batch for call, *_ in members]
    if isinstance(last.value, Metric):
        has_values = all(isinstance(value, Tensor) for value in of_batch)
        joint = weighted_sum(of_batch, shares) if has_values else last.of_batch
        return replace(last, options=options, of_batch=joint)
    values = [call.value for call, *_ in members]
    if options.get("reduce_fx") in ("max", "min", torch.max, torch.min):
        pick = max if options["reduce_fx"] in ("max", torch.max) else min
        return replace(last, value=pick(values), options=options)
    weights = [1.0] * len(members) if rule == "sum" else shares
    if rule == "weighted" and "batch_size" not in options:
        weights = [share for *_, share in members]
    return replace(last, value=weighted_sum(values, weights), options=options)
