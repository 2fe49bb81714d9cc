"""The search for the loader's setting, on simulated loaders of random speeds."""

import random
from dataclasses import dataclass

import pytest

from gpuopt.tuning.goal import Figures
from gpuopt.tuning.loader_limits import WorkerLimit, worker_limit
from gpuopt.tuning.loader_search import MOST_PROBES, LoaderReading, search_loader
from gpuopt.tuning.loader_setting import LoaderSetting

GRID = (0, 2, 4, 8, 16)
MIB = 2**20


@dataclass
class SimulatedLoader:
    """A device that takes `demand` samples per second, and processes that load them.

    Attributes:
        demand: Of the device.
        alone: Samples per second of one process.
        cpu_ratio: Share of a processor that it wants; the rest it waits for a disk.
        cpus: Processors.
        noise: Relative standard deviation of what is measured.
        shares: Whether the training needs the processors itself.
        handed_ratio: Share of the demand that the main process can hand over.
        queued_ratio: Share of `alone` that a queue between the processes leaves.
    """

    demand: float
    alone: float
    cpu_ratio: float = 1.0
    cpus: int = 8
    noise: float = 0.0
    shares: bool = False
    handed_ratio: float = 1.0
    queued_ratio: float = 1.0
    seed: int = 0

    def __post_init__(self):
        self._dice = random.Random(self.seed)
        self.probed = []

    def rate(self, workers):
        """The true throughput."""
        taking_turns = 1 / (1 / self.alone + 1 / self.demand)
        if workers == 0:
            return taking_turns
        most = self.cpus / max(self.cpu_ratio, 0.01)
        loaded = self.alone * min(workers, most) * (0.99 ** max(0, workers - most))
        if self.shares:  # loading takes processors away
            return min(loaded, self.demand * (1 - 0.5 * min(1, workers / self.cpus)))
        return min(self.handed_ratio * self.demand, loaded)

    def probe(self, setting):
        self.probed.append(setting)
        seen = self.rate(setting.num_workers) * self._dice.gauss(1, self.noise)
        return Figures(seen, 1000 * 32 / seen)

    def search(self, **options):
        off = self._dice.gauss(1, 3 * self.noise)
        reading = LoaderReading(self.alone * self.queued_ratio * off, self.cpu_ratio, 1.2, MIB)
        return search_loader(
            self.probe,
            reading,
            limit_for=lambda factor: worker_limit(
                self.cpu_ratio, MIB, factor, cpus=self.cpus, shared=1000, host_bytes=2**40
            ),
            demand=self.demand,
            shares_processors=self.shares,
            **options,
        )


def of_seed(seed):
    dice = random.Random(seed)
    return SimulatedLoader(
        demand=10 ** dice.uniform(1.5, 4.5),
        alone=10 ** dice.uniform(1, 4),
        cpu_ratio=dice.choice([0.03, 0.2, 0.6, 1.0, 1.0, 1.0]),
        cpus=dice.choice([1, 2, 4, 6, 12, 16, 64]),
        noise=0.005,
        shares=dice.random() < 0.2,
        seed=seed,
    )


def test_random_loaders_are_within_3_percent_of_the_exhaustive_grid():
    for seed in range(1000):
        loader = of_seed(seed)
        result = loader.search()
        best = max(loader.rate(workers) for workers in GRID)
        assert loader.rate(result.setting.num_workers) >= 0.97 * best, loader
        assert len(loader.probed) <= MOST_PROBES
        assert len(set(loader.probed)) == len(loader.probed)


def test_most_need_one_probe_where_loading_is_quick_enough():
    counts = []
    for seed in range(300):
        loader = of_seed(seed)
        if loader.alone * 0.5 * loader.cpus > loader.demand and not loader.shares:
            loader.search()
            counts.append(len(loader.probed))
    assert len(counts) > 50
    assert sum(count == 1 for count in counts) > 0.8 * len(counts)


def test_the_closed_form_starts_with_a_fifth_more_than_is_needed():
    loader = SimulatedLoader(demand=1000, alone=300)
    result = loader.search()
    assert [setting.num_workers for setting in loader.probed] == [4]
    assert result.shortfall is None
    assert result.missing_samples_per_second == 0


def test_what_the_main_process_takes_is_no_want_of_loading():
    loader = SimulatedLoader(demand=1000, alone=300, handed_ratio=0.93)
    result = loader.search()
    assert [setting.num_workers for setting in loader.probed] == [4]
    assert result.shortfall is None
    slower = SimulatedLoader(demand=1000, alone=300, handed_ratio=0.8).search()
    assert "CPU bound: 200 samples/s missing" in slower.shortfall


