"""Output that cannot be written is a failure that one line tells of."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from .conftest import only_line

SCRIPT = """
import commops
with commops.init() as comm:
    print("x" * 100)
"""


@pytest.mark.parametrize("command", [["doctor"], ["run", "-n", "2", "script.py"], ["--version"]])
def test_a_full_disk(command: list[str], tmp_path: Path) -> None:
    (tmp_path / "script.py").write_text(SCRIPT)
    with open("/dev/full", "w") as full:
        done = subprocess.run(
            [sys.executable, "-m", "commops", *command], cwd=tmp_path, stdout=full, stderr=subprocess.PIPE,
            text=True, timeout=60, check=False,
        )  # fmt: skip
    assert done.returncode == 1
    line = only_line(done.stderr)
    assert line.startswith("commops: ")
    assert line.endswith("No space left on device")
