"""A rank's first moments and its last: from the fork to the user's code, and from there to the end."""

from __future__ import annotations

import os
import pickle
import signal
import socket
import sys
from collections.abc import Callable, Mapping
from io import TextIOWrapper
from typing import NamedTuple, NoReturn

from commops.launch import process
from commops.launch.failure import from_exception

__all__ = ["Lives", "Meeting", "become", "order", "stand_by"]

# Variables of a job around this one.
_OF_OTHERS = ("COMMOPS_TOKEN", "COMMOPS_JOIN", "COMMOPS_ELASTIC", "TORCHELASTIC_USE_AGENT_STORE")


class Lives(NamedTuple):
    """How often ranks were started again before, and may be in all.

    Ranks find that in ``COMMOPS_RESTART_COUNT``, and both in ``TORCHELASTIC_RESTART_COUNT`` and
    ``TORCHELASTIC_MAX_RESTARTS``, where programs that were written for torchrun look for it.
    """

    number: int
    most: int

    def environ(self) -> dict[str, str]:
        """Return those variables."""
        count, most = str(self.number), str(self.most)
        return {
            "COMMOPS_RESTART_COUNT": count,
            "TORCHELASTIC_RESTART_COUNT": count,
            "TORCHELASTIC_MAX_RESTARTS": most,
        }


class Meeting:
    """What all ranks of a job inherit: their secrets, a port, and where they meet, once that is known.

    The store can be served only when all ranks are forked, because it needs a thread; so ranks wait at a gate
    until its address is written down. Everything here is unnamed and gone with the processes.

    Parameters
    ----------
    size : int
        Number of ranks.
    token : bytes
        The job's secret. Ranks read it from a file in memory that they inherit: it stands in no argument, no
        variable and no log.
    tls : bytes, optional
        Their key and certificates, handed over in the same way.
    lives : Lives
    """

    def __init__(self, size: int, token: bytes, tls: bytes | None, lives: Lives) -> None:
        self._size = size
        self.lives = lives
        self.bounds: tuple[int, int] | None = None  # of an elastic job
        self.joins = False  # whether this process comes when the others have met
        # Ranks that are started again must not be taken for those before them.
        self._job = f"{os.uname().nodename}.{os.getpid()}{f'.{lives.number}' if lives.number else ''}"
        self._token = process.sealed_memory("commops-token", token)
        self._tls = -1 if tls is None else process.sealed_memory("commops-tls", tls)
        for descriptor in filter(lambda one: one >= 0, (self._token, self._tls)):
            os.set_inheritable(descriptor, True)  # a program may replace itself by exec
        self._address = os.memfd_create("commops-address")
        self._gate, self._keeper = os.pipe()
        # A port for programs that want one (torch.distributed, say): bound, so that nobody else is given it;
        # with SO_REUSEADDR and not listening, so that rank 0 can have it all the same.
        self._port = socket.socket()
        self._port.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        self._port.bind(("127.0.0.1", 0))
        # Packets: a report arrives whole, and in the order in which ranks failed.
        self.reports, self.reporters = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        self.reports.setblocking(False)

    def enter(self) -> None:
        """Be a process that waits, so that the gate can be opened for others."""
        os.close(self._keeper)
        self._keeper = -1

    def open_gate(self, url: str) -> None:
        """Let the ranks go, as the launcher."""
        os.write(self._address, url.encode())
        os.close(self._keeper)
        self._keeper = -1

    def environ(self, rank: int) -> dict[str, str]:
        """Wait for the gate, as a rank, and return the variables that make it one."""
        os.read(self._gate, 1)
        url = os.pread(self._address, 4096, 0).decode()
        port = self._port.getsockname()[1]
        for descriptor in (self._gate, self._address):
            os.close(descriptor)
        self._port.close()
        self.reports.close()
        tls = {"COMMOPS_TLS": "1", "COMMOPS_TLS_FILE": f"/proc/self/fd/{self._tls}"}
        return {
            **process.default_threads(self._size),
            **(tls if self._tls >= 0 else {}),
            **self.lives.environ(),
            **({"COMMOPS_ELASTIC": "{}:{}".format(*self.bounds)} if self.bounds else {}),
            **({"COMMOPS_JOIN": "1"} if self.joins else {}),
            "RANK": str(rank),
            "WORLD_SIZE": str(self._size),
            "LOCAL_RANK": str(rank),
            "LOCAL_WORLD_SIZE": str(self._size),
            "MASTER_ADDR": "127.0.0.1",
            "MASTER_PORT": str(port),
            "COMMOPS_JOB": self._job,
            "COMMOPS_RENDEZVOUS": url,
            "COMMOPS_TOKEN_FILE": f"/proc/self/fd/{self._token}",
        }

    def close(self) -> None:
        """Let go of everything, as the launcher."""
        for descriptor in (self._token, self._tls, self._address, self._gate, self._keeper):
            if descriptor >= 0:
                os.close(descriptor)
        for held in (self._port, self.reports, self.reporters):
            held.close()


