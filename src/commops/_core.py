"""The compiled core, or an ImportError that says how to get it."""

from __future__ import annotations

try:
    from commops import _native as native
except ImportError as error:
    raise ImportError(
        f"commops' compiled core cannot be imported ({error}). Install the package (`pip install .` in a"
        " checkout needs a C compiler), and do not import it from the source folder."
    ) from error

__all__ = ["native"]
