"""Contenders that take turns, and those that fail."""

from __future__ import annotations

from typing import Any

import pytest

import contest
import peers
import report
from contest import ContenderError, Setting, compete, run_once

LEAST = {"rounds": 1, "batches": 1, "seconds": 0.0}


def measured(setting: Setting, cases: str, sizes: tuple[int, ...], *turns: list[str]) -> dict[str, set[str]]:
    """Let commops and the limits compete for real; return which points each has."""
    record = compete(setting, cases, sizes=sizes, turns=turns, **LEAST)
    assert record["left_out"] == {}
    (times,) = record["rounds"]
    assert all(time > 0 for rows in times.values() for time in rows.values())
    assert record["versions"]["commops"].startswith("commops ")
    return {name: set(rows) for name, rows in times.items()}


def test_collectives_over_shared_memory_beside_copies() -> None:
    setting = Setting(2, "shm", ("commops", "comm.empty", "memcpy"))
    found = measured(setting, "collectives", (8, 64 << 10), ["barrier", "allreduce"], ["scatter"])
    allreduce, scatter = ({f"{op} {size}" for size in (8, 64 << 10)} for op in ("allreduce", "scatter"))
    assert found == {
        "commops": {"barrier 0"} | allreduce | scatter,
        "comm.empty": allreduce,
        "memcpy": allreduce | scatter,
    }


def test_collectives_over_sockets_beside_raw_ones() -> None:
    found = measured(Setting(2, "tcp", ("commops", "raw sockets")), "collectives", (8, 1 << 20))
    assert found["commops"] == found["raw sockets"]
    assert {"barrier 0", "pingpong 8", "allreduce 1048576"} <= found["commops"]


@pytest.mark.parametrize("ranks", [2, 3])
def test_objects(ranks: int) -> None:
    found = measured(Setting(ranks, "shm", ("commops",)), "objects", (1 << 10, 64 << 10))
    ops = ("broadcast", "gather", "allgather", "pingpong")
    assert found["commops"] == {f"{op}_object {size}" for op in ops for size in (1 << 10, 64 << 10)}


@pytest.mark.parametrize("ranks", [2, 3])
def test_messages(ranks: int) -> None:
    found = measured(Setting(ranks, "shm", ("commops",)), "messages", (8, 64 << 10))
    assert found["commops"] == {"messages 8", "messages 65536"}


def spy(monkeypatch: pytest.MonkeyPatch, *broken: str) -> list[str]:
    """Let contenders take 1, 2, 3 … microseconds, or fail from the second round on; return who was called."""
    called: list[str] = []

    def measure(name: str, *_: Any) -> dict[str, Any]:
        called.append(name)
        if name in broken and called.count(name) == 2:
            raise ContenderError("it broke")
        return {"version": "1", "microseconds": {"barrier 0": float(called.count(name))}}

    monkeypatch.setattr(contest, "run_once", measure)
    monkeypatch.setattr(peers, "prepare", lambda names: {})
    return called


def test_each_goes_first_in_turn(monkeypatch: pytest.MonkeyPatch) -> None:
    called = spy(monkeypatch)
    record = compete(Setting(2, "shm", ("commops", "mpich", "gloo")), "collectives", rounds=3, sizes=())
    assert called == ["commops", "mpich", "gloo", "mpich", "gloo", "commops", "gloo", "commops", "mpich"]
    assert record["rounds"] == [
        {name: {"barrier 0": time} for name in ("commops", "mpich", "gloo")} for time in (1.0, 2.0, 3.0)
    ]


def test_turns_are_of_some_operations(monkeypatch: pytest.MonkeyPatch) -> None:
    called: list[tuple[str, list[str]]] = []

    def measure(name: str, _: Setting, __: str, arguments: dict[str, Any]) -> dict[str, Any]:
        called.append((name, arguments["ops"]))
        return {"version": "1", "microseconds": {f"{op} 8": 1.0 for op in arguments["ops"]}}

    monkeypatch.setattr(contest, "run_once", measure)
    monkeypatch.setattr(peers, "prepare", lambda names: {})
    turns = [["scatter", "scan"], ["gather"]]
    record = compete(Setting(2, "shm", ("commops", "mpich")), "", rounds=1, sizes=(), turns=turns)
    assert called == [
        ("commops", turns[0]),
        ("mpich", turns[0]),
        ("mpich", turns[1]),
        ("commops", turns[1]),
    ]
    assert all(set(rows) == {"scatter 8", "scan 8", "gather 8"} for rows in record["rounds"][0].values())


def test_who_breaks_is_left_out_from_then_on(monkeypatch: pytest.MonkeyPatch) -> None:
    called = spy(monkeypatch, "mpich")
    record = compete(Setting(2, "shm", ("commops", "mpich")), "collectives", rounds=4, sizes=())
    assert called.count("mpich") == 2
    assert record["left_out"] == {"mpich": "round 2: it broke"}
    assert [set(times) for times in record["rounds"][2:]] == [{"commops"}] * 2
    assert report.medians(record["rounds"]) == {"commops": {"barrier 0": 2.5}, "mpich": {"barrier 0": 1.0}}


def test_without_commops_there_is_no_contest(monkeypatch: pytest.MonkeyPatch) -> None:
    spy(monkeypatch, "commops")
    with pytest.raises(ContenderError, match="it broke"):
        compete(Setting(2, "shm", ("commops", "mpich")), "collectives", rounds=2, sizes=())


def test_a_launcher_that_is_not_there_is_a_failure_of_its_contender(monkeypatch: pytest.MonkeyPatch) -> None:
    absent = peers.Contender("mpi4py", ("no-such-launcher",))
    monkeypatch.setitem(peers.CONTENDERS, "mpich", absent)
    with pytest.raises(ContenderError, match="cannot be started: No such file"):
        run_once("mpich", Setting(2, "shm", ()), "collectives", {})


def test_ranks_that_fail_say_why() -> None:
    with pytest.raises(ContenderError, match=r"ended with 1: .*nonsense"):
        run_once("commops", Setting(2, "shm", ()), "nonsense", {})


def test_ranks_that_take_too_long_end_by_themselves() -> None:
    arguments = {"ops": ["alltoall"], "sizes": [4 << 20], "batches": 9, "seconds": 1e6}
    with pytest.raises(ContenderError, match="not ready within 2 s"):
        run_once("commops", Setting(2, "shm", ()), "collectives", arguments, seconds=2)
