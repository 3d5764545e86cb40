"""The launcher's view of its ranks while they run: one `poll` over everything that can happen."""

from __future__ import annotations

import math
import os
import pickle
import select
import signal
import time
from collections.abc import Callable, Sequence
from functools import partial
from typing import NamedTuple

from commops.launch.failure import Failure, cause_text, from_status, in_order, others_text
from commops.launch.rank import Meeting, become
from commops.launch.relay import Lines, Sink
from commops.launch.signals import SignalQueue, foreground
from commops.rendezvous.store import Store

__all__ = ["PEER_GRACE", "STOP_GRACE", "Job", "Outcome"]

PEER_GRACE = 1.2  # seconds for the ranks to notice by themselves that one of them failed
_TERM_GRACE = 0.5  # from SIGTERM to SIGKILL after a failure
STOP_GRACE = 0.5  # between the steps of an end that somebody asked for
_INTERRUPTED = 128 + signal.SIGINT
_READER_GRACE = 0.2  # for a reader of our output that takes nothing, when somebody asked for the end


class Outcome(NamedTuple):
    """How a job ended.

    Attributes
    ----------
    code : int
        The exit code for the launcher.
    signal : int or None
        The signal that told the launcher to end.
    failures : tuple of Failure
        The cause first. Empty where all ranks ended well.
    restarts : bool
        Whether all ranks are to be started again.
    """

    code: int
    signal: int | None
    failures: tuple[Failure, ...]
    restarts: bool = False


def _same_file(one: int, other: int) -> bool:
    try:
        return os.path.sameopenfile(one, other)
    except OSError:
        return False