def become(
    place: Callable[[], int],
    meeting: Meeting,
    streams: Mapping[int, int],
    child: Callable[[int], int],
    *,
    launcher: int,
) -> NoReturn:
    """Run ``child(place())`` and end the process with the code that it returns.

    Parameters
    ----------
    place : callable
        Returns the rank; it may wait until that is known.
    meeting : Meeting
    streams : mapping of int to int
        Which descriptor (taken) becomes which standard stream; those not named stay as they are.
    child : callable
        An exception that it does not catch is reported to the launcher, which prints those of all ranks in an
        order that helps.
    launcher : int
        Process id of the launcher, with which this process dies.
    """
    rank = -1
    try:
        process.die_with(launcher)
        _redirect(streams)
        meeting.enter()
        rank = place()
        environ = meeting.environ(rank)
        for name in _OF_OTHERS:
            os.environ.pop(name, None)
        os.environ.update(environ)
        if "numpy.random" in sys.modules:  # `random` does it by itself: ranks must not draw the same numbers
            sys.modules["numpy.random"].seed()
        code = child(rank)
    except SystemExit as end:
        code = _exit_code(end)
    except BaseException as error:
        if rank < 0:  # it was nobody yet, and was ended just then
            os._exit(70)
        failure = from_exception(rank, error)
        meeting.reporters.send(pickle.dumps(failure))
        code = failure.code
    process.end_process(code)


def stand_by(meeting: Meeting, orders: int) -> int:
    """Wait, as a spare process, until the launcher writes who it is to be; end when it does no more.

    Parameters
    ----------
    meeting : Meeting
        Told how many have been started again before.
    orders : int
        Where the launcher writes: `order`'s bytes, or nothing. Taken.
    """
    handler = signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C: it is for the launcher to end this one
    told = os.read(orders, 64)
    os.close(orders)
    if not told:
        os._exit(0)
    signal.signal(signal.SIGINT, handler)
    rank, number = map(int, told.split())
    meeting.lives = meeting.lives._replace(number=number)
    meeting.joins = True
    return rank


def order(rank: int, number: int) -> bytes:
    """Return what makes a spare process `rank`, the replacement of that number."""
    return b"%d %d" % (rank, number)


def _redirect(streams: Mapping[int, int]) -> None:
    for number, descriptor in streams.items():
        os.dup2(descriptor, number)
        os.close(descriptor)
    for number, stream in ((1, sys.stdout), (2, sys.stderr)):
        # Lines should be seen when they are written, although a pipe and no terminal takes them.
        if number in streams and isinstance(stream, TextIOWrapper):
            stream.reconfigure(line_buffering=True)


def _exit_code(end: SystemExit) -> int:
    """Do with the argument of sys.exit() what the interpreter does."""
    if end.code is None:
        return 0
    if isinstance(end.code, int):
        return end.code & 0xFF
    print(end.code, file=sys.stderr)
    return 1
