"""benchmarks/gpu.py, which only a GPU can run as it is meant, still runs in small on a CPU."""

import subprocess
import sys
from pathlib import Path

import gpu
import pytest
import torch
from gpu_cases import timing

ROOT = Path(__file__).parent.parent


@pytest.mark.slow
def test_it_runs_in_small_on_a_cpu_and_writes_nothing():
    page = (ROOT / "docs" / "gpu.md").read_text()
    command = [sys.executable, "benchmarks/gpu.py", "--device", "cpu", "--quick"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=120, check=False)
    assert done.returncode == 0, done.stderr
    assert "**fails**" not in done.stdout
    for what in ("tests marked", "rank, mask and apply", "calibrate a ResNet-20", "gloo with one rank", "`collapse`"):
        assert what in done.stdout
    assert (ROOT / "docs" / "gpu.md").read_text() == page


def test_what_fails_has_a_row_and_the_rest_is_measured(monkeypatch, capsys):
    class Good:
        __name__ = "good"

        def rows(self, device, quick):
            return [timing.row("good", "1 ms")]

    class Bad(Good):
        __name__ = "bad"

        def rows(self, device, quick):
            raise ZeroDivisionError("on the device")

    monkeypatch.setattr(gpu, "CASES", (Bad(), Good()))
    rows, went_well = gpu.measured(torch.device("cpu"), True)
    assert not went_well
    assert [row["result"] for row in rows[1:]] == ["**fails**", "1 ms"]
    assert rows[1]["beside"] == "ZeroDivisionError: on the device"
    assert "ZeroDivisionError" in capsys.readouterr().err


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")
def test_without_a_gpu_it_says_so(monkeypatch, capsys):
    monkeypatch.setattr(sys, "argv", ["gpu.py"])
    with pytest.raises(SystemExit):
        gpu.main()
    assert "torch finds no CUDA device" in capsys.readouterr().err
