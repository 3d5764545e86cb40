"""Ranks in plain processes: no launcher, only `commops.init(…)`."""

from __future__ import annotations

import contextlib
import dataclasses
import json
import os
import select
import signal
import subprocess
import sys
import textwrap
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

_VARIABLES = ("RANK", "WORLD_SIZE", "LOCAL_RANK", "LOCAL_WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT")

JOIN = "comm = commops.init(url, rank=rank, size=size, timeout=timeout, token=token, transport=transport)\n"


@dataclasses.dataclass(frozen=True)
class Told:
    """What became of a rank.

    Attributes
    ----------
    result : object
        What it left in the variable of that name.
    error : str
        Name of the exception; empty where there was none.
    text, traceback : str
        Of that.
    seconds : float
        From start to end.
    left : list of str
        What it had open at its end and not before: descriptors and threads.
    """

    result: Any
    error: str
    text: str
    traceback: str
    seconds: float
    left: list[str]


class Rank:
    """A running rank."""

    def __init__(self, pid: int, out: Path) -> None:
        self.pid = pid
        self._out = out
        self._end = os.pidfd_open(pid)

    def kill(self, number: signal.Signals = signal.SIGKILL) -> None:
        with contextlib.suppress(ProcessLookupError):
            signal.pidfd_send_signal(self._end, number)

    def told(self, seconds: float = 60.0) -> Told:
        """Wait for the end of the rank and return what became of it."""
        assert self.ended(seconds), f"process {self.pid} still runs after {seconds} s"
        assert self._out.read_text(), f"process {self.pid} ended without a word"
        told = json.loads(self._out.read_text())
        error, text, trace = told["error"] or ("", "", "")
        return Told(told["result"], error, text, trace, told["seconds"], told["left"])

    def ended(self, seconds: float) -> bool:
        return bool(select.select([self._end], [], [], seconds)[0])

    def close(self) -> None:
        self.kill()
        self.ended(10)
        os.close(self._end)


class Ranks:
    """Starts ranks, and ends those that a test leaves."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._started: list[Rank] = []
        environ = {
            name: value
            for name, value in os.environ.items()
            if name not in _VARIABLES and not name.startswith("COMMOPS_")
        }
        environ["PYTHONPATH"] = os.pathsep.join(filter(None, sys.path))
        environ["OMP_NUM_THREADS"] = "1"
        self._nursery = subprocess.Popen(
            [sys.executable, str(Path(__file__).with_name("nursery.py"))],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            env=environ,
            text=True,
        )

    def start(
        self,
        source: str,
        *,
        env: Mapping[str, str] | None = None,
        namespace: str = "",
        **names: Any,
    ) -> Rank:
        """Run `source` in a process of its own, with these variables."""
        out = self._folder / f"told-{len(self._started)}"
        out.unlink(missing_ok=True)
        defaults = {"timeout": 20.0, "token": None, "transport": "auto"}
        request = {
            "source": textwrap.dedent(source),
            "names": defaults | names,
            "env": dict(env or {}),
            "namespace": namespace,
            "out": str(out),
        }
        assert self._nursery.stdin is not None
        assert self._nursery.stdout is not None
        self._nursery.stdin.write(json.dumps(request) + "\n")
        self._nursery.stdin.flush()
        rank = Rank(int(self._nursery.stdout.readline()), out)
        self._started.append(rank)
        return rank

    def job(self, size: int, source: str, each: Sequence[Mapping[str, Any]] = (), **names: Any) -> list[Rank]:
        """Start `size` ranks; `each` holds what differs between them."""
        different = list(each) or [{}] * size
        return [self.start(source, **{"rank": r, "size": size, **names, **different[r]}) for r in range(size)]

    def run(self, size: int, source: str, each: Sequence[Mapping[str, Any]] = (), **names: Any) -> list[Told]:
        """Run a job to its end."""
        return [rank.told() for rank in self.job(size, source, each, **names)]

    def end(self) -> None:
        """End what still runs."""
        for rank in self._started:
            rank.close()
        self._started.clear()

    def close(self) -> None:
        self.end()
        assert self._nursery.stdin is not None
        assert self._nursery.stdout is not None
        self._nursery.stdin.close()
        self._nursery.wait(10)
        self._nursery.stdout.close()


def results(told: Sequence[Told]) -> list[Any]:
    """Return the results of ranks that must all have ended well, with nothing left open."""
    assert not any(one.error for one in told), "\n".join(one.traceback for one in told)
    _check_nothing_left(told)
    return [one.result for one in told]


def failures(told: Sequence[Told], within: float) -> list[tuple[str, str]]:
    """Return the errors of ranks that must all have failed in time, with nothing left open."""
    assert all(one.error for one in told), told
    assert max(one.seconds for one in told) < within, told
    _check_nothing_left(told)
    return [(one.error, one.text) for one in told]


def _check_nothing_left(told: Sequence[Told]) -> None:
    left = {rank: one.left for rank, one in enumerate(told) if one.left}
    assert not left, left
