"""Every kind of store, ready to be opened several times, and a Redis server to hold one kind of them."""

from __future__ import annotations

import importlib.util
import shutil
import socket
import subprocess
import uuid
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest

from commops.rendezvous import (
    FileStore,
    HashStore,
    PrefixStore,
    RedisStore,
    Store,
    TCPStore,
    UnixStore,
    new_token,
    open_store,
)

from .ranks import Ranks

KINDS = ("hash", "file", "tcp", "unix", "redis")
PREFIX_KINDS = tuple(f"prefix-{kind}" for kind in KINDS)


class Shared:
    """One store of a kind. `open` gives another handle to it, closed when the test ends."""

    def __init__(self, kind: str, tmp_path: Path, redis_url: Callable[[], str], closing: ExitStack) -> None:
        self.kind = kind.removeprefix("prefix-")
        self.prefix = "jobs/7" if kind.startswith("prefix-") else None
        self.token = new_token() if self.kind == "tcp" else None
        self._closing = closing
        self._hash: HashStore | None = None
        self.url = ""
        match self.kind:
            case "hash":
                self._hash = closing.enter_context(HashStore())
            case "file":
                self.url = f"file://{tmp_path / 'store'}"
            case "tcp":
                server = closing.enter_context(TCPStore("127.0.0.1", 0, is_server=True, token=self.token))
                self.url = server.address
            case "unix":
                server_name = f"test-{uuid.uuid4().hex}"
                self.url = closing.enter_context(UnixStore(server_name, is_server=True)).address
            case "redis":
                self.url = f"{redis_url()}/test-{uuid.uuid4().hex}"

    def open(self, timeout: float = 20.0) -> Store:
        store: Store
        if self._hash is not None:
            # Threads share the object itself; a handle with a time-out of its own is a view of all of it.
            self._hash.timeout = timeout
            store = self._hash
        else:
            store = open_store(self.url, is_server=False, token=self.token, timeout=timeout)
            self._closing.enter_context(store)
        if self.prefix is not None:
            store.set("of another job", b"not counted")
            store = self._closing.enter_context(PrefixStore(self.prefix, store))
        return store


@pytest.fixture(params=[*KINDS, *PREFIX_KINDS])
def shared(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Shared]:
    with ExitStack() as closing:
        yield Shared(request.param, tmp_path, lambda: request.getfixturevalue("redis_url"), closing)


@pytest.fixture
def store(shared: Shared) -> Store:
    return shared.open()


@pytest.fixture
def file_store(tmp_path: Path) -> Iterator[FileStore]:
    with FileStore(tmp_path / "store") as store:
        yield store


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


@pytest.fixture(params=["file", "tcp", "unix"])
def url(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    """An address where ranks that nobody launched meet; by default, of each kind that needs no server."""
    match request.param:
        case "file":
            return f"file://{tmp_path / 'store'}"
        case "tcp":
            return f"tcp://127.0.0.1:{free_port()}"
        case "tcp-ipv6":
            return f"tcp://[::1]:{free_port()}"
        case "unix":
            return f"unix:test-{uuid.uuid4().hex}"
        case _:
            return f"{request.getfixturevalue('redis_url')}/test-{uuid.uuid4().hex}"


@pytest.fixture(scope="session")
def redis_url(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """A redis-server of our own on a free port, which asks for no password."""
    if importlib.util.find_spec("redis") is None:
        pytest.skip("the redis package is not installed (pip install redis)")
    program = shutil.which("redis-server")
    if program is None:
        pytest.skip("redis-server is not installed (apt-get install redis-server)")
    port = free_port()
    command = [program, "--port", str(port), "--bind", "127.0.0.1", "--save", "", "--appendonly", "no"]
    folder = tmp_path_factory.mktemp("redis")
    with (folder / "log").open("wb") as log, subprocess.Popen(command, cwd=folder, stdout=log) as server:
        try:
            RedisStore("127.0.0.1", port, "ready?", timeout=20).close()
            yield f"redis://127.0.0.1:{port}"
        finally:
            server.terminate()


@pytest.fixture(scope="module")
def _nursery(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Ranks]:
    ranks = Ranks(tmp_path_factory.mktemp("ranks"))
    yield ranks
    ranks.close()


@pytest.fixture
def ranks(_nursery: Ranks) -> Iterator[Ranks]:
    """Plain processes to be ranks. Those that a test leaves running end with it."""
    yield _nursery
    _nursery.end()
