from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

# Of a job that the tests may run in, and of settings that would change what is tested.
_FOREIGN = (
    "RANK",
    "WORLD_SIZE",
    "LOCAL_",
    "MASTER_",
    "OMPI_",
    "PMI",
    "MPI_",
    "SLURM_",
    "COMMOPS_",
    "OMP_NUM",
)

Run = Callable[..., subprocess.CompletedProcess[str]]


@pytest.fixture
def commops(tmp_path: Path) -> Run:
    """Run ``python -m commops`` with these arguments in an empty folder, warnings being errors."""

    def run(*arguments: str, env: dict[str, str] | None = None) -> subprocess.CompletedProcess[str]:
        environ = {name: value for name, value in os.environ.items() if not name.startswith(_FOREIGN)}
        environ |= {"PYTHONPATH": os.pathsep.join(filter(None, sys.path))} | (env or {})
        command = [sys.executable, "-W", "error", "-m", "commops", *arguments]
        return subprocess.run(command, cwd=tmp_path, env=environ, capture_output=True, text=True, timeout=100)

    return run


def only_line(text: str) -> str:
    """Return the one line that `text` consists of."""
    lines = text.splitlines()
    assert len(lines) == 1, text
    return lines[0]
