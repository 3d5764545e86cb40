"""Much at once, and for long."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

import commops
from comm.layouts import Layout
from comm.world import World
from commops import Comm

Fresh = Callable[..., World]


@pytest.mark.parametrize("transport", ["shm", "tcp"])
def test_many_ranks_on_few_cores_make_progress(transport: str) -> None:
    def program(comm: Comm) -> float:
        for n in (1, 1000, 20_000):
            for _ in range(5):
                total = comm.allreduce(np.full(n, 1.0))
                comm.barrier()
        part = comm.split(comm.rank % 4)
        assert part is not None
        return float(total[-1] + part.allreduce(np.array(1.0)))

    ranks = 64 if transport == "shm" else 24
    assert commops.launch(program, ranks, transport=transport, timeout=100) == [ranks * 1.25] * ranks


@pytest.mark.parametrize("layout", [Layout("aaa", "shm"), Layout("aaa", "tcp"), Layout("aab")], ids=str)
def test_two_hundred_communicators_at_once(fresh: Fresh, layout: Layout) -> None:
    def program(comm: Comm) -> int:
        made = [comm.split(0, comm.rank * (-1) ** number) for number in range(200)]
        works = [part.iallreduce(np.full(10, number)) for number, part in enumerate(made) if part]
        good = sum(bool((work.wait() == comm.size * number).all()) for number, work in enumerate(works))
        for part in made:
            assert part is not None
            part.close()
        return good

    assert fresh(layout).run(program) == [200] * layout.size


@pytest.mark.parametrize("transport", ["shm", "tcp"])
def test_a_mixed_load_leaves_nothing_behind(transport: str) -> None:
    soak = Path(__file__).with_name("soak.py")
    done = subprocess.run(
        [sys.executable, "-m", "commops", "run", "-n", "3", str(soak), "8", "20000"],
        capture_output=True,
        text=True,
        timeout=110,
        check=False,
        env=os.environ | {"COMMOPS_TRANSPORT": transport},
    )
    assert done.returncode == 0, done.stderr
    assert "rounds, grown by" in done.stdout
