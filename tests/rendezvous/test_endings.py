"""Ranks end in every way and at every time: nobody hangs, nothing sent is lost, nothing remains."""

from __future__ import annotations

import os
import time
import uuid
from pathlib import Path

import pytest

from .ranks import JOIN, Ranks, results

ENDS = {
    "close": "comm.close()",
    "no close": "",
    "exception": "raise SystemExit('enough')",
    "os._exit": "os._exit(3)",
    "SIGKILL": "import signal; os.kill(os.getpid(), signal.SIGKILL)",
}
TRANSPORTS = ["shm", "tcp"]


@pytest.fixture
def url() -> str:
    return f"unix:test-{uuid.uuid4().hex}"


def leftovers() -> set[str]:
    """Return what might stay of commops on this machine: files, and names of sockets."""
    names = {f"{folder}/{name}" for folder in ("/dev/shm", "/tmp") for name in os.listdir(folder)}
    names |= {line.split()[-1] for line in Path("/proc/net/unix").read_text().splitlines() if "@" in line}
    return {name for name in names if "commops" in name and "commops:test-" not in name}


def wait_for_nothing(before: set[str], seconds: float = 5.0) -> set[str]:
    deadline = time.monotonic() + seconds
    while (left := leftovers() - before) and time.monotonic() < deadline:
        time.sleep(0.05)
    return left


@pytest.mark.parametrize("transport", TRANSPORTS)
@pytest.mark.parametrize("end", ENDS)
def test_whoever_needs_a_rank_that_has_ended_is_told(
    ranks: Ranks, url: str, transport: str, end: str
) -> None:
    source = (
        JOIN
        + """
comm.allreduce(np.ones(3))
if rank == 1:
    exec(end)
else:
    start = time.monotonic()
    try:
        comm.allreduce(np.ones(3))
    except commops.PeerLostError as error:
        result = [list(error.ranks), time.monotonic() - start]
    comm.close()
"""
    )
    before = leftovers()
    job = ranks.job(3, source, url=url, transport=transport, end=ENDS[end], timeout=10.0)
    told = results([job[rank].told() for rank in (0, 2)])
    for lost, seconds in told:
        assert lost == [1]
        assert seconds < 3.0
    job[1].ended(10)
    assert wait_for_nothing(before) == set()


@pytest.mark.parametrize("transport", TRANSPORTS)
@pytest.mark.parametrize("end", ENDS)
def test_whoever_needs_nothing_of_it_goes_on(ranks: Ranks, url: str, transport: str, end: str) -> None:
    source = (
        JOIN
        + """
part = comm.split(0 if rank < 2 else 1)
if rank == 2:
    for other in range(2):
        comm.recv(source=other)  # it has come out of the split, which needs everybody
    exec(end)
else:
    comm.send(np.ones(1), 2)
    for i in range(60):
        assert part.allreduce(np.ones(1000))[0] == 2
        time.sleep(0.01)
    part.send(np.arange(10), 1 - rank)
    result = int(part.recv(source=1 - rank).sum())
    part.close()
    comm.close()
"""
    )
    job = ranks.job(3, source, url=url, transport=transport, end=ENDS[end], timeout=10.0)
    assert results([rank.told() for rank in job[:2]]) == [45, 45]
    job[2].ended(10)


@pytest.mark.parametrize("transport", TRANSPORTS)
@pytest.mark.parametrize("end", ["close", "no close"])
@pytest.mark.parametrize("elements", [1, 1000, 3_000_000])
def test_what_was_sent_arrives_although_the_sender_has_ended(
    ranks: Ranks, url: str, transport: str, end: str, elements: int
) -> None:
    source = (
        JOIN
        + """
if rank == 0:
    for i in range(3):
        comm.send(np.full(n, i), 1)
    exec(end)
else:
    time.sleep(0.5 if n < 10_000 else 0)
    result = [int(comm.recv(source=0).sum()) for i in range(3)]
    comm.close()
"""
    )
    job = ranks.job(2, source, url=url, transport=transport, end=ENDS[end], n=elements, timeout=10.0)
    assert results([job[1].told()]) == [[0, elements, 2 * elements]]
    told = job[0].told()
    assert told.error == ""


@pytest.mark.parametrize("transport", TRANSPORTS)
def test_the_last_collective_ends_on_all_although_some_close_at_once(
    ranks: Ranks, url: str, transport: str
) -> None:
    source = (
        JOIN
        + """
result = []
for i in range(30):
    child = comm.dup()
    x = child.broadcast(np.full(50_000, i) if rank == 0 else None)
    y = child.gather(x[:100])
    child.close()
    result.append(int(x[-1]))
comm.barrier()
comm.close()
"""
    )
    assert results(ranks.run(4, source, url=url, transport=transport)) == [list(range(30))] * 4


@pytest.mark.parametrize("transport", TRANSPORTS)
def test_ranks_that_close_at_very_different_times(ranks: Ranks, url: str, transport: str) -> None:
    source = JOIN + "comm.barrier(); time.sleep(rank * 0.4); comm.close(); result = rank"
    told = ranks.run(4, source, url=url, transport=transport)
    assert results(told) == [0, 1, 2, 3]
    for rank, one in enumerate(told):
        assert one.seconds < rank * 0.4 + 2.0


@pytest.mark.parametrize("transport", TRANSPORTS)
def test_all_are_killed_and_nothing_remains(ranks: Ranks, url: str, transport: str) -> None:
    before = leftovers()
    source = JOIN + "x = comm.zeros(1000)\nwhile True: comm.allreduce(x, out=x)"
    job = ranks.job(3, source, url=url, transport=transport)
    time.sleep(1.0)
    for rank in job:
        rank.kill()
    assert all(rank.ended(5) for rank in job)
    assert wait_for_nothing(before) == set()


@pytest.mark.parametrize("transport", TRANSPORTS)
def test_a_fork_leaves_the_job_to_its_parent(ranks: Ranks, url: str, transport: str) -> None:
    source = (
        JOIN
        + """
pid = os.fork()
if pid == 0:
    try: comm.barrier()
    except commops.CommError as error: os._exit(0 if "fork" in str(error) else 1)
    os._exit(2)
assert os.waitpid(pid, 0)[1] == 0
result = int(comm.allreduce(np.array(rank)))
comm.close()
"""
    )
    assert results(ranks.run(3, source, url=url, transport=transport)) == [3, 3, 3]
