"""`commops.launch`: functions as ranks."""

from __future__ import annotations

import contextlib
import io
import os
import signal
import sys
import textwrap
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import commops
from commops.errors import CommTimeoutError, PeerLostError

from .support import Programs, descriptors, read_lines


class OwnError(Exception):
    """Raised by ranks of these tests."""

    def __init__(self, number: int, text: str) -> None:
        super().__init__(number, text)
        self.number = number


class FragileError(Exception):
    """Can be pickled but not made again."""

    def __init__(self, one: int, two: int) -> None:
        super().__init__(f"{one} and {two}")


@pytest.fixture(autouse=True)
def _nothing_left() -> Iterator[None]:
    before = descriptors(), _children()
    yield
    assert (descriptors(), _children()) == before


def _children() -> set[str]:
    """Process ids of this process's children, living or not yet waited for; other tests may keep some."""
    return {pid for path in Path("/proc/self/task").glob("*/children") for pid in path.read_text().split()}


def place(comm: commops.Comm) -> tuple[int, int]:
    return comm.rank, comm.size


def total(comm: commops.Comm, value: int) -> int:
    return int(comm.allreduce(np.array(value + comm.rank)))


@pytest.mark.parametrize("n", [1, 2, 5])
def test_results_come_in_rank_order(n: int) -> None:
    assert commops.launch(place, n) == [(rank, n) for rank in range(n)]


@pytest.mark.parametrize("transport", ["auto", "shm", "tcp"])
def test_ranks_communicate(transport: str) -> None:
    assert commops.launch(total, 3, 10, transport=transport) == [33, 33, 33]


def test_arguments_and_closures() -> None:
    offset = 3
    result = commops.launch(lambda comm, a, *, b: (comm.rank + offset, a, b), 2, {"x": 1}, b=[2])
    assert result == [(3, {"x": 1}, [2]), (4, {"x": 1}, [2])]


