"""Plain arrays: exactly ndarray, contiguous, aligned, in native byte order, of one of NumPy's own dtypes.

What is accepted here must mean what it means in commops.arguments, calls and reduction_calls, which look at all else:
tests/comm/test_plain_arrays.py has ranks go both ways in one call."""

from libc.string cimport memcmp

cimport numpy as cnp

from commops._native cimport code_of_type

cdef enum:
    LIGHT_BYTES = 16384  # calls of up to this much are begun without giving up the interpreter's lock


cdef inline int plain_dtype(x) noexcept:
    """The core's number of the dtype of a plain array; -1 for anything else."""
    return code_of_type(cnp.PyArray_TYPE(x)) if cnp.PyArray_CheckExact(x) and cnp.PyArray_ISCARRAY_RO(x) else -1


cdef inline object plain_result(out, x, const cnp.npy_intp *dims):
    """What receives a result of x's dtype and this shape: `out`, or a new array if that is None. None: it cannot."""
    cdef int ndim = cnp.PyArray_NDIM(x), dtype = cnp.PyArray_TYPE(x)
    if out is None:
        return cnp.PyArray_EMPTY(ndim, <cnp.npy_intp *>dims, dtype, 0)
    if not (cnp.PyArray_CheckExact(out) and cnp.PyArray_ISCARRAY(out) and cnp.PyArray_TYPE(out) == dtype
            and cnp.PyArray_NDIM(out) == ndim):
        return None
    return out if memcmp(cnp.PyArray_DIMS(out), dims, ndim * sizeof(cnp.npy_intp)) == 0 else None


cdef inline bint overlap(x, y) noexcept:
    cdef char *a = <char *>cnp.PyArray_DATA(x)
    cdef char *b = <char *>cnp.PyArray_DATA(y)
    return a < b + cnp.PyArray_NBYTES(y) and b < a + cnp.PyArray_NBYTES(x)
