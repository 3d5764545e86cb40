from libc.stdint cimport uint64_t

from commops._engine cimport Comm
from commops.core cimport CMO_MAX_DIMS, cbool, cmo_call, cmo_dtype, cmo_err, cmo_layout, cmo_op, cmo_status, iovec


cdef struct PlainTarget:
    cmo_dtype dtype
    int ndim
    const uint64_t *shape
    void *data
    cbool refused
    void *call  # its Call, which says why it refuses; NULL: the message is left where it is


cdef class Call:
    cdef cmo_op op
    cdef cmo_call call
    cdef cmo_status status
    cdef uint64_t shape[CMO_MAX_DIMS]
    cdef Comm comm
    cdef PlainTarget target
    cdef iovec *parts  # owned
    cdef object keep, allocate, array, error, on_done

    cdef int launch(self) except -1
    cdef int launched(self, cmo_err err) except -1
    cdef void outlive(self) noexcept
    cdef int finish(self, cmo_err err) except -1
    cdef cmo_err see_to_end(self, double seconds) noexcept


cdef class Started:
    cdef public tuple _calls
    cdef public object _finish, _result, _error
    cdef public bint _settled
    cdef bint follows  # it is a single call, whose array is the result

    cdef void follow(self, Call call) noexcept
    cdef void settle(self, object result) noexcept


cdef Call new_call(Comm comm)
cdef Started new_started(work)
cdef tuple status_tuple(cmo_status *s)
cdef cmo_err allocate(void *ctx, const cmo_layout *layout, void **address) noexcept with gil
