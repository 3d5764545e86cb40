"""Messages from one rank to another: see `_native.pyi`."""

from collections.abc import Sequence
from typing import Any

from commops._engine import Comm
from commops._work import Call, Started, _Allocate, _Message
from commops.dtypes import Array

def send(
    comm: Comm,
    array: Array,
    dtype: int,
    shape: Sequence[int],
    extra: int,
    dest: int,
    tag: int,
    timeout: float,
    waits: bool,
) -> Call: ...
def recv(comm: Comm, alloc: _Allocate, source: int, tag: int, timeout: float, waits: bool) -> Call: ...
def probe(comm: Comm, source: int, tag: int, timeout: float) -> Call: ...
def probe_now(comm: Comm, source: int, tag: int) -> _Message | None: ...
def plain_send(comm: Comm, x: object, dest: object, tag: object, timeout: float, extra: int = 0) -> bool: ...
def plain_recv(comm: Comm, out: object, source: object, tag: object, timeout: float) -> bool: ...
def plain_isend(comm: Comm, work: type, x: object, dest: object, tag: object, timeout: float) -> Any: ...
def plain_irecv(
    comm: Comm, work: type, receiving: object, out: object, source: object, tag: object, timeout: float
) -> Any: ...
def plain_sendrecv(
    comm: Comm,
    work: type[Any],
    x: object,
    dest: object,
    source: object,
    out: object,
    tag: object,
    timeout: float,
) -> bool | Started: ...
def joined(parts: list[Any], alignment: int) -> Array: ...
def send_parts(comm: Comm, parts: list[Any], extra: int, dest: int, tag: int, timeout: float) -> None: ...
def recv_bytes(comm: Comm, extra: int, source: object, tag: object, timeout: float) -> Array | None: ...