def test_handing_over_that_takes_longer_than_loading_is_left_out():
    loader = SimulatedLoader(demand=1000, alone=25_000, handed_ratio=0.93, queued_ratio=0.5)
    result = loader.search()
    assert [setting.num_workers for setting in loader.probed] == [1, 0]
    assert result.setting.num_workers == 0
    assert result.shortfall is None
    slower = SimulatedLoader(demand=1000, alone=5000, handed_ratio=0.93)
    assert slower.search().setting.num_workers == 1
    assert len(slower.probed) == 1


def test_loading_that_costs_nothing_needs_no_process():
    assert SimulatedLoader(demand=100, alone=10_000).search().setting.num_workers == 0


def test_no_more_processes_than_the_processors_carry_and_what_is_missing_is_said():
    loader = SimulatedLoader(demand=1000, alone=100, cpus=2)
    result = loader.search()
    assert max(setting.num_workers for setting in loader.probed) == 2
    assert result.missing_samples_per_second == pytest.approx(800)
    assert result.shortfall.startswith("CPU bound: 800 samples/s missing of the 1000")
    assert "2 processors" in result.shortfall


def test_a_wrong_reading_is_corrected():
    loader = SimulatedLoader(demand=1000, alone=100, cpus=32)
    reading = LoaderReading(400, 1.0, 1.2, MIB)  # four times too good
    result = search_loader(
        loader.probe,
        reading,
        limit_for=lambda _: WorkerLimit(32, "32 processors"),
        demand=1000,
    )
    assert loader.rate(result.setting.num_workers) >= 970
    assert len(loader.probed) <= MOST_PROBES


def test_a_training_on_the_processors_is_tried_without_processes():
    loader = SimulatedLoader(demand=1000, alone=20_000, cpus=2, shares=True)
    result = loader.search()
    assert result.setting.num_workers == 0
    loader = SimulatedLoader(demand=1000, alone=3000, cpus=2, shares=True)
    result = loader.search()
    assert 0 in {setting.num_workers for setting in loader.probed}


def test_without_a_demand_all_processors_are_tried_first():
    loader = SimulatedLoader(demand=1e9, alone=100, cpus=6)
    reading = LoaderReading(100, 1.0, 1.2, MIB)
    result = search_loader(
        loader.probe, reading, limit_for=lambda _: WorkerLimit(6, "6 processors")
    )
    assert loader.probed[0].num_workers == 6
    assert result.setting.num_workers == 6
    assert result.shortfall is None


@pytest.mark.parametrize(
    ("goal", "workers", "prefetch"), [("throughput", 6, 2), ("latency", 8, 4), ("memory", 3, 1)]
)
def test_each_goal_has_its_own_reserve(goal, workers, prefetch):
    result = SimulatedLoader(demand=1000, alone=200, cpus=16).search(goal=goal)
    assert result.setting == LoaderSetting(workers, prefetch)


def test_latency_takes_the_most_even_batches():
    gaps = {8: 50.0, 12: 40.0, 16: 60.0}

    def probe(setting):
        return Figures(100, gaps.get(setting.num_workers, 90.0))

    result = search_loader(
        probe,
        LoaderReading(200, 1.0, 1.2, MIB),
        limit_for=lambda _: WorkerLimit(16, "16 processors"),
        demand=1000,
        goal="latency",
    )
    tried = {setting.num_workers: figures.batch_ms for setting, figures in result.probes.items()}
    assert tried[result.setting.num_workers] == min(tried.values())


def test_memory_keeps_the_share_of_the_speed_that_is_asked_for():
    loader = SimulatedLoader(demand=1000, alone=200, cpus=16)
    result = loader.search(goal="memory", least_speed_ratio=0.9)
    assert loader.rate(result.setting.num_workers) >= 900
    assert result.figures.memory_bytes == result.setting.waiting_batches * MIB


def test_uneven_loading_holds_more_batches_ready_if_memory_holds_them():
    def found(limit_for):
        return search_loader(
            lambda setting: Figures(1000, 1.0),
            LoaderReading(200, 1.0, 3.4, MIB),
            limit_for=limit_for,
            demand=1000,
        ).setting

    assert found(lambda _: WorkerLimit(16, "")).prefetch_factor == 4
    tight = found(lambda factor: WorkerLimit(12 // (factor + 1), "shared memory"))
    assert tight == LoaderSetting(6, 1)


def test_every_choice_has_its_evidence_and_what_pins_it():
    result = SimulatedLoader(demand=1000, alone=300).search(pin_memory=True)
    lines = {choice.key: str(choice) for choice in result.choices()}
    assert lines.keys() == {"num_workers", "prefetch_factor", "pin_memory"}
    assert "measured: 1000 samples/s of 1000" in lines["num_workers"]
    assert "pin with num_workers=..." in lines["num_workers"]
    assert result.as_dict()["setting"]["num_workers"] == 4
