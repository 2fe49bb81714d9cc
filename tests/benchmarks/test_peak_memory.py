import json
import sys

import pytest

from benchmarks import peak_memory


@pytest.mark.parametrize("fails", [False, True])
def test_the_command_gets_its_words_and_the_peak_is_written(tmp_path, monkeypatch, fails):
    seen = []

    def command():
        seen.extend(sys.argv[1:])
        if fails:
            raise SystemExit(3)

    monkeypatch.setattr("gpuopt.predict.main", command)
    file = tmp_path / "peak.json"
    monkeypatch.setattr(sys, "argv", ["peak_memory", str(file), "run=x", "tta=none"])
    if fails:
        with pytest.raises(SystemExit, match="3"):
            peak_memory.main()
    else:
        peak_memory.main()
    assert seen == ["run=x", "tta=none"]
    # PyTorch alone takes more than 50 MiB.
    assert json.loads(file.read_text())["peak_bytes"] > 50 * 2**20
