"""How ranks find each other: stores, and the token that keeps strangers out."""

from commops.rendezvous.file_store import FileStore
from commops.rendezvous.hash_store import HashStore
from commops.rendezvous.prefix_store import PrefixStore
from commops.rendezvous.redis_store import RedisStore
from commops.rendezvous.store import Store
from commops.rendezvous.tcp_store import TCPStore, UnixStore
from commops.rendezvous.token import load_token, new_token
from commops.rendezvous.url import open_store

__all__ = [
    "FileStore",
    "HashStore",
    "PrefixStore",
    "RedisStore",
    "Store",
    "TCPStore",
    "UnixStore",
    "load_token",
    "new_token",
    "open_store",
]
