"""What the core is and can do: src/_native/commops/_native.pyx.

This and the other compiled modules, each the source of its name in that folder, serve commops itself and
change without notice. Numbers of kinds, operations and dtypes are those of the C core. Arrays that are passed
in are C-contiguous and of the dtype that the number beside them names; `counts` are arrays of uint64 or None.
A failed call raises what `commops.errors` describes.
"""

from typing import Final

KINDS: Final[dict[str, int]]
"""Number of each collective: "barrier", "broadcast", …"""

MEANINGS: Final[dict[str, int]]
"""Number of what the arrays of a call that only moves them stand for: "objects", "split", …"""

OPS: Final[dict[str, int]]
"""Number of each reduction: "sum", "prod", …"""

DTYPES: Final[list[str]]
ERRORS: Final[list[str]]
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
def tls_version() -> str: ...
def check_tls(pem: bytes) -> None: ...
def staging(nlocal: int, slots: int, slot_bytes: int, pipe_bytes: int) -> tuple[int, int]: ...
