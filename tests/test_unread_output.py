import os
import subprocess
import sys

PROGRAM = """
import sys
from gpuopt.unread_output import going_on_unread
with going_on_unread():
    for number in range(20_000):
        print("a line", number)
        sys.stderr.writelines(["other\\n", "lines\\n"])
    print("end", flush=True)
    assert not sys.stdout.isatty()
    open("done", "w").close()
assert type(sys.stdout).__name__ == "TextIOWrapper"
"""


def unread(words, cwd):
    """Run a program whose output is read for a moment only; returns its exit code."""
    reader, writer = os.pipe()
    process = subprocess.Popen(words, cwd=cwd, stdout=writer, stderr=writer)
    os.close(writer)
    assert os.read(reader, 1)
    os.close(reader)
    return process.wait(120)


def test_a_program_goes_on_when_its_reader_has_left(tmp_path):
    assert unread([sys.executable, "-c", PROGRAM], tmp_path) == 0
    assert (tmp_path / "done").exists()


def test_without_it_the_program_ends(tmp_path):
    program = PROGRAM.replace("with going_on_unread():", "if True:")
    assert unread([sys.executable, "-c", program], tmp_path) != 0
    assert not (tmp_path / "done").exists()


def test_output_that_is_read_is_whole(tmp_path):
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM], cwd=tmp_path, capture_output=True, text=True, check=True
    )
    assert len(done.stdout.splitlines()) == 20_001
    assert len(done.stderr.splitlines()) == 40_000


def test_a_training_comes_to_its_end_unread(tiny, tmp_path):
    words = [sys.executable, "-m", "gpuopt.train", *tiny, "run=mine", "trainer.max_epochs=1"]
    assert unread(words, tmp_path) == 0
    assert (tmp_path / "mine/results.json").is_file()
