"""What is particular to the store in a Redis server: finding it, its password, and its neighbours."""

from __future__ import annotations

import os
import signal
import sys
import uuid
from collections.abc import Iterator
from typing import Any

import pytest

from commops.errors import AuthenticationError, RendezvousError
from commops.rendezvous import RedisStore, open_store

from .conftest import free_port

redis = pytest.importorskip("redis")


@pytest.fixture
def port(redis_url: str) -> int:
    return int(redis_url.rpartition(":")[2])


@pytest.fixture
def bare(port: int) -> Iterator[Any]:
    """A client of the server's own."""
    with redis.Redis("127.0.0.1", port) as client:
        yield client


@pytest.fixture
def prefix() -> str:
    return f"test-{uuid.uuid4().hex}"


def test_keys_are_fields_of_one_hash(bare: Any, port: int, prefix: str) -> None:
    bare.set("somebody else's", b"1")
    with RedisStore("127.0.0.1", port, prefix) as store:
        store.set("key", b"value")
        assert bare.hgetall(prefix) == {b"key": b"value"}
        bare.delete(prefix)
        assert store.count() == 0
    assert bare.get("somebody else's") == b"1"


def test_a_prefix_that_is_something_else(bare: Any, port: int, prefix: str) -> None:
    bare.set(prefix, b"a string")
    with RedisStore("127.0.0.1", port, prefix) as store, pytest.raises(RendezvousError, match="wrong kind"):
        store.set("key", b"value")
    assert bare.get(prefix) == b"a string"


def test_jobs_with_other_prefixes_do_not_meet(port: int, prefix: str) -> None:
    with RedisStore("127.0.0.1", port, prefix) as one, RedisStore("127.0.0.1", port, prefix + "2") as two:
        one.set("key", b"one's")
        assert two.count() == 0


def test_nobody_answers() -> None:
    port = free_port()
    with pytest.raises(RendezvousError, match=rf"redis://127\.0\.0\.1:{port}/job.*within 0\.2 s; start one"):
        RedisStore("127.0.0.1", port, "job", timeout=0.2)


def test_a_server_that_stalls_does_not_hold_a_call(bare: Any, port: int, prefix: str) -> None:
    with RedisStore("127.0.0.1", port, prefix, timeout=60) as store:
        store.set("key", b"value")
        process = bare.info("server")["process_id"]
        os.kill(process, signal.SIGSTOP)
        try:
            with pytest.raises(RendezvousError, match="no answer within"):
                store.set("key", b"other", timeout=0.1)
            with pytest.raises(RendezvousError, match="no answer within"):
                store.get("key", timeout=0.1)
        finally:
            os.kill(process, signal.SIGCONT)
        store.set("key", b"after")
        assert store.get("key") == b"after"


class TestPassword:
    @pytest.fixture
    def protected(self, bare: Any) -> Iterator[None]:
        bare.config_set("requirepass", "open sesame")
        try:
            yield
        finally:
            bare.config_set("requirepass", "")

    def test_the_right_one(self, protected: None, port: int, prefix: str) -> None:
        url = f"redis://:open%20sesame@127.0.0.1:{port}/{prefix}"
        with open_store(url, is_server=False, timeout=20) as store:
            store.set("key", b"value")
            assert store.get("key") == b"value"
            assert "sesame" not in repr(store)

    @pytest.mark.parametrize("password", [None, "close barley"])
    def test_a_wrong_one(self, protected: None, port: int, prefix: str, password: str | None) -> None:
        with pytest.raises(AuthenticationError) as caught:
            RedisStore("127.0.0.1", port, prefix, password=password, timeout=20)
        assert "barley" not in str(caught.value)


def test_it_needs_a_prefix(port: int) -> None:
    with pytest.raises(ValueError, match="needs a prefix"):
        RedisStore("127.0.0.1", port, "")


def test_a_missing_package_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "redis", None)
    with pytest.raises(ImportError, match=r"pip install 'commops\[redis\]'"):
        RedisStore("127.0.0.1", 1, "job")
