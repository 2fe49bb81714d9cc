"""From the settings of `gpuopt tune` to its answer, stage by stage."""

import copy
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import fields
from typing import Any

from gpuopt.choice import Choice
from gpuopt.errors import InputError
from gpuopt.find_answer import find
from gpuopt.finding.probing_process import Measured
from gpuopt.finding.request import FindRequest
from gpuopt.finding.route import Route, choose_route
from gpuopt.hardware import DriverDevice, available_cpus, host_memory_bytes
from gpuopt.measure.pairs import abba_orders, paired_ratio, spread
from gpuopt.schema import FindBatchSizeConfig, TrainConfig, TuneConfig, to_find_config
from gpuopt.tuning.answer import BeforeAfter, TuneAnswer
from gpuopt.tuning.batch_choice import choose_for_goal
from gpuopt.tuning.bench_process import BenchProcess
from gpuopt.tuning.compile_answer import CompileAnswer, compile_answer
from gpuopt.tuning.goal import GOALS, Figures, Goal, best_for
from gpuopt.tuning.loader_limits import WorkerLimit, worker_limit
from gpuopt.tuning.loader_search import LoaderResult, search_loader
from gpuopt.tuning.loader_setting import LoaderSetting

__all__ = ["Measure", "OpenBench", "tune"]

Measure = Callable[[DriverDevice, FindRequest, str], Measured]
OpenBench = Callable[[Mapping[str, Any]], BenchProcess]

_PAIRS = 6
_UNMEASURED = "loader, compilation, before and after"
_LEVEL = "model.checkpointing"


def tune(
    config: TuneConfig,
    settings: Mapping[str, Any],
    typed: Collection[str],
    present: Sequence[DriverDevice],
    *,
    measure: Measure,
    open_bench: OpenBench,
    tell: Callable[[str], None],
) -> TuneAnswer:
    """Find the settings that serve a goal.

    Args:
        config: The checked settings.
        settings: The same as plain values.
        typed: Keys that the user gave on the command line.
        present: The CUDA devices of this machine.
        measure: Probes a device for the batch that fits, see `gpuopt.find_answer.find`.
        open_bench: Starts a process that measures the training with such settings.
        tell: Is told what is done next, in a few words.

    Raises:
        GpuoptError: See the exit codes in `gpuopt.errors`.
    """
    route = choose_route(config.gpu, present, None, 1)
    _refuse_other_device(route)
    tuning = _Tuning(config, settings, typed, open_bench, tell)
    if config.target == "all":
        tuning.check(route)
    try:
        return _answer(tuning, config, route, present, measure)
    finally:
        tuning.close()


def _answer(
    tuning: "_Tuning",
    config: TuneConfig,
    route: Route,
    present: Sequence[DriverDevice],
    measure: Measure,
) -> TuneAnswer:
    if route.kind == "predict":
        if config.target != "all":
            raise InputError(
                f"target={config.target} cannot be measured: {route.reason}; run it on that "
                "machine, or take target=all for what is predicted"
            )
        tuning.find_batch(present, measure)
        unmeasured = f"not measured: {_UNMEASURED}: {route.reason}"
        return tuning.answer(config.gpu.card().name, unmeasured)
    if config.target == "all":
        tuning.settle_precision()
        if route.kind == "measure":
            tuning.find_batch(present, measure)
        if config.goal == "memory":
            tuning.compare_checkpointing()
    if config.target in ("loader", "all"):
        tuning.find_loader()
    if config.target in ("compile", "all"):
        tuning.find_compile_mode()
    if config.target == "all":
        tuning.compare()
    return tuning.answer()


def _refuse_other_device(route: Route) -> None:
    if route.devices and route.devices[0].index != 0:
        index = route.devices[0].index
        raise InputError(
            f"{route.devices[0].name} is CUDA device {index} here, and training takes the first: "
            f"put CUDA_VISIBLE_DEVICES={index} before the command"
        )


