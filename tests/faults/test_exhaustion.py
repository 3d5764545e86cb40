"""What a system does not give is an error that says so, on all ranks: never a signal, never a hang."""

from __future__ import annotations

import contextlib
import os
import resource
import subprocess
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest

import commops
from comm.layouts import Layout
from comm.world import Nursery, World
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
        *(("RLIMIT_NOFILE", most, f"`ulimit -n` is {most}") for most in (11, 13, 16, 19)),
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


@pytest.mark.parametrize("most", [13, 18, 20])
def test_no_rank_may_have_what_it_needs(ranks: Ranks, tmp_path: Path, most: int) -> None:
    source = f"import resource; resource.setrlimit(resource.RLIMIT_NOFILE, ({most}, {most}))\n" + JOIN
    texts = failures(ranks.run(3, source, url=f"file://{tmp_path}/store", timeout=10.0), within=6.0)
    assert all(f"Too many open files: `ulimit -n` is {most}" in text for _, text in texts), texts


@pytest.fixture
def group(tmp_path: Path) -> Iterator[Callable[[int], str]]:
    """Make a control group of so many bytes of memory, and return the file to which members are written."""
    made: list[Path] = []

    def group(limit: int) -> str:
        name = f"commops-test-{os.getpid()}"
        for parent, file in (
            ("/sys/fs/cgroup", "memory.max"),
            ("/sys/fs/cgroup/memory", "memory.limit_in_bytes"),
        ):
            folder = Path(parent, name)
            with contextlib.suppress(OSError):
                if Path(parent, "cgroup.procs").exists():
                    folder.mkdir()
                    made.append(folder)
                    (folder / file).write_text(str(limit))
                    return str(folder / "cgroup.procs")
        pytest.skip("no control group with a limit of memory can be made here")

    yield group
    for folder in made:
        deadline = time.monotonic() + 10  # its members have ended, and leave it a moment later
        while folder.exists() and time.monotonic() < deadline:
            with contextlib.suppress(OSError):
                folder.rmdir()
        assert not folder.exists()


def test_a_control_group_without_memory_for_an_array(nursery: Nursery, group: Callable[[int], str]) -> None:
    """The kernel would not refuse it, but kill somebody."""

    def program(comm: Comm, members: str) -> tuple[str, bool]:
        with open(members, "w", encoding="ascii") as file:
            file.write(str(os.getpid()))
        comm.barrier()
        told = ""
        for _ in range(5):  # what a try in vain has taken is given back
            try:
                comm.empty(200 << 20, np.uint8)
            except MemoryError as error:
                told = str(error)
        kept = []

        def take() -> None:
            while True:
                kept.append(comm.empty(200 << 10, np.uint8))  # too little each to be worth a look

        with pytest.raises(MemoryError, match="cannot reserve shared memory"):
            take()
        kept.clear()
        shared = comm.zeros(20 << 20, np.uint8)
        shared += comm.rank
        return told, bool((comm.allreduce(shared) == comm.size * (comm.size - 1) // 2).all())

    world = nursery.world(Layout("aaa", "shm"))
    try:
        ends = world.run(program, group(256 << 20))
    finally:
        world.close()
    assert all(right and "cannot reserve shared memory" in told for told, right in ends), ends
    assert any("the memory limit of control group /commops-test" in told for told, _ in ends), ends


def test_a_store_in_a_small_file_system(ranks: Ranks, tmp_path: Path) -> None:
    small = tmp_path / "small"
    small.mkdir()
    if subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=8k,mode=700", "tmpfs", small], check=False
    ).returncode:
        pytest.skip("no file system can be mounted here")
    try:
        with contextlib.suppress(OSError):
            (small / "full").write_bytes(bytes(8192))
        told = ranks.run(2, JOIN, url=f"file://{small}", timeout=10.0)
    finally:
        subprocess.run(["umount", small], check=True)
    texts = [text for _, text in failures(told, within=2.0)]
    assert all("No space left on device" in text for text in texts), texts


def use_up_descriptors() -> None:
    used = len(os.listdir("/proc/self/fd"))
    resource.setrlimit(resource.RLIMIT_NOFILE, (used, resource.getrlimit(resource.RLIMIT_NOFILE)[1]))
    with contextlib.suppress(OSError):
        while True:
            os.open("/dev/null", os.O_RDONLY)


def test_no_descriptor_is_left_for_a_connection(fresh: Fresh) -> None:
    def program(comm: Comm) -> str:
        if comm.rank == 1:
            use_up_descriptors()
        comm.timeout = 5.0
        try:
            comm.send(np.ones(3), (comm.rank + 1) % comm.size)  # the first connection of this pair
            comm.recv(source=(comm.rank - 1) % comm.size)
        except commops.CommError as error:
            return f"{type(error).__name__}: {error}"
        return "fine"

    ends = fresh(Layout("aaa", "tcp")).run(program)
    why = "rank 1: it has no descriptor left for a connection: Too many open files (`ulimit -n` is "
    assert ends[1].startswith(f"CommError: {why}"), ends
    told = f"RevokedError: {why}"  # if it can be told
    assert ends[2].startswith((told, "CommTimeoutError")), ends
    assert ends[0].startswith((told, "CommTimeoutError", "fine")), ends  # it may have had all it needs before


def test_ranks_that_cannot_reach_each_other_do_not_shrink_for_ever(fresh: Fresh) -> None:
    """Both are reached by the others, so that all agree, again and again, on a group that does not work."""

    def program(comm: Comm) -> str:
        comm.timeout = 3.0
        comm.allreduce(np.ones(3))  # makes some of the connections
        if comm.rank == 1:
            use_up_descriptors()
        with contextlib.suppress(commops.CommError):  # rank 1 has no connection for it
            comm.alltoall(np.ones(comm.size))
            comm.barrier()
        start = time.monotonic()
        end = "fine"  # now and then the connections that there are do
        try:
            comm.shrink()
        except commops.CommError as error:
            end = f"{type(error).__name__}: {error}"
        assert time.monotonic() - start < 4 * comm.timeout
        return end

    for end in fresh(Layout("aabb")).run(program):
        assert end == "fine" or end.startswith(("CommTimeoutError", "RevokedError", "PeerLostError")), end
