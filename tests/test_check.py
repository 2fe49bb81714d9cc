"""`gpuopt check` as people and programs call it."""

import json
import subprocess
import sys

import pytest

from gpuopt.config import compose_settings
from gpuopt.errors import InputError
from tests.faults.commands import Command

pytestmark = pytest.mark.slow
TINY = ("report=fit", "model=timm", "model.name=test_vit", "image_size=64")


@pytest.fixture
def check(tmp_path):
    """Call the command, in a process of its own unless told where to fork it."""
    work = tmp_path / "work"
    work.mkdir()

    def run(*words, warm=None, cache_dir=tmp_path / "cache"):
        cache = f"cache_dir={cache_dir}"
        return Command("gpuopt.check", *words, cache, cwd=work, warm=warm).end()

    yield run
    assert list(work.iterdir()) == []  # nothing is left where it was called


def test_a_table_for_people_and_the_same_from_the_cache(check, warm, tmp_path):
    done = check(*TINY, warm=warm)
    assert done.code == 0, done.stderr
    assert done.stderr == ""  # progress is for terminals
    assert max(map(len, done.stdout.splitlines())) <= 100
    assert "test_vit at 64 px" in done.stdout
    assert "rtx4090" in done.stdout
    kept = {path: path.stat().st_mtime_ns for path in (tmp_path / "cache/memory").iterdir()}
    assert kept
    assert check(*TINY, warm=warm).stdout == done.stdout
    assert kept == {path: path.stat().st_mtime_ns for path in (tmp_path / "cache/memory").iterdir()}


def test_json_for_programs(check):
    done = check(*TINY, "gpu.memory_gib=6", "format=json")
    assert done.code == 0, done.stderr
    values = json.loads(done.stdout)
    assert (values["schema"], values["report"], values["image_size"]) == (1, "fit", 64)
    (card,) = values["cards"]
    assert (card["name"], card["memory_mib"]) == ("6 GiB", 6144)
    assert card["largest"]["plain"] > 0


def test_several_reports_come_one_after_another(check, warm):
    words = ("report=[fit,tta]", *TINY[1:], "gpu=rtx3060")
    done = check(*words, warm=warm)
    assert done.code == 0, done.stderr
    assert done.stdout.index("largest micro-batch") < done.stdout.index("minutes for 3140 images")
    assert max(map(len, done.stdout.splitlines())) <= 100
    values = json.loads(check(*words, "format=json", "images=10", warm=warm).stdout)
    assert [report["report"] for report in values["reports"]] == ["fit", "tta"]
    assert (values["schema"], values["reports"][1]["images"]) == (1, 10)


def test_a_bare_check_is_one_screen(check, warm):
    done = check(*TINY[1:], warm=warm)
    assert done.code == 0, done.stderr
    assert done.stdout.startswith("This machine")
    assert len(done.stdout.splitlines()) < 40
    values = json.loads(check(*TINY[1:], "format=json", warm=warm).stdout)
    assert (values["schema"], values["report"]) == (1, "summary")
    assert values["devices"]


@pytest.fixture(scope="module")
def known(tmp_path_factory):
    """Predictions of the model that cards are ranked by, which takes seconds to follow."""
    return tmp_path_factory.mktemp("known")


