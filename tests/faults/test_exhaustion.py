"""What a system does not give is an error that says so, on all ranks: never a signal, never a hang."""

from __future__ import annotations

import resource
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest

import commops
from comm.layouts import Layout
from comm.world import World
from commops import Comm
from rendezvous.ranks import JOIN, Ranks, failures

Fresh = Callable[..., World]


@pytest.fixture
def ranks(tmp_path: Path) -> Iterator[Ranks]:
    made = Ranks(tmp_path)
    yield made
    made.close()


@pytest.mark.parametrize(
    ("limit", "value", "words"),
    [
        ("RLIMIT_AS", 4 << 30, "is `ulimit -v` set?"),
        ("RLIMIT_FSIZE", 1 << 20, "is `ulimit -f` set?"),
        ("RLIMIT_NOFILE", 13, "Too many open files"),
    ],
)
def test_a_rank_that_may_not_have_what_it_needs(
    ranks: Ranks, tmp_path: Path, limit: str, value: int, words: str
) -> None:
    source = f"import resource; resource.setrlimit(resource.{limit}, (value, value))\n" + JOIN
    usual = resource.getrlimit(getattr(resource, limit))[0]
    each = [{"value": usual}, {"value": value}, {"value": usual}]
    told = ranks.run(3, source, each, url=f"file://{tmp_path}/store", timeout=10.0)
    assert words.lower() in told[1].text.lower(), told[1]
    assert all(one.error for one in told)
    others = failures([told[0], told[2]], within=6.0)
    assert all("rank 1" in text for _, text in others), others


def test_no_descriptor_is_left_for_a_connection(fresh: Fresh) -> None:
    def program(comm: Comm) -> str:
        import os

        if comm.rank == 1:
            used = max(map(int, os.listdir("/proc/self/fd")))
            resource.setrlimit(resource.RLIMIT_NOFILE, (used, resource.getrlimit(resource.RLIMIT_NOFILE)[1]))
        comm.timeout = 5.0
        try:
            comm.send(np.ones(3), (comm.rank + 1) % comm.size)  # the first connection of this pair
            comm.recv(source=(comm.rank - 1) % comm.size)
        except commops.CommError as error:
            return f"{type(error).__name__}: {error}"
        return "fine"

    ends = fresh(Layout("aaa", "tcp")).run(program)
    assert "Too many open files" in ends[1], ends
    assert all(end.startswith(("PeerLostError", "CommTimeoutError")) for end in ends), ends
