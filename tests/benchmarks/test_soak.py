import pytest

from benchmarks import soak
from benchmarks.soak import CASES, Chain, rows_of, run_chain


def test_the_sum_counts_kills_and_what_is_not_equal():
    one, other = list(CASES)[:2]
    chains = [
        Chain(one, ["a", "b"], [1.0, 3.0], is_recovered=True, is_equal=True),
        Chain(one, ["a"], [2.0], is_recovered=True, is_equal=False),
        Chain(other, ["a"], [], hangs=1),
    ]
    rows = {(row.measure, row.setting): row for row in rows_of(chains)}
    assert rows["kills", "all cases"].value == 4
    assert rows["runs equal to the bit", "all cases, 3 runs"].value == 1
    assert rows["runs equal to the bit", "all cases, 3 runs"].verdict == "missed"
    assert rows["runs that went on to the end", f"{one}, 2 runs"].verdict == "met"
    assert rows["hangs", "all cases"].verdict == "missed"
    assert rows["resume, median", "all cases"].value == 2.0


@pytest.fixture
def ends(monkeypatch):
    """Commands that run for no time and end as they are told."""
    told = []

    class Told:
        pid = 1

        def __init__(self, *words, cwd, faults=()):
            self.end_code = told.pop(0)

        def code(self):
            return self.end_code

        def family(self):
            return []

        def wait_for_orphans(self): ...

        def end(self, limit_s):
            if self.end_code is None:
                raise AssertionError("hangs after 1 s")
            return type("End", (), {"code": self.end_code, "stderr": "why"})

    monkeypatch.setattr(soak, "Command", Told)
    monkeypatch.setattr(soak, "fingerprint", lambda folder: {"weights": "a"})
    return told


@pytest.mark.parametrize(("weights", "is_equal"), [("a", True), ("b", False)])
def test_a_chain_is_killed_ends_and_is_compared(ends, tmp_path, weights, is_equal):
    case = next(iter(CASES))
    ends[:] = [-9, 0, 0]  # killed, too fast for the second kill, whole
    chain = run_chain(0, case, tmp_path, {case: ({"weights": weights}, 0.1)})
    assert len(chain.kills) == 1
    assert chain.kills[0].endswith("exit code -9")
    assert (chain.is_recovered, chain.is_equal) == (True, is_equal)


def test_a_run_that_cannot_go_on_is_no_success(ends, tmp_path):
    case = next(iter(CASES))
    ends[:] = [-9, 0, 3]
    chain = run_chain(0, case, tmp_path, {case: ({"weights": "a"}, 0.1)})
    assert (chain.is_recovered, chain.is_equal, chain.error) == (False, False, "why")


def test_a_command_that_hangs_is_counted(ends, tmp_path):
    case = next(iter(CASES))
    ends[:] = [None]
    chain = run_chain(0, case, tmp_path, {case: ({"weights": "a"}, 0.1)})
    assert (chain.hangs, chain.is_equal) == (1, False)
    assert "hangs" in chain.error
