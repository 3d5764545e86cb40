"""A job that goes on when ranks fail: with those that are left, and others in the place of the lost.

A replacement is a process that was forked with the ranks and has waited since. In `commops.init` it waits
further, until the group admits it (`commops.Comm.grow`).
"""

from __future__ import annotations

import contextlib
import math
import os
import signal
import time
from collections.abc import Callable
from typing import Any, NamedTuple

from commops.errors import RendezvousError
from commops.launch.failure import Failure, cause_text, from_status
from commops.launch.job import PEER_GRACE, STOP_GRACE, Job
from commops.launch.rank import order, stand_by
from commops.launch.relay import Lines
from commops.rendezvous.store import Store

__all__ = ["ElasticJob"]

_LAST_CHANCE = 1.0  # seconds for a replacement to say that it has joined, when nobody else is left
_LOOK = 0.1  # seconds between looks whether it has


class _Spare(NamedTuple):
    """A process that waits to be a rank.

    Attributes
    ----------
    pid, descriptor : int
    orders : int
        Where it is told who it is.
    lines : list of Lines
        Its output.
    """

    pid: int
    descriptor: int
    orders: int
    lines: list[Lines]


class ElasticJob(Job):
    """A job of at least `bounds[0]` ranks, those that have ended well included, and at most `bounds[1]`."""

    def __init__(self, bounds: tuple[int, int], *rest: Any) -> None:
        super().__init__(*rest)
        self._least, self._most = self._meeting.bounds = bounds
        self._spares: list[_Spare] = []
        self._store: Store | None = None
        self._begun = False  # whether the ranks are known to have met
        self._started = 0  # replacements
        self._numbers: dict[int, int] = {}  # of the replacements that may not have joined yet, by their ranks
        self._done = 0  # ranks that have ended well
        self._borne: list[Failure] = []  # failures after which the others went on
        self._overdue: dict[int, float] = {}  # when to kill a rank that has failed and does not end
        self._alone = math.inf  # since when there are only replacements that may not have joined
        self._ended_by: Failure | None = None
        self._closing = False  # whether those who are left are not waited for

    # ---- birth

    def fork_spares(self, child: Callable[[int], int], restore_limit: Callable[[], None]) -> None:
        """Start as many as may be wanted."""
        for _ in range(self._meeting.lives.most):
            lines, streams = self._pipes((1, 2), b"", reads=False)
            ours, orders = os.pipe()
            spare = _Spare(-1, -1, orders, lines)
            self._spares.append(spare)  # for _shed

            def place(ours: int = ours) -> int:
                return stand_by(self._meeting, ours)

            pid, descriptor = self._fork(place, streams, child, restore_limit)
            os.close(ours)
            self._spares[-1] = spare._replace(pid=pid, descriptor=descriptor)

    def _shed(self) -> None:
        super()._shed()
        for spare in self._spares:
            self._dismiss(spare)

    def _dismiss(self, spare: _Spare) -> None:
        for descriptor in (spare.descriptor, spare.orders, *(line.descriptor for line in spare.lines)):
            if descriptor >= 0:
                os.close(descriptor)

    def opens(self, store: Store) -> None:
        """Say in the store how many ranks there may be."""
        from commops.rendezvous.prefix_store import PrefixStore
        from commops.rendezvous.waiting import MOST, PART

        self._store = PrefixStore(PART, store)
        self._store.set(MOST, b"%d" % self._most)

    def _replace(self, rank: int) -> bool:
        """Have a spare process take the place of a rank; say whether there was one."""
        while self._spares:
            spare = self._spares.pop(0)
            try:
                os.write(spare.orders, order(rank, self._started + 1))
            except BrokenPipeError:  # somebody has ended it
                self._dismiss(spare)
                continue
            os.close(spare.orders)
            self._started += 1
            self._numbers[rank] = self._started
            for line in spare.lines:
                line.label = self._label_of(rank)
            self._lines[rank] += spare.lines
            self._running[rank] = spare.pid, spare.descriptor
            return True
        return False

    # ---- life

    def watch(self) -> None:
        """Return when all ranks have ended, or none is left who could admit the others."""
        while self._running:
            self._poll(set(self._running))
            self._take_steps()
            self._look_for_members()

    def _next(self) -> float:
        soon = time.monotonic() + _LOOK if self._alone < math.inf else math.inf
        return min(super()._next(), soon, *self._overdue.values())

    def _take_steps(self) -> None:
        super()._take_steps()
        now = time.monotonic()
        for rank in [rank for rank, when in self._overdue.items() if when <= now]:
            del self._overdue[rank]
            if rank in self._running:
                os.kill(self._running[rank][0], signal.SIGKILL)

    def _fail(self, failure: Failure) -> None:
        """Take note of what a rank reports, which ends by itself."""
        self._failures.setdefault(failure.rank, failure)
        self._overdue[failure.rank] = time.monotonic() + PEER_GRACE

    def _on_end(self, rank: int) -> None:
        code = self._bury(rank)
        self._overdue.pop(rank, None)
        self._numbers.pop(rank, None)
        failure = self._failures.pop(rank, None)
        if code == 0 and failure is None:
            self._done += 1
        elif not self._closing:
            self._lost(failure or from_status(rank, code, stopped=self._told))

    def _lost(self, failure: Failure) -> None:
        """Go on without a rank, or end the job."""
        for line in self._lines[failure.rank]:
            line.read_all()  # what the rank printed before it failed comes before
        self._failures[failure.rank] = failure
        if self._steps or self._told or self._signal is not None:
            return  # the end is near
        if not self._has_begun():
            self._give_up(failure, "the ranks had not met yet, so none of them can go on")
            return
        # When the first has ended well, the others are about to.
        replaced = self._done == 0 and self._replace(failure.rank)
        if len(self._running) + self._done < self._least:
            left = _ranks(len(self._running) + self._done)
            self._give_up(failure, f"{left} left, with {self._least} at least to go on, and no replacement")
            return
        del self._failures[failure.rank]
        self._borne.append(failure)
        self._say(
            f"commops: rank {failure.rank}: {failure.summary}\n"
            if failure.consequence
            else cause_text(failure, max(2, self._n))
        )
        if replaced:
            most = self._meeting.lives.most
            self._say(f"commops: going on; rank {failure.rank} is replaced ({self._started} of {most})\n")
        elif self._running:
            self._say(f"commops: going on with {_ranks(len(self._running))}\n")

    def _give_up(self, failure: Failure, why: str) -> None:
        """End the job, because of the last failure that was no consequence of another."""
        failures = [*self._borne, *self._failures.values()]
        causes = [one for one in failures if not one.consequence]
        self._ended_by = causes[-1] if causes else failure
        if self._ended_by in self._borne:
            self._cause = self._ended_by  # which was printed then
        else:
            self._say_cause(self._ended_by)
        self._say(f"commops: {why}\n")
        self._end_after_failure()

    def _look_for_members(self) -> None:
        """End replacements that nobody can admit any more."""
        if self._closing or self._told or not self._running or any(map(self._is_member, self._running)):
            self._alone = math.inf
            return
        self._alone = min(self._alone, time.monotonic())
        if time.monotonic() - self._alone < _LAST_CHANCE:
            return
        if not self._done:
            self._give_up(self._borne[-1], "no rank is left that could admit the replacements")
        self._closing = True
        self._alone = math.inf
        if self._done:
            names = ", ".join(map(str, sorted(self._running)))
            self._say(f"commops: the replacement of rank {names} was not admitted before the others ended\n")
        self._plan((0.0, signal.SIGTERM), (STOP_GRACE, signal.SIGKILL), again=True)

    def _is_member(self, rank: int) -> bool:
        from commops.rendezvous.waiting import JOINED

        number = self._numbers.get(rank)
        if number is None:
            return True
        if self._has(f"{JOINED}{number}"):
            del self._numbers[rank]
        return rank not in self._numbers

    def _has_begun(self) -> bool:
        from commops.rendezvous.waiting import BEGUN

        # A lone rank meets nobody.
        self._begun = self._begun or self._n == 1 or self._has(BEGUN)
        return self._begun

    def _has(self, key: str) -> bool:
        assert self._store is not None
        with contextlib.suppress(RendezvousError):
            self._store.get(key, timeout=0)
            return True
        return False

    # ---- death

    def _in_order(self) -> list[Failure]:
        cause = self._ended_by
        if cause is None and self._signal is None:
            return []  # the others went on
        rest = [failure for failure in super()._in_order() if failure is not cause]
        return rest if cause is None else [cause, *rest]

    def _restarts(self, failures: object) -> bool:
        return False

    def close(self) -> None:
        """Let go of the spare processes too."""
        super().close()
        for spare in self._spares:
            self._dismiss(spare)
        self._spares = []


def _ranks(count: int) -> str:
    return f"{count} rank{'s' if count != 1 else ''}"
