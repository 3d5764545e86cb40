"""`commops.init()` under a Slurm that the test starts."""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from .slurm import slurm, why_not
from .support import Programs
from .test_foreign_launchers import SCRIPT

pytestmark = pytest.mark.skipif(why_not() is not None, reason=str(why_not()))


@pytest.fixture(scope="module")
def environ() -> Iterator[dict[str, str]]:
    # Short, for the names of sockets in it; and not below a folder that only root may enter.
    with tempfile.TemporaryDirectory(prefix="slurm-") as folder, slurm(Path(folder)) as environ:
        yield environ


@pytest.mark.parametrize(
    "options", [[], ["--mpi=pmi2"], ["-N", "1", "--label"]], ids=["plain", "pmi2", "label"]
)
def test_init(programs: Programs, environ: dict[str, str], options: list[str]) -> None:
    script = programs.script(SCRIPT)
    command = ["srun", "--overcommit", "-n", "3", *options, sys.executable, str(script)]
    out, err = programs.start(*command, env=environ).communicate(timeout=60)
    if b"Invalid MPI type" in err or b"cannot find mpi plugin" in err:
        pytest.skip(err.decode())
    labels = {f"{rank}: " for rank in range(3)} if "--label" in options else {""}
    lines = sorted(out.decode().splitlines())
    for label in labels:
        lines = [line.removeprefix(label) for line in lines]
    assert lines == [f"{rank} of 3: 6 slurm" for rank in range(3)], err.decode()


def test_steps_side_by_side_do_not_meet(programs: Programs, environ: dict[str, str]) -> None:
    """Two steps of one job have the same job id."""
    script = programs.script(SCRIPT)
    step = f"srun --overcommit --overlap -n 2 {sys.executable} {script}"
    batch = programs.script(f"{step} & {step} & wait\n", "batch.sh")
    command = ["salloc", "-n", "2", "--overcommit", "-Q", "sh", str(batch)]
    out, err = programs.start(*command, env=environ).communicate(timeout=60)
    assert sorted(out.decode().splitlines()) == sorted(f"{r} of 2: 3 slurm" for r in (0, 0, 1, 1)), (
        err.decode()
    )


def test_a_rank_that_fails_ends_the_step(programs: Programs, environ: dict[str, str]) -> None:
    script = programs.script(
        "import commops, numpy as np, os\n"
        "comm = commops.init(timeout=20)\n"
        "if comm.rank == 1: os._exit(3)\n"
        "try: comm.barrier()\n"
        "except commops.PeerLostError as error: print(error.ranks, flush=True)\n"
    )
    process = programs.start("srun", "--overcommit", "-n", "2", sys.executable, str(script), env=environ)
    out, _ = process.communicate(timeout=60)
    assert (process.returncode, out) == (3, b"(1,)\n")


def test_nothing_of_slurm_is_left(environ: dict[str, str]) -> None:
    done = subprocess.run(
        ["squeue", "-h"], env=os.environ | environ, capture_output=True, text=True, check=True
    )
    assert done.stdout == ""
