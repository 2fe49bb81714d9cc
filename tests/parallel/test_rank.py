import json
import os
import subprocess
import sys

import pytest

from gpuopt.errors import FaultError, InputError
from gpuopt.parallel.rank import ERROR_FILE, LAUNCHER, Rank

TORCHRUN = {
    "TORCHELASTIC_RUN_ID": "x",
    "RANK": "3",
    "LOCAL_RANK": "1",
    "WORLD_SIZE": "4",
    "LOCAL_WORLD_SIZE": "2",
}


def test_a_process_is_alone_unless_torchrun_says_otherwise(tmp_path):
    alone = Rank.from_environment({"RANK": "3", "WORLD_SIZE": "4"})
    assert alone == Rank()
    assert (alone.is_first, alone.hosts, alone.log_path(tmp_path / "a.log").name) == (
        True,
        1,
        "a.log",
    )


def test_torchruns_environment_is_read(tmp_path):
    rank = Rank.from_environment(TORCHRUN)
    assert rank == Rank(3, 1, 4, 2)
    assert (rank.is_first, rank.hosts) == (False, 2)
    assert rank.log_path(tmp_path / "train.log") == tmp_path / "train.rank3.log"
    launched = Rank.from_environment({**TORCHRUN, LAUNCHER: "77", ERROR_FILE: "/e"})
    assert (launched.launcher, str(launched.error_file)) == (77, "/e")


@pytest.mark.parametrize(
    ("error", "code", "words"),
    [
        (InputError("no such thing"), 2, "no such thing"),
        (FaultError("disk is full"), 3, "disk is full"),
        (OSError(28, "No space left", "/x"), 3, "/x: No space left"),
        (ValueError("odd"), 1, "ValueError: odd"),
    ],
)
def test_a_failure_is_told_to_the_launcher_which_says_it(tmp_path, capsys, error, code, words):
    rank = Rank(0, 0, 2, 2, launcher=os.getppid(), error_file=tmp_path / "e.json")
    with pytest.raises(SystemExit) as ended, rank.reporting():
        raise error
    told = json.loads((tmp_path / "e.json").read_text())["message"]
    assert ended.value.code == code
    assert told["message"].startswith(words)
    assert ("Traceback" in told["extraInfo"]["py_callstack"]) == (code == 1)
    assert capsys.readouterr() == ("", "")


def test_under_torchrun_the_error_goes_on(tmp_path):
    with (
        pytest.raises(FaultError, match="full"),
        Rank(0, 0, 2, 2, error_file=tmp_path / "e").reporting(),
    ):
        raise FaultError("disk is full")
    assert "disk is full" in (tmp_path / "e").read_text()


def test_torchrun_can_read_what_is_told(tmp_path):
    from torch.distributed.elastic.multiprocessing.errors import ProcessFailure

    path = tmp_path / "e.json"
    with pytest.raises(SystemExit), Rank(launcher=1, error_file=path).reporting():
        raise FaultError("disk is full")
    assert ProcessFailure(0, 1, 3, str(path)).message["message"] == "disk is full"


def test_a_rank_whose_launcher_is_gone_ends():
    code = (
        "from gpuopt.parallel.rank import Rank\nRank(launcher=1).die_with_launcher()\nprint('here')"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout) == (1, "")


def test_everything_that_another_rank_prints_goes_to_its_log(tmp_path):
    log = tmp_path / "train.rank1.log"
    log.write_text("before\n")
    code = (
        "import os, sys; from pathlib import Path; from gpuopt.parallel.rank import Rank\n"
        f"Rank(1, 1, 2, 2).speak_into(Path({str(log)!r}))\n"
        "print('python', flush=True); os.write(2, b'library')"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert (done.stdout, done.stderr) == ("", "")
    assert log.read_text() == "before\npython\nlibrary"