def test_an_absent_card_waits_for_no_torch_once_it_is_known(check, warm, light, known):
    words = ("report=[summary,recommend]", *TINY[1:], "gpu=rtx3060")
    first = check(*words, warm=warm, cache_dir=known)
    assert first.code == 0, first.stderr
    assert check(*words, warm=light, cache_dir=known).stdout == first.stdout
    code = (
        "import sys; from gpuopt.check import main; import gpuopt.check\n"
        f"sys.argv[1:] = {[*words, f'cache_dir={known}']}\n"
        "try: main()\n"
        "except SystemExit: pass\n"
        "sys.exit(','.join({'torch', 'timm', 'lightning'} & sys.modules.keys()) or 0)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


def test_reports_of_the_guides_lines_come_together(check, warm, known):
    """As the guide's script has it: --detailed --check-drivers --recommend-settings."""
    words = ("report=[detailed,drivers,recommend]", *TINY[1:], "gpu=rtx3070")
    done = check(*words, warm=warm, cache_dir=known)
    assert done.code == 0, done.stderr
    places = [done.stdout.index(word) for word in ("Installed", "What is", "What to set")]
    assert places == sorted(places)
    words = ("report=[recommend,tta]", *TINY[1:], "gpu=rtx3070")
    done = check(*words, warm=warm, cache_dir=known)
    assert done.code == 0, done.stderr
    assert "gpuopt train mode=highperf model=timm" in done.stdout


def test_markdown_for_a_page(check, warm):
    done = check("report=[summary,drivers]", *TINY[1:], "gpu=rtx3060", "format=markdown", warm=warm)
    assert done.code == 0, done.stderr
    assert done.stdout.startswith("## summary\n\n**This machine**\n\n|")
    assert "\n## drivers\n" in done.stdout
    with pytest.raises(InputError, match="format=markdown is not one of table, json"):
        compose_settings("find_batch_size", ["format=markdown"])


@pytest.mark.parametrize(
    ("words", "last"),
    [
        (["report=fitt"], "gpuopt check: report=fitt is not one of summary, detailed, benchmark,"),
        (["report=[]"], "gpuopt check: say what to report: report=summary or detailed or"),
        (["report=[fit,ttta]"], "gpuopt check: report=ttta is not one of summary, detailed,"),
        (["report=benchmark", "gpu=rtx4090"], "gpuopt check: report=benchmark measures what is"),
        (["train_images=0"], "gpuopt check: train_images=0 is out of range"),
        (["report=[fit,fit]"], "gpuopt check: report=['fit', 'fit'] names a report twice"),
        (["report=fit", "run=latest"], "gpuopt check: run=... is for report=tta"),
        (["report=tta", "run=nowhere"], "gpuopt check: run=nowhere does not exist"),
        (["report=tta", "images=0"], "gpuopt check: images=0 is out of range"),
        (["report=fit", "fomat=json"], "gpuopt check: fomat is no setting (nearest: format)"),
        (
            ["report=fit", "format=xml"],
            "gpuopt check: format=xml is not one of table, json, markdown",
        ),
        (["report=fit", "gpu=rtx306"], "gpuopt check: gpu=rtx306: no such option (nearest: rtx30"),
        (["report=fit", "gpu.memory_gib=-6"], "gpuopt check: gpu.memory_gib=-6"),
        (["report=fit", "gpu=cpu"], "gpuopt check: gpu=cpu has no memory of its own"),
        (["report=fit", "image_size=big"], "gpuopt check: image_size=big is neither auto"),
        (["report=fit", "model.checkpointng=full"], "gpuopt check: model.checkpointng is no"),
        (["-m", "report=fit"], "gpuopt check: only `gpuopt train` takes -m"),
    ],
)
def test_bad_settings_end_in_one_line(check, light, words, last):
    done = check(*words, warm=light)
    assert done.code == 2, done.stderr
    (line,) = done.stderr.strip().splitlines()
    assert line.startswith(last)


def test_an_unknown_model_is_one_line_too(check, warm):
    done = check("report=fit", "model=timm", "model.name=resnet51", warm=warm)
    assert done.code == 2
    assert "unknown to timm (nearest: resnet" in done.stderr.strip().splitlines()[-1]


def test_a_memory_in_gib_is_for_checking_only():
    with pytest.raises(Exception, match="memory_gib"):
        compose_settings("train", ["gpu.memory_gib=6"])
    with pytest.raises(InputError, match="one memory"):
        compose_settings("check", ["report=fit", "gpu.memory_gib=6", "gpu.memory_mib=6144"])


def test_the_configuration_says_what_auto_is_on_a_named_card(warm, tmp_path):
    words = ("gpu=rtx3060", "model=timm", "model.name=test_vit", f"cache_dir={tmp_path}")

    def lines(*more):
        done = Command("gpuopt.config", "show", *words, *more, cwd=tmp_path, warm=warm).end()
        assert done.code == 0, done.stderr
        return [line for line in done.stdout.splitlines() if line.startswith("# on RTX 3060")]

    (line,) = lines()
    assert "micro_batch_size=32 (predicted: " in line
    assert line.endswith("pin with micro_batch_size=...")
    assert lines("micro_batch_size=8") == []
