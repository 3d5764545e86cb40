"""What the ranks that are left agree on."""

from libc.stdint cimport uint64_t

from commops._engine cimport Comm
from commops._native cimport check
from commops._work cimport Call, new_call
from commops.core cimport (
    cbool, cmo_agree_build, cmo_agree_cancel, cmo_agree_flag, cmo_agree_start, cmo_agree_whole, cmo_comm, cmo_engine,
    cmo_engine_enter, cmo_engine_leave, cmo_err, cmo_shrink_start
)


cdef int see_to_end(Call call) except -1:
    """Wait for the end of the call. Interrupted, it is ended, so that it may be made again."""
    try:
        call.wait(-1.0)
    except BaseException:
        if not call.done:
            with nogil:
                cmo_agree_cancel(&call.op)
        raise


def agree(Comm comm not None, uint64_t flag, double timeout, cbool leaves=False):
    """The AND of the flags of all who are left. `leaves`: behind who does not answer, and 0 is returned then."""
    cdef Call call = new_call(comm)
    cdef cmo_err err
    call.launch()
    comm.engine.inside += 1
    try:
        with nogil:
            err = cmo_agree_start(&call.op, comm.core, flag, leaves, timeout)
        call.launched(err)
        see_to_end(call)
        return cmo_agree_flag(&call.op) if not leaves or cmo_agree_whole(&call.op) else 0
    finally:
        comm.engine.inside -= 1


def shrink(Comm comm not None, double timeout):
    """The communicator of those who are left."""
    cdef Comm child = Comm.__new__(Comm)
    cdef Call call = new_call(comm)
    cdef cmo_comm *core = NULL
    cdef cmo_err err
    call.launch()
    cdef cmo_engine *engine = comm.engine.engine
    comm.engine.inside += 1
    try:
        with nogil:
            err = cmo_shrink_start(&call.op, comm.core, timeout)
        call.launched(err)
        see_to_end(call)
        with nogil:
            cmo_engine_enter(engine)
            err = cmo_agree_build(comm.core, &core)
            cmo_engine_leave(engine)
        check(err)
        child.take(comm.engine, core)
        return child
    finally:
        comm.engine.inside -= 1
