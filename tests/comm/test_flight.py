"""The flight recorder: calls of every kind are in it, with the line of the user's program that made them, and
what it knows of a rank is said with the errors of others."""

from __future__ import annotations

import os
import signal
import struct
import sys
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

import commops
from commops import ANY, Comm, flight

from .layouts import Layout
from .world import Died, World

Fresh = Callable[..., World]


def state(pid: int) -> str:
    return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]


def recorded(comm: Comm) -> list[flight.Call]:
    return flight.parse(comm._engine.flight()).calls


def test_every_kind_of_call_is_recorded_with_its_line(fresh: Fresh) -> None:
    def program(comm: Comm) -> None:
        def made(name: str, call: Callable[[], object]) -> flight.Call:
            code = call.__code__  # type: ignore[attr-defined]
            call()
            last = recorded(comm)[-1]
            assert last.kind == name, last
            assert last.ended
            assert last.state != "failed"
            assert last.site.startswith(f"{code.co_filename}:{code.co_firstlineno}:"), last
            return last

        x, n = np.ones(6, np.float32), comm.size
        made("barrier", lambda: comm.barrier())
        assert str(made("broadcast", lambda: comm.broadcast(x, 1))) == "broadcast(6 × float32, root=1)"
        assert str(made("allreduce", lambda: comm.allreduce(x, "max"))) == "allreduce(6 × float32, op=max)"
        made("reduce", lambda: comm.reduce(x, root=0))
        made("reduce_scatter", lambda: comm.reduce_scatter(x))
        made("scan", lambda: comm.scan(x))
        made("exscan", lambda: comm.exscan(x))
        made("scatter", lambda: comm.scatter(x if comm.rank == 0 else None))
        made("gather", lambda: comm.gather(x))
        made("allgather", lambda: comm.allgather(x))
        seen = made("alltoall", lambda: comm.alltoall(x))
        assert (seen.comm, seen.seq, seen.elements, seen.apart) == (1, 11, 6 // n, False)
        made("allgather", lambda: comm.allgather_object({"a": 1}))
        made("alltoall", lambda: comm.alltoall(np.ones(3), send_counts=[1, 2]))
        made("allreduce", lambda: comm.iallreduce(x).wait())
        if comm.rank == 0:
            sent = made("send", lambda: comm.send(x, 1, tag=7))
            assert (sent.peer, sent.tag, sent.elements, sent.dtype) == (1, 7, 6, "float32")
            assert not sent.apart
            assert made("send", lambda: comm.isend(x, 1, tag=8).wait()).apart
            made("send", lambda: comm.send_object([1], 1, tag=9))
            made("send", lambda: comm.send(np.ones(10**6), 1, tag=10))
        else:
            got = made("recv", lambda: comm.recv(np.empty_like(x), ANY, 7))
            assert (got.peer, got.tag, got.elements, got.dtype) == (0, 7, 6, "float32")
            made("probe", lambda: comm.probe(0, 8))
            made("recv", lambda: comm.irecv(np.empty_like(x), 0, 8).wait())
            made("recv", lambda: comm.recv_object(0, 9))
            assert str(made("recv", lambda: comm.recv())) == "recv(1000000 × float64, source=0, tag=10)"
        comm.barrier()
        child = comm.dup()
        made("allreduce", lambda: child.allreduce(x))
        assert recorded(comm)[-1].comm != 1
        assert recorded(comm)[-1].seq == 1
        assert str(made("agree", lambda: comm.agree(True))) == "agree()"

    for layout in (Layout("aa", "shm"), Layout("aa", "tcp"), Layout("ab")):
        world = fresh(layout)
        world.run(program)


def test_the_last_calls_are_kept_and_counted(fresh: Fresh) -> None:
    def program(comm: Comm) -> None:
        for _ in range(1000):
            comm.allreduce(np.ones(2))
        recorder = flight.parse(comm._engine.flight())
        assert [call.seq for call in recorder.calls] == list(range(1000 - 255, 1001))
        assert recorder.total == 1000
        assert recorder.nbytes == 16_000
        assert (recorder.rank, recorder.size, recorder.pid) == (comm.rank, comm.size, os.getpid())
        assert recorder.current is None
        starts = [call.start for call in recorder.calls]
        assert starts[-1] <= time.monotonic_ns()
        assert starts[-1] > time.monotonic_ns() - 10**9

    fresh(Layout("aa", "shm")).run(program)


@pytest.mark.parametrize("entries", [0, 5])
def test_how_many_are_kept_is_a_tunable(monkeypatch: pytest.MonkeyPatch, entries: int) -> None:
    monkeypatch.setenv("COMMOPS_FLIGHT", str(entries))
    with commops.init() as comm:
        for _ in range(20):
            comm.barrier()
        data = comm._engine.flight()
        kept = [call.seq for call in flight.parse(data).calls] if data else []
    assert kept == (list(range(13, 21)) if entries else [])


def test_places_beyond_those_that_there_is_room_for_are_not_known() -> None:
    with commops.init() as comm:
        source = "\n".join(["comm.barrier()"] * 500)
        exec(compile(source, "many.py", "exec"), {"comm": comm})
        calls = recorded(comm)
        assert calls[0].place == "many.py:245"
        assert {call.place for call in calls[20:]} == {""}


def test_a_lost_rank_is_told_with_what_it_was_doing(fresh: Fresh) -> None:
    def program(comm: Comm) -> tuple[str, str]:
        comm.allreduce(np.ones(3))
        here = sys._getframe()
        line = here.f_lineno + 1
        comm.allreduce(np.ones(3))
        if comm.rank == 1:
            os.kill(os.getpid(), signal.SIGKILL)
        with pytest.raises(commops.PeerLostError) as caught:
            comm.barrier()
        return caught.value.cause, f"{Path(here.f_code.co_filename).name}:{line}"

    def stuck(comm: Comm) -> str:
        if comm.rank == 1:
            comm.recv(source=0, tag=5)
        with pytest.raises(commops.PeerLostError) as caught:
            comm.allreduce(np.ones(3))
        return caught.value.cause

    ends = [end for end in fresh(Layout("aaa", "shm")).outcomes(program) if not isinstance(end, Died)]
    assert len({cause for cause, _ in ends}) == 1
    cause, here = ends[0]
    assert cause.startswith("killed by SIGKILL on ")
    assert cause.endswith(f", after allreduce(3 × float64, op=sum), number 2, at {here}")

    world = fresh(Layout("aaa", "shm"))
    world.start(stuck)
    time.sleep(0.3)
    world.signal(1, signal.SIGKILL)
    causes = {end for end in world.collect() if not isinstance(end, Died)}
    assert len(causes) == 1
    assert ", in recv from rank 0, at " in causes.pop()


@pytest.mark.parametrize("stops", [False, True])
def test_who_is_missing_is_told_with_what_it_does(fresh: Fresh, stops: bool) -> None:
    def program(comm: Comm, stops: bool) -> str:
        pids = comm.allgather(np.array(os.getpid()))
        if comm.rank == 1:
            if stops:
                os.kill(os.getpid(), signal.SIGSTOP)
            time.sleep(1.5)
            return ""
        comm.timeout = 1
        with pytest.raises(commops.CommTimeoutError) as caught:
            comm.barrier()
        if comm.rank == 0:  # whose words are looked at: before that, rank 1 is not to say anything
            os.kill(pids[1], signal.SIGCONT)
        return str(caught.value)

    for layout in (Layout("aa", "shm"), Layout("aa", "tcp"), Layout("ab"), Layout("aba")):
        told = fresh(layout).outcomes(program, stops)[0]
        does = "computes since "
        if stops:  # whose memory is not here cannot say anything
            does = "is stopped (SIGSTOP), after" if layout.transport == "shm" else "does not answer"
        assert f"missing: 1; rank 1 {does}" in told
        assert ("after allgather(1 × int64), number 1, at " in told) == ("answer" not in does), told


BESIDE = [Layout("aa", "shm"), Layout("aa", "tcp"), Layout("ab")]


@pytest.mark.parametrize("layout", BESIDE, ids=str)
@pytest.mark.parametrize("timeout", [0.3, 0.8])
def test_a_message_that_does_not_come_is_told_with_what_its_sender_does(
    fresh: Fresh, layout: Layout, timeout: float
) -> None:
    def program(comm: Comm, timeout: float) -> list[str]:
        if comm.rank == 1:
            comm.barrier()
            return []
        comm.timeout = timeout
        texts = []
        for source in (1, commops.ANY):
            with pytest.raises(commops.CommTimeoutError) as caught:
                comm.recv(source=source)
            texts.append(str(caught.value))
        with pytest.raises(commops.CommTimeoutError) as caught:
            comm.probe(source=1)
        texts.append(str(caught.value))
        comm.timeout = 30
        comm.barrier()
        return texts

    of_it, of_any, probed = fresh(layout).run(program, timeout)[0]
    does = "is in barrier(), number 1, at "
    assert of_it.startswith(f"rank 1 has sent no message of any tag within {timeout:g} s; it {does}")
    assert of_any.startswith(f"no rank has sent a message of any tag within {timeout:g} s; rank 1 {does}")
    assert probed.startswith(f"rank 1 has sent no message of any tag within {timeout:g} s; it {does}")


@pytest.mark.parametrize("layout", [Layout("aaa", "shm"), Layout("aaa", "tcp"), Layout("abc")], ids=str)
def test_who_has_closed_is_told_so(fresh: Fresh, layout: Layout) -> None:
    def program(comm: Comm) -> str:
        other = comm.dup()
        other.barrier()
        text = ""
        if comm.rank == 2:
            other.close()
        comm.barrier()
        if comm.rank == 0:
            other.timeout = 1
            with pytest.raises(commops.CommTimeoutError) as caught:
                other.recv()
            text = str(caught.value)
        comm.barrier()
        return text

    text = fresh(layout).run(program)[0]
    assert "; rank 1 is in barrier(), number" in text
    assert text.endswith("; rank 2 has closed the communicator")


@pytest.mark.parametrize("layout", BESIDE, ids=str)
@pytest.mark.parametrize("call", ["recv", "send", "agree"])
def test_a_rank_that_is_stopped_or_computes_is_told(fresh: Fresh, layout: Layout, call: str) -> None:
    def program(comm: Comm, call: str) -> list[str]:
        pids = comm.allgather(np.array(os.getpid()))
        if comm.rank == 1:
            comm.recv(source=0, tag=1)
            time.sleep(1.5)  # what is told meanwhile is that it computes
            os.kill(os.getpid(), signal.SIGSTOP)
            comm.recv(source=0, tag=1)
            return []
        calls = {
            "recv": lambda: comm.recv(source=1),
            "send": lambda: comm.send(np.ones(1 << 22), 1),
            "agree": lambda: comm.agree(True),
        }
        comm.send(np.ones(1), 1, 1)
        texts = []
        comm.timeout = 1
        for _ in range(2):
            with pytest.raises(commops.CommTimeoutError) as caught:
                calls[call]()
            texts.append(str(caught.value))
            while len(texts) == 1 and state(pids[1]) != "T":
                time.sleep(0.01)
        os.kill(pids[1], signal.SIGCONT)
        comm.timeout = 30
        comm.send(np.ones(1), 1, 1)
        return texts

    computes, stopped = fresh(layout).run(program, call)[0]
    assert " computes since " in computes
    assert ", after recv from rank 0, at " in computes
    # Whose memory is not here cannot say anything
    assert ("is stopped (SIGSTOP), after" if layout.transport == "shm" else "does not answer") in stopped


def test_what_is_no_recorder_is_refused() -> None:
    with commops.init() as comm:
        comm.barrier()
        data = comm._engine.flight()
    assert data is not None
    assert len(flight.parse(data).calls) == 1
    wrong = ((0, b"x"), (8, b"\7"), (12, b"\1"), (25, b"\0"), (30, b"\1"), (32, b"\1"), (40, b"\0\0\7"))
    for at, change in wrong:
        with pytest.raises(ValueError, match="flight recorder"):
            flight.parse(data[:at] + change + data[at + len(change) :])
    for size in (0, 100, 255, 256, len(data) - 1):
        with pytest.raises((ValueError, struct.error)):
            flight.parse(data[:size])


def test_an_entry_that_is_being_written_is_left_out() -> None:
    with commops.init() as comm:
        comm.barrier()
        before = comm._engine.flight()
        comm.barrier()
        data = comm._engine.flight()
    assert before is not None and data is not None  # noqa: PT018
    assert [call.number for call in flight.parse(data).calls] == [1, 2]
    assert [call.number for call in flight.parse(data, before, data).calls] == [1]
    assert [call.number for call in flight.parse(data, data, before).calls] == [1]


def test_a_folder_that_cannot_be_written_is_a_warning(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    (tmp_path / "file").touch()
    monkeypatch.setenv("COMMOPS_TRACE", str(tmp_path / "file" / "folder"))
    comm = commops.init()
    with pytest.warns(RuntimeWarning, match="rank 0 cannot save its calls in COMMOPS_TRACE="):
        comm.close()
