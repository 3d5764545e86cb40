"""Worlds of ranks in processes of their own, as the tests hold them."""

from __future__ import annotations

import contextlib
import json
import os
import pickle
import select
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from multiprocessing.connection import Connection
from typing import Any

import cloudpickle

import commops

from .layouts import Layout
from .nursery import WHERE, dumps

# Seconds of each call. Shorter where examples that hang are to be shrunk by hand.
TIMEOUT = float(os.environ.get("COMM_TEST_TIMEOUT", "30"))
PATIENCE = 90.0  # seconds after which a program on ranks counts as hanging; each call gives up long before


class Nursery:
    """Starts ranks, quickly."""

    def __init__(self) -> None:
        self._sock, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        path = os.pathsep.join(filter(None, sys.path))
        environ = {
            k: v for k, v in os.environ.items() if not k.startswith(("COMMOPS_", "RANK", "WORLD_SIZE"))
        }
        with theirs:
            self._process = subprocess.Popen(
                [sys.executable, "-m", f"{__package__}.nursery", str(theirs.fileno())],
                pass_fds=[theirs.fileno()],
                stdin=subprocess.DEVNULL,
                env=environ | {"PYTHONPATH": path, "OPENBLAS_NUM_THREADS": "1"},
            )

    def world(self, layout: Layout, *, timeout: float = TIMEOUT) -> World:
        """Start the ranks of a layout. `timeout` is that of their calls."""
        return World(self._start, layout, timeout)

    def _start(self, environments: list[dict[str, str]], sockets: Sequence[socket.socket]) -> list[int]:
        request = json.dumps({"env": environments}).encode()
        socket.send_fds(self._sock, [request], [sock.fileno() for sock in sockets])
        pids: list[int] = json.loads(self._sock.recv(1 << 16))
        return pids

    def ranks(self) -> list[int]:
        """Return the process ids of all ranks that live, and of what they have started."""
        children: dict[int, list[int]] = {}
        for name in filter(str.isdecimal, os.listdir("/proc")):
            with contextlib.suppress(OSError), open(f"/proc/{name}/stat", encoding="utf-8") as file:
                children.setdefault(int(file.read().rpartition(")")[2].split()[1]), []).append(int(name))
        found, todo = [], [self._process.pid]
        while todo:
            more = children.get(todo.pop(), [])
            found += more
            todo += more
        return sorted(found)

    def close(self) -> None:
        self._sock.close()
        self._process.wait(30)


