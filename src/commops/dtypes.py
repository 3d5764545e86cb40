"""The dtypes that ranks exchange, and the numbers that the core knows them by."""

from __future__ import annotations

import importlib
import sys
from typing import Any, TypeAlias

import numpy as np

from commops._core import native

__all__ = ["Array", "code_of", "dtype_of"]

Array: TypeAlias = np.ndarray[Any, Any]

# Dtypes that NumPy itself has not, and the packages that bring them, as attributes of the same names. Such a
# package is imported when an array of its dtype arrives, not before.
_EXTENSIONS = {"bfloat16": "ml_dtypes"}

_NAMES: list[str] = native.DTYPES
_CODES: dict[np.dtype[Any], int] = {
    np.dtype(name): code for code, name in enumerate(_NAMES) if name not in _EXTENSIONS
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
        If it is none of NumPy's own, such as bfloat16, and the package that brings it is not installed.
    """
    name = _NAMES[code]
    package = _EXTENSIONS.get(name)
    if package is None:
        return np.dtype(name)
    try:
        module = importlib.import_module(package)
    except ImportError as error:
        raise ImportError(f"a {name} array came, and {package} is not here: pip install {package}") from error
    dtype: np.dtype[Any] = np.dtype(getattr(module, name))
    return dtype


def _learn(dtype: np.dtype[Any], name: str) -> int:
    """Find the number of a dtype that is not in the table: an extension's, or a C type of a known size."""
    # Whoever has an array of such a dtype has imported its package; one of that name elsewhere is another.
    package = _EXTENSIONS.get(dtype.name)
    if package is not None and dtype.type is getattr(sys.modules.get(package), dtype.name, None):
        return _NAMES.index(dtype.name)
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