class _Tuning:
    """The stages, each of which starts from what those before it have found."""

    def __init__(
        self,
        config: TuneConfig,
        settings: Mapping[str, Any],
        typed: Collection[str],
        open_bench: OpenBench,
        tell: Callable[[str], None],
    ) -> None:
        self._config = config
        names = {field.name for field in fields(TrainConfig)}
        own = {"gpu": {k: v for k, v in settings["gpu"].items() if k != "memory_gib"}}
        self._given = {**{k: v for k, v in settings.items() if k in names}, **own}
        self._now = copy.deepcopy(self._given)
        self._settings = settings
        self._typed = typed
        self._open_bench = open_bench
        self._tell = tell
        self._goal: Goal = next(goal for goal in GOALS if goal == config.goal)
        self._kept: BenchProcess | None = None
        self._choices: dict[str, Choice] = {}
        self._loader: LoaderResult | None = None
        self._compiled: CompileAnswer | None = None
        self._comparison: BeforeAfter | None = None
        self._device = ""
        self._checked: str | None = None

    def answer(self, device: str | None = None, unmeasured: str = "") -> TuneAnswer:
        """Put together what was found."""
        notes = [self._checked]
        if self._loader is not None:
            notes.append(self._loader.shortfall)
        if self._comparison is not None and self._comparison.is_worse(self._goal):
            notes.append(self._comparison.kept_because(self._goal))
        return TuneAnswer(
            target=self._config.target,
            goal=self._goal,
            device=device or self._device,
            choices=list(self._choices.values()),
            unmeasured=unmeasured,
            loader=self._loader,
            compiled=self._compiled,
            comparison=self._comparison,
            notes=[note for note in notes if note is not None],
        )

    def check(self, route: Route) -> None:
        """Note what there is to measure on."""
        self._checked = (
            f"{route.reason}; {available_cpus()} processors and "
            f"{host_memory_bytes() / 2**30:.0f} GiB of memory may be used here"
        )

    def settle_precision(self) -> None:
        """Take the precision, the batch and the level that a run here would plan with."""
        self._tell("precision")
        facts = self._bench().facts
        planned = {choice["key"]: Choice(**choice) for choice in facts["choices"]}
        for key in ("precision", "micro_batch_size", _LEVEL):
            if key in planned:
                self._take(planned[key])

    def find_batch(self, present: Sequence[DriverDevice], measure: Measure) -> None:
        """Take the batch that fits the card and serves the goal, with its checkpointing."""
        if self._given["micro_batch_size"] != "auto":
            return
        self._tell("batch")
        self.close()  # what it has of the device is not free
        config = self._find_config(None)
        found = find(config, present, measure)
        if found.answer.largest == 0 and _LEVEL not in self._typed:
            found = find(self._find_config("auto"), present, measure)
        (card,) = found.answer.cards
        if card.chosen < 1:
            raise InputError(f"micro_batch_size: {card.why}")
        batch = config.global_batch_size or card.chosen
        self._take(
            choose_for_goal(
                self._goal,
                found.answer.choice,
                knee=card.knee,
                timed=[
                    (probe.batch_size, probe.samples_per_second, probe.allocated_bytes)
                    for probe in card.probes
                    if probe.fits and probe.samples_per_second and probe.allocated_bytes
                ],
                per_device=batch,
                least_speed_ratio=self._config.least_speed_ratio,
            )
        )
        level, asked = found.answer.checkpointing, str(self._given["model"].get("checkpointing"))
        if level != asked:
            why = "the least with which a sample fits" if asked != "auto" else "asked for auto"
            self._take(Choice(_LEVEL, level, "predicted", why))
        if "precision" not in self._choices and self._given["precision"]["name"] == "auto":
            self._take(Choice("precision", card.precision, "table", f"for {card.card}"))

    def compare_checkpointing(self) -> None:
        """Measure what recomputing all activations saves and costs."""
        if _LEVEL in self._typed:
            return
        figures: dict[str, Figures] = {}
        for level in ("none", "full"):
            self._tell(f"checkpointing {level}")
            figures[level] = self._memory_of({_LEVEL: level})
        ratio = self._config.least_speed_ratio
        level = best_for("memory", figures, least_speed_ratio=ratio)
        words = ", ".join(
            f"{name} {(f.memory_bytes or 0) / 2**30:.2f} GiB at {f.samples_per_second:.0f} "
            "samples/s"
            for name, f in figures.items()
        )
        self._take(Choice(_LEVEL, level, "measured", words))

    def find_loader(self) -> None:
        """Search for the loader's setting."""
        bench = self._bench()
        self._tell("one loader process")
        reading = bench.reading()
        self._tell("steps without loading")
        demand = bench.alone().samples_per_second

        def limit_for(prefetch_factor: int) -> WorkerLimit:
            return worker_limit(reading.cpu_ratio, reading.batch_bytes, prefetch_factor)

        def probe(setting: LoaderSetting) -> Figures:
            self._tell(str(setting))
            found = bench.beside(setting)
            return Figures(found.samples_per_second, found.batch_ms)

        is_cuda = bench.facts["accelerator"] == "cuda"
        self._loader = search_loader(
            probe,
            reading,
            limit_for=limit_for,
            demand=demand,
            goal=self._goal,
            pin_memory=is_cuda,
            shares_processors=not is_cuda,
            least_speed_ratio=self._config.least_speed_ratio,
        )
        for choice in self._loader.choices():
            self._take(choice)

    def find_compile_mode(self) -> None:
        """Try the modes of torch.compile on the real step."""
        bench = self._bench()
        self._tell("compilation")
        facts, found = bench.facts, bench.compile()
        figures: dict[str, Figures] = {}
        if self._goal == "memory":
            for mode in ("off", *(t["mode"] for t in found["trials"] if t["step_s"] is not None)):
                self._tell(f"memory with compile.mode={mode}")
                figures[mode] = self._memory_of({"compile.mode": mode})
        per_step = int(facts["batches_per_step"])
        self._compiled = compile_answer(
            found,
            self._goal,
            batches=int(facts["steps"]) * per_step,
            batches_per_epoch=int(facts["steps_per_epoch"]) * per_step,
            batches_per_step=per_step,
            figures=figures,
            least_speed_ratio=self._config.least_speed_ratio,
        )
        self._take(self._compiled.choice())

    def compare(self) -> None:
        """Measure the settings as they were typed and as they are now, in turns."""
        taken: dict[str, list[Figures]] = {"before": [], "after": []}
        self._tell("before and after")
        self.close()
        with self._open_bench(self._given) as before, self._open_bench(self._now) as after:
            benches = {"before": before, "after": after}
            for number, order in enumerate(abba_orders(tuple(benches), _PAIRS), start=1):
                self._tell(f"before and after, pair {number} of {_PAIRS}")
                for name in order:
                    taken[name].append(benches[name].beside(benches[name].given))
            on_device = before.facts["accelerator"] == "cuda"
            samples = int(before.facts["global_batch_size"])
        sides = {name: _middle(segments) for name, segments in taken.items()}
        seconds = {
            name: [1 / figures.samples_per_second for figures in segments]
            for name, segments in taken.items()
        }
        self._comparison = BeforeAfter(
            before=sides["before"],
            after=sides["after"],
            speed=paired_ratio(seconds["before"], seconds["after"]),
            samples_per_step=samples,
            memory="the device" if on_device else "the process, without its loader processes",
        )

    def close(self) -> None:
        """End the process that is kept."""
        if self._kept is not None:
            self._kept.close()
        self._kept = None

    def _bench(self) -> BenchProcess:
        """Return a process with the settings of now, not compiled; the kept one if it has them."""
        settings = _with(self._now, {"compile.mode": "off"})
        if self._kept is None or not _is_same(self._kept.facts, settings):
            self.close()
            self._kept = self._open_bench(settings)
            self._device = self._kept.facts["device"]
        return self._kept

    def _memory_of(self, values: Mapping[str, Any]) -> Figures:
        """Measure in a process of its own, whose most memory is that of these settings alone."""
        self.close()
        with self._open_bench(_with(self._now, values)) as bench:
            self._device = bench.facts["device"]
            return bench.alone()

    def _take(self, choice: Choice) -> None:
        self._choices[choice.key] = choice
        key = "precision.name" if choice.key == "precision" else choice.key
        self._now = _with(self._now, {key: choice.value})

    def _find_config(self, level: str | None) -> FindBatchSizeConfig:
        names = {field.name for field in fields(FindBatchSizeConfig)}
        asked = {**self._now, "gpu": self._settings["gpu"], "micro_batch_size": "auto"}
        wanted = {key: value for key, value in asked.items() if key in names}
        wanted["accumulate_grad_batches"] = None
        if self._goal == "memory" and _LEVEL not in self._typed:
            level = "full"
        return to_find_config(wanted if level is None else _with(wanted, {_LEVEL: level}))


def _with(settings: Mapping[str, Any], values: Mapping[str, Any]) -> dict[str, Any]:
    """Return a copy of nested settings with other values, by dotted key."""
    changed = copy.deepcopy(dict(settings))
    for key, value in values.items():
        *parents, name = key.split(".")
        node = changed
        for parent in parents:
            node = node[parent]
        node[name] = value
    return changed


def _is_same(facts: Mapping[str, Any], settings: Mapping[str, Any]) -> bool:
    """Tell whether a training with these facts is one with these settings."""
    wanted = (
        (settings["precision"]["name"], facts["precision"]),
        (settings["micro_batch_size"], facts["micro_batch_size"]),
        (settings["model"].get("checkpointing", "auto"), facts["checkpointing"]),
    )
    return all(value in ("auto", fact) for value, fact in wanted)


def _middle(segments: Sequence[Figures]) -> Figures:
    """Average the speed of segments as `paired_ratio` does, and take the most memory of all."""
    speed = spread([figures.samples_per_second for figures in segments]).value
    batch_ms = spread([figures.batch_ms for figures in segments]).value
    sizes = [figures.memory_bytes for figures in segments if figures.memory_bytes is not None]
    return Figures(speed, batch_ms, max(sizes, default=None))
