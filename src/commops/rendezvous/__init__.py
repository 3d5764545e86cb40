"""How ranks find each other: stores, and the token that keeps strangers out.

Names are imported when they are first used: a rank needs one kind of store, and starts sooner without the
modules of the others.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from commops.rendezvous.certificates import new_credentials
    from commops.rendezvous.credentials import Credentials, load_credentials
    from commops.rendezvous.file_store import FileStore
    from commops.rendezvous.hash_store import HashStore
    from commops.rendezvous.prefix_store import PrefixStore
    from commops.rendezvous.redis_store import RedisStore
    from commops.rendezvous.store import Store
    from commops.rendezvous.tcp_store import TCPStore, UnixStore
    from commops.rendezvous.token import load_token, new_token
    from commops.rendezvous.url import open_store

__all__ = [
    "Credentials",
    "FileStore",
    "HashStore",
    "PrefixStore",
    "RedisStore",
    "Store",
    "TCPStore",
    "UnixStore",
    "load_credentials",
    "load_token",
    "new_credentials",
    "new_token",
    "open_store",
]

_HOMES = {
    "Credentials": "credentials",
    "FileStore": "file_store",
    "HashStore": "hash_store",
    "PrefixStore": "prefix_store",
    "RedisStore": "redis_store",
    "Store": "store",
    "TCPStore": "tcp_store",
    "UnixStore": "tcp_store",
    "load_credentials": "credentials",
    "load_token": "token",
    "new_credentials": "certificates",
    "new_token": "token",
    "open_store": "url",
}


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value = getattr(importlib.import_module(f"{__name__}.{_HOMES[name]}"), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
