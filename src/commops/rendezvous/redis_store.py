"""A store in a Redis server, for jobs on a cluster that runs one anyway."""

from __future__ import annotations

import contextlib
import importlib
import threading
from collections.abc import Iterator, Sequence
from typing import Any

from commops.errors import AuthenticationError, RendezvousError
from commops.rendezvous.deadline import DEFAULT_TIMEOUT, Deadline
from commops.rendezvous.store import Store, encode_key

__all__ = ["RedisStore"]

# All keys of a store are fields of one Redis hash. So HLEN counts them at once, `count` never scans what
# other applications keep there, a Redis cluster keeps them in one place, and one DEL removes the lot.

# KEYS[1]: the hash. ARGV: the fields that should exist. Returns the positions (from 1) of those that do not.
_MISSING = """
local missing = {}
for position, field in ipairs(ARGV) do
  if redis.call('HEXISTS', KEYS[1], field) == 0 then missing[#missing + 1] = position end
end
return missing
"""

# KEYS[1]: the hash. ARGV: field, new value, and the expected value unless the field must not exist.
_COMPARE_AND_SET = """
local stored = redis.call('HGET', KEYS[1], ARGV[1])
if stored == (ARGV[3] or false) then
  redis.call('HSET', KEYS[1], ARGV[1], ARGV[2])
  return ARGV[2]
end
return stored
"""


