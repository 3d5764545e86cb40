from libc.stdint cimport int64_t

from commops.core cimport cmo_err, cmo_tunables

cdef int64_t LAST_TAG

cdef int code_of_type(int number) noexcept
cdef int check(cmo_err err) except -1
cdef object error_of(int err, str reason)
cdef int set_tunables(cmo_tunables *values, dict chosen) except -1
