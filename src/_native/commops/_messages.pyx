"""Messages from one rank to another."""

from cpython.buffer cimport PyBUF_SIMPLE, PyBuffer_Release, PyObject_GetBuffer
from cpython.ref cimport Py_DECREF, Py_INCREF, PyObject
from libc.stdint cimport int64_t, uint8_t, uint32_t, uint64_t
from libc.stdlib cimport calloc
from libc.string cimport memcmp, memcpy, memset

cimport numpy as cnp

from commops._engine cimport Comm
from commops._native cimport LAST_TAG, code_of_type
from commops._work cimport Call, PlainTarget, Started, allocate, new_call, new_started, status_tuple
from commops.core cimport (
    CMO_AGAIN, CMO_ANY, CMO_EINVAL, CMO_OK, cbool, cmo_allocate, cmo_dtype, cmo_err, cmo_fail, cmo_layout, cmo_message,
    cmo_op, cmo_probe_now, cmo_probe_start, cmo_recv_begin, cmo_recv_now, cmo_recv_start, cmo_send_begin, cmo_send_now,
    cmo_send_rest, cmo_send_start, cmo_status, iovec
)
from commops.plain cimport LIGHT_BYTES, overlap, plain_dtype

cnp.import_array()


def send(Comm comm not None, array, int dtype, tuple shape, uint32_t extra, int dest, int64_t tag, double timeout,
         bint waits):
    """Start sending a contiguous array; returns the Call. `waits`: it will be waited for at once."""
    cdef Call call = new_call(comm)
    cdef cmo_message m
    cdef cmo_err err
    cdef int i
    call.keep = array
    memset(&m, 0, sizeof(m))
    m.peer, m.tag, m.dtype, m.extra, m.ndim, m.waits = dest, tag, <cmo_dtype>dtype, extra, len(shape), waits
    for i in range(m.ndim):
        call.shape[i] = shape[i]
    m.shape, m.buffer, m.bytes = call.shape, cnp.PyArray_DATA(array), cnp.PyArray_NBYTES(array)
    call.launch()
    with nogil:
        err = cmo_send_start(&call.op, comm.core, &m, timeout)
    call.launched(err)
    return call


def recv(Comm comm not None, alloc, int source, int64_t tag, double timeout, bint waits):
    """Start receiving; `alloc` is asked for the array when a message has matched. Returns the Call. `waits`: it will
    be waited for at once."""
    cdef Call call = new_call(comm)
    cdef cmo_message m
    cdef cmo_err err
    call.allocate = alloc
    memset(&m, 0, sizeof(m))
    m.peer, m.tag, m.allocate, m.allocate_ctx, m.waits = source, tag, allocate, <void *>call, waits
    call.launch()
    with nogil:
        err = cmo_recv_start(&call.op, comm.core, &m, timeout, &call.status)
    call.launched(err)
    return call


def probe(Comm comm not None, int source, int64_t tag, double timeout):
    """Start waiting for a message that fits, without taking it. Returns the Call."""
    cdef Call call = new_call(comm)
    cdef cmo_err err
    call.launch()
    with nogil:
        err = cmo_probe_start(&call.op, comm.core, source, tag, timeout, &call.status)
    call.launched(err)
    return call


def probe_now(Comm comm not None, int source, int64_t tag):
    """The message that fits (see Call.message), or None."""
    cdef cmo_status status
    cdef cmo_op op
    cdef cmo_err err
    comm.usable()
    comm.engine.inside += 1
    with nogil:
        err = cmo_probe_now(&op, comm.core, source, tag, &status)
    comm.engine.inside -= 1
    if err == CMO_AGAIN:
        return None
    comm.finish(&op, err)
    return status_tuple(&status)


# ---- plain arrays (commops/plain.pxd)

