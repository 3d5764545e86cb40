"""Ranks that cannot meet: the same typed error on all of them, in time, and nothing left behind."""

from __future__ import annotations

import socket
import time
import uuid
from pathlib import Path
from typing import Any

import pytest

from commops.rendezvous import FileStore

from .conftest import free_port
from .ranks import JOIN, Ranks, Told, failures, results

SLACK = 2.5  # seconds beyond the time-out, for a machine that is busy with other things


def all_fail(ranks: Ranks, each: list[dict[str, Any]], timeout: float = 15.0, **names: Any) -> list[str]:
    """Let the ranks fail, by RendezvousError, long before their time is over; return what they say."""
    told = failures(ranks.run(len(each), JOIN, each, timeout=timeout, **names), within=timeout / 2)
    assert {kind for kind, _ in told} == {"RendezvousError"}
    return [text for _, text in told]


def test_sizes_that_differ(ranks: Ranks, url: str) -> None:
    for text in all_fail(ranks, [{"size": 3}, {"size": 2}], url=url):
        assert text.startswith(
            "ranks 0 and 1 differ in size: 3 and 2; every rank must be given the same size"
        )


def test_a_rank_beyond_the_size_of_the_others(ranks: Ranks, url: str) -> None:
    jobs = [{"size": 2}, {"size": 2}, {"size": 3, "timeout": 2.0}]
    told = ranks.run(3, JOIN + "comm.close()", jobs, url=url)
    assert [one.error for one in told] == ["", "", "RendezvousError"]


def test_transports_that_differ(ranks: Ranks, url: str) -> None:
    for text in all_fail(ranks, [{}, {"transport": "tcp"}, {}], url=url):
        assert "ranks 0 and 1 differ in transport: auto and tcp" in text


def test_tunables_that_differ(ranks: Ranks, url: str) -> None:
    each = [{}, {}, {"env": {"COMMOPS_STAGED_BYTES": "64"}}]
    for text in all_fail(ranks, each, url=url):
        assert "ranks 0 and 2 differ in tunables: {'staged_bytes': None} and {'staged_bytes': 64}" in text


def test_tunables_that_may_differ(ranks: Ranks) -> None:
    each: list[dict[str, Any]] = [{}, {"env": {"COMMOPS_SPIN_US": "0", "COMMOPS_HANDSHAKE_MS": "5000"}}]
    results(ranks.run(2, JOIN + "comm.close()", each, url=f"unix:test-{uuid.uuid4().hex}"))


def test_shared_memory_over_several_hosts(ranks: Ranks, url: str) -> None:
    each = [{"env": {"COMMOPS_HOST": host}} for host in ("one", "two", "one")]
    for text in all_fail(ranks, each, url=url, transport="shm"):
        assert text == "transport='shm' needs all ranks on one host, and they are on 2: one, two"


def test_two_processes_of_one_rank_while_another_is_missing(ranks: Ranks, url: str) -> None:
    told = failures(ranks.run(3, JOIN, [{}, {}, {"rank": 1}], url=url, timeout=15.0), within=7)
    for kind, text in told:
        assert kind == "RendezvousError"
        assert "are both rank 1: give every process a rank of its own" in text
        assert text.count("process ") >= 2


def test_two_processes_of_rank_0_at_a_port(ranks: Ranks) -> None:
    url = f"tcp://127.0.0.1:{free_port()}"
    rivals = [ranks.start(JOIN + "comm.close()", url=url, rank=0, size=2) for _ in range(2)]
    while not any(rival.ended(0.01) for rival in rivals):
        pass
    rest = ranks.start(JOIN + "comm.close()", url=url, rank=1, size=2).told()
    told = [rival.told() for rival in rivals]
    assert rest.error == ""
    assert sorted(one.error for one in told) == ["", "RendezvousError"]
    assert "is in use" in "".join(one.text for one in told)


def test_a_port_that_something_else_has(ranks: Ranks) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        url = f"tcp://127.0.0.1:{taken.getsockname()[1]}"
        told = failures(ranks.run(2, JOIN, url=url, timeout=1.0), within=1 + SLACK)
    assert [kind for kind, _ in told] == ["RendezvousError"] * 2
    assert "is in use" in told[0][1]


