"""What the ranks that are left agree on."""

from libc.stdint cimport uint64_t

from commops._engine cimport Comm
from commops._native cimport check
from commops._work cimport Call, new_call
from commops.core cimport (
    cmo_agree_build, cmo_agree_flag, cmo_agree_start, cmo_engine_enter, cmo_engine_leave, cmo_err, cmo_shrink_start
)


def agree(Comm comm not None, uint64_t flag, double timeout):
    """The AND of the flags of all who are left."""
    cdef Call call = new_call(comm)
    cdef cmo_err err
    call.launch()
    with nogil:
        err = cmo_agree_start(&call.op, comm.core, flag, timeout)
    call.launched(err)
    call.wait(-1.0)
    return cmo_agree_flag(comm.core)


def shrink(Comm comm not None, double timeout):
    """The communicator of those who are left."""
    cdef Comm child = Comm.__new__(Comm)
    cdef Call call = new_call(comm)
    cdef cmo_err err
    call.launch()
    with nogil:
        err = cmo_shrink_start(&call.op, comm.core, timeout)
    call.launched(err)
    call.wait(-1.0)
    comm.engine.inside += 1
    with nogil:
        cmo_engine_enter(comm.engine.engine)
        err = cmo_agree_build(comm.core, &child.core)
        cmo_engine_leave(comm.engine.engine)
    comm.engine.inside -= 1
    check(err)
    child.engine = comm.engine
    return child