cdef inline bint sends(cmo_message *m, Comm comm, x, dest, tag, uint32_t extra) except -1:
    """Write down the message that sends a plain array. False: it is none, or something is wrong."""
    cdef int dtype = plain_dtype(x)
    if dtype < 0 or type(dest) is not int or type(tag) is not int:
        return False
    comm.usable()
    if not (0 <= dest < comm.core.size and 0 <= tag <= LAST_TAG):
        return False
    memset(m, 0, sizeof(m[0]))
    m.peer, m.tag, m.dtype, m.extra, m.ndim = dest, tag, <cmo_dtype>dtype, extra, cnp.PyArray_NDIM(x)
    m.shape, m.buffer, m.bytes = <uint64_t *>cnp.PyArray_DIMS(x), cnp.PyArray_DATA(x), cnp.PyArray_NBYTES(x)
    return True


cdef inline bint receives(cmo_message *m, Comm comm, source, tag, cmo_allocate into, void *target) except -1:
    """Write down a receive for which `into` finds room. False: something is wrong."""
    if type(source) is not int or type(tag) is not int:
        return False
    comm.usable()
    if not (CMO_ANY <= source < comm.core.size and CMO_ANY <= tag <= LAST_TAG):
        return False
    memset(m, 0, sizeof(m[0]))
    m.peer, m.tag, m.allocate, m.allocate_ctx = source, tag, into, target
    return True


cdef inline bint aims(PlainTarget *target, out, void *call) noexcept:
    """Write down a plain array that is to receive. False: it is none, or read-only."""
    cdef int dtype = plain_dtype(out)
    if dtype < 0 or not cnp.PyArray_ISWRITEABLE(out):
        return False
    target.dtype, target.ndim, target.refused = <cmo_dtype>dtype, cnp.PyArray_NDIM(out), False
    target.shape, target.data, target.call = <uint64_t *>cnp.PyArray_DIMS(out), cnp.PyArray_DATA(out), call
    return True


cdef cmo_err plain_target(void *ctx, const cmo_layout *layout, void **address) noexcept nogil:
    """Receive into the array of a plain_recv or plain_irecv, or leave the message where it is."""
    cdef PlainTarget *target = <PlainTarget *>ctx
    if (layout.dtype != target.dtype or layout.ndim != target.ndim or layout.extra != 0
            or memcmp(layout.shape, target.shape, layout.ndim * sizeof(uint64_t)) != 0):
        target.refused = True
        if target.call != NULL:
            return allocate(target.call, layout, address)
        return cmo_fail(CMO_EINVAL, b"the array does not fit")
    address[0] = target.data
    return CMO_OK


def plain_send(Comm comm not None, x, dest, tag, double timeout, uint32_t extra=0):
    """Send a plain array and wait until it may be used again. False: it is none, or something is wrong, and nothing
    was done."""
    cdef cmo_message m
    cdef cmo_op op
    if not sends(&m, comm, x, dest, tag, extra):
        return False
    comm.engine.inside += 1
    comm.finish(&op, comm.ended(&op, cmo_send_begin(&op, comm.core, &m, timeout, m.bytes <= LIGHT_BYTES)))
    return True


def plain_recv(Comm comm not None, out, source, tag, double timeout):
    """Receive into a plain array. False: it is none, or something is wrong, or the message does not fit."""
    cdef PlainTarget target
    cdef cmo_message m
    cdef cmo_op op
    cdef cmo_err err
    if not (aims(&target, out, NULL) and receives(&m, comm, source, tag, plain_target, &target)):
        return False
    comm.engine.inside += 1
    err = cmo_recv_begin(&op, comm.core, &m, timeout, NULL, cnp.PyArray_NBYTES(out) <= LIGHT_BYTES)
    err = comm.ended(&op, err)
    if target.refused:
        return False
    comm.finish(&op, err)
    return True