class Job:
    """Ranks from their birth to the last that is said of them. `supervise` makes one for each start."""

    def __init__(
        self, n: int, signals: SignalQueue, label: bool, speak: bool, stop: int | None, meeting: Meeting
    ) -> None:
        self._n, self._meeting, self._signals = n, meeting, signals
        self._label, self._speak, self._stop = label, speak, stop
        self._out = Sink(1)
        self._err = self._out if _same_file(1, 2) else Sink(2)
        self._lines: dict[int, list[Lines]] = {}
        self._running: dict[int, tuple[int, int]] = {}  # rank → process id and descriptor, until waited for
        self._told = False  # whether the ranks were sent a signal
        self._steps: list[tuple[float, signal.Signals]] = []  # when to send what to the ranks
        self._failures: dict[int, Failure] = {}  # in order of arrival
        self._cause: Failure | None = None  # the one that was printed
        self._signal: signal.Signals | None = None
        self._asked = False  # whether somebody wants the end

    # ---- birth

    def fork(self, rank: int, child: Callable[[int], int], restore_limit: Callable[[], None]) -> None:
        """Start one rank."""
        piped = [
            number
            for number in (1, 2)
            if self._label or not (self._n == 1 or (rank == 0 and os.isatty(number)))
        ]
        self._lines[rank], streams = self._pipes(piped, self._label_of(rank), reads=rank == 0)
        self._running[rank] = self._fork(lambda: rank, streams, child, restore_limit)

    def fork_spares(self, child: Callable[[int], int], restore_limit: Callable[[], None]) -> None:
        """Start what may have to take the place of a rank."""

    def opens(self, store: Store) -> None:
        """See the store (borrowed) in which the ranks will meet."""

    def _label_of(self, rank: int) -> bytes:
        return b"[%d] " % rank if self._label else b""

    def _pipes(
        self, piped: Sequence[int], label: bytes, *, reads: bool
    ) -> tuple[list[Lines], dict[int, int]]:
        """Return the reading ends of the streams that go through this process, and a rank's own ends."""
        lines: list[Lines] = []
        streams: dict[int, int] = {}
        if not reads:
            streams[0] = os.open(os.devnull, os.O_RDONLY | os.O_CLOEXEC)
        for number in piped:
            reader, streams[number] = os.pipe()
            lines.append(Lines(reader, self._out if number == 1 else self._err, label))
        return lines, streams

    def _fork(
        self,
        rank: Callable[[], int],
        streams: dict[int, int],
        child: Callable[[int], int],
        restore_limit: Callable[[], None],
    ) -> tuple[int, int]:
        """Fork a process that will be `rank()`; return its id and a descriptor of it."""
        launcher = os.getpid()
        pid = os.fork()
        if pid == 0:
            try:
                self._signals.restore_in_child()
                restore_limit()
                self._shed()
                become(rank, self._meeting, streams, child, launcher=launcher)
            finally:
                os._exit(70)  # never into the launcher's frames
        for descriptor in streams.values():
            os.close(descriptor)
        return pid, os.pidfd_open(pid)

    def _shed(self) -> None:
        """Close, as a rank, what the launcher holds of the other ranks."""
        for lines in self._lines.values():
            for line in lines:
                os.close(line.descriptor)
        for _, descriptor in self._running.values():
            os.close(descriptor)

    # ---- life

    def watch(self) -> None:
        """Return when all ranks have ended."""
        while self._running:
            self._poll(set(self._running))
            self._take_steps()

    def _poll(self, ranks: set[int]) -> None:
        """Sleep until something happens, and deal with all that has."""
        actions: dict[int, Callable[[], object]] = {
            self._signals.fileno(): self._on_signal,
            self._meeting.reports.fileno(): self._read_reports,
        }
        if self._stop is not None:
            actions[self._stop] = self._on_stop
        for rank in ranks:
            actions[self._running[rank][1]] = partial(self._on_end, rank)
        for line in (line for lines in self._lines.values() for line in lines):
            if not line.closed and not line.sink.full:
                actions[line.descriptor] = line.read_some
        poll = select.poll()
        for descriptor in actions:
            poll.register(descriptor, select.POLLIN)
        for sink in {self._out, self._err}:
            if sink.pending:
                actions[sink.descriptor] = sink.write_some
                poll.register(sink.descriptor, select.POLLOUT)
        pause = self._next() - time.monotonic()
        for descriptor, _ in poll.poll(None if pause == math.inf else max(0, math.ceil(pause * 1000))):
            actions[descriptor]()

    def _next(self) -> float:
        """Return when there is something to do though nothing happens."""
        return self._steps[0][0] if self._steps else math.inf

    def _read_reports(self) -> None:
        while True:
            try:
                report = self._meeting.reports.recv(1 << 20)
            except BlockingIOError:
                return
            failure = pickle.loads(report)  # from a fork of this very process
            self._fail(failure)

    def _on_end(self, rank: int) -> None:
        code = self._bury(rank)
        if code != 0 and rank not in self._failures:
            self._fail(from_status(rank, code, stopped=self._told))

    def _bury(self, rank: int) -> int:
        """Return how a process has ended."""
        self._read_reports()  # the rank wrote its own before it ended
        pid, descriptor = self._running.pop(rank)
        os.close(descriptor)
        return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])

    def _fail(self, failure: Failure) -> None:
        self._failures[failure.rank] = failure
        if self._signal is None and self._cause is None and not failure.consequence:
            self._say_cause(failure)
        self._end_after_failure()

    def _end_after_failure(self) -> None:
        self._plan((PEER_GRACE, signal.SIGTERM), (PEER_GRACE + _TERM_GRACE, signal.SIGKILL))

    def _say_cause(self, failure: Failure) -> None:
        self._cause = failure
        for line in self._lines[failure.rank]:
            line.read_all()  # what the rank printed before it failed comes before
        self._say(cause_text(failure, self._n))

    def _say(self, text: str) -> None:
        if self._speak:
            self._err.put(text.encode(errors="backslashreplace"))

    # ---- death

    def _plan(self, *steps: tuple[float, signal.Signals], again: bool = False) -> None:
        """Have signals sent, each after so many seconds, unless that is planned already."""
        if again or not (self._steps or self._told):
            now = time.monotonic()
            self._steps = [(now + delay, number) for delay, number in steps]

    def _take_steps(self) -> None:
        while self._steps and self._steps[0][0] <= time.monotonic():
            number = self._steps.pop(0)[1]
            self._told = True
            for pid, _ in self._running.values():
                os.kill(pid, number)  # not waited for, so the number is still its own

    def _on_signal(self) -> None:
        for number in self._signals.take():
            if self._signal is not None:  # somebody is losing patience
                self._plan((0.0, signal.SIGKILL), again=True)
                continue
            self._signal, self._asked = number, True
            self._say("commops: interrupted\n" if number == signal.SIGINT else f"commops: {number.name}\n")
            last = (2 * STOP_GRACE, signal.SIGKILL)
            if number != signal.SIGINT:
                self._plan((0.0, signal.SIGTERM), last, again=True)
            elif foreground():  # the ranks have had theirs; a second one would cut their clean-up short
                self._told = True
                self._plan((STOP_GRACE, signal.SIGTERM), last, again=True)
            else:
                self._plan((0.0, signal.SIGINT), (STOP_GRACE, signal.SIGTERM), last, again=True)

    def _on_stop(self) -> None:
        self._stop, self._asked = None, True
        self._plan((0.0, signal.SIGTERM), (STOP_GRACE, signal.SIGKILL), again=True)

    def end(self) -> Outcome:
        """Pass on the last output, tell what became of the ranks, and return how it went."""
        self._read_reports()
        for line in (line for lines in self._lines.values() for line in lines):
            line.read_all()
            line.close()
        failures = self._in_order()
        if self._signal is None and failures:
            if self._cause is None:
                self._say_cause(failures[0])
            self._say(others_text([failure for failure in failures if failure is not self._cause]))
        restarts = self._restarts(failures)
        self._write_out()
        code = failures[0].code if failures else 0
        if self._out.lost:
            self._say(f"commops: output was lost: {self._out.lost}\n")
            self._write_out()
            code = code or 1
        code = code if self._signal is None else 128 + self._signal
        return Outcome(code, self._signal, tuple(failures), restarts and not self._asked)

    def _in_order(self) -> list[Failure]:
        """Return what has failed and counts, the cause first."""
        return in_order(self._failures.values())

    def _restarts(self, failures: Sequence[Failure]) -> bool:
        """Say whether all ranks are to be started again; if so, to the user too, and why."""
        count, most = self._meeting.lives
        # A rank that somebody has interrupted was meant to end.
        if not failures or failures[0].code == _INTERRUPTED or self._asked or count >= most:
            return False
        why = f"rank {failures[0].rank}: {failures[0].summary}"
        self._say(f"commops: {why}; starting all ranks again (restart {count + 1} of {most})\n")
        return True

    def _write_out(self) -> None:
        """Write what is left; a reader that stands still is waited for until somebody asks for the end."""
        self._steps = []
        while self._out.pending or self._err.pending:
            if not self._asked:
                self._poll(set())
            else:
                self._out.drain(_READER_GRACE)
                self._err.drain(_READER_GRACE)
                return

    def close(self) -> None:
        """Let go of the ranks' descriptors; the ranks themselves are the caller's to end."""
        for lines in self._lines.values():
            for line in lines:
                line.close()
        for _, descriptor in self._running.values():
            os.close(descriptor)
        self._running.clear()
