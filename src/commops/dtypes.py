"""The dtypes that ranks exchange, and the numbers that the core knows them by."""

from __future__ import annotations

from typing import Any, TypeAlias

import numpy as np

from commops._core import native

__all__ = ["Array", "code_of", "dtype_of"]

Array: TypeAlias = np.ndarray[Any, Any]

_NAMES: list[str] = native.DTYPES
_CODES: dict[np.dtype[Any], int] = {
    np.dtype(name): code for code, name in enumerate(_NAMES) if name != "bfloat16"
}


def code_of(dtype: np.dtype[Any], name: str = "x") -> int:
    """Return the core's number of a dtype.

    Raises
    ------
    TypeError
        If it is none that ranks exchange: a NumPy bool or numeric dtype in native byte order, or bfloat16.
    """
    code = _CODES.get(dtype)
    if code is None:
        code = _CODES[dtype] = _learn(dtype, name)
    return code


def dtype_of(code: int) -> np.dtype[Any]:
    """Return the dtype that has this number in the core.

    Raises
    ------
    ImportError
        If it is bfloat16 and the package ml_dtypes is not installed.
    """
    name = _NAMES[code]
    if name == "bfloat16":
        try:
            import ml_dtypes
        except ImportError as error:
            raise ImportError(
                "a bfloat16 array came, and ml_dtypes is not here: pip install ml_dtypes"
            ) from error
        bfloat16: np.dtype[Any] = np.dtype(ml_dtypes.bfloat16)
        return bfloat16
    return np.dtype(name)


def _learn(dtype: np.dtype[Any], name: str) -> int:
    """Find the number of a dtype that is not in the table: bfloat16, or another C type of a known size."""
    if dtype.name == "bfloat16" and dtype.itemsize == 2:
        return _NAMES.index("bfloat16")
    if not dtype.isnative:
        raise TypeError(
            f"{name} has dtype {dtype}, which is not in this machine's byte order:"
            f" use {name}.astype({dtype.newbyteorder('=').name!r})"
        )
    if dtype.kind in "iu" and dtype.name in _NAMES:  # long and long long are both int64
        return _NAMES.index(dtype.name)
    raise TypeError(
        f"{name} has dtype {dtype}; bool and numeric dtypes are exchanged as arrays,"
        " others with the …_object calls"
    )
