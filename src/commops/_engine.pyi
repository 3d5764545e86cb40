"""A rank's engine, its shared memory and its communicators: see `_native.pyi`."""

from typing import Any, Self, final

import numpy as np
from numpy.typing import NDArray

from commops.dtypes import Array

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
    def array(self, shape: tuple[int, ...], dtype: np.dtype[Any]) -> Array: ...

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
        host_names: list[str],
        tls: bytes | None = None,
        generation: int = 0,
        exact: bool = False,
    ) -> Self: ...
    @property
    def window(self) -> Window: ...
    def close(self) -> None: ...
    def flight(self) -> bytes | None: ...
    def world(self) -> Comm: ...

@final
class Comm:
    @property
    def window(self) -> Window: ...
    @property
    def tls_kernel(self) -> bool: ...
    def offer(self, color: int, key: int) -> bytes: ...
    def build(self, members: NDArray[np.uint8]) -> Comm | None: ...
    def revoke(self) -> None: ...
    @property
    def failed(self) -> bool: ...
    def close(self) -> None: ...
    def describe(self) -> tuple[int, int, int, int, tuple[int, ...], tuple[int, ...]]: ...
