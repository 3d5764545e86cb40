"""Groups that grow, by processes that were started by hand, in the stores that outlast a meeting."""

from __future__ import annotations

import os
import signal
import time
from pathlib import Path

import pytest

from commops.rendezvous import TCPStore

from .conftest import free_port
from .ranks import JOIN, Ranks, failures, results

JOINING = {"COMMOPS_JOIN": "1"}

# Group: grow until there are `want` ranks, then say who is there. Newcomers say so at once.
UNTIL = """
def grown(comm, want):
    while comm.size < want:
        bigger = comm.grow()
        if bigger is not comm:
            comm.close()
            comm = bigger
        time.sleep(0.01)
    return comm

def tell(comm):
    total = int(comm.allreduce(np.array(comm.rank + 1)))
    big = comm.allreduce(np.full(200_000, 1 << comm.rank))
    return [comm.rank, comm.size, comm.generation, total, bool((big == 2**comm.size - 1).all())]
"""
GROUP = JOIN + UNTIL + "comm = grown(comm, want); result = tell(comm); comm.close()\n"
NEWCOMER = (
    UNTIL
    + "comm = commops.init(url, timeout=timeout, token=token, transport=transport);"
    + " assert 'COMMOPS_JOIN' not in os.environ\n"
    + "comm = grown(comm, want); result = tell(comm); comm.close()\n"
)


