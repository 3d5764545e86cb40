"""Strangers at every port of a running job get nothing, harm nothing, and are counted; ranks still join."""

from __future__ import annotations

import json
import os
import random
import resource
import selectors
import socket
import ssl
import subprocess
import sys
import textwrap
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from commops.errors import AuthenticationError
from commops.rendezvous import TCPStore, tcp_handshake

SECRET = b"the job's own secret"

# Ranks that add until they are told to end, so that all of their connections are in use.
PROGRAM = """
import os, sys, time
import numpy as np
import commops

comm = commops.init(timeout=60)
group = comm.dup()
print("ready", flush=True)
calls = 0
while True:
    assert (comm.allreduce(np.full(3000, 1.0)) == comm.size).all()
    got = group.sendrecv(np.arange(500), (comm.rank + 1) % comm.size, (comm.rank - 1) % comm.size)
    assert got[-1] == 499
    done = comm.broadcast_object(os.path.exists(sys.argv[1]) if comm.rank == 0 else None)
    calls += 1
    if done:
        break
print("calls", calls, flush=True)
"""


class Job:
    """Ranks on hosts of their own, each of which listens for the others, and a store that stays."""

    def __init__(self, folder: Path, size: int = 3) -> None:
        self.size = size
        self._stop = folder / "stop"
        self._token = folder / "token"
        self._token.write_bytes(SECRET)
        self._token.chmod(0o600)
        self._server = TCPStore("127.0.0.1", 0, is_server=True, token=SECRET, timeout=60)
        self.store = self._server.port
        self.program = folder / "program.py"
        self.program.write_text(textwrap.dedent(PROGRAM))
        self.ranks: list[subprocess.Popen[str]] = []

    def start(self, rank: int) -> None:
        self.ranks.append(
            subprocess.Popen(
                [sys.executable, str(self.program), str(self._stop)],
                env=os.environ
                | {
                    "RANK": str(rank),
                    "WORLD_SIZE": str(self.size),
                    "COMMOPS_HOST": f"host-{rank}",
                    "COMMOPS_JOB": "the test",  # somebody else than rank 0 serves the store
                    "COMMOPS_RENDEZVOUS": f"tcp://127.0.0.1:{self.store}",
                    "COMMOPS_TOKEN_FILE": str(self._token),
                    "OMP_NUM_THREADS": "1",
                },
                stdout=subprocess.PIPE,
                stderr=subprocess.PIPE,
                text=True,
            )
        )

    def doors(self) -> list[tuple[str, int]]:
        """Return where the ranks and the store listen."""
        mine: set[str] = set()
        for rank in self.ranks:
            folder = f"/proc/{rank.pid}/fd"
            for name in os.listdir(folder):
                try:
                    mine.add(os.readlink(f"{folder}/{name}"))
                except OSError:
                    continue
        found = []
        for family, host in (("tcp", "127.0.0.1"), ("tcp6", "::1")):
            with open(f"/proc/net/{family}", encoding="utf-8") as file:
                for line in file.readlines()[1:]:
                    fields = line.split()
                    if fields[3] == "0A" and f"socket:[{fields[9]}]" in mine:
                        found.append((host, int(fields[1].rpartition(":")[2], 16)))
        return [*found, ("127.0.0.1", self.store)]

    def wait_ready(self) -> None:
        for rank in self.ranks:
            assert rank.stdout is not None
            assert rank.stdout.readline() == "ready\n"

    def end(self) -> tuple[list[int], list[str]]:
        """Return the calls of each rank and what it wrote to its standard error."""
        self._stop.touch()
        told = [rank.communicate(timeout=60) for rank in self.ranks]
        for rank, (_, errors) in zip(self.ranks, told, strict=True):
            assert rank.returncode == 0, errors
        return [int(out.split()[-1]) for out, _ in told], [errors for _, errors in told]

    def kill(self) -> None:
        for rank in self.ranks:
            if rank.poll() is None:
                rank.kill()
            rank.communicate()
        self._server.close()


@pytest.fixture
def job(tmp_path: Path) -> Iterator[Job]:
    made = Job(tmp_path)
    yield made
    made.kill()


def hello(**changes: int) -> bytes:
    """What a rank would say first, with nothing behind it."""
    fields = {"version": 1, "src": 0, "dst": 1, "size": 3, "generation": 0} | changes
    head = b"cmoHELLO" + b"".join(fields[k].to_bytes(4, "little") for k in ("version", "src", "dst", "size"))
    return head + fields["generation"].to_bytes(4, "little") + bytes(4) + bytes(16) + os.urandom(32)


def client_hello() -> bytes:
    context = ssl.create_default_context()
    incoming, outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
    session = context.wrap_bio(incoming, outgoing, server_hostname="host")
    with pytest.raises(ssl.SSLWantReadError):
        session.do_handshake()
    return outgoing.read()


chance = random.Random(5)
SAYINGS: dict[str, Callable[[], bytes]] = {
    "nothing": lambda: b"",
    "garbage": lambda: chance.randbytes(chance.randrange(1, 400)),
    "zeros": lambda: bytes(1000),
    "http": lambda: b"GET / HTTP/1.1\r\nHost: localhost\r\n\r\n",
    "tls": client_hello,
    "half a hello": lambda: hello()[:40],
    "a hello of another job": hello,
    "a hello of nobody": lambda: hello(src=2**32 - 1, size=2**32 - 1),
    "a hello and garbage": lambda: hello() + chance.randbytes(500),
    "a hello of another version": lambda: hello(version=2**31),
    "a greeting of a store": lambda: b"commops\0" + bytes(68),
    "lengths": lambda: b"\x01" * 4 + b"\xff" * 60,
    "much": lambda: chance.randbytes(1 << 20),
}