class RedisStore(Store):
    """Keys are fields of the Redis hash `prefix`. Each job needs a prefix of its own.

    A waiting call polls, after 1 ms at first and every 20 ms at last. Every other call is one Redis command
    or script, which Redis runs one at a time; none is sent twice, so a lost answer is an error and never a
    counter added to twice. The hash stays when the job ends; ``redis-cli DEL prefix`` removes it.

    Needs the ``redis`` package: ``pip install commops[redis]``.

    Parameters
    ----------
    host : str
        Name or address of the server, whatever it is. It is retried until the time-out has passed.
    port : int
        Its port.
    prefix : str
        Name of the hash.
    username, password : str, optional
        What the server asks for. Never shown in messages.
    timeout : float
        Default time-out of each call, and time-out of the constructor, in seconds.

    Raises
    ------
    ImportError
        If the ``redis`` package is missing.
    AuthenticationError
        If the server does not accept the user name and password.
    RendezvousError
        If no server answers within the time-out.
    """

    def __init__(
        self,
        host: str,
        port: int,
        prefix: str,
        *,
        username: str | None = None,
        password: str | None = None,
        timeout: float = DEFAULT_TIMEOUT,
    ) -> None:
        super().__init__(timeout=timeout)
        if not prefix:
            raise ValueError("RedisStore needs a prefix: without one, jobs on one server mix their keys")
        try:
            self._redis: Any = importlib.import_module("redis")
        except ImportError as error:
            raise ImportError("RedisStore needs the redis package: pip install 'commops[redis]'") from error
        self._where = f"redis://{'[' + host + ']' if ':' in host else host}:{port}/{prefix}"
        self._hash = encode_key(prefix)
        self._options: dict[str, Any] = {
            "host": host,
            "port": port,
            "username": username,
            "password": password,
            "socket_keepalive": True,
            # Where a command was sent and the answer was lost, nobody knows whether it was obeyed.
            "retry": importlib.import_module("redis.retry").Retry(
                importlib.import_module("redis.backoff").NoBackoff(), 0
            ),
        }
        self._lock = threading.Lock()
        self._users = 0  # calls in progress on the shared client
        self._shared_timeout = self.timeout
        self._shared = self._connect(self._shared_timeout)
        try:
            self._await_server(Deadline(timeout))
        except BaseException:
            self._shared.close()
            raise

    def __repr__(self) -> str:
        return f"RedisStore({self._where!r})"

    def _set(self, key: str, value: bytes, deadline: Deadline) -> None:
        with self._client(deadline) as client:
            client.hset(self._hash, encode_key(key), value)

    def _get(self, key: str, deadline: Deadline) -> bytes | None:
        field = encode_key(key)
        with self._client(deadline) as client:
            for _ in deadline.polls():
                self._check_open()
                value: bytes | None = client.hget(self._hash, field)
                if value is not None:
                    return value
        return None

    def _add(self, key: str, amount: int, deadline: Deadline) -> int:
        with self._client(deadline) as client:
            try:
                return int(client.hincrby(self._hash, encode_key(key), amount))
            except self._redis.ResponseError as error:
                if "integer" in str(error) or "overflow" in str(error):
                    raise ValueError(f"add: {error}, at {key!r}") from error
                raise

    def _wait(self, keys: tuple[str, ...], deadline: Deadline) -> Sequence[str]:
        missing: Sequence[str] = keys
        fields = [encode_key(key) for key in keys]
        with self._client(deadline) as client:
            for _ in deadline.polls():
                self._check_open()
                missing = [keys[place - 1] for place in client.eval(_MISSING, 1, self._hash, *fields)]
                if not missing:
                    break
        return missing

    def _delete(self, key: str, deadline: Deadline) -> bool:
        with self._client(deadline) as client:
            return bool(client.hdel(self._hash, encode_key(key)))

    def _discard(self, keys: tuple[str, ...], deadline: Deadline) -> int:
        with self._client(deadline) as client:
            return int(client.hdel(self._hash, *map(encode_key, keys)))

    def _count(self, prefix: str, deadline: Deadline) -> int:
        with self._client(deadline) as client:
            if not prefix:
                return int(client.hlen(self._hash))
            wanted = encode_key(prefix)
            return sum(field.startswith(wanted) for field in client.hkeys(self._hash))

    def _compare_and_set(
        self, key: str, expected: bytes | None, value: bytes, deadline: Deadline
    ) -> bytes | None:
        arguments = (encode_key(key), value) if expected is None else (encode_key(key), value, expected)
        with self._client(deadline) as client:
            stored: bytes | None = client.eval(_COMPARE_AND_SET, 1, self._hash, *arguments)
            return stored

    def _close(self) -> None:
        with self._lock:
            if self._users == 0:
                self._shared.close()

    # ---- connections

    def _connect(self, timeout: float) -> Any:
        limit = max(timeout, 0.25)  # a look takes the server a moment, even where nobody waits for the key
        return self._redis.Redis(**self._options, socket_timeout=limit, socket_connect_timeout=limit)

    @contextlib.contextmanager
    def _client(self, deadline: Deadline) -> Iterator[Any]:
        """Yield a client whose sockets give up at the deadline, with its errors turned into ours."""
        # A client's time-out is fixed when it is made. A call with one of its own gets a client of its own.
        shared = deadline.timeout >= self._shared_timeout
        client = self._shared if shared else self._connect(deadline.remaining())
        errors = self._redis.exceptions
        with self._lock:
            self._users += shared
        try:
            yield client
        except (errors.AuthenticationError, errors.NoPermissionError) as error:
            raise AuthenticationError(f"{self!r}: {error}") from error
        except errors.TimeoutError as error:
            raise RendezvousError(
                f"{self!r}: no answer within {deadline.waited():.3g} s (time-out {deadline.timeout:g} s)"
            ) from error
        except errors.RedisError as error:
            raise RendezvousError(f"{self!r}: {error}") from error
        finally:
            # Closing takes the connections from whoever is using them, with what errors it may. So a store
            # that is closed in the middle of calls is really closed by the last of them.
            with self._lock:
                self._users -= shared
                last = self._closed and self._users == 0
            if last or not shared:
                client.close()

    def _await_server(self, deadline: Deadline) -> None:
        errors = self._redis.exceptions
        cause: Exception | None = None
        for _ in deadline.polls(longest=0.1):
            try:
                with self._client(deadline):
                    self._shared.ping()
                return
            except AuthenticationError:
                raise
            except RendezvousError as error:
                if not isinstance(error.__cause__, (errors.ConnectionError, errors.TimeoutError)):
                    raise
                cause = error.with_traceback(None)
        raise RendezvousError(
            f"{self!r}: no Redis server answered within {deadline.timeout:g} s; start one there "
            f"(redis-server), or check the host and the port. The last attempt: {cause}"
        )
