"""The rules of the layout, checked on the source: floors, sizes, names, safety."""

import ast
import importlib
import subprocess
import sys
from pathlib import Path

import pytest

import gpuopt

PACKAGE = Path(gpuopt.__file__).parent
SOURCES = sorted(PACKAGE.rglob("*.py"))
# A package may import what stands before it; on one floor only callbacks/ may import siblings.
FLOORS = [
    {"errors", "choice", "lazy", "override_words"},
    {"hardware", "storage", "recomputation", "batch_schedule", "batch_statistics"},
    {"memory", "model", "data", "measure"},
    {"steps"},
    {"callbacks", "engine", "tta", "telemetry", "parallel", "report"},
    {"configuration", "session"},
    {"checks", "diagnosis", "finding", "profiling", "tuning"},
]
MOST_LINES = 400
# Read before the input is known to be good.
QUICK = (
    "gpuopt",
    "gpuopt.train",
    "gpuopt.predict",
    "gpuopt.benchmark",
    "gpuopt.check",
    "gpuopt.checks",
    "gpuopt.config",
    "gpuopt.diagnose",
    "gpuopt.export",
    "gpuopt.find_batch_size",
    "gpuopt.monitor",
    "gpuopt.predict_engine",
    "gpuopt.predict_passes",
    "gpuopt.profiler",
    "gpuopt.profiling",
    "gpuopt.recommend_tta",
    "gpuopt.run_images",
    "gpuopt.tune",
    "gpuopt.__main__",
    "gpuopt.schema",
    "gpuopt.run",
    "gpuopt.prediction_folder",
    "gpuopt.hardware",
    "gpuopt.memory",
    "gpuopt.recomputation",
    "gpuopt.session.memory",
    "gpuopt.session.prediction_places",
    "gpuopt.telemetry",
    "gpuopt.telemetry.web",
    "gpuopt.tta",
    "gpuopt.configuration",
)


def room(path: Path) -> str:
    """Return the sub-package of a file, or the module's name at the root."""
    relative = path.relative_to(PACKAGE)
    return relative.parts[0] if len(relative.parts) > 1 else relative.stem


def floor(name: str) -> int:
    return next((i for i, rooms in enumerate(FLOORS) if name in rooms), len(FLOORS))


def imported_rooms(path: Path) -> set[str]:
    rooms = set()
    for node in ast.walk(ast.parse(path.read_text("utf-8"))):
        names = []
        if isinstance(node, ast.ImportFrom) and node.module:
            names = [f"{node.module}.{alias.name}" for alias in node.names]
        elif isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        rooms |= {n.split(".")[1] for n in names if n.startswith("gpuopt.") and "." in n}
    return rooms - {"__version__"}


@pytest.mark.parametrize("path", SOURCES, ids=lambda p: str(p.relative_to(PACKAGE)))
def test_imports_run_downward_only(path):
    own = room(path)
    for other in imported_rooms(path) - {own}:
        if floor(own) == len(FLOORS):
            continue  # root modules put the floors together
        allowed = floor(other) < floor(own)
        sibling = floor(other) == floor(own) and own == "callbacks"
        assert allowed or sibling, f"{own} (floor {floor(own)}) imports {other}"


def test_every_room_has_a_floor():
    rooms = {path.parent.name for path in SOURCES if path.name == "__init__.py"}
    rooms -= {"gpuopt", "drawing", "web"}
    assert all(floor(name) < len(FLOORS) for name in rooms), rooms


