"""The store over a Unix socket: names, and users."""

from __future__ import annotations

import os
import uuid

import pytest

from commops.errors import AuthenticationError, RendezvousError
from commops.rendezvous import UnixStore

from .servers import running


class TestUnix:
    def test_a_name_that_is_taken(self) -> None:
        name = f"test-{uuid.uuid4().hex}"
        with UnixStore(name, is_server=True) as server:
            with pytest.raises(RendezvousError, match=f"unix:{name}: the name is taken"):
                UnixStore(name, is_server=True)
            server.set("key", b"unharmed")
        with UnixStore(name, is_server=True) as again:
            assert again.count() == 0

    def test_nobody_answers(self) -> None:
        with pytest.raises(RendezvousError, match="no store answered at unix:nobody"):
            UnixStore(f"nobody-{uuid.uuid4().hex}", is_server=False, timeout=0.1)

    @pytest.mark.parametrize("name", ["", "n" * 99])
    def test_a_name_that_cannot_be(self, name: str) -> None:
        with pytest.raises(ValueError, match="1 to 98 bytes"):
            UnixStore(name, is_server=True)

    def test_a_token_counts_here_too(self) -> None:
        name = f"test-{uuid.uuid4().hex}"
        with UnixStore(name, is_server=True, token=b"right") as server:
            with pytest.raises(AuthenticationError, match="another token"):
                UnixStore(name, is_server=False, token=b"wrong", timeout=20)
            with UnixStore(name, is_server=False, token=b"right", timeout=20) as client:
                client.set("key", b"value")
            assert server.get("key") == b"value"

    @pytest.mark.skipif(os.geteuid() != 0, reason="only root can become another user")
    @pytest.mark.parametrize("stranger_serves", [False, True])
    def test_another_user_is_refused(self, stranger_serves: bool) -> None:
        script = f"""
            import os
            from commops.errors import AuthenticationError
            from commops.rendezvous import UnixStore
            name = "test-{uuid.uuid4().hex}"
            ready, go = os.pipe()
            child = os.fork()
            if (child == 0) == {stranger_serves}:
                if child == 0:
                    os.setuid(65534)
                store = UnixStore(name, is_server=True)
                os.write(go, b"!")
                if child == 0:
                    store.get("absent", timeout=60)
                store.set("key", b"")
                _, status = os.waitpid(child, 0)
                assert store.count() == 1
                store.close()
                print(status, flush=True)
            else:
                if child == 0:
                    os.setuid(65534)
                os.read(ready, 1)
                try:
                    UnixStore(name, is_server=False, timeout=20).close()
                except AuthenticationError as error:
                    print(error, flush=True)
                if child != 0:
                    os.kill(child, 9)
                    os.waitpid(child, 0)
                os._exit(0)
        """
        with running(script) as process:
            output, _ = process.communicate(timeout=60)
        assert "another user" in output