def say(door: tuple[str, int], what: bytes, *, hang: bool) -> socket.socket | None:
    """Connect and say it; keep the connection, or see that nothing but a handshake's words comes back."""
    sock = socket.create_connection(door, timeout=10)
    try:
        sock.sendall(what)
        if hang:
            return sock
        sock.shutdown(socket.SHUT_WR)
        answer = b""
        while part := sock.recv(1 << 16):
            answer += part
        assert len(answer) <= 200, answer  # a greeting, an answer: a word of the handshake
    except OSError:  # it was dropped while we spoke
        pass
    sock.close()
    return None


def resident(pid: int) -> int:
    with open(f"/proc/{pid}/statm", encoding="utf-8") as file:
        return int(file.read().split()[1]) * resource.getpagesize()


def test_whatever_strangers_say_a_job_goes_on(job: Job, caplog: pytest.LogCaptureFixture) -> None:
    for rank in range(job.size):
        job.start(rank)
    job.wait_ready()
    doors = job.doors()
    assert len(doors) > job.size
    kept: list[socket.socket] = []
    for _ in range(4):
        for door in doors:
            for saying in SAYINGS.values():
                if (sock := say(door, saying(), hang=chance.random() < 0.3)) is not None:
                    kept.append(sock)
    for sock in kept:
        sock.close()
    calls, errors = job.end()
    assert len(set(calls)) == 1
    for rank, text in enumerate(errors):  # each tells in one line how many it refused
        assert f"rank {rank} refused " in text
        assert text.count("\n") == 1, text
    with caplog.at_level("WARNING", "commops"):
        job.kill()
    (line,) = caplog.messages
    assert line.startswith(f"the store at tcp://127.0.0.1:{job.store} refused ")


def test_a_replayed_handshake_is_refused(job: Job) -> None:
    """What a rank has said to the store, who listens on the way says again."""
    for rank in range(job.size):
        job.start(rank)
    job.wait_ready()
    for _ in range(3):
        with socket.create_connection(("127.0.0.1", job.store), timeout=10) as sock:
            nonce = tcp_handshake.read_greeting(SECRET, sock.recv(200))
            said = tcp_handshake.respond(SECRET, nonce, tcp_handshake.new_nonce())
            sock.sendall(said)
            assert len(sock.recv(200)) == tcp_handshake.GREETING_SIZE  # this one is accepted
        with socket.create_connection(("127.0.0.1", job.store), timeout=10) as sock:
            sock.recv(200)
            sock.sendall(said)  # the same, to another nonce
            with pytest.raises(AuthenticationError, match="refused"):
                tcp_handshake.read_verdict(SECRET, nonce, bytes(32), sock.recv(200))
    job.end()


def test_ten_thousand_connections_half_of_them_silent(job: Job) -> None:
    many = 10_000
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if hard != resource.RLIM_INFINITY and hard < 2 * many:
        pytest.skip(f"only {hard} descriptors here")
    resource.setrlimit(resource.RLIMIT_NOFILE, (max(soft, 2 * many), hard))
    selector = selectors.DefaultSelector()
    try:
        for rank in range(job.size - 1):  # the last one comes while the flood is on
            job.start(rank)
        deadline = time.monotonic() + 30
        while len(job.doors()) < job.size and time.monotonic() < deadline:
            time.sleep(0.05)
        doors = job.doors()
        for number in range(many):
            door = doors[number % len(doors)]
            sock = socket.socket(socket.AF_INET6 if ":" in door[0] else socket.AF_INET)
            sock.setblocking(False)
            sock.connect_ex(door)
            selector.register(sock, selectors.EVENT_WRITE, number)
        start = time.monotonic()
        job.start(job.size - 1)
        spoken = 0
        while time.monotonic() < start + 2:
            for key, _ in selector.select(0.1):
                if key.data % 2:
                    try:
                        key.fileobj.send(b"GET / HTTP/1.1\r\n\r\n")  # type: ignore[union-attr]
                        spoken += 1
                    except OSError:
                        pass
                selector.unregister(key.fileobj)
                selector.register(key.fileobj, selectors.EVENT_READ, key.data)
        assert spoken
        job.wait_ready()
        assert time.monotonic() - start < 10
        grown = [resident(rank.pid) for rank in job.ranks]
        assert max(grown) < 200 << 20, grown
        for rank in job.ranks:
            assert len(os.listdir(f"/proc/{rank.pid}/fd")) < 400
        job.end()
    finally:
        for key in list((selector.get_map() or {}).values()):
            key.fileobj.close()  # type: ignore[union-attr]
        selector.close()
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


def test_the_token_is_in_no_command_line_and_in_no_log(tmp_path: Path) -> None:
    show: Any = """
import json, os, sys, commops
comm = commops.init()
with open("/proc/self/cmdline", "rb") as file: line = file.read()
with open("/proc/self/environ", "rb") as file: first = file.read()
print(json.dumps([line.decode(), first.decode(errors="replace"), os.environ.get("COMMOPS_TOKEN", ""),
                  repr(comm), open(os.environ["COMMOPS_TOKEN_FILE"]).read()]))
"""
    script = tmp_path / "show.py"
    script.write_text(show)
    done = subprocess.run(
        [sys.executable, "-m", "commops", "run", "-n", "2", str(script)],
        capture_output=True,
        text=True,
        check=True,
        timeout=60,
    )
    for line in done.stdout.splitlines():
        command, environ, variable, shown, secret = json.loads(line)
        assert len(secret) == 64
        assert not variable
        assert all(secret not in text for text in (command, environ, shown, done.stderr))
