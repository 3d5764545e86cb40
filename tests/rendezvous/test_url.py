"""Which store an address means, and what is said about one that means none."""

from __future__ import annotations

import uuid
from pathlib import Path

import pytest

from commops.errors import AuthenticationError
from commops.rendezvous import FileStore, HashStore, RedisStore, TCPStore, UnixStore, open_store


@pytest.fixture(autouse=True)
def no_token_around(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("COMMOPS_TOKEN", raising=False)
    monkeypatch.delenv("COMMOPS_TOKEN_FILE", raising=False)


def test_a_store_is_returned_as_it_is() -> None:
    with HashStore() as store:
        assert open_store(store, is_server=False) is store


def test_tcp() -> None:
    with open_store("tcp://127.0.0.1:0", is_server=True, timeout=7.5) as server:
        assert isinstance(server, TCPStore)
        assert server.timeout == 7.5
        with open_store(server.address, is_server=False, timeout=20) as client:
            client.set("key", b"value")
        assert server.get("key") == b"value"


def test_unix() -> None:
    address = f"unix:job {uuid.uuid4().hex}/é"
    with open_store(address, is_server=True) as server:
        assert isinstance(server, UnixStore)
        assert server.address == address
        with open_store(address, is_server=False, timeout=20) as client:
            client.set("key", b"value")
        assert server.get("key") == b"value"


def test_the_token_of_the_environment_is_used(monkeypatch: pytest.MonkeyPatch) -> None:
    with open_store("tcp://127.0.0.1:0", is_server=True, token="secret") as server:
        assert isinstance(server, TCPStore)
        with pytest.raises(AuthenticationError):
            open_store(server.address, is_server=False, timeout=20)
        monkeypatch.setenv("COMMOPS_TOKEN", "secret")
        open_store(server.address, is_server=False, timeout=20).close()


def test_file(tmp_path: Path) -> None:
    with open_store(f"file://{tmp_path}/a%20store", is_server=False) as store:
        assert isinstance(store, FileStore)
        store.set("key", b"value")
    assert (tmp_path / "a store").is_dir()


def test_redis(redis_url: str) -> None:
    with open_store(f"{redis_url}/jobs/{uuid.uuid4().hex}", is_server=False, timeout=20) as store:
        assert isinstance(store, RedisStore)
        assert store.count() == 0


@pytest.mark.parametrize(
    ("url", "why"),
    [
        ("", "no scheme"),
        ("localhost", "no scheme"),
        ("localhost:29500", "called 'localhost'"),
        ("http://localhost:80", "called 'http'"),
        ("tcp://", "host is missing"),
        ("tcp://:29500", "host is missing"),
        ("tcp://localhost", "port is missing"),
        ("tcp://localhost:99999", "(?i)port out of range"),
        ("tcp://localhost:http", "(?i)port could not be cast"),
        ("tcp://localhost:0", "port 0"),
        ("tcp://::1:29500", "(?i)ipv6|host|port"),
        ("tcp://[::1:29500", "(?i)ipv6"),
        ("tcp://localhost:29500/path", "only a host and a port"),
        ("file://", "three slashes"),
        ("file:///", "three slashes"),
        ("file://relative/path", "three slashes"),
        ("file:relative", "three slashes"),
        ("file:///tmp/what?now", "%3F"),
        ("redis://localhost:6379", "prefix is missing"),
        ("redis://localhost:6379/", "prefix is missing"),
        ("redis:///prefix", "host is missing"),
        ("unix:", "name is missing"),
    ],
)
def test_a_bad_address_says_why_and_which_forms_there_are(url: str, why: str) -> None:
    with pytest.raises(ValueError, match=why) as caught:
        open_store(url, is_server=False, timeout=0.05)
    for form in ("tcp://host:port", "file:///folder", "redis://", "unix:name"):
        assert form in str(caught.value)


def test_a_password_is_not_repeated() -> None:
    with pytest.raises(ValueError, match="prefix is missing") as caught:
        open_store("redis://user:open-sesame@localhost", is_server=False)
    assert "sesame" not in str(caught.value)


def test_another_type() -> None:
    with pytest.raises(TypeError, match="not int"):
        open_store(29500, is_server=False)  # type: ignore[arg-type]
