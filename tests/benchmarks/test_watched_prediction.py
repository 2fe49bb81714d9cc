import sys

import pytest

from benchmarks.watched_prediction import watch_prediction

# Takes its time like a prediction: says what it chose, opens a part, adds two batches, ends.
SLOW = """
import sys, time
from pathlib import Path
output = Path(next(w for w in sys.argv if w.startswith("output=")).partition("=")[2])
time.sleep(0.2)
print("gpu=cpu (given: asked for)")
time.sleep(0.2)
part = output.with_name(output.name + ".part")
part.write_bytes(b"h" * 10)
for size in (30, 50, 70):
    time.sleep(0.2)
    part.write_bytes(b"h" * size)
time.sleep(0.2)
output.write_text("id")
part.unlink()
print("done")
"""

SECOND_PASS = """
part2 = Path(str(part) + "2")
part2.write_bytes(b"h" * 70)
time.sleep(0.2)
part.unlink()
part2.unlink()
"""


def watch(tmp_path, program, **options):
    command = (sys.executable, "-c", program)
    return watch_prediction(["a=1"], tmp_path / "p.csv", command=command, **options)


def test_a_command_is_cut_at_what_it_says_and_writes(tmp_path):
    watched = watch(tmp_path, SLOW)
    stages = (
        watched.start_s,
        watched.images_s,
        watched.models_s,
        watched.batches_s,
        watched.write_s,
    )
    assert sum(stages) == pytest.approx(watched.wall_s)
    assert min(stages) > 0
    assert watched.batches_s > watched.models_s  # two batches after the first
    assert watched.batches_ratio == pytest.approx(2 / 3)
    rate = watched.images_per_second(30)
    assert rate == pytest.approx(20 / watched.batches_s)
    assert watched.lines == ("gpu=cpu (given: asked for)", "done")
    assert str(watched).startswith(f"{watched.wall_s:.2f} s: start")


def test_what_was_too_quick_to_be_seen_took_no_time(tmp_path):
    watched = watch(tmp_path, "print('x')")
    assert (watched.images_s, watched.models_s, watched.batches_s) == (0, 0, 0)
    assert watched.images_per_second(30) is None


def test_several_passes_are_one_stage(tmp_path):
    second = SLOW.replace("part.unlink()", SECOND_PASS)
    watched = watch(tmp_path, second)
    assert watched.batches_ratio == pytest.approx(110 / 130)


def test_a_command_that_fails_is_no_measurement(tmp_path):
    with pytest.raises(RuntimeError, match=r"gpuopt predict failed: no such run"):
        watch(tmp_path, "raise SystemExit('no such run')")


def test_the_command_gets_the_variables(tmp_path):
    watched = watch(
        tmp_path, "import os; print(os.environ['SOME_CACHE'])", environment={"SOME_CACHE": "there"}
    )
    assert watched.lines == ("there",)
