"""A real run whose global batch changes, killed after the change and resumed: the same bits."""

import json

from tests.faults.commands import fault
from tests.faults.conftest import BUSY
from tests.faults.fingerprint import fingerprint

WORDS = (
    "micro_batch_size=64",
    "global_batch_schedule={0: 128, 1: 256, 2: 96}",
    "learning_rate_rule=sqrt",
    "learning_rate_reference_batch=64",
    "logger=csv",
)


def test_killed_after_a_change_and_resumed(start_train, tmp_path):
    words = [word for word in BUSY if not word.startswith(("data.", "callbacks."))]
    words += ["callbacks.checkpoint.every_n_steps=2", "num_workers=0", *WORDS]
    whole = start_train(tmp_path, *words, "run=whole").end()
    assert whole.code == 0, whole.stderr
    assert "epoch 2: 256 samples per step instead of 128, learning rate times 1.414" in whole.stderr
    assert "learning_rate 0.0005 x 1.414 = 0.0007071, from 64 to 128" in whole.stderr
    # 1078 images in micro-batches of 64: 17 of the first epoch, then in the fifth step.
    killed = start_train(tmp_path, *words, "run=parts", faults=(fault("training step", call=32),))
    assert killed.end().code == -9
    last = start_train(tmp_path, *words, "run=parts", "resume=true").end()
    assert last.code == 0, last.stderr
    assert fingerprint(tmp_path / "parts") == fingerprint(tmp_path / "whole")
    found, other = (
        json.loads((tmp_path / name / "results.json").read_text("utf-8"))
        for name in ("parts", "whole")
    )
    assert found["training"]["global_batch"] == other["training"]["global_batch"]
    changes = found["training"]["global_batch"]["changes"]
    assert [(c["epoch"], c["step"], c["global_batch_size"]) for c in changes] == [
        (1, 9, 256),
        (2, 14, 96),
    ]
    assert found["plan"]["learning_rate"] == 0.0005 * 2**0.5
    logs = "".join(path.read_text("utf-8") for path in (tmp_path / "whole").rglob("metrics.csv"))
    assert "global_batch_size" in logs