def test_a_store_that_nobody_serves(ranks: Ranks) -> None:
    for url in (f"tcp://127.0.0.1:{free_port()}", f"unix:test-{uuid.uuid4().hex}"):
        told = failures([ranks.start(JOIN, url=url, rank=1, size=2, timeout=0.5).told()], within=0.5 + SLACK)
        assert told[0][0] == "RendezvousError"
        assert "no store answered at" in told[0][1]


@pytest.mark.parametrize("missing", [0, 2])
def test_a_rank_that_never_comes_is_named(ranks: Ranks, tmp_path: Path, missing: int) -> None:
    url = f"file://{tmp_path / 'store'}"
    job = [ranks.start(JOIN, url=url, rank=rank, size=4, timeout=3.0) for rank in range(4) if rank != missing]
    for kind, text in failures([rank.told() for rank in job], within=3 + SLACK):
        assert kind == "RendezvousError"
        assert text.startswith(f"rank {missing} of 4 did not come")


def test_ranks_that_never_come_are_named_by_rank_0_that_serves(ranks: Ranks) -> None:
    url = f"tcp://127.0.0.1:{free_port()}"
    job = [ranks.start(JOIN, url=url, rank=rank, size=5, timeout=1.0) for rank in (0, 2)]
    for _, text in failures([rank.told() for rank in job], within=1 + SLACK):
        assert text.startswith("ranks 1, 3, 4 of 5 did not come within 0.")


# ---- tokens


def test_a_token_that_does_not_fit(ranks: Ranks, url: str) -> None:
    each = [{"token": "right"}, {"token": "wrong"}, {"token": "right"}]
    told = failures(ranks.run(3, JOIN, each, url=url, timeout=2.0), within=2 + SLACK)
    if url.startswith("file"):  # the others see who it is
        assert [kind for kind, _ in told] == ["AuthenticationError"] * 3
        assert (
            told[0][1]
            == told[2][1]
            == "rank 1 has another token than this rank, or only one of the two has any"
        )
        assert told[1][1].startswith("rank 0 has another token")
    else:  # a socket lets it in no further than the door
        assert [kind for kind, _ in told] == ["RendezvousError", "AuthenticationError", "RendezvousError"]
        assert told[0][1].startswith("rank 1 of 3 did not come")


@pytest.mark.parametrize("missing", [0, 1])
def test_a_token_on_one_rank_alone(ranks: Ranks, url: str, missing: int) -> None:
    each: list[dict[str, Any]] = [{"token": "a"}, {"token": "a"}]
    each[missing] = {}
    told = failures(ranks.run(2, JOIN, each, url=url, timeout=1.0), within=1 + SLACK)
    assert "AuthenticationError" in [kind for kind, _ in told]


@pytest.mark.parametrize("where", ["tcp://192.0.2.1:4000", "tcp://node7:4000", "redis://node7:6379/job"])
def test_no_token_for_an_address_that_others_can_reach(ranks: Ranks, where: str) -> None:
    for rank in range(2):
        told = ranks.start(JOIN, url=where, rank=rank, size=2).told()
        ((kind, text),) = failures([told], within=SLACK)
        assert kind == "RendezvousError"
        assert text.startswith(
            f"ranks that meet at {where} (COMMOPS_INTERFACE=any) can be reached from other"
        )
        assert "COMMOPS_TOKEN_FILE" in text


def test_no_token_for_an_interface_that_others_can_reach(ranks: Ranks) -> None:
    env = {"COMMOPS_INTERFACE": "any"}
    told = ranks.start(JOIN, env=env, url="file:///nowhere", rank=0, size=2).told()
    assert "need a token" in failures([told], within=SLACK)[0][1]


def test_an_interface_that_is_not_there(ranks: Ranks, tmp_path: Path) -> None:
    env = {"COMMOPS_INTERFACE": "wlan77"}
    told = ranks.start(JOIN, env=env, url=f"file://{tmp_path}/s", rank=0, size=2, token="t").told()
    assert failures([told], within=SLACK)[0][1].startswith("COMMOPS_INTERFACE=wlan77 fits no address of this")


# ---- deaths


