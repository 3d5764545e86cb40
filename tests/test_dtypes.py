"""What Python knows of the dtypes and operations of the core: a row there must not be forgotten here."""

from __future__ import annotations

import sys

import ml_dtypes
import numpy as np
import pytest

from commops._core import native
from commops.dtypes import code_of, dtype_of
from commops.reduction_calls import _identity

# NumPy's own definitions of the reductions, of two arrays. The mean of no arrays is not a number.
FOLDS = {
    "sum": np.add, "prod": np.multiply, "min": np.minimum, "max": np.maximum, "band": np.bitwise_and,
    "bor": np.bitwise_or, "bxor": np.bitwise_xor, "land": np.logical_and, "lor": np.logical_or,
    "lxor": np.logical_xor,
}  # fmt: skip


@pytest.mark.parametrize("code", range(len(native.DTYPES)), ids=native.DTYPES)
def test_every_dtype_of_the_core_has_its_number(code: int) -> None:
    dtype = dtype_of(code)
    assert dtype == np.dtype(getattr(ml_dtypes, native.DTYPES[code], native.DTYPES[code]))
    assert code_of(dtype) == code


@pytest.mark.parametrize("character", "bhilqBHILQ")
def test_c_types_of_one_size_have_one_number(character: str) -> None:
    dtype = np.dtype(character)
    kind = "int" if dtype.kind == "i" else "uint"
    assert native.DTYPES[code_of(dtype)] == f"{kind}{8 * dtype.itemsize}"


def test_a_dtype_of_a_name_that_we_know_is_another_where_its_package_has_not_been_imported(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("commops.dtypes._CODES", {})
    monkeypatch.delitem(sys.modules, "ml_dtypes")
    with pytest.raises(TypeError, match="x has dtype bfloat16"):
        code_of(np.dtype(ml_dtypes.bfloat16))


def test_an_extension_whose_package_is_not_installed_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "ml_dtypes", None)
    with pytest.raises(ImportError, match=r"a bfloat16 array came.*pip install ml_dtypes"):
        dtype_of(native.DTYPES.index("bfloat16"))


@pytest.mark.parametrize("name", native.DTYPES)
def test_the_exscan_of_no_arrays_changes_nothing_that_is_folded_with_it(name: str) -> None:
    code = native.DTYPES.index(name)
    dtype = dtype_of(code)
    ops = [op for op, number in native.OPS.items() if native.reducible(code, number)]
    assert {"sum", "prod"} <= set(ops)
    values = np.array([0, 1, 2, 100], dtype)
    for op in ops:
        nothing = _identity(op, dtype)
        assert nothing.dtype == dtype
        if op == "mean":
            assert np.isnan(nothing)
            continue
        wanted = values.astype(bool) if op.startswith("l") else values
        np.testing.assert_array_equal(FOLDS[op](nothing, values), wanted, err_msg=op)


def test_an_operation_without_an_exscan_of_no_arrays_is_an_error() -> None:
    with pytest.raises(NotImplementedError, match="'hypot'"):
        _identity("hypot", np.dtype("float64"))
