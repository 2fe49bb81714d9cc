import json

import pytest

from gpuopt.data.row_ledger import RowLedger


def test_remembers_done_and_rejected_rows(tmp_path):
    ledger = RowLedger(tmp_path / "l.json", 19)
    ledger.mark([3, 18], {18: "truncated"})
    ledger.save()
    again = RowLedger(tmp_path / "l.json", 19)
    assert again.pending().tolist() == [row for row in range(19) if row not in (3, 18)]
    assert again.rejected == {18: "truncated"}
    assert not again.complete
    again.mark(again.pending(), {})
    assert again.complete
    again.clear()
    assert len(again.pending()) == 19
    assert again.rejected == {}


@pytest.mark.parametrize(
    "spoil",
    [
        lambda file: file.unlink(),
        lambda file: file.write_text("{"),
        lambda file: file.write_text("[]"),
        lambda file: file.write_bytes(b"\xff\xfe"),
        lambda file: file.write_text(json.dumps({"count": 5})),
        lambda file: file.write_text(
            json.dumps({"count": 5, "done_bits": "", "rejected": {"0": "x"}})
        ),
        lambda file: file.write_text(json.dumps({"count": 6, "done_bits": "/A==", "rejected": {}})),
    ],
)
def test_a_damaged_ledger_means_that_nothing_is_done(tmp_path, spoil):
    file = tmp_path / "l.json"
    ledger = RowLedger(file, 5)
    ledger.mark(ledger.pending(), {1: "x"})
    ledger.save()
    assert RowLedger(file, 5).complete
    spoil(file)
    again = RowLedger(file, 5)
    assert len(again.pending()) == 5
    assert again.rejected == {}
