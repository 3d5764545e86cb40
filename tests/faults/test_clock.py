"""The system's clock may be set while a job runs: no deadline is on it."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

SOURCES = Path(__file__).parents[2] / "src"
# What people read: dates of runs and certificates, and the start of a trace.
MAY_TELL_TIME = {"certificates.py", "tune.py", "flight.c", "flight.py"}
REAL_TIME = re.compile(
    r"\btime\.time(_ns)?\(|\bCLOCK_REALTIME\b|\bgettimeofday\(|\bdatetime\b|[^_\w]time\(NULL\)"
)

# Everything that waits: ranks that meet, calls that come late, deadlines, a rank that ends, who is left.
SCRIPT = """
import os, sys, time
import numpy as np
import commops

seen = {time.time() // 86400 for _ in range(100) if not time.sleep(0.002)}
assert len(seen) > 1, "the clock is not set"
with commops.init(timeout=20) as comm:
    for number in range(200):
        if comm.rank == number % comm.size:
            time.sleep(0.002)
        assert comm.allreduce(np.array(1)) == comm.size
    for transport in comm, comm.split(comm.rank % 2):
        transport.barrier()
    comm.timeout = 0.125
    for _ in range(10):
        start = time.monotonic()
        try:
            comm.recv(source=(comm.rank + 1) % comm.size)
        except commops.CommTimeoutError:
            pass
        assert 0.125 <= time.monotonic() - start < 10
    comm.timeout = 20
    comm.barrier()
    if comm.rank == 1:
        os._exit(3)
    try:
        comm.barrier()
        comm.barrier()
    except commops.PeerLostError as error:
        assert error.ranks == (1,)
    with comm.shrink() as left:
        assert left.allreduce(np.array(1)) == comm.size - 1
        print("rank", comm.rank, "is well", flush=True)
"""


@pytest.fixture(scope="module")
def stepping_clock(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Build a library that shows a clock which is set all the time to whoever loads it."""
    compiler = shutil.which(os.environ.get("CC", "cc"))
    if compiler is None:
        pytest.skip("no C compiler here")
    library = tmp_path_factory.mktemp("clock") / "stepping_clock.so"
    source = Path(__file__).with_name("stepping_clock.c")
    subprocess.run([compiler, "-shared", "-fPIC", "-O1", "-o", library, source], check=True)
    return library


@pytest.mark.parametrize("transport", ["shm", "tcp"])
def test_a_clock_that_is_set_all_the_time(stepping_clock: Path, tmp_path: Path, transport: str) -> None:
    (tmp_path / "script.py").write_text(SCRIPT)
    done = subprocess.run(
        [sys.executable, "-m", "commops", "run", "-n", "3", "--elastic", "2:3", "script.py"],
        env={**os.environ, "LD_PRELOAD": str(stepping_clock), "COMMOPS_TRANSPORT": transport},
        cwd=tmp_path, capture_output=True, text=True, timeout=60, check=False,
    )  # fmt: skip
    for rank in (0, 2):
        assert f"rank {rank} is well" in done.stdout, done.stdout + done.stderr


def test_all_deadlines_are_on_the_monotonic_clock() -> None:
    files = [path for path in SOURCES.rglob("*") if path.suffix in {".c", ".h", ".py", ".pyx", ".pxd"}]
    assert len(files) > 100
    found = [
        f"{path.relative_to(SOURCES)}:{number}: {line.strip()}"
        for path in files
        if path.name not in MAY_TELL_TIME
        for number, line in enumerate(path.read_text(encoding="utf-8").splitlines(), 1)
        if REAL_TIME.search(line)
    ]
    assert not found, "\n".join(found)