cdef Started sent_now(Comm comm, work, x, cmo_message *m, double timeout):
    """Send a plain array without asking its receiver. None: it is too large for that, or it cannot go at once, and
    nothing was done."""
    cdef Started started = new_started(work)
    cdef Call call
    cdef cbool rest
    cdef cmo_err err
    call, comm.spare = comm.spare, None  # another thread may send meanwhile
    if call is None:
        call = Call.__new__(Call)
    comm.engine.inside += 1
    if m.bytes <= LIGHT_BYTES:
        err = cmo_send_now(comm.core, m, &rest)
    else:
        with nogil:
            err = cmo_send_now(comm.core, m, &rest)
    comm.engine.inside -= 1
    if not rest:
        comm.spare = call
        if err != CMO_OK:
            return None
        started.settle(None)
        return started
    call.comm, call.keep = comm, x
    cmo_send_rest(&call.op, comm.core, m, timeout)
    started.follow(call)
    return started


cdef Started send_started(Comm comm, work, x, dest, tag, double timeout):
    """Start sending a plain array in whichever way. None: it is none (any more), or something is wrong."""
    cdef Started started = new_started(work)
    cdef Call call = new_call(comm)
    cdef cmo_message m
    cdef cmo_err err
    if not sends(&m, comm, x, dest, tag, 0):
        return None
    call.keep = x
    memcpy(call.shape, m.shape, m.ndim * sizeof(uint64_t))  # its own: x may be reshaped
    m.shape = call.shape
    call.launch()
    with nogil:
        err = cmo_send_start(&call.op, comm.core, &m, timeout)
    call.launched(err)
    started.follow(call)
    return started


def plain_isend(Comm comm not None, work, x, dest, tag, double timeout):
    """Start sending a plain array and return a Work of the class `work`. None: it is none, or something is wrong,
    and nothing was done."""
    cdef cmo_message m
    if not sends(&m, comm, x, dest, tag, 0):
        return None
    sent = sent_now(comm, work, x, &m, timeout)
    return send_started(comm, work, x, dest, tag, timeout) if sent is None else sent


def plain_irecv(Comm comm not None, work, receiving, out, source, tag, double timeout):
    """Start receiving into a plain array and return a Work of the class `work`. None: it is none, or something is
    wrong, or another thread drives, and nothing was done. `receiving` makes from `out` what is asked where a message
    does not fit, to say why."""
    cdef cmo_message m
    cdef Started started = new_started(work)
    cdef Call call = new_call(comm)
    cdef cmo_err err
    if not (aims(&call.target, out, <void *>call) and receives(&m, comm, source, tag, plain_target, &call.target)):
        return None
    call.keep, call.array = receiving, out
    memcpy(call.shape, call.target.shape, call.target.ndim * sizeof(uint64_t))  # its own: out may be reshaped
    call.target.shape = call.shape
    comm.engine.inside += 1
    if cnp.PyArray_NBYTES(out) <= LIGHT_BYTES:
        err = cmo_recv_now(&call.op, comm.core, &m, timeout, NULL)
    else:
        with nogil:
            err = cmo_recv_now(&call.op, comm.core, &m, timeout, NULL)
    comm.engine.inside -= 1
    if err != CMO_OK:
        return None
    started.follow(call)
    return started


def plain_sendrecv(Comm comm not None, work, x, dest, source, out, tag, double timeout):
    """Send a plain array and receive into another, and return True. False: one of them is none, or something is
    wrong, and nothing was done. A Work of the class `work`: it sends x, but what comes does not fit `out`."""
    cdef cmo_message m
    comm.usable()
    if (plain_dtype(x) < 0 or plain_dtype(out) < 0 or not cnp.PyArray_ISWRITEABLE(out) or overlap(x, out)
            or type(source) is not int or not CMO_ANY <= source < comm.core.size
            or not sends(&m, comm, x, dest, tag, 0)):
        return False
    sent = sent_now(comm, work, x, &m, timeout)
    asks = sent is None
    if asks:
        sent = send_started(comm, work, x, dest, tag, timeout)
        if sent is None:
            return False
    received = plain_recv(comm, out, source, tag, timeout)
    if received or not asks:  # whoever refuses what comes may be waited for by a receiver that refuses as well
        sent.wait()
    return True if received else sent


# ---- bytes, for Python objects

