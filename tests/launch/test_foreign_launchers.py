"""`commops.init()` under the launchers of others, where they are installed.

They are looked for on the PATH, or where COMMOPS_TEST_OPENMPI, COMMOPS_TEST_MPICH, COMMOPS_TEST_INTELMPI,
COMMOPS_TEST_SRUN or COMMOPS_TEST_TORCHRUN says.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from .support import Programs

SCRIPT = """
import numpy as np, os, commops
from commops.launch.environment import detect
with commops.init() as comm:
    total = int(comm.allreduce(np.array(comm.rank + 1)))
    line = f"{comm.rank} of {comm.size}: {total} {detect(os.environ).launcher}\\n"
    os.write(1, line.encode())
"""

MPI_NAMES = {"openmpi": "Open MPI", "intelmpi": "Intel", "mpich": "HYDRA"}


def _version(program: str) -> str:
    environ = os.environ | {"PATH": f"{Path(program).parent}:{os.environ.get('PATH', '')}"}
    shown = subprocess.run([program, "--version"], capture_output=True, text=True, env=environ, check=False)
    return shown.stdout + shown.stderr


def _find(name: str) -> str:
    """Return the launcher's path, or skip the test."""
    variable = f"COMMOPS_TEST_{name.upper()}"
    if program := os.environ.get(variable):
        return program
    names = (
        [name] if name in ("srun", "torchrun") else ["mpiexec", "mpirun", f"mpiexec.{name}", "mpiexec.hydra"]
    )
    for candidate in filter(None, map(shutil.which, names)):
        if name not in MPI_NAMES:
            return candidate
        shown = _version(candidate)
        if next((kind for kind, word in MPI_NAMES.items() if word in shown), None) == name:
            return candidate
    pytest.skip(f"no {name} on the PATH and none in {variable}")


@pytest.mark.parametrize(
    ("name", "options", "launcher"),
    [
        ("openmpi", ["--allow-run-as-root", "--oversubscribe", "-n", "3"], "openmpi"),
        ("mpich", ["-n", "3"], "hydra"),
        ("intelmpi", ["-n", "3"], "hydra"),
        ("srun", ["--overcommit", "-n", "3"], "slurm"),
        ("srun", ["--mpi=pmi2", "--overcommit", "-n", "3"], "slurm"),
        ("torchrun", ["--nproc-per-node", "3", "--no-python"], "torchrun"),
    ],
    ids=["openmpi", "mpich", "intelmpi", "srun", "srun-pmi2", "torchrun"],
)
@pytest.mark.parametrize("wrapped", [False, True], ids=["plain", "in-a-shell"])
def test_init(programs: Programs, name: str, options: list[str], launcher: str, wrapped: bool) -> None:
    program = _find(name)
    if (
        name == "srun"
        and subprocess.run(["sinfo", "-h"], capture_output=True, timeout=60, check=False).returncode
    ):
        pytest.skip("srun is there, but no Slurm controller answers")
    script = programs.script(SCRIPT)
    command = [sys.executable, str(script)]
    if wrapped:
        command = ["sh", "-c", '"$0" "$@"; exit $?', *command]
    path = f"{Path(program).parent}:{os.environ.get('PATH', '')}"  # wheels' mpirun looks for its parts there
    process = programs.start(program, *options, *command, env={"PATH": path})
    out, err = process.communicate(timeout=110)
    assert process.returncode == 0, err.decode()
    assert sorted(out.decode().splitlines()) == [f"{rank} of 3: 6 {launcher}" for rank in range(3)]
