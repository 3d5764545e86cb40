"""``commops top`` on other machines: looks as JSON, a line each, over whatever runs a command there."""

from __future__ import annotations

import json
import shlex
import subprocess
import sys
import threading
from collections.abc import Iterable, Sequence

import click

from commops.flight import Call, Rank, Recorder

__all__ = ["Elsewhere", "begun", "packed", "unpacked"]

_FIRST = 15.0  # seconds that a machine has for its first look


def packed(ranks: Iterable[Rank]) -> str:
    """Return one look as a line of JSON, with those calls of each rank that a table shows."""
    return json.dumps([_fields(rank) for rank in ranks])


def _fields(rank: Rank) -> dict[str, object]:
    r = rank.recorder
    calls = [c for c in r.calls if c in (r.current, r.latest) or (c.comm == 1 and 0 < c.seq == r.seq)]
    return {**rank._asdict(), "recorder": {**r._asdict(), "calls": [call._asdict() for call in calls]}}


def unpacked(line: str) -> list[Rank]:
    """Read such a line; ValueError if it is none."""
    try:
        ranks = []
        for fields in json.loads(line):
            recorder = fields.pop("recorder")
            calls = [Call(**call) for call in recorder.pop("calls")]
            ranks.append(Rank(Recorder(**recorder, calls=calls), **fields))
    except (TypeError, KeyError, AttributeError, json.JSONDecodeError) as error:
        raise ValueError(f"no look of commops top of this version: {line[:80]!r}") from error
    return ranks


class Elsewhere:
    """What the ranks of another machine do.

    Parameters
    ----------
    command : str
        Runs what is appended to it there: ``ssh node2``.
    arguments : sequence of str
        Of ``commops top``.
    """

    def __init__(self, command: str, arguments: Sequence[str]) -> None:
        self.command = command
        self._ranks: list[Rank] = []
        self._arrived = threading.Event()
        self._problem = self._complaint = ""
        self._process = begun(command, "--json", *arguments)
        self._listens = threading.Thread(target=self._listen, daemon=True)
        self._listens.start()
        threading.Thread(target=self._read, daemon=True).start()

    def _listen(self) -> None:
        """Keep the first line that it complains with; the rest is read so that it need not wait for room."""
        assert self._process.stderr is not None
        for line in self._process.stderr:
            self._complaint = self._complaint or line.strip()

    def _read(self) -> None:
        assert self._process.stdout is not None
        try:
            for line in self._process.stdout:
                self._ranks = unpacked(line)
                self._arrived.set()
            self._listens.join()
            self._problem = self._complaint or f"exit code {self._process.wait()}"
        except ValueError as error:
            self._problem = str(error)
        self._ranks = []
        self._arrived.set()

    def ranks(self) -> list[Rank]:
        """Return the last look; at first, wait for one."""
        if not self._arrived.wait(_FIRST):
            self._problem = f"nothing heard in {_FIRST:g} s"
            self._arrived.set()
        return self._ranks

    @property
    def problem(self) -> str:
        """Why nothing comes from there any more; empty while it may."""
        return f"{self.command}: {self._problem}" if self._problem else ""

    def close(self) -> None:
        """End it."""
        self._process.terminate()
        self._process.wait()


def begun(command: str, *arguments: str) -> subprocess.Popen[str]:
    """Start this Python's ``commops top`` on another machine, at the same path; or raise BadParameter."""
    try:
        return subprocess.Popen(
            [*shlex.split(command), sys.executable, "-m", "commops", "top", *arguments],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
    except (OSError, ValueError) as error:
        raise click.BadParameter(f"{command!r} cannot be run: {error}", param_hint="--on") from error