class World:
    """The ranks of one communicator. Functions are sent to all of them and run there, at the same time."""

    def __init__(
        self,
        start: Callable[[list[dict[str, str]], list[socket.socket]], list[int]],
        layout: Layout,
        timeout: float,
    ) -> None:
        self.layout = layout
        self.size = layout.size
        self.broken = False
        self._folder = tempfile.TemporaryDirectory(prefix="comm-test-")
        common = {
            "COMMOPS_RENDEZVOUS": f"file://{self._folder.name}/store",
            "COMMOPS_TRANSPORT": layout.transport,
            "COMM_TEST_TIMEOUT": str(timeout),
            "WORLD_SIZE": str(self.size),
            **dict(layout.settings),
        }
        names = [{"RANK": str(r), "COMMOPS_HOST": f"host-{layout.hosts[r]}"} for r in range(self.size)]
        if len(set(layout.hosts)) == 1:
            names = [{"RANK": name["RANK"]} for name in names]
        pairs = [socket.socketpair() for _ in range(self.size)]
        self.pids = start([common | name for name in names], [theirs for _, theirs in pairs])
        self._pidfds = [os.pidfd_open(pid) for pid in self.pids]
        for _, theirs in pairs:
            theirs.close()
        self._ranks = [Connection(ours.detach()) for ours, _ in pairs]
        for rank in range(self.size):
            self._answer(rank, PATIENCE, "init")

    def run(self, program: Callable[..., Any], *arguments: object) -> list[Any]:
        """Call ``program(comm, *arguments)`` on every rank; return what they return, or raise."""
        ends = self.outcomes(program, *arguments)
        for rank, end in enumerate(ends):
            if isinstance(end, Raised):
                end.error.add_note(f"rank {rank} of {self.layout}:\n{end.trace}")
                raise end.error
        return ends

    def outcomes(
        self, program: Callable[..., Any], *arguments: object, ranks: Sequence[int] | None = None
    ) -> list[Any]:
        """Return for each of the ranks what the program returned, `Raised` with what it raised, or `Died`."""
        ranks = range(self.size) if ranks is None else ranks
        self.start(program, *arguments, ranks=ranks)
        return self.collect(ranks)

    def start(
        self, program: Callable[..., Any], *arguments: object, ranks: Sequence[int] | None = None
    ) -> None:
        """Have ranks begin with the program."""
        code, values = packed(program), dumps(arguments)
        for rank in range(self.size) if ranks is None else ranks:
            with contextlib.suppress(OSError):  # a rank that has died is found when its answer is asked for
                self._ranks[rank].send_bytes(code)
                self._ranks[rank].send_bytes(values)

    def collect(self, ranks: Sequence[int] | None = None) -> list[Any]:
        """Return the ends of what `start` began."""
        name = "the program"
        ends = [self._answer(rank, PATIENCE, name) for rank in (range(self.size) if ranks is None else ranks)]
        self.broken |= any(
            isinstance(end, Died)
            or (isinstance(end, Raised) and isinstance(end.error, commops.CommError | KeyboardInterrupt))
            for end in ends
        )
        return ends

    def ended(self, rank: int) -> bool:
        """Say whether the process of a rank is gone."""
        return bool(select.select([self._pidfds[rank]], [], [], 0)[0])

    def signal(self, rank: int, number: signal.Signals) -> None:
        """Send a signal to the process of a rank."""
        signal.pidfd_send_signal(self._pidfds[rank], number)

    def _answer(self, rank: int, patience: float, what: str) -> Any:
        connection = self._ranks[rank]
        if not connection.poll(patience):
            self.broken = True
            for other in range(self.size):
                with contextlib.suppress(OSError):
                    self.signal(other, WHERE)
            time.sleep(1)  # they are writing to our standard error
            self.kill()
            raise AssertionError(
                f"rank {rank} of {self.layout} hangs in {what}: where all are is in the captured output"
            )
        try:
            answer = pickle.loads(connection.recv_bytes())
        except (EOFError, ConnectionResetError):
            return Died()
        if answer is True:
            return None
        fine, value = answer
        return value if fine else Raised(*value)

    def kill(self) -> None:
        """End all ranks at once."""
        for rank in range(self.size):
            with contextlib.suppress(OSError):
                self.signal(rank, signal.SIGKILL)

    def close(self) -> None:
        """Let the ranks end by themselves, and see that they do."""
        for connection in self._ranks:
            connection.close()
        deadline = time.monotonic() + 20
        late = [
            rank
            for rank, pidfd in enumerate(self._pidfds)
            if not select.select([pidfd], [], [], max(deadline - time.monotonic(), 0))[0]
        ]
        self.kill()
        for pidfd in self._pidfds:
            os.close(pidfd)
        self._folder.cleanup()
        assert not late, f"ranks {late} of {self.layout} did not end within 20 s of being told"


@dataclass(frozen=True)
class Raised:
    """A program ended with this exception."""

    error: BaseException
    trace: str = field(default="", repr=False, compare=False)


@dataclass(frozen=True)
class Died:
    """The rank's process ended in the program."""


_packed: dict[Callable[..., Any], bytes] = {}


def packed(program: Callable[..., Any]) -> bytes:
    """Return the bytes of a function; those of the tests by value: ranks need not import their modules."""
    code = _packed.get(program)
    if code is None:
        module = sys.modules[program.__module__]
        by_value = module.__name__.rpartition(".")[2].startswith("test_")
        if by_value:
            cloudpickle.register_pickle_by_value(module)
        code = dumps(program)
        if by_value:
            cloudpickle.unregister_pickle_by_value(module)
        _packed[program] = code
    return code


def errors(ends: list[Any], kind: type[BaseException]) -> list[str]:
    """Return the texts of the errors, all of which must be of a kind."""
    for end in ends:
        assert isinstance(end, Raised), end
        assert isinstance(end.error, kind), f"{end.error!r}\n{end.trace}"
    return [str(end.error) for end in ends]
