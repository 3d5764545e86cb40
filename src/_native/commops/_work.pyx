"""Calls in progress: the core's own, and what a Work is made of."""

from cpython.object cimport PyTypeObject
from cpython.ref cimport Py_DECREF, Py_INCREF, PyObject
from libc.stdlib cimport free

cimport cython
cimport numpy as cnp

from commops._engine cimport Comm
from commops.core cimport (
    CMO_EINVAL, CMO_OK, cmo_err, cmo_fail, cmo_layout, cmo_op_drop, cmo_op_ended, cmo_op_wait, cmo_status
)

cnp.import_array()

cdef tuple nothing = ()


@cython.freelist(64)
cdef class Call:
    """One call in progress. Owns what the core reads and writes until the call has ended."""

    def __dealloc__(self):
        free(self.parts)

    cdef int launch(self) except -1:
        """Keep the call until it has ended; the core is about to be asked for it."""
        self.comm.usable()
        self.op.on_done, self.op.on_done_ctx = call_ended, <void *>self
        Py_INCREF(self)
        self.comm.engine.inside += 1
        return 0

    cdef int launched(self, cmo_err err) except -1:
        """What the core has answered to it."""
        self.comm.engine.inside -= 1
        if err != CMO_OK:
            Py_DECREF(self)
            self.finish(err)
        return 0

    cdef void outlive(self) noexcept:
        """Nobody follows it any more: keep it until it has ended, when the core lets go of it."""
        if self.op.on_done != NULL or self.comm.engine.gone():
            return  # it does already; or it has ended, or never will
        if cmo_op_drop(&self.op, call_ended, <void *>self):
            Py_INCREF(self)

    cdef int finish(self, cmo_err err) except -1:
        """Turn the core's answer into a return or an exception. `err` and its reason are this thread's."""
        if err != CMO_OK and self.error is not None:
            raise self.error
        return self.comm.finish(&self.op, err)

    def wait(self, double seconds):
        """Until the call has ended; CommTimeoutError after `seconds` (negative: never) leaves it as it is."""
        self.comm.engine.alive()
        self.finish(self.see_to_end(seconds))

    cdef cmo_err see_to_end(self, double seconds) noexcept:
        cdef cmo_err err
        self.comm.engine.inside += 1
        with nogil:
            err = cmo_op_wait(&self.op, seconds)
        self.comm.engine.inside -= 1
        return err

    @property
    def done(self):
        return cmo_op_ended(&self.op)

    @property
    def result(self):
        """What `allocate` has returned, if it was asked."""
        return self.array

    def message(self):
        """(source, tag, bytes, dtype code, extra, shape) of the received or probed message."""
        return status_tuple(&self.status)


cdef Call new_call(Comm comm):
    cdef Call call = Call.__new__(Call)
    call.comm = comm
    return call


cdef class Started:
    """What a Work is made of: the core's calls, and what has come of them."""

    cdef void follow(self, Call call) noexcept:
        self._calls = (call,)
        self.follows = True

    def __del__(self):
        if self.follows and self._calls:
            (<Call>self._calls[0]).outlive()

    def wait(self, timeout=None):
        """Wait for the end of the call and return its result.

        Parameters
        ----------
        timeout : float, optional
            Seconds. None: until the call ends, at the latest at its own deadline.

        Raises
        ------
        TypeError, ValueError
            If `timeout` is no number of seconds from 0 up.
        CommTimeoutError
            If `timeout` has passed. The call goes on.
        Exception
            Whatever the call raises.
        """
        cdef Call call
        cdef cmo_err err
        if timeout is not None or self._error is not None:
            return self._wait(timeout)
        if self._settled:
            return self._result
        if not self.follows:
            return self._wait(timeout)
        call = <Call>self._calls[0]
        if not cmo_op_ended(&call.op):
            call.comm.engine.alive()
            err = call.see_to_end(-1.0)
            if not cmo_op_ended(&call.op):
                call.finish(err)
        if call.op.err != CMO_OK:
            return self._wait(timeout)
        self.settle(call.array)
        return self._result

    cdef void settle(self, object result) noexcept:
        self._result = result
        self._settled = True
        self._calls = nothing


cdef Started new_started(work):
    """A new object of the class `work`, in less time than a call of it takes."""
    return <Started>(<PyTypeObject *>work).tp_new(<type>work, <PyObject *>nothing, NULL)


cdef tuple status_tuple(cmo_status *s):
    return (s.source, s.tag, s.bytes, <int>s.dtype, s.extra, tuple([s.shape[i] for i in range(s.ndim)]))


cdef cmo_err allocate(void *ctx, const cmo_layout *layout, void **address) noexcept with gil:
    cdef Call call = <Call>ctx
    cdef int i
    try:
        shape = tuple([layout.shape[i] for i in range(layout.ndim)])
        counts = [layout.counts[i] for i in range(layout.ncounts)] if layout.counts != NULL else None
        if call.target.refused:
            call.allocate, _ = call.keep(call.array, False)
        array = call.allocate(<int>layout.dtype, shape, counts, layout.extra, layout.source, layout.tag)
        call.array = array
        address[0] = cnp.PyArray_DATA(array)
        return CMO_OK
    except BaseException as error:
        call.error = error
        return cmo_fail(CMO_EINVAL, b"the receiver refuses it")


cdef void call_ended(void *ctx) noexcept with gil:
    cdef Call call = <Call>ctx
    on_done, call.on_done = call.on_done, None
    try:
        if on_done is not None:
            for f in on_done:
                f()
    except BaseException:
        pass  # the callback is work.py's own, which reports by itself
    Py_DECREF(call)


def when_ended(Call call not None, f):
    """Call f() when the call has ended, from whatever thread ends it; at once if it has."""
    call.outlive()
    if cmo_op_ended(&call.op):
        f()
    elif call.on_done is None:
        call.on_done = [f]  # whoever ends it takes the interpreter's lock before it looks here
    else:
        call.on_done.append(f)