def test_a_rank_that_is_killed_when_it_has_come(ranks: Ranks, tmp_path: Path) -> None:
    die = """
    import signal
    from commops.rendezvous.meeting import Meeting
    if rank == victim:
        setattr(Meeting, moment, lambda *_: os.kill(os.getpid(), signal.SIGKILL))
    """
    for moment in ("_await_plan", "_join", "_agree"):
        for transport in ("shm", "tcp"):
            url = f"file://{tmp_path}/{moment}-{transport}"
            names = {"url": url, "victim": 1, "moment": moment, "transport": transport, "timeout": 1.5}
            job = ranks.job(3, die + JOIN, **names)
            told = failures([job[rank].told() for rank in (0, 2)], within=1.5 + SLACK)
            for kind, text in told:
                assert kind == "RendezvousError"
                assert "rank 1 " in text, (moment, transport, text)


def test_rank_0_that_is_killed_with_its_store(ranks: Ranks) -> None:
    url = f"tcp://127.0.0.1:{free_port()}"
    one, other = (ranks.start(JOIN, url=url, rank=rank, size=3, timeout=15.0) for rank in range(2))
    time.sleep(0.5)
    one.kill()
    ((kind, text),) = failures([other.told()], within=7)
    assert kind == "RendezvousError"
    assert "the store at" in text or "no store answered" in text


def test_a_rank_that_fails_in_joining_tells_the_others_why(ranks: Ranks, url: str) -> None:
    fail = """
    import commops.rendezvous.bootstrap as bootstrap
    def refuse(*_): raise MemoryError("no memory for a window")
    if rank == 1: bootstrap.core.Window = refuse
    """
    told = failures(ranks.run(3, fail + JOIN, url=url, timeout=15.0), within=7)
    assert told[1] == ("MemoryError", "no memory for a window")
    for kind, text in (told[0], told[2]):
        assert (kind, text) == ("RendezvousError", "rank 1 cannot join: MemoryError: no memory for a window")


def test_too_few_descriptors(ranks: Ranks) -> None:
    limit = "import resource; resource.setrlimit(resource.RLIMIT_NOFILE, (limit, limit))\n"
    url = f"unix:test-{uuid.uuid4().hex}"
    for few in range(8, 26, 3):
        each = [{"limit": 1024}, {"limit": few}]
        told = ranks.run(2, limit + JOIN + "comm.close()", each, url=f"{url}{few}", timeout=2.0)
        assert [one.error for one in told] in (["", ""], ["RendezvousError", told[1].error]), told
        assert told[1].error in ("", "RendezvousError", "CommError", "MemoryError"), told[1].traceback
        assert not told[0].left


# ---- what killed jobs leave in a store


def _told_of_stale(ranks: Ranks, url: str, size: int) -> list[Told]:
    return ranks.run(size, JOIN + "comm.close()", url=url, timeout=1.5)


def test_cards_of_a_killed_job(ranks: Ranks, tmp_path: Path) -> None:
    url = f"file://{tmp_path / 'store'}"
    killed = [ranks.start(JOIN, url=url, rank=rank, size=4) for rank in (1, 2)]
    with FileStore(tmp_path / "store") as store:
        store.wait(["world/rank/1", "world/rank/2"])
    for rank in killed:
        rank.kill()
    told = failures(_told_of_stale(ranks, url, 4), within=1.5 + SLACK)
    for rank in (1, 2):
        assert f"process {killed[rank - 1].pid} on " in told[rank][1]
        assert "is of an earlier job that was killed, use a fresh folder, prefix or port" in told[rank][1]
    for rank in (0, 3):
        assert "are both rank" in told[rank][1]


def test_an_answer_of_a_killed_job_does_no_harm(ranks: Ranks, tmp_path: Path) -> None:
    url = f"file://{tmp_path / 'store'}"
    halt = "from commops.rendezvous.meeting import Meeting; Meeting._join = lambda *_: time.sleep(600)\n"
    killed = ranks.job(2, halt + JOIN, url=url)
    with FileStore(tmp_path / "store") as store:
        store.get("world/world")
        while store.count("world/rank/"):
            time.sleep(0.001)
    for rank in killed:
        rank.kill()
    results(_told_of_stale(ranks, url, 3))


def test_a_store_full_of_nonsense(ranks: Ranks, tmp_path: Path) -> None:
    with FileStore(tmp_path / "store") as store:
        store.set("world/world", b"nonsense")
        store.set("world/rank/1", b"nonsense")
    told = failures(_told_of_stale(ranks, f"file://{tmp_path / 'store'}", 3), within=1.5 + SLACK)
    assert {kind for kind, _ in told} <= {"AuthenticationError", "RendezvousError"}
