"""What one rank knows of a failure, all learn long before their time is over."""

from __future__ import annotations

import textwrap
import uuid
from pathlib import Path
from typing import Any

import pytest

from commops.rendezvous import open_store

from .conftest import free_port
from .ranks import JOIN, Ranks, failures, results

LONG = 15.0  # seconds that nobody should have to wait
SOON = 5.0


# However busy the machine is, whoever tries again does so in time.
PATIENT = "import commops.rendezvous.meeting as meeting; meeting._SECOND_TRY = 10.0\n"


WRONG: dict[str, tuple[dict[str, Any], str]] = {
    "argument": ({"transport": "smh"}, "ValueError: transport must be one of auto, shm, tcp, not 'smh'"),
    "variable": (
        {"env": {"COMMOPS_INTERFACE": "wlan77"}},
        "COMMOPS_INTERFACE=wlan77 fits no address of this machine",
    ),
}


@pytest.mark.parametrize("wrong", WRONG)
@pytest.mark.parametrize("where", [0, 1])
def test_a_mistake_on_one_rank(ranks: Ranks, url: str, wrong: str, where: int) -> None:
    what, words = WRONG[wrong]
    each: list[dict[str, Any]] = [{}, {}, {}]
    each[where] = what
    told = failures(ranks.run(3, JOIN, each, url=url, token="t", timeout=LONG), within=SOON)
    for rank, (kind, text) in enumerate(told):
        if rank == where:
            assert words.removeprefix("ValueError: ") in text
        else:
            assert kind == "RendezvousError"
            assert text.startswith(f"rank {where} cannot join: {words}")


def test_whoever_comes_again_with_better_arguments_is_welcome(ranks: Ranks, url: str) -> None:
    source = """
    for transport in ("smh", "auto"):
        try:
            with commops.init(url, rank=rank, size=size, timeout=timeout, transport=transport) as comm:
                result = int(comm.allreduce(np.array(rank)))
        except ValueError:
            assert rank == 1
    """
    good = source.replace('("smh", "auto")', '("auto",)')
    good = PATIENT + textwrap.dedent(good)
    rest = [ranks.start(good, url=url, rank=rank, size=3, timeout=LONG) for rank in (0, 2)]
    told = ranks.start(source, url=url, rank=1, size=3, timeout=LONG).told()
    assert results([told, *(rank.told() for rank in rest)]) == [3, 3, 3]


def test_a_mistake_that_an_earlier_job_made_does_no_harm(ranks: Ranks, tmp_path: Path) -> None:
    url = f"file://{tmp_path / 'store'}"
    old = ranks.start(JOIN, url=url, rank=1, size=2, transport="smh").told()
    assert old.error == "ValueError"
    source = PATIENT + JOIN + "comm.close()"
    job = [ranks.start(source, url=url, rank=rank, size=2) for rank in (1, 0)]
    results([rank.told() for rank in job])


@pytest.mark.parametrize("moment", ["_await_plan", "_join", "_agree"])
@pytest.mark.parametrize("transport", ["shm", "tcp"])
@pytest.mark.parametrize("scheme", ["tcp", "unix"])
def test_a_rank_that_is_killed_while_it_joins(ranks: Ranks, scheme: str, moment: str, transport: str) -> None:
    url = f"tcp://127.0.0.1:{free_port()}" if scheme == "tcp" else f"unix:test-{uuid.uuid4().hex}"
    die = """
    import signal
    from commops.rendezvous.meeting import Meeting
    if rank == 1:
        setattr(Meeting, moment, lambda *_: os.kill(os.getpid(), signal.SIGKILL))
    """
    job = ranks.job(4, die + JOIN, url=url, moment=moment, transport=transport, timeout=LONG)
    for kind, text in failures([job[rank].told() for rank in (0, 2, 3)], within=SOON):
        assert kind == "RendezvousError"
        assert text.startswith(f"rank 1 (process {job[1].pid} on ")
        assert text.endswith(") ended while the ranks joined")


def test_a_rank_that_is_killed_while_another_is_missing(ranks: Ranks) -> None:
    url = f"unix:test-{uuid.uuid4().hex}"
    one, victim = (ranks.start(JOIN, url=url, rank=rank, size=3, timeout=LONG) for rank in (0, 1))
    with open_store(url, is_server=False, timeout=20) as store:
        store.get("world/rank/1")
        victim.kill()
        ((_, text),) = failures([one.told()], within=SOON)
    assert text.startswith(f"rank 1 (process {victim.pid} on ")


def test_a_rank_that_ends_when_it_has_joined_is_no_trouble(ranks: Ranks) -> None:
    url = f"tcp://127.0.0.1:{free_port()}"
    source = """
    from commops.rendezvous import TCPStore
    with TCPStore("127.0.0.1", port, is_server=rank == 0, timeout=timeout) as store:
        for i in range(2):
            commops.init(store, rank=rank, size=size, timeout=timeout).close()
        store.add("mine", 1)
        if rank == 0:
            while store.add("mine", 0) < size: time.sleep(0.001)
            time.sleep(0.1)
            result = store.count()
    """
    assert results(ranks.run(3, source, url=url, port=free_port())) == [1, None, None]


@pytest.mark.parametrize("scheme", ["tcp", "unix"])
@pytest.mark.parametrize("token", ["wrong", None])
def test_rank_0_names_those_with_another_token(ranks: Ranks, scheme: str, token: str | None) -> None:
    url = f"tcp://127.0.0.1:{free_port()}" if scheme == "tcp" else f"unix:test-{uuid.uuid4().hex}"
    job = ranks.job(3, JOIN, [{"token": "right"}, {"token": token}, {"token": token}], url=url, timeout=2.0)
    first, *others = failures([rank.told() for rank in job], within=4.5)
    assert [kind for kind, _ in others] == ["AuthenticationError"] * 2
    assert first[0] == "RendezvousError"
    assert first[1].startswith("ranks 1, 2 of 3 did not come within 1.")
    assert "; connections refused because of another token: " in first[1]
    who = ["2 from 127.0.0.1"] if scheme == "tcp" else [f"1 from process {rank.pid}" for rank in job[1:]]
    assert all(one in first[1] for one in who)
