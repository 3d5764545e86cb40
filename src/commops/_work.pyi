"""Calls in progress: see `_native.pyi`."""

from collections.abc import Callable
from typing import Any, TypeAlias, final

from typing_extensions import disjoint_base

from commops.dtypes import Array

_Message: TypeAlias = tuple[int, int, int, int, int, tuple[int, ...]]
"""Source, tag, bytes, dtype, extra (the number that its sender gave), shape."""

_Allocate: TypeAlias = Callable[[int, tuple[int, ...], list[int] | None, int, int, int], Array]
"""Given dtype, shape, counts, extra, source and tag, returns the array that receives; may raise to refuse."""

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

def when_ended(call: Call, f: Callable[[], object]) -> None: ...
