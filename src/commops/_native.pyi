"""What the extension src/_native/_native.pyx gives to commops itself. Private: it changes without notice.

Numbers of kinds, operations and dtypes are those of the C core. Arrays that are passed in are C-contiguous
and of the dtype that the number beside them names; `counts` are arrays of uint64 or None. A failed call
raises what `commops.errors` describes.
"""

from collections.abc import Callable, Sequence
from typing import Any, Final, Self, TypeAlias, final

import numpy as np
from numpy.typing import NDArray
from typing_extensions import disjoint_base

_Array: TypeAlias = NDArray[Any]
_Counts: TypeAlias = NDArray[np.uint64]

_Message: TypeAlias = tuple[int, int, int, int, int, tuple[int, ...]]
"""Source, tag, bytes, dtype, extra (the number that `Comm.send` was given), shape."""

_Allocate: TypeAlias = Callable[[int, tuple[int, ...], list[int] | None, int, int, int], _Array]
"""Given dtype, shape, counts, extra, source and tag, returns the array that receives; may raise to refuse."""

KINDS: Final[dict[str, int]]
"""Number of each collective: "barrier", "broadcast", …"""

OPS: Final[dict[str, int]]
"""Number of each reduction: "sum", "prod", …"""

DTYPES: Final[list[str]]
"""Name of each dtype as NumPy spells it, in the order of their numbers."""

VERSION: Final[str]
"""The version that was built."""

ANY: Final[int]
"""Any source, or any tag."""

MAX_TAG: Final[int]
"""The greatest tag of a message."""

MAX_DIMS: Final[int]
"""Dimensions that an array may have."""

def reducible(dtype: int, op: int) -> bool: ...
def isa() -> str: ...
def tunables() -> list[tuple[str, str, int, int, str]]: ...
def check_tunables(chosen: dict[str, int]) -> None: ...
def staging(nlocal: int, slots: int, slot_bytes: int, pipe_bytes: int) -> tuple[int, int]: ...
def joined(parts: list[Any], alignment: int) -> _Array: ...
def when_ended(call: Call, f: Callable[[], object]) -> None: ...
@final
class Window:
    def __new__(cls, nlocal: int) -> Self: ...
    @property
    def fd(self) -> int: ...
    @property
    def used(self) -> int: ...
    @property
    def attaches(self) -> bool: ...
    def allocate(self, nbytes: int) -> Block: ...

@final
class Block:
    def array(self, shape: tuple[int, ...], dtype: np.dtype[Any]) -> _Array: ...

@final
class Engine:
    def __new__(
        cls,
        rank: int,
        size: int,
        hosts: list[int],
        window: Window,
        neighbours: list[tuple[int, int, int]],
        *,
        share: bool,
        listeners: list[int],
        addresses: list[str],
        job: bytes,
        token: bytes,
        tunables: dict[str, int],
        generation: int = 0,
    ) -> Self: ...
    @property
    def window(self) -> Window: ...
    def close(self) -> None: ...
    def world(self) -> Comm: ...

@final
class Call:
    def wait(self, seconds: float) -> None: ...
    @property
    def done(self) -> bool: ...
    @property
    def result(self) -> Any: ...
    def message(self) -> _Message: ...

@disjoint_base
class Started:
    _calls: tuple[Any, ...]
    _finish: Any
    _result: Any
    _error: BaseException | None
    _settled: bool
    def wait(self, timeout: float | None = None) -> Any: ...

@final
class Comm:
    @property
    def window(self) -> Window: ...
    def run(
        self,
        kind: int,
        op: int,
        dtype: int,
        root: int,
        array: _Array | None,
        out: _Array | None,
        count: int,
        counts: _Counts | None,
        recv_counts: _Counts | None,
        exchange: bool,
        shape: tuple[int, ...] | None,
        alloc: _Allocate | None,
        timeout: float,
    ) -> Any: ...
    def plain(self, kind: int, x: object, op: object, root: object, out: object, timeout: float) -> Any: ...
    def plain_from_root(self, kind: int, x: object, root: object, out: object, timeout: float) -> Any: ...
    def barrier(self, timeout: float) -> None: ...
    def plain_send(self, x: object, dest: object, tag: object, timeout: float, extra: int = 0) -> bool: ...
    def send_parts(self, parts: list[Any], extra: int, dest: int, tag: int, timeout: float) -> None: ...
    def recv_bytes(self, extra: int, source: object, tag: object, timeout: float) -> _Array | None: ...
    def plain_isend(self, work: type, x: object, dest: object, tag: object, timeout: float) -> Any: ...
    def plain_sendrecv(
        self,
        work: type[Any],
        x: object,
        dest: object,
        source: object,
        out: object,
        tag: object,
        timeout: float,
    ) -> bool | None: ...
    def plain_irecv(
        self, work: type, receiving: object, out: object, source: object, tag: object, timeout: float
    ) -> Any: ...
    def plain_recv(self, out: object, source: object, tag: object, timeout: float) -> bool: ...
    def start(
        self,
        kind: int,
        op: int,
        dtype: int,
        root: int,
        array: _Array | None,
        out: _Array | None,
        count: int,
        counts: _Counts | None,
        recv_counts: _Counts | None,
        exchange: bool,
        shape: tuple[int, ...] | None,
        alloc: _Allocate | None,
        timeout: float,
    ) -> Call: ...
    def send(
        self, array: _Array, dtype: int, shape: Sequence[int], extra: int, dest: int, tag: int, timeout: float
    ) -> Call: ...
    def recv(self, alloc: _Allocate, source: int, tag: int, timeout: float) -> Call: ...
    def probe(self, source: int, tag: int, timeout: float) -> Call: ...
    def probe_now(self, source: int, tag: int) -> _Message | None: ...
    def offer(self, color: int, key: int) -> bytes: ...
    def build(self, members: NDArray[np.uint8]) -> Comm | None: ...
    def close(self) -> None: ...
    def describe(self) -> tuple[int, int, int, int, tuple[int, ...], tuple[int, ...]]: ...
