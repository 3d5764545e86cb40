"""`commops.init`: who this process is, from arguments and from the environment."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest

import commops


@pytest.fixture(autouse=True)
def _no_launcher(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    for name in list(os.environ):
        if name.startswith(("COMMOPS_", "OMPI_", "PMI", "SLURM_", "TORCHELASTIC_", "MASTER_", "LOCAL_")):
            monkeypatch.delenv(name)
    for name in ("RANK", "WORLD_SIZE"):
        monkeypatch.delenv(name, raising=False)
    before = os.listdir("/proc/self/fd")
    yield
    assert len(os.listdir("/proc/self/fd")) == len(before)


def test_alone() -> None:
    with commops.init() as comm:
        assert (comm.rank, comm.size, comm.local_rank, comm.local_size, len(comm.hosts)) == (0, 1, 0, 1, 1)
        np.testing.assert_array_equal(comm.allreduce(np.arange(3)), np.arange(3))


def test_alone_by_argument_needs_no_place_to_meet() -> None:
    for place in (None, "tcp://192.0.2.1:1"):
        with commops.init(place, rank=0, size=1) as comm:
            assert comm.size == 1


def test_alone_several_times_at_once() -> None:
    comms = [commops.init() for _ in range(3)]
    for comm in comms:
        comm.barrier()
        comm.close()


@pytest.mark.parametrize("transport", ["auto", "shm", "tcp"])
def test_the_timeout_is_that_of_calls(transport: str) -> None:
    with commops.init(timeout=2.5, transport=transport) as comm:
        assert comm.timeout == 2.5


def test_the_host_has_the_name_that_it_is_given(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COMMOPS_HOST", "left")
    with commops.init() as comm:
        assert comm.hosts == ("left",)


@pytest.mark.parametrize(
    ("arguments", "error", "words"),
    [
        ({"rank": 0}, ValueError, "rank and size go together"),
        ({"size": 2}, ValueError, "rank and size go together"),
        ({"rank": 2, "size": 2}, ValueError, "rank must be from 0 to size - 1 = 1, not 2"),
        ({"rank": -1, "size": 2}, ValueError, "not -1"),
        ({"rank": 0, "size": 0}, ValueError, "rank must be"),
        ({"rank": 0.0, "size": 2}, TypeError, "rank must be a whole number, not 0.0"),
        ({"rank": True, "size": 2}, TypeError, "rank must be a whole number, not True"),
        ({"rank": 0, "size": "2"}, TypeError, "size must be a whole number, not '2'"),
        ({"rendezvous": "file:///x"}, ValueError, "who is this process"),
        ({"rank": 0, "size": 2}, commops.RendezvousError, "where do the ranks meet"),
        ({"rank": 0, "size": 2, "rendezvous": "ftp://x"}, ValueError, "no rendezvous address"),
        ({"rank": 0, "size": 2, "rendezvous": "file:///x", "token": ""}, ValueError, "token is empty"),
        ({"transport": "udp"}, ValueError, "transport must be one of auto, shm, tcp, not 'udp'"),
        ({"timeout": 0}, ValueError, "above 0"),
        ({"timeout": float("nan")}, ValueError, "nan"),
        ({"timeout": "soon"}, TypeError, "'soon'"),
        ({"tls": 1.5}, TypeError, "tls must be the path of a file, True, False or None, not 1.5"),
        ({"tls": "/nowhere"}, commops.RendezvousError, "tls: cannot read '/nowhere'"),
        ({"tls": True, "rank": 0, "size": 2, "rendezvous": "file:///x"}, ValueError, "tls=True asks for TLS"),
    ],
)
def test_bad_arguments(arguments: dict[str, Any], error: type[Exception], words: str) -> None:
    with pytest.raises(error) as caught:
        commops.init(**arguments)
    assert words in str(caught.value)


def test_a_transport_of_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COMMOPS_TRANSPORT", "carrier pigeon")
    with pytest.raises(ValueError, match="COMMOPS_TRANSPORT must be one of"):
        commops.init()


def test_numbers_of_other_kinds() -> None:
    with commops.init(rank=np.int64(0), size=np.uint8(1), timeout=np.float32(3)) as comm:  # type: ignore[arg-type]
        assert (comm.size, comm.timeout) == (1, 3.0)


def test_a_launcher_that_does_not_say_where(monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in {"RANK": 0, "SIZE": 4, "LOCAL_RANK": 0, "LOCAL_SIZE": 2}.items():
        monkeypatch.setenv(f"OMPI_COMM_WORLD_{name}", str(value))
    monkeypatch.setenv("PMIX_NAMESPACE", "job")
    with pytest.raises(
        commops.RendezvousError, match="openmpi started 4 ranks on several hosts but does not say"
    ):
        commops.init()


RANKS = """
import commops, numpy as np, os, socket
with commops.init() as comm:
    # Ranks of a launcher may meet elsewhere too, and say themselves who they are.
    with commops.init("unix:" + os.environ["COMMOPS_JOB"] + "-else") as other:
        assert other.allreduce(np.array(1)) == comm.size
    with commops.init(rank=comm.size - 1 - comm.rank, size=comm.size) as backwards:
        assert backwards.scan(np.array(1)) == comm.size - comm.rank
    with commops.init() as again:
        assert again.allreduce(np.array(1)) == comm.size
"""


def test_ranks_of_a_launcher_may_join_again_and_elsewhere() -> None:
    code = f"import commops\ncommops.launch(lambda comm: exec({RANKS!r}, {{}}), 3, timeout=60)\nprint('well')"
    environ = os.environ | {"PYTHONPATH": os.pathsep.join(filter(None, sys.path))}
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, env=environ, check=False
    )
    assert (done.stdout, done.stderr) == ("well\n", "")