def told(size: int, generation: int) -> list[list[object]]:
    return [[rank, size, generation, size * (size + 1) // 2, True] for rank in range(size)]


@pytest.mark.parametrize("transport", ["auto", "tcp"])
@pytest.mark.parametrize("url", ["file", "redis"], indirect=True)
def test_newcomers_join(ranks: Ranks, url: str, transport: str, tmp_path: Path) -> None:
    names = {"url": url, "want": 4, "transport": transport}
    old = ranks.job(2, GROUP, **names)
    first = ranks.start(NEWCOMER, env=JOINING, **names)
    time.sleep(0.3)
    second = ranks.start(NEWCOMER, env=JOINING, **names)
    ends = results([rank.told() for rank in (*old, first, second)])
    generation = ends[0][2]
    assert generation in (1, 2)  # both at once, or one after the other
    assert sorted(ends) == told(4, generation)
    assert ends[:2] == told(4, generation)[:2]  # those who were there keep their order
    if url.startswith("file:"):
        assert os.listdir(tmp_path) == []


@pytest.mark.parametrize("hosts", ["aab", "aba", "abc", "abb"])
def test_newcomers_on_another_host(ranks: Ranks, hosts: str, tmp_path: Path) -> None:
    names = {"url": f"file://{tmp_path}/store", "want": 3}
    each = [{"env": {"COMMOPS_HOST": host}} for host in hosts[:2]]
    old = ranks.job(2, GROUP, each, **names)
    new = ranks.start(NEWCOMER, env={**JOINING, "COMMOPS_HOST": hosts[2]}, **names)
    assert results([rank.told() for rank in (*old, new)]) == told(3, 1)


def test_a_store_that_something_else_serves(ranks: Ranks) -> None:
    with TCPStore("127.0.0.1", 0, is_server=True, token=b"secret") as store:
        env = {"COMMOPS_RENDEZVOUS": store.address, "COMMOPS_JOB": "test"}
        each = [{"env": {**env, "RANK": str(rank), "WORLD_SIZE": "3"}} for rank in range(3)]
        source = GROUP.replace("url, rank=rank, size=size, ", "")
        old = ranks.job(3, source, each, want=4, token="secret")
        new = ranks.start(NEWCOMER, env=JOINING, want=4, token="secret", url=store.address)
        assert results([rank.told() for rank in (*old, new)]) == told(4, 1)
        assert store.count() == 0


def test_a_lone_rank_is_joined(ranks: Ranks, tmp_path: Path) -> None:
    names = {"url": f"file://{tmp_path}/store", "want": 2}
    old = ranks.job(1, GROUP, **names)
    new = ranks.start(NEWCOMER, env=JOINING, **names)
    assert results([rank.told() for rank in (*old, new)]) == told(2, 1)


def test_nobody_waits(ranks: Ranks, url: str, tmp_path: Path) -> None:
    source = (
        JOIN
        + """
if url.startswith("file:"):
    assert all(comm.grow() is comm for _ in range(20))
    result = comm.generation
else:
    try:
        comm.grow()
    except commops.RendezvousError as error:
        result = str(error)
    assert comm.allreduce(np.array(1)) == size
comm.close()
"""
    )
    ends = results(ranks.run(2, source, url=url))
    assert ends[0] == ends[1]
    if url.startswith("file:"):
        assert ends[0] == 0
        assert os.listdir(tmp_path) == []
    else:
        assert ends[0].startswith(f"grow: rank 0 has served the store at {url}")


def test_where_newcomers_cannot_ask(ranks: Ranks, tmp_path: Path) -> None:
    source = (
        JOIN
        + """
result = []
for part in (comm.dup(), comm.split(0)):
    try:
        part.grow()
    except commops.RendezvousError as error:
        result.append(str(error))
assert comm.grow() is comm
comm.close()
"""
    )
    for end in results(ranks.run(2, source, url=f"file://{tmp_path}/store")):
        assert all("no place where newcomers could ask to join" in text for text in end)


def test_the_old_world_goes_on_beside_the_new_one(ranks: Ranks, tmp_path: Path) -> None:
    source = (
        JOIN
        + UNTIL
        + """
comm.isend(np.array(1), (rank + 1) % 2, 5)  # nobody receives it before there is the other world
bigger = comm
while bigger is comm:
    bigger = comm.grow()
bigger.send(np.array(2), (rank + 1) % 2, 5)
assert bigger.recv(source=commops.ANY, tag=5) == 2
assert bigger.iprobe() is None
assert comm.generation == 0
assert comm.recv(source=commops.ANY, tag=5) == 1
works = [one.iallreduce(np.ones(1000)) for one in (comm, bigger)]
result = [float(work.wait()[-1]) for work in works]
comm.close()
result.append(int(bigger.allreduce(np.array(1))))
bigger.close()
"""
    )
    new = """
comm = commops.init(url, timeout=timeout)
result = [float(comm.allreduce(np.ones(1000))[-1]), int(comm.allreduce(np.array(1)))]
comm.close()
"""
    names = {"url": f"file://{tmp_path}/store"}
    for transport in ("auto", "tcp"):
        env = {"COMMOPS_TRANSPORT": transport}
        old = ranks.job(2, source, [{"env": env}] * 2, **names)
        newcomer = ranks.start(new, env={**JOINING, **env}, **names)
        ends = results([rank.told() for rank in (*old, newcomer)])
        assert ends == [[2.0, 3.0, 3], [2.0, 3.0, 3], [3.0, 3]]


def test_survivors_shrink_and_grow_again(ranks: Ranks, tmp_path: Path) -> None:
    source = (
        JOIN
        + UNTIL
        + """
try:
    while True: comm.allreduce(np.ones(10))
except commops.PeerLostError:
    small = comm.shrink()
comm = grown(small, 3)
result = tell(comm)
comm.close()
"""
    )
    names = {"url": f"file://{tmp_path}/store", "want": 3}
    old = ranks.job(3, source, **names)
    time.sleep(0.3)
    old[0].kill()  # the one to whom newcomers would have spoken
    new = ranks.start(NEWCOMER, env=JOINING, **names)
    assert results([rank.told() for rank in (old[1], old[2], new)]) == told(3, 2)  # and nothing is left open


STILL = "import commops.rendezvous.bootstrap as b; b._engine = lambda *a: time.sleep(600)\n"


@pytest.mark.parametrize("when", ["waiting", "joining"])
@pytest.mark.parametrize("url", ["file", "served"])
def test_a_newcomer_that_dies(ranks: Ranks, when: str, url: str, tmp_path: Path) -> None:
    source = (
        JOIN.replace("url, rank=rank, size=size, ", "")
        + UNTIL
        + """
result = []
while comm.size == size:
    try:
        comm = grown(comm, size + 1)
    except commops.RendezvousError as error:
        result.append(str(error))
        assert comm.allreduce(np.array(1)) == size
result += tell(comm)
comm.close()
"""
    )
    with TCPStore("127.0.0.1", 0, is_server=True) as store:
        place = store.address if url == "served" else f"file://{tmp_path}/store"
        names = {"url": place, "want": 3, "timeout": 20.0 if url == "served" else 3.0}
        env = {"COMMOPS_RENDEZVOUS": place, "COMMOPS_JOB": "test", "WORLD_SIZE": "2"}
        if when == "waiting":
            doomed = ranks.start(NEWCOMER, env=JOINING, **names)
            time.sleep(0.3)
            doomed.kill()
            assert doomed.ended(10)
        old = ranks.job(2, source, [{"env": {**env, "RANK": str(rank)}} for rank in range(2)], **names)
        if when == "joining":
            doomed = ranks.start(STILL + NEWCOMER, env=JOINING, **names)
            time.sleep(0.7)
            doomed.kill()
        start = time.monotonic()
        new = ranks.start(NEWCOMER, env=JOINING, **{**names, "timeout": 20.0})
        ends = results([rank.told() for rank in (*old, new)])
        if url == "served":
            assert time.monotonic() - start < 5
    assert [end[-5:] for end in ends] == told(3, 1)
    if when == "joining":
        assert ends[0][:-5] == ends[1][:-5]
        assert "the ranks that were there before can go on" in ends[0][0]
        if url == "served":
            assert "ended" in ends[0][0]


def test_an_old_rank_that_dies_while_the_group_grows(ranks: Ranks) -> None:
    with TCPStore("127.0.0.1", 0, is_server=True) as store:
        for dead in (0, 1):
            env = {"COMMOPS_RENDEZVOUS": store.address, "COMMOPS_JOB": "test", "WORLD_SIZE": "3"}
            source = (
                JOIN.replace("url, rank=rank, size=size, ", "")
                + UNTIL
                + f"if comm.rank == {dead}: {STILL}"
                + """
try:
    comm = grown(comm, 4)
except commops.RendezvousError as error:
    comm = grown(comm.shrink(), 3)
result = tell(comm)
comm.close()
"""
            )
            each = [{"env": {**env, "RANK": str(rank)}} for rank in range(3)]
            old = ranks.job(3, source, each)
            time.sleep(0.2)
            new = ranks.start(NEWCOMER, env=JOINING, want=3, url=store.address)
            time.sleep(0.5)
            assert not old[dead].ended(0)
            old[dead].kill()
            start = time.monotonic()
            left = [*old[:dead], *old[dead + 1 :], new]
            assert results([rank.told() for rank in left]) == told(3, 2)
            assert time.monotonic() - start < 5


def test_a_newcomer_that_does_not_fit_says_so(ranks: Ranks, tmp_path: Path) -> None:
    names = {"url": f"file://{tmp_path}/store", "want": 3}
    source = GROUP.replace(
        "comm = grown", "comm.timeout = 20\nwhile comm.size < want:\n  try: comm = grown"
    ).replace("; result", "\n  except commops.RendezvousError as error: text = str(error)\nresult")
    old = ranks.job(2, source, **names)
    misfit = ranks.start(NEWCOMER, env={**JOINING, "COMMOPS_TRANSPORT": "tcp"}, **names)
    ((name, text),) = failures([misfit.told()], within=20)
    assert name == "RendezvousError"
    assert "differ in transport" in text
    new = ranks.start(NEWCOMER, env=JOINING, **names)
    assert results([rank.told() for rank in (*old, new)]) == told(3, 1)


def test_nobody_admits_a_newcomer(ranks: Ranks, tmp_path: Path) -> None:
    newcomer = ranks.start(NEWCOMER, env=JOINING, url=f"file://{tmp_path}/store", want=2, timeout=0.5)
    ((name, text),) = failures([newcomer.told()], within=5)
    assert name == "RendezvousError"
    assert "no group has admitted this process within 0.5 s" in text
    assert os.listdir(tmp_path) == []


def test_a_newcomer_that_is_told_no_place(ranks: Ranks) -> None:
    source = "commops.init()"
    ((name, text),) = failures([ranks.start(source, env=JOINING).told()], within=5)
    assert name == "RendezvousError"
    assert "Set COMMOPS_RENDEZVOUS" in text


def test_a_newcomer_that_stood_still_while_it_was_called(ranks: Ranks, tmp_path: Path) -> None:
    names = {"url": f"file://{tmp_path}/store", "want": 3}
    newcomer = ranks.start(NEWCOMER, env=JOINING, **names)
    time.sleep(0.5)
    newcomer.kill(signal.SIGSTOP)
    old = ranks.job(2, GROUP, **names)
    time.sleep(3)
    assert not any(rank.ended(0) for rank in old)
    newcomer.kill(signal.SIGCONT)
    assert results([rank.told() for rank in (*old, newcomer)]) == told(3, 1)


def test_over_tls(ranks: Ranks, tmp_path: Path) -> None:
    pytest.importorskip("cryptography")
    from commops.rendezvous.certificates import main

    path = tmp_path / "job.pem"
    assert main([str(path)]) == 0
    env = {"COMMOPS_TLS_FILE": str(path)}
    names = {"url": f"file://{tmp_path}/store", "want": 3, "transport": "tcp", "token": "secret"}
    old = ranks.job(2, GROUP, [{"env": env}] * 2, **names)
    new = ranks.start(NEWCOMER, env={**env, **JOINING}, **names)
    assert results([rank.told() for rank in (*old, new)]) == told(3, 1)


def test_growing_again_and_again(ranks: Ranks, tmp_path: Path) -> None:
    names = {"url": f"file://{tmp_path}/store", "want": 6, "port": free_port()}
    old = ranks.job(1, GROUP, **names)
    new = []
    for _ in range(5):
        new.append(ranks.start(NEWCOMER, env=JOINING, **names))
        time.sleep(0.15)
    ends = results([rank.told() for rank in (*old, *new)])
    assert sorted(ends) == told(6, ends[0][2])