def joined(list parts, size_t alignment):
    """A new array of the bytes of all parts. What is neither the first nor the second begins at a multiple of
    `alignment`, and the size is one."""
    cdef Py_buffer view
    cdef size_t at = 0, rest
    cdef cnp.npy_intp size = 0
    cdef int i = 0
    cdef char *to
    for part in parts:
        i += 1
        size += len(part)
        if i > 1:
            size += <cnp.npy_intp>(-<size_t>size % alignment)
    array = cnp.PyArray_EMPTY(1, &size, cnp.NPY_UINT8, 0)
    to = <char *>cnp.PyArray_DATA(array)
    i = 0
    for part in parts:
        i += 1
        PyObject_GetBuffer(part, &view, PyBUF_SIMPLE)
        try:
            if at + <size_t>view.len > <size_t>size:
                raise BufferError("a buffer has grown")
            memcpy(to + at, view.buf, view.len)
            at += view.len
        finally:
            PyBuffer_Release(&view)
        if i > 1:
            rest = -at % alignment
            memset(to + at, 0, rest)
            at += rest
    return array


def send_parts(Comm comm not None, list parts, uint32_t extra, int dest, int64_t tag, double timeout):
    """Send bytes that lie in several buffers, none of them empty, as one array, and wait until they may be used
    again."""
    cdef Call call = new_call(comm)
    cdef cmo_message m
    cdef Py_buffer view
    cdef cmo_err err
    cdef int i
    call.keep = parts
    call.parts = <iovec *>calloc(len(parts), sizeof(iovec))
    if call.parts == NULL:
        raise MemoryError
    for i in range(len(parts)):
        PyObject_GetBuffer(parts[i], &view, PyBUF_SIMPLE)
        call.parts[i].iov_base, call.parts[i].iov_len = view.buf, view.len
        call.shape[0] += view.len
        PyBuffer_Release(&view)
    memset(&m, 0, sizeof(m))
    m.peer, m.tag, m.dtype, m.extra, m.ndim = dest, tag, <cmo_dtype>code_of_type(cnp.NPY_UINT8), extra, 1
    m.shape, m.parts, m.bytes, m.waits = call.shape, call.parts, call.shape[0], True
    call.launch()
    with nogil:
        err = cmo_send_start(&call.op, comm.core, &m, timeout)
    call.launched(err)
    call.wait(-1.0)


cdef struct NewBytes:
    uint32_t extra
    PyObject *array  # owned
    cbool refused


cdef cmo_err new_bytes(void *ctx, const cmo_layout *layout, void **address) noexcept with gil:
    """Make the array of a recv_bytes, or leave the message where it is."""
    cdef NewBytes *target = <NewBytes *>ctx
    cdef cnp.npy_intp size
    try:
        if layout.extra == target.extra and layout.ndim == 1 and <int>layout.dtype == code_of_type(cnp.NPY_UINT8):
            size = <cnp.npy_intp>layout.shape[0]
            array = cnp.PyArray_EMPTY(1, &size, cnp.NPY_UINT8, 0)
            Py_INCREF(array)
            target.array, address[0] = <PyObject *>array, cnp.PyArray_DATA(array)
            return CMO_OK
    except BaseException:
        pass  # whoever looks next at the message says why
    target.refused = True
    return cmo_fail(CMO_EINVAL, b"no such message")


def recv_bytes(Comm comm not None, uint32_t extra, source, tag, double timeout):
    """Receive a new array of bytes that was sent with this `extra`. None: something is wrong, or another message
    has come."""
    cdef NewBytes target
    cdef cmo_message m
    cdef cmo_op op
    cdef cmo_err err
    if not receives(&m, comm, source, tag, new_bytes, &target):
        return None
    target.extra, target.array, target.refused = extra, NULL, False
    comm.engine.inside += 1
    err = comm.ended(&op, cmo_recv_begin(&op, comm.core, &m, timeout, NULL, True))
    array = None
    if target.array != NULL:
        array = <object>target.array
        Py_DECREF(array)
    if target.refused:
        return None
    comm.finish(&op, err)
    return array
