"""Ranks meet: over every kind of store, again and again, several jobs at once."""

from __future__ import annotations

import os
import textwrap
import uuid
from pathlib import Path

import pytest

from .conftest import free_port
from .ranks import JOIN, Ranks, results

SUM = (
    JOIN
    + """
with comm:
    result = [comm.rank, comm.size, int(comm.allreduce(np.array(comm.rank + 1)))]
"""
)


EVERY = pytest.mark.parametrize("url", ["file", "tcp", "tcp-ipv6", "unix", "redis"], indirect=True)


def sums(size: int) -> list[list[int]]:
    return [[rank, size, size * (size + 1) // 2] for rank in range(size)]


@EVERY
@pytest.mark.parametrize("size", [1, 2, 5])
def test_ranks_meet(ranks: Ranks, url: str, size: int) -> None:
    assert results(ranks.run(size, SUM, url=url)) == sums(size)


@pytest.mark.parametrize("transport", ["shm", "tcp"])
@pytest.mark.parametrize("token", [None, "secret"])
def test_ranks_meet_over_either_transport(ranks: Ranks, transport: str, token: str | None) -> None:
    url = f"tcp://127.0.0.1:{free_port()}"
    assert results(ranks.run(3, SUM, url=url, transport=transport, token=token)) == sums(3)


@EVERY
def test_ranks_meet_again_and_again_at_the_same_place(ranks: Ranks, url: str, tmp_path: Path) -> None:
    again = """
    result = []
    for i in range(6):
        comm = commops.init(url, rank=rank, size=size, transport="auto" if i % 2 else "tcp", timeout=timeout)
        with comm:
            result.append(int(comm.allreduce(np.array(comm.rank + i))))
    """
    assert results(ranks.run(3, again, url=url)) == [[3 + 3 * i for i in range(6)]] * 3
    if url.startswith("file:"):
        assert os.listdir(tmp_path) == []


def test_processes_that_have_met_others_before_meet_new_ones(ranks: Ranks, tmp_path: Path) -> None:
    url = f"file://{tmp_path}/store"
    twice = (
        "import sys; store = url; result = []\n"
        + """
for i in range(2):
    with commops.init(url, rank=rank, size=size, timeout=timeout) as comm:
        result.append(int(comm.allreduce(np.array(1))))
"""
    )
    once = (
        "with commops.init(url, rank=rank, size=size, timeout=timeout) as comm: comm.allreduce(np.array(1))"
    )
    first = ranks.start(twice, url=url, rank=0, size=2)
    assert ranks.start(once, url=url, rank=1, size=2).told().error == ""
    assert ranks.start(once, url=url, rank=1, size=2).told().error == ""
    assert results([first.told()]) == [[2, 2]]


def test_a_process_may_be_in_several_jobs_at_once(ranks: Ranks) -> None:
    source = """
    one = commops.init(url, rank=rank, size=size, timeout=timeout)
    two = commops.init(other, rank=size - 1 - rank, size=size, timeout=timeout, transport="tcp")
    works = [comm.iallreduce(np.array(2.0**comm.rank)) for comm in (one, two)]
    result = [float(work.wait()) for work in works] + [one.rank, two.rank]
    two.close()
    one.close()
    """
    names = {"url": f"unix:test-{uuid.uuid4().hex}", "other": f"unix:test-{uuid.uuid4().hex}"}
    assert results(ranks.run(3, source, **names)) == [[7.0, 7.0, 0, 2], [7.0, 7.0, 1, 1], [7.0, 7.0, 2, 0]]


def test_jobs_side_by_side_do_not_mix(ranks: Ranks) -> None:
    urls = [f"tcp://127.0.0.1:{free_port()}", f"unix:test-{uuid.uuid4().hex}"]
    jobs = [ranks.job(2, SUM, url=url, timeout=30.0) for url in urls]
    for job in jobs:
        assert results([rank.told() for rank in job]) == sums(2)


def test_a_store_of_the_callers_own_stays_open(ranks: Ranks) -> None:
    source = """
    from commops.rendezvous import TCPStore
    with TCPStore("127.0.0.1", port, is_server=rank == 0, timeout=timeout) as store:
        with commops.init(store, rank=rank, size=size, timeout=timeout) as comm:
            result = int(comm.allreduce(np.array(comm.rank)))
        store.add("mine", 1)
        if rank == 0:
            while store.add("mine", 0) < size: time.sleep(0.001)
            assert store.count() == 1
    """
    assert results(ranks.run(3, source, port=free_port())) == [3, 3, 3]


def test_ranks_may_come_at_very_different_times(ranks: Ranks) -> None:
    url = f"tcp://127.0.0.1:{free_port()}"
    late = "time.sleep(0.7 * (size - 1 - rank))\n" + SUM  # the one that serves the store comes last
    assert results(ranks.run(3, late, url=url)) == sums(3)


@pytest.mark.parametrize("hosts", ["aabb", "abab", "aaab", "abcd"])
def test_hosts_that_are_made_up(ranks: Ranks, hosts: str) -> None:
    source = (
        JOIN
        + """
with comm:
    half = comm.split(comm.rank % 2, -comm.rank)
    big = comm.allreduce(np.full(100_000, 1 << comm.rank))
    comm.send(np.arange(5) + comm.rank, (comm.rank + 1) % comm.size)
    got = comm.recv(source=(comm.rank - 1) % comm.size)
    result = ["".join(comm.hosts), comm.local_size, int(big[0]), bool((big == big[0]).all()), got.tolist()[0],
              int(half.allreduce(np.array(comm.rank))), half.rank]
"""
    )
    each = [{"env": {"COMMOPS_HOST": host}} for host in hosts]
    told = results(ranks.run(4, source, each, url=f"unix:test-{uuid.uuid4().hex}"))
    for rank, one in enumerate(told):
        local = hosts.count(hosts[rank])
        assert one == [hosts, local, 15, True, (rank - 1) % 4, 2 + 2 * (rank % 2), 1 - rank // 2]


def test_more_descriptors_on_their_way_than_a_user_may_have(ranks: Ranks) -> None:
    # Each of 8 ranks is sent 24 of them: more than 40 at once, for a user whom no capability exempts.
    limited = """
    import resource
    resource.setrlimit(resource.RLIMIT_NOFILE, (60, 60))
    if os.getuid() == 0:
        os.setgroups([]); os.setresgid(65534, 65534, 65534); os.setresuid(65534, 65534, 65534)
    """
    source = textwrap.dedent(limited) + SUM
    url = f"unix:test-{uuid.uuid4().hex}"
    told = ranks.run(8, source, url=url)
    if any("PermissionError" in one.traceback for one in told):
        pytest.skip("this user may not read the code as nobody")
    assert results(told) == sums(8)