def test_large_arguments_and_results() -> None:
    data = np.arange(3_000_000)

    def double(comm: commops.Comm, x: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
        x *= 2 + comm.rank  # its own
        return x

    results = commops.launch(double, 2, data)
    np.testing.assert_array_equal(results[0], 2 * data)
    np.testing.assert_array_equal(results[1], 3 * data)
    results[0][0] = 1  # writable
    assert data[1] == 1


def test_a_process_with_threads_may_launch_and_so_may_its_threads() -> None:
    results: list[list[tuple[int, int]]] = []
    threads = [threading.Thread(target=lambda: results.append(commops.launch(place, 2))) for _ in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert results == [[(0, 2), (1, 2)]] * 3


def test_ranks_may_launch_ranks() -> None:
    assert commops.launch(lambda comm: commops.launch(place, 2), 2) == [[(0, 2), (1, 2)]] * 2


def test_ranks_import_what_the_caller_can(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "only_here.py").write_text("def rank(comm): return comm.rank + 100\n")
    monkeypatch.syspath_prepend(tmp_path)
    import only_here  # type: ignore[import-not-found]

    assert commops.launch(only_here.rank, 2) == [100, 101]


def test_environment_folder_and_arguments_are_the_callers(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("SOME_VARIABLE", "value")
    monkeypatch.setattr(sys, "argv", ["program", "-x"])
    seen = commops.launch(lambda comm: (os.getcwd(), os.environ["SOME_VARIABLE"], sys.argv), 1)
    assert seen == [(str(tmp_path), "value", ["program", "-x"])]


# ---- failures


def test_the_exception_of_the_rank_is_raised() -> None:
    def fail(comm: commops.Comm) -> None:
        if comm.rank == 1:
            raise OwnError(7, "text")
        comm.barrier()

    with pytest.raises(OwnError) as caught:
        commops.launch(fail, 3)
    assert caught.value.number == 7
    note = caught.value.__notes__[0]
    assert note.startswith("raised by rank 1:\n\nTraceback")
    assert "in fail" in note
    assert "_server.py" not in note


def test_an_exception_that_cannot_travel_is_told() -> None:
    def fail(comm: commops.Comm) -> None:
        raise FragileError(1, 2)

    with pytest.raises(RuntimeError, match="FragileError: 1 and 2") as caught:
        commops.launch(fail, 1)
    assert "raised by rank 0" in caught.value.__notes__[0]


def test_a_function_that_calls_exit_does_not_end_the_caller() -> None:
    for code in (0, 3, "text"):
        with pytest.raises(RuntimeError, match=r"called sys.exit\("):
            commops.launch(lambda comm, code=code: sys.exit(code), 2)


@pytest.mark.parametrize(
    ("end", "words"),
    [
        (lambda: os.kill(os.getpid(), signal.SIGKILL), "killed by SIGKILL"),
        (lambda: os.kill(os.getpid(), signal.SIGSEGV), "killed by SIGSEGV"),
        (lambda: os._exit(3), "exited with code 3"),
    ],
)
def test_a_rank_that_dies_is_named(end: Any, words: str) -> None:
    def die(comm: commops.Comm) -> None:
        if comm.rank == 1:
            end()
        time.sleep(600)

    with pytest.raises(PeerLostError, match=words) as caught:
        commops.launch(die, 3)
    assert caught.value.ranks == (1,)


def test_a_rank_that_leaves_quietly_is_missed() -> None:
    with pytest.raises(PeerLostError) as caught:
        commops.launch(lambda comm: os._exit(0), 1)
    assert caught.value.ranks == (0,)


def test_the_death_of_the_process_between_is_noticed() -> None:
    def kill(comm: commops.Comm) -> None:
        os.kill(os.getppid(), signal.SIGKILL)
        time.sleep(600)

    with pytest.raises(PeerLostError, match="SIGKILL"):
        commops.launch(kill, 2)


def test_a_time_out_names_those_that_had_not_returned() -> None:
    def slow(comm: commops.Comm) -> None:
        time.sleep(600)

    with pytest.raises(CommTimeoutError, match=r"0\.5 s.*0, 1"):
        commops.launch(slow, 2, timeout=0.5)


def test_a_failure_before_the_time_out_is_the_better_explanation() -> None:
    def fail(comm: commops.Comm) -> None:
        if comm.rank == 1:
            os.kill(os.getpid(), signal.SIGKILL)
        time.sleep(600)

    with pytest.raises(PeerLostError, match="rank 1"):
        commops.launch(fail, 2, timeout=1.5)


def test_a_result_that_cannot_be_pickled() -> None:
    with pytest.raises(TypeError, match="rank 0 returned a generator that cannot be pickled"):
        commops.launch(lambda comm: (x for x in ()), 1)


@pytest.mark.parametrize(
    ("arguments", "keywords", "error", "words"),
    [
        ((3, 2), {}, TypeError, "fn must be callable, not 3"),
        ((place, 0), {}, ValueError, "n must be 1 or more, not 0"),
        ((place, -1), {}, ValueError, "n must be 1 or more, not -1"),
        ((place, 2.0), {}, TypeError, "n must be an int, not 2.0"),
        ((place, True), {}, TypeError, "n must be an int, not True"),
        ((place, "2"), {}, TypeError, "n must be an int, not '2'"),
        ((place, 2), {"transport": "mpi"}, ValueError, "transport must be one of auto, shm, tcp, not 'mpi'"),
        ((place, 2), {"transport": None}, ValueError, "not None"),
        ((place, 2), {"timeout": 0}, ValueError, "timeout must be above 0 seconds, not 0"),
        ((place, 2), {"timeout": float("nan")}, ValueError, "not nan"),
        ((place, 2), {"timeout": "1"}, TypeError, "timeout must be a number of seconds or None, not '1'"),
        ((place, 2, threading.Lock()), {}, TypeError, "fn or its arguments cannot be pickled"),
    ],
)
def test_bad_arguments_start_nothing(
    monkeypatch: pytest.MonkeyPatch,
    arguments: tuple[Any, ...],
    keywords: dict[str, Any],
    error: type[Exception],
    words: str,
) -> None:
    import subprocess

    def popen(*_: object, **__: object) -> None:
        raise AssertionError("something was started")

    monkeypatch.setattr(subprocess, "Popen", popen)
    with pytest.raises(error, match=words):
        commops.launch(*arguments, **keywords)


# ---- output and interruption


def test_output_appears_on_the_callers_streams(capsys: pytest.CaptureFixture[str]) -> None:
    def speak(comm: commops.Comm) -> None:
        print("out", comm.rank)
        os.write(2, b"err \xff\n")

    commops.launch(speak, 2)
    out, err = capsys.readouterr()
    assert sorted(out.splitlines()) == ["out 0", "out 1"]
    assert err == "err \\xff\n" * 2


def test_output_follows_a_redirection() -> None:
    with contextlib.redirect_stdout(io.StringIO()) as stream:
        commops.launch(lambda comm: print("é" * 100_000), 1)
    assert stream.getvalue() == "é" * 100_000 + "\n"


PROGRAM = """
    import os, sys, time, commops
    class Point:
        def __init__(self, x): self.x = x
    class Bad(Exception): pass
    def make(comm, point):
        assert isinstance(point, Point)
        return Point(comm.rank + point.x)
    def bad(comm): raise Bad("x")
    print("before")
    print([type(p) is Point and p.x for p in commops.launch(make, 2, Point(5))])
    try: commops.launch(bad, 1)
    except Bad as error: print("caught", error)
    commops.launch(lambda comm: print("inside"), 1)
    print("after")
    """


@pytest.mark.parametrize("how", ["script", "command", "stdin"])
def test_functions_and_classes_of_main(programs: Programs, how: str) -> None:
    source = textwrap.dedent(PROGRAM)
    if how == "stdin":
        # As at the interpreter's prompt, there is no file to import __main__ from.
        path = programs.script(source)
        with open(path, "rb") as file:
            process = programs.start(sys.executable, "-", stdin=file)
            out, err = process.communicate(timeout=60)
    else:
        argument = ["-c", source] if how == "command" else [str(programs.script(source))]
        process = programs.start(sys.executable, *argument)
        out, err = process.communicate(timeout=60)
    assert (process.returncode, err) == (0, b"")
    assert out.decode().splitlines() == ["before", "[5, 6]", "caught x", "inside", "after"]


SLOW = """
    import subprocess, time, commops
    def slow(comm):
        subprocess.Popen(["setsid", "sleep", "600"])
        print("ready", flush=True)
        time.sleep(600)
    try: commops.launch(slow, 2)
    except KeyboardInterrupt: print("interrupted")
    """


def test_control_c_in_the_caller_ends_all(programs: Programs) -> None:
    process = programs.start(sys.executable, programs.script(textwrap.dedent(SLOW)))
    assert read_lines(process, 2) == ["ready"] * 2
    process.send_signal(signal.SIGINT)
    out, err = process.communicate(timeout=60)
    assert (process.returncode, out, err) == (0, b"interrupted\n", b"")
    assert programs.living() == []


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGKILL])
def test_ranks_end_with_the_caller(programs: Programs, number: signal.Signals) -> None:
    process = programs.start(sys.executable, programs.script(textwrap.dedent(SLOW)))
    assert read_lines(process, 2) == ["ready"] * 2
    process.send_signal(number)
    process.communicate(timeout=60)
    assert process.returncode == -number
    assert programs.settle() == []


def test_warnings_that_are_errors_stay_silent(programs: Programs) -> None:
    script = programs.script("import commops\nprint(commops.launch(lambda comm: comm.rank, 2))\n")
    process = programs.start(sys.executable, "-W", "error", "-X", "dev", script)
    out, err = process.communicate(timeout=60)
    assert (process.returncode, out, err) == (0, b"[0, 1]\n", b"")