def test_files_are_short_and_their_median_is():
    lines = sorted(len(path.read_text("utf-8").splitlines()) for path in SOURCES)
    assert lines[-1] <= MOST_LINES
    assert lines[len(lines) // 2] <= 150


def test_no_room_for_odds_and_ends():
    banned = {"utils", "core", "helpers", "common", "misc"}
    assert not [path for path in SOURCES if banned & {path.stem, path.parent.name}]


def calls(tree: ast.AST) -> list[ast.Call]:
    return [node for node in ast.walk(tree) if isinstance(node, ast.Call)]


@pytest.mark.parametrize("path", SOURCES, ids=lambda p: str(p.relative_to(PACKAGE)))
def test_nothing_unsafe_is_called(path):
    """Loading runs no code; only build.py instantiates what a configuration names."""
    for call in calls(ast.parse(path.read_text("utf-8"))):
        name = ast.unparse(call.func)
        assert name not in {"eval", "exec", "pickle.load", "pickle.loads", "os.system"}
        keywords = {k.arg: ast.unparse(k.value) for k in call.keywords}
        if name == "torch.load":
            assert keywords.get("weights_only") == "True"
        if name == "yaml.load":
            assert keywords.get("Loader") == "yaml.CSafeLoader"
        if name.endswith("instantiate"):
            assert path.name == "build.py"
        assert "shell" not in keywords


@pytest.mark.parametrize("path", SOURCES, ids=lambda p: str(p.relative_to(PACKAGE)))
def test_public_names_are_listed_and_exist(path):
    names = path.relative_to(PACKAGE.parent).with_suffix("").parts
    module = importlib.import_module(".".join(names).removesuffix(".__init__"))
    assert all(hasattr(module, name) for name in module.__all__)
    assert len(set(module.__all__)) == len(module.__all__)


@pytest.fixture(scope="module")
def heavy_imports():
    """What each module of `QUICK` imports of what takes seconds, in a process of its own.

    The processes are forks of one that has imported the light libraries that they share.
    """
    code = """
import os, sys
import hydra, numpy, omegaconf, rich, yaml
heavy = {'torch', 'lightning', 'timm', 'matplotlib'}
assert not heavy & sys.modules.keys()
for name in sys.argv[1:]:
    if os.fork() == 0:
        __import__(name)
        print(name, *sorted(heavy & sys.modules.keys()), flush=True)
        os._exit(0)
    os.wait()
"""
    done = subprocess.run(
        [sys.executable, "-c", code, *QUICK], capture_output=True, text=True, check=True
    )
    return {name: words for name, *words in map(str.split, done.stdout.splitlines())}


@pytest.mark.parametrize("module", QUICK)
def test_bad_input_never_waits_for_torch(module, heavy_imports):
    assert heavy_imports.get(module) == []


def test_a_sampler_loads_nothing_of_its_readers():
    code = "import gpuopt.telemetry, sys; print({'rich', 'starlette', 'uvicorn'} & {*sys.modules})"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "set()\n"


def test_library_parts_work_without_hydra():
    """Each imported in a fork of its own, so that none leaves out what another one imports."""
    code = """
import importlib, os, sys
sys.modules["hydra"] = sys.modules["omegaconf"] = None
import lightning.pytorch, timm  # which take seconds
for name in sys.argv[1:]:
    if os.fork() == 0:  # an exception ends it with 1
        importlib.import_module(name)
        os._exit(0)
    assert os.wait()[1] == 0, name
"""
    parts = (
        "callbacks",
        "telemetry",
        "data",
        "measure",
        "model",
        "recomputation.apply",
        "storage.checkpoint",
    )
    parts += ("engine.benchmark", "engine.fallback", "engine.record")
    parts += ("engine.proved", "tta.predictor", "tta.streaming", "tta.view_scores")
    parts += ("telemetry.terminal", "telemetry.prometheus", "telemetry.web")
    parts += ("profiling.files", "profiling.table")
    parts += ("callbacks.bottleneck_probe", "callbacks.leak_watch", "diagnosis.bottleneck")
    parts += ("diagnosis.leak", "profiling.files", "profiling.table")
    parts += ("tuning.fit_timing", "tuning.loader_search", "tuning.loader_timing")
    parts += ("tta.frontier", "tta.recommender", "tta.time_model")
    done = subprocess.run(
        [sys.executable, "-c", code, *(f"gpuopt.{part}" for part in parts)],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
