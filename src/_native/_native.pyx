"""The C core, bound: buffers in, results out. What calls mean is decided in commops.comm and the modules around it."""

from cpython.buffer cimport PyBUF_SIMPLE, PyBuffer_Release, PyObject_GetBuffer
from cpython.exc cimport PyErr_CheckSignals
from cpython.object cimport PyTypeObject
from cpython.ref cimport Py_DECREF, Py_INCREF, PyObject
from libc.stdint cimport int64_t, uint8_t, uint32_t, uint64_t
from libc.stdlib cimport calloc, free
from libc.string cimport memcmp, memcpy, memset

cimport cython
cimport numpy as cnp

import os
import time

import numpy as np

from commops import errors

cnp.import_array()

KINDS = {cmo_kind_name(<cmo_kind>i).decode(): i for i in range(CMO_NKINDS)}
cdef dict op_codes = {cmo_redop_name(<cmo_redop>i).decode(): i for i in range(CMO_NOPS)}
OPS = op_codes
DTYPES = [cmo_dtype_name(<cmo_dtype>i).decode() for i in range(CMO_NDTYPES)]
VERSION = COMMOPS_VERSION.decode()
ANY = CMO_ANY
MAX_DIMS = CMO_MAX_DIMS
MAX_TAG = 2**62 - 1

# The core's number of each of NumPy's own types, by NumPy's number of it; -1: the core has none.
cdef enum:
    NUMPY_TYPES = 24  # those that NumPy itself brings; the last is NPY_HALF

cdef int[NUMPY_TYPES] code_of_type


cdef void learn_types():
    cdef int i
    for i in range(NUMPY_TYPES):
        code_of_type[i] = -1
    for character in np.typecodes["All"]:
        dtype = np.dtype(character)
        for name in (dtype.name, dtype.type.__name__):  # long and long long share the first; long double has the second
            if name in DTYPES:
                code_of_type[dtype.num] = DTYPES.index(name)


learn_types()

# How often this process is a fork of the one that it was: an engine belongs to one process.
cdef int forks = 0


cdef void count_fork() noexcept nogil:
    global forks
    forks += 1


pthread_atfork(NULL, NULL, count_fork)


cdef int check(cmo_err err) except -1:
    if err == CMO_OK:
        return 0
    raise error_of(err, cmo_reason().decode(errors="replace"))


cdef object error_of(int err, str reason):
    if err == CMO_EINVAL:
        return ValueError(reason)
    if err == CMO_ETYPE:
        return TypeError(reason)
    if err == CMO_ENOMEM:
        return MemoryError(reason)
    if err == CMO_ESYS:
        return errors.CommError(reason)
    if err == CMO_ETIMEOUT:
        return errors.CommTimeoutError(reason)
    if err == CMO_EMISMATCH:
        return errors.MismatchError(reason)
    if err == CMO_EAUTH:
        return errors.AuthenticationError(reason)
    if err == CMO_EREVOKED:
        return errors.RevokedError(reason)
    if err == CMO_EINTERRUPT:
        return KeyboardInterrupt()
    return errors.CommError(reason)


def reducible(int dtype, int op):
    """Whether the reduction `op` has a meaning for the dtype."""
    return cmo_kernel_for(<cmo_dtype>dtype, <cmo_redop>op) != NULL


def isa():
    """Name of the instruction set that the kernels use."""
    return cmo_isa_name().decode()


def tunables():
    """Rows (name, environment variable, default, value, documentation); ValueError where the environment is wrong."""
    cdef cmo_tunables values
    check(cmo_isa_check())
    check(cmo_tunables_read(&values))
    cdef int64_t *value = <int64_t *>&values
    return [(cmo_tunable_rows[i].name.decode(), cmo_tunable_rows[i].env.decode(),
             cmo_tunable_default(&cmo_tunable_rows[i]), value[i], cmo_tunable_rows[i].doc.decode())
            for i in range(cmo_ntunables)]


cdef int set_tunables(cmo_tunables *values, dict chosen) except -1:
    for name, value in chosen.items():
        check(cmo_tunable_set(values, name.encode(), value))
    return 0


def check_tunables(dict chosen):
    """ValueError if a name is not that of a tunable, or a value is out of its bounds."""
    cdef cmo_tunables values
    set_tunables(&values, chosen)


def staging(int nlocal, int64_t slots, int64_t slot_bytes, int64_t pipe_bytes):
    """Bytes of shared memory that a rank has for each communicator, and for a pipe to each rank of its host, where
    `nlocal` are on it and the tunables have these values."""
    cdef size_t head = cmo_piece_head_bytes(nlocal), page = CMO_PAGE
    return (head + slots * slot_bytes + page - 1) // page * page, cmo_shm_pipe_bytes(nlocal, pipe_bytes)


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


cdef class Window:
    """This process's shared memory. Lives as long as the engine or any array in it does."""

    cdef cmo_window *window
    cdef int forks

    def __cinit__(self, int nlocal):
        self.forks = forks
        check(cmo_window_create(&self.window, nlocal, 0, nlocal == 1))

    def __dealloc__(self):
        cmo_window_destroy(self.window)

    @property
    def fd(self):
        """Its descriptor, to be handed to the other ranks of the host; -1 where there are none."""
        return cmo_window_fd(self.window)

    @property
    def used(self):
        """Bytes given out."""
        return cmo_window_used(self.window)

    @property
    def attaches(self):
        """Whether this rank may read the memory of every other process of its host; known once there is an engine."""
        return cmo_window_attaches(self.window)

    def allocate(self, size_t nbytes):
        """`nbytes` zeroed bytes that every rank of this host can address, as a Block."""
        cdef Block block = Block.__new__(Block)
        cdef uint64_t offset
        check(cmo_window_alloc(self.window, nbytes, &offset))
        block.window = self
        block.offset = offset
        block.nbytes = nbytes
        return block


cdef class Block:
    """Bytes of a window; freed with the last array that uses them."""

    cdef Window window
    cdef uint64_t offset
    cdef size_t nbytes

    def __dealloc__(self):
        if self.window is not None and self.window.forks == forks:
            cmo_window_free(self.window.window, self.offset, self.nbytes)

    def array(self, tuple shape, cnp.dtype dtype):
        """An ordinary array over the bytes."""
        cdef char *base = <char *>cmo_window_base(self.window.window) + self.offset
        cdef cnp.npy_intp n = <cnp.npy_intp>self.nbytes
        cdef cnp.ndarray flat = cnp.PyArray_SimpleNewFromData(1, &n, cnp.NPY_UINT8, base)
        cnp.set_array_base(flat, self)
        return flat.view(dtype).reshape(shape)


cdef cbool mac(void *token, const uint8_t *data, size_t n, uint8_t *out) noexcept with gil:
    try:
        import hmac

        digest = hmac.digest(<object>token, data[:n], "sha256")
        memcpy(out, <const uint8_t *><const char *>digest, 32)
        return True
    except BaseException:
        return False


cdef cbool interrupted(void *engine) noexcept with gil:
    try:
        PyErr_CheckSignals()
    except BaseException as error:
        (<Engine>engine).pending = error
        return True
    return False


cdef class Engine:
    """A rank's engine: its links, its communicators and its progress thread."""

    cdef cmo_engine *engine
    cdef readonly Window window
    cdef object token
    cdef object pending
    cdef int inside  # threads that are in a call; the interpreter's lock protects it
    cdef bint over  # closed: every call has ended, or never will
    cdef int forks
    cdef object __weakref__

    def __cinit__(self, int rank, int size, list hosts, Window window, list neighbours, *, bint share, list listeners,
                  list addresses, bytes job, object token, dict tunables, uint32_t generation=0):
        """`hosts`: a number per rank. `neighbours`: (window fd, doorbell fd, pidfd) of each rank of this host, in rank
        order, our own with window fd and pidfd -1; the descriptors are taken, those of windows even if this raises.
        `listeners`: listening sockets, taken; `addresses`: a string per rank; both empty where every rank is on this
        host and memory is shared. `tunables`: what goes before the environment and the defaults."""
        cdef cmo_world world
        cdef cmo_tcp_config tcp
        cdef cmo_net *net = NULL
        cdef int nlocal = len(neighbours), i
        cdef int *host = <int *>calloc(size, sizeof(int))
        cdef int *fds = <int *>calloc(len(listeners) + 1, sizeof(int))
        cdef const char **names = <const char **>calloc(size, sizeof(char *))
        cdef cmo_neighbour *near = <cmo_neighbour *>calloc(nlocal, sizeof(cmo_neighbour))
        memset(&world, 0, sizeof(world))
        memset(&tcp, 0, sizeof(tcp))
        self.window = window
        self.token = token
        self.forks = forks
        encoded = [a.encode() for a in addresses]
        try:
            if not (host and fds and names and near):
                raise MemoryError
            for i in range(size):
                host[i] = hosts[i]
            check(cmo_tunables_read(&world.tunables))
            set_tunables(&world.tunables, tunables)
            if listeners:
                for i in range(len(listeners)):
                    fds[i] = listeners[i]
                for i in range(size):
                    names[i] = encoded[i]
                tcp.rank, tcp.size, tcp.generation = rank, size, generation
                memcpy(tcp.job, <const char *>job, 16)
                tcp.listeners, tcp.nlisteners, tcp.addresses = fds, len(listeners), names
                tcp.mac, tcp.mac_ctx = mac, <void *>self.token
                tcp.handshake_ns = world.tunables.handshake_ms * 1000000
                tcp.user_timeout_ms, tcp.socket_bytes = world.tunables.user_timeout_ms, world.tunables.socket_bytes
                check(cmo_tcp_net(&net, &tcp))
            for i in range(nlocal):
                fd, near[i].doorbell, near[i].pidfd = neighbours[i]
                if fd < 0:
                    near[i].head, near[i].size = cmo_window_base(window.window), cmo_window_size(window.window)
                else:
                    check(cmo_window_map(fd, nlocal, &near[i].head, &near[i].size))
                    os.close(fd)
            world.rank, world.size, world.generation = rank, size, generation
            world.host, world.window, world.neighbours, world.nlocal = host, window.window, near, nlocal
            world.share, world.remote, world.collectives = share, net, &cmo_coll
            world.interrupted, world.interrupt_ctx = interrupted, <void *>self
            check(cmo_engine_create(&self.engine, &world))
            net = NULL
        finally:
            if net != NULL:
                net.ops.close(net)
            if self.engine == NULL:  # windows are taken all the same; doorbells and pidfds stay the caller's
                for i in range(nlocal):
                    if neighbours[i][0] >= 0 and near[i].head != NULL:
                        cmo_window_unmap(near[i].head, near[i].size)
                    elif neighbours[i][0] >= 0:
                        os.close(neighbours[i][0])
            free(host)
            free(fds)
            free(names)
            free(near)

    def __dealloc__(self):
        # Without close() there is no time to say goodbye here; what remains goes with the process.
        pass

    def close(self):
        """End every communicator. Waits for what is queued to go out, a few seconds at most."""
        cdef cmo_engine *engine = self.engine
        self.engine = NULL
        if engine == NULL or self.forks != forks:
            return
        with nogil:
            cmo_engine_close(engine)
        self.over = True
        for _ in range(5000):  # other threads' calls have ended; let them come out
            if not self.inside:
                break
            time.sleep(0.001)
        else:
            return  # a thread that is stopped in a call may still use the engine
        with nogil:
            cmo_engine_destroy(engine)

    cdef int alive(self) except -1:
        if self.engine == NULL:
            raise errors.RevokedError("the communicator is closed")
        if self.forks != forks:
            raise errors.CommError("this communicator was made by another process: call commops.init() after a fork,"
                                   " not before")
        return 0

    def world(self):
        """The communicator of all ranks."""
        cdef Comm comm = Comm.__new__(Comm)
        self.alive()
        comm.engine = self
        comm.comm = cmo_engine_world(self.engine)
        return comm


cdef struct PlainTarget:
    cmo_dtype dtype
    int ndim
    const uint64_t *shape
    void *data
    cbool refused
    void *call  # its Call, which says why it refuses; NULL: the message is left where it is


@cython.freelist(64)
cdef class Call:
    """One call in progress. Owns what the core reads and writes until the call has ended."""

    cdef cmo_op op
    cdef cmo_call call
    cdef cmo_status status
    cdef uint64_t shape[CMO_MAX_DIMS]
    cdef Comm comm
    cdef PlainTarget target
    cdef iovec *parts  # owned
    cdef object keep, allocate, array, error, on_done

    def __dealloc__(self):
        free(self.parts)

    cdef void outlive(self) noexcept:
        """Nobody follows it any more: keep it until it has ended, when the core lets go of it."""
        if self.op.on_done != NULL or self.comm.engine.over or self.comm.engine.forks != forks:
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


cdef tuple nothing = ()


cdef class Started:
    """What a Work is made of: the core's calls, and what has come of them."""

    cdef public tuple _calls
    cdef public object _finish, _result, _error
    cdef public bint _settled
    cdef bint follows  # it is a single call, whose array is the result

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
        self.settle(call)
        return self._result

    cdef void settle(self, Call call) noexcept:
        self._result = call.array
        self._settled = True
        self._calls = ()


cdef inline Started new_work(work):
    """A new object of the class, in less time than a call of it takes."""
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


cdef uint64_t *counts_of(object counts):
    return NULL if counts is None else <uint64_t *>cnp.PyArray_DATA(counts)


cdef int fill(cmo_call *call, uint64_t *dims, int kind, int op, int dtype, int root, array, out, uint64_t count, counts,
              recv_counts, bint exchange, tuple shape) except -1:
    """Write down a call. The arrays are borrowed; `dims` has room for a shape."""
    cdef int i
    call.kind, call.op, call.dtype, call.root = <cmo_kind>kind, <cmo_redop>op, <cmo_dtype>dtype, root
    call.in_ = NULL if array is None else cnp.PyArray_DATA(array)
    call.out = NULL if out is None else cnp.PyArray_DATA(out)
    call.count = count
    call.counts, call.recv_counts = counts_of(counts), counts_of(recv_counts)
    call.exchange = exchange
    if shape is not None:
        call.ndim = len(shape)
        for i in range(call.ndim):
            dims[i] = shape[i]
        call.shape = dims
    return 0


# ---- plain arrays: exactly ndarray, contiguous, aligned, in native byte order, of one of NumPy's own dtypes
#
# What is accepted here must mean what it means in commops.arguments, calls and reduction_calls, which look at all else:
# tests/comm/test_plain_arrays.py has ranks go both ways in one call.

cdef int64_t LAST_TAG = MAX_TAG, MOST_ROWS = 2**63 - 1

cdef enum:
    LIGHT_BYTES = 16384  # calls of up to this much are begun without giving up the interpreter's lock


cdef inline int plain_dtype(x) noexcept:
    """The core's number of the dtype of a plain array; -1 for anything else."""
    if not (cnp.PyArray_CheckExact(x) and cnp.PyArray_ISCARRAY_RO(x)):
        return -1
    cdef int number = cnp.PyArray_TYPE(x)
    return code_of_type[number] if number < NUMPY_TYPES else -1


cdef object plain_result(out, x, const cnp.npy_intp *dims):
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


cdef struct NewBytes:
    uint32_t extra
    PyObject *array  # owned
    cbool refused


cdef cmo_err new_bytes(void *ctx, const cmo_layout *layout, void **address) noexcept with gil:
    """Make the array of a recv_bytes, or leave the message where it is."""
    cdef NewBytes *target = <NewBytes *>ctx
    cdef cnp.npy_intp size
    try:
        if layout.extra == target.extra and layout.ndim == 1 and code_of_type[<int>cnp.NPY_UINT8] == <int>layout.dtype:
            size = <cnp.npy_intp>layout.shape[0]
            array = cnp.PyArray_EMPTY(1, &size, cnp.NPY_UINT8, 0)
            Py_INCREF(array)
            target.array, address[0] = <PyObject *>array, cnp.PyArray_DATA(array)
            return CMO_OK
    except BaseException:
        pass  # whoever looks next at the message says why
    target.refused = True
    return cmo_fail(CMO_EINVAL, b"no such message")


cdef class Comm:
    """A communicator of the core."""

    cdef Engine engine
    cdef Call spare  # for the rest of a message: nothing may be made while this thread keeps the engine
    cdef cmo_comm *comm
    cdef bint closed

    cdef int usable(self) except -1:
        self.engine.alive()
        if self.closed:
            raise errors.RevokedError("the communicator is closed")
        return 0

    cdef tuple lost(self):
        return () if self.closed else tuple([r for r in range(self.comm.size) if self.comm.lost[r]])

    cdef int finish(self, cmo_op *op, cmo_err err) except -1:
        """Turn the core's answer into a return or an exception. `err` and its reason are this thread's."""
        if err == CMO_OK:
            return 0
        reason = cmo_reason().decode(errors="replace")
        if err == CMO_EINTERRUPT:
            pending, self.engine.pending = self.engine.pending, None
            raise pending if pending is not None else KeyboardInterrupt()
        if err == CMO_EPEERLOST:
            raise errors.PeerLostError((op.lost,) if op.lost >= 0 else self.lost(), reason)
        raise error_of(err, reason)

    cdef cmo_err block(self, cmo_op *op, const cmo_call *call, double timeout, bint light) noexcept:
        self.engine.inside += 1
        return self.ended(op, cmo_call_begin(op, self.comm, call, timeout, light))

    cdef inline cmo_err ended(self, cmo_op *op, cmo_err err) noexcept:
        """See a blocking call to its end, which the core has begun; `inside` has been raised for it.

        A light one has mostly ended by then: to give up the interpreter's lock and take it again costs as much as
        all else in it."""
        if err == CMO_AGAIN:
            with nogil:
                err = cmo_op_finish(op)
        self.engine.inside -= 1
        return err

    cdef Call prepare(self, int kind, int op, int dtype, int root, array, out, uint64_t count, counts, recv_counts,
                      bint exchange, tuple shape, alloc):
        cdef Call call = Call.__new__(Call)
        call.comm = self
        call.keep = (array, out, counts, recv_counts)
        call.allocate = alloc
        fill(&call.call, call.shape, kind, op, dtype, root, array, out, count, counts, recv_counts, exchange, shape)
        if alloc is not None:
            call.call.allocate, call.call.allocate_ctx = allocate, <void *>call
        return call

    def run(self, int kind, int op, int dtype, int root, array, out, uint64_t count, counts, recv_counts, bint exchange,
            tuple shape, alloc, double timeout):
        """Make a collective and wait for its end. Returns what `alloc` returned, if it was asked.

        The arguments are those of cmo_call (src/_native/comm/call.h); arrays are contiguous and of the dtype, counts
        are uint64 arrays or None."""
        cdef Call call
        cdef cmo_op state
        cdef cmo_call request
        cdef uint64_t dims[CMO_MAX_DIMS]
        self.usable()
        if alloc is not None:
            call = self.prepare(kind, op, dtype, root, array, out, count, counts, recv_counts, exchange, shape, alloc)
            light = array is None or cnp.PyArray_NBYTES(array) <= LIGHT_BYTES
            call.finish(self.block(&call.op, &call.call, timeout, light))
            return call.array
        memset(&request, 0, sizeof(request))
        fill(&request, dims, kind, op, dtype, root, array, out, count, counts, recv_counts, exchange, shape)
        self.finish(&state, self.block(&state, &request, timeout, False))

    def plain(self, int kind, x, op, root, out, double timeout):
        """Make a collective of plain arrays, in equal blocks, and return its result.

        Plain is what needs no packing and no second look: contiguous arrays of NumPy's own dtypes, `op` by its name. Of
        anything else, and of what is wrong, nothing is done and NotImplemented is returned: commops.calls and
        commops.reduction_calls then look at it. Not for exscan, nor for broadcast and scatter."""
        cdef cmo_op state
        cdef cmo_call call
        cdef cnp.npy_intp dims[CMO_MAX_DIMS]
        cdef int dtype = plain_dtype(x), at
        cdef bint elementwise = kind == CMO_ALLREDUCE or kind == CMO_REDUCE or kind == CMO_SCAN
        if dtype < 0 or type(root) is not int:
            return NotImplemented
        self.usable()
        at = root if 0 <= root < self.comm.size else -1
        memset(&call, 0, sizeof(call))
        if elementwise or kind == CMO_REDUCE_SCATTER:
            number = op_codes.get(op) if type(op) is str else None
            if number is None or cmo_kernel_for(<cmo_dtype>dtype, <cmo_redop><int>number) == NULL:
                return NotImplemented
            call.op = <cmo_redop><int>number
        call.count = cnp.PyArray_SIZE(x)
        if at < 0 or not self.plain_shape(kind, x, &call.count, dims):
            return NotImplemented
        if (kind == CMO_REDUCE or kind == CMO_GATHER) and at != self.comm.rank:
            out = None
        else:
            out = plain_result(out, x, dims)
            if out is None:
                return NotImplemented
            call.out = cnp.PyArray_DATA(out)
        call.in_ = cnp.PyArray_DATA(x)
        if out is not None and overlap(x, out) and not (elementwise and call.out == call.in_):
            return NotImplemented
        call.kind, call.dtype, call.root = <cmo_kind>kind, <cmo_dtype>dtype, at
        self.finish(&state, self.block(&state, &call, timeout, cnp.PyArray_NBYTES(x) <= LIGHT_BYTES))
        return out

    cdef bint plain_shape(self, int kind, x, uint64_t *count, cnp.npy_intp *dims):
        """The shape of the result, and the elements of a block. False where blocks are not equal."""
        cdef int ndim = cnp.PyArray_NDIM(x), size = self.comm.size
        memcpy(dims, cnp.PyArray_DIMS(x), ndim * sizeof(cnp.npy_intp))
        if kind == CMO_ALLREDUCE or kind == CMO_REDUCE or kind == CMO_SCAN:
            return True
        if ndim == 0:
            return False
        if kind == CMO_GATHER or kind == CMO_ALLGATHER:
            if dims[0] > MOST_ROWS // size:
                return False
            dims[0] *= size
            return True
        if dims[0] % size:
            return False
        count[0] //= <uint64_t>size
        if kind == CMO_REDUCE_SCATTER:
            dims[0] //= size
        return kind == CMO_REDUCE_SCATTER or kind == CMO_ALLTOALL

    def plain_from_root(self, int kind, x, root, out, double timeout):
        """`plain` for broadcast and scatter: of `x` that is an array, or `out` where this rank only receives."""
        cdef cmo_op state
        cdef cmo_call call
        cdef cnp.npy_intp dims[CMO_MAX_DIMS]
        cdef int dtype, at
        if type(root) is not int:
            return NotImplemented
        self.usable()
        at = root if 0 <= root < self.comm.size else -1
        memset(&call, 0, sizeof(call))
        if at == self.comm.rank:
            dtype = plain_dtype(x)
            if dtype < 0:
                return NotImplemented
            call.in_ = cnp.PyArray_DATA(x)
            call.ndim, call.shape = cnp.PyArray_NDIM(x), <uint64_t *>cnp.PyArray_DIMS(x)
            call.count = cnp.PyArray_SIZE(x)
            if kind == CMO_BROADCAST:
                out, call.out = x, <void *>call.in_
            else:
                memcpy(dims, cnp.PyArray_DIMS(x), call.ndim * sizeof(cnp.npy_intp))
                if call.ndim == 0 or dims[0] % self.comm.size:
                    return NotImplemented
                dims[0] //= self.comm.size
                call.count //= <uint64_t>self.comm.size
                out = plain_result(out, x, dims)
                if out is None or overlap(x, out):
                    return NotImplemented
                call.out = cnp.PyArray_DATA(out)
        else:
            if kind == CMO_BROADCAST:
                out = x
            dtype = plain_dtype(out)
            if at < 0 or dtype < 0 or not cnp.PyArray_ISWRITEABLE(out):
                return NotImplemented
            call.out, call.count = cnp.PyArray_DATA(out), cnp.PyArray_SIZE(out)
        call.kind, call.dtype, call.root = <cmo_kind>kind, <cmo_dtype>dtype, at
        self.finish(&state, self.block(&state, &call, timeout, cnp.PyArray_NBYTES(out) <= LIGHT_BYTES))
        return out

    def barrier(self, double timeout):
        """Make a barrier."""
        cdef cmo_op state
        cdef cmo_call call
        self.usable()
        memset(&call, 0, sizeof(call))
        call.kind = CMO_BARRIER
        self.finish(&state, self.block(&state, &call, timeout, True))

    cdef inline int plain_message(self, cmo_message *m, x, dest, tag, uint32_t extra) except -1:
        """Write down the message that sends a plain array. 0: it is none, or something is wrong."""
        cdef int dtype = plain_dtype(x)
        if dtype < 0 or type(dest) is not int or type(tag) is not int:
            return 0
        self.usable()
        if not (0 <= dest < self.comm.size and 0 <= tag <= LAST_TAG):
            return 0
        memset(m, 0, sizeof(m[0]))
        m.peer, m.tag, m.dtype, m.extra, m.ndim = dest, tag, <cmo_dtype>dtype, extra, cnp.PyArray_NDIM(x)
        m.shape, m.buffer, m.bytes = <uint64_t *>cnp.PyArray_DIMS(x), cnp.PyArray_DATA(x), cnp.PyArray_NBYTES(x)
        return 1

    def plain_send(self, x, dest, tag, double timeout, uint32_t extra=0):
        """Send a plain array and wait until it may be used again. False: it is none, or something is wrong, and nothing
        was done."""
        cdef cmo_op state
        cdef cmo_message m
        cdef cmo_err err
        if not self.plain_message(&m, x, dest, tag, extra):
            return False
        self.engine.inside += 1
        err = cmo_send_begin(&state, self.comm, &m, timeout, m.bytes <= LIGHT_BYTES)
        self.finish(&state, self.ended(&state, err))
        return True

    def plain_recv(self, out, source, tag, double timeout):
        """Receive into a plain array. False: it is none, or something is wrong, or the message does not fit."""
        cdef cmo_op state
        cdef cmo_message m
        cdef cmo_err err
        cdef PlainTarget target
        cdef int dtype = plain_dtype(out)
        if dtype < 0 or not cnp.PyArray_ISWRITEABLE(out) or type(source) is not int or type(tag) is not int:
            return False
        self.usable()
        if not (CMO_ANY <= source < self.comm.size and CMO_ANY <= tag <= LAST_TAG):
            return False
        target.dtype, target.ndim, target.refused = <cmo_dtype>dtype, cnp.PyArray_NDIM(out), False
        target.shape, target.data, target.call = <uint64_t *>cnp.PyArray_DIMS(out), cnp.PyArray_DATA(out), NULL
        memset(&m, 0, sizeof(m))
        m.peer, m.tag, m.allocate, m.allocate_ctx = source, tag, plain_target, &target
        self.engine.inside += 1
        err = cmo_recv_begin(&state, self.comm, &m, timeout, NULL, cnp.PyArray_NBYTES(out) <= LIGHT_BYTES)
        err = self.ended(&state, err)
        if target.refused:
            return False
        self.finish(&state, err)
        return True

    def recv_bytes(self, uint32_t extra, source, tag, double timeout):
        """Receive a new array of bytes that was sent with this `extra`. None: something is wrong, or another message
        has come."""
        cdef cmo_op state
        cdef cmo_message m
        cdef cmo_err err
        cdef NewBytes target
        if type(source) is not int or type(tag) is not int:
            return None
        self.usable()
        if not (CMO_ANY <= source < self.comm.size and CMO_ANY <= tag <= LAST_TAG):
            return None
        target.extra, target.array, target.refused = extra, NULL, False
        memset(&m, 0, sizeof(m))
        m.peer, m.tag, m.allocate, m.allocate_ctx = source, tag, new_bytes, &target
        self.engine.inside += 1
        err = self.ended(&state, cmo_recv_begin(&state, self.comm, &m, timeout, NULL, True))
        array = None
        if target.array != NULL:
            array = <object>target.array
            Py_DECREF(array)
        if target.refused:
            return None
        self.finish(&state, err)
        return array

    def plain_isend(self, work, x, dest, tag, double timeout):
        """Start sending a plain array and return a Work of the class `work`. None: it is none, or something is wrong,
        or it cannot go at once, and nothing was done."""
        cdef cmo_message m
        cdef Started started
        cdef Call call
        cdef cbool rest
        cdef cmo_err err
        if not self.plain_message(&m, x, dest, tag, 0):
            return None
        started = new_work(work)
        call, self.spare = self.spare, None  # another thread may send meanwhile
        if call is None:
            call = Call.__new__(Call)
        self.engine.inside += 1
        if m.bytes <= LIGHT_BYTES:
            err = cmo_send_now(self.comm, &m, &rest)
        else:
            with nogil:
                err = cmo_send_now(self.comm, &m, &rest)
        self.engine.inside -= 1
        if not rest:
            self.spare = call
            if err != CMO_OK:
                return None
            started._settled, started._calls = True, nothing
            return started
        call.comm, call.keep = self, x
        cmo_send_rest(&call.op, self.comm, &m, timeout)
        started.follow(call)
        return started

    def plain_sendrecv(self, work, x, dest, source, out, tag, double timeout):
        """Send a plain array and receive into another. False: one of them is none, or something is wrong, or x
        cannot go at once, and nothing was done. None: x has been sent, but what comes does not fit `out`."""
        self.usable()
        if (plain_dtype(x) < 0 or plain_dtype(out) < 0 or not cnp.PyArray_ISWRITEABLE(out) or overlap(x, out)
                or type(source) is not int or not CMO_ANY <= source < self.comm.size):
            return False
        sent = self.plain_isend(work, x, dest, tag, timeout)
        if sent is None:
            return False
        received = self.plain_recv(out, source, tag, timeout)
        sent.wait()
        return True if received else None

    def plain_irecv(self, work, receiving, out, source, tag, double timeout):
        """Start receiving into a plain array and return a Work of the class `work`; None as for `plain_isend`.
        `receiving` makes from `out` what is asked where a message does not fit, to say why."""
        cdef cmo_message m
        cdef Started started
        cdef Call call
        cdef cmo_err err
        cdef int dtype = plain_dtype(out), i
        if dtype < 0 or not cnp.PyArray_ISWRITEABLE(out) or type(source) is not int or type(tag) is not int:
            return None
        self.usable()
        if not (CMO_ANY <= source < self.comm.size and CMO_ANY <= tag <= LAST_TAG):
            return None
        started = new_work(work)
        call = Call.__new__(Call)
        call.comm, call.keep, call.array = self, receiving, out
        call.target.dtype, call.target.ndim = <cmo_dtype>dtype, cnp.PyArray_NDIM(out)
        call.target.data = cnp.PyArray_DATA(out)
        for i in range(call.target.ndim):
            call.shape[i] = cnp.PyArray_DIM(out, i)
        call.target.shape, call.target.call = call.shape, <void *>call
        memset(&m, 0, sizeof(m))
        m.peer, m.tag, m.allocate, m.allocate_ctx = source, tag, plain_target, &call.target
        self.engine.inside += 1
        if cnp.PyArray_NBYTES(out) <= LIGHT_BYTES:
            err = cmo_recv_now(&call.op, self.comm, &m, timeout, NULL)
        else:
            with nogil:
                err = cmo_recv_now(&call.op, self.comm, &m, timeout, NULL)
        self.engine.inside -= 1
        if err != CMO_OK:
            return None
        started.follow(call)
        return started

    cdef int launch(self, Call call) except -1:
        """Keep the call alive until it has ended."""
        call.op.on_done, call.op.on_done_ctx = call_ended, <void *>call
        Py_INCREF(call)
        return 0

    cdef int launched(self, Call call, cmo_err err) except -1:
        if err != CMO_OK:
            Py_DECREF(call)
            call.finish(err)
        return 0

    def start(self, int kind, int op, int dtype, int root, array, out, uint64_t count, counts, recv_counts,
              bint exchange, tuple shape, alloc, double timeout):
        """Make a collective and return its Call at once."""
        cdef cmo_err err
        self.usable()
        cdef Call call = self.prepare(kind, op, dtype, root, array, out, count, counts, recv_counts, exchange, shape,
                                      alloc)
        self.launch(call)
        self.engine.inside += 1
        with nogil:
            err = cmo_call_start(&call.op, self.comm, &call.call, timeout)
        self.engine.inside -= 1
        self.launched(call, err)
        return call

    def send(self, array, int dtype, tuple shape, uint32_t extra, int dest, int64_t tag, double timeout):
        """Start sending a contiguous array; returns the Call."""
        cdef cmo_err err
        cdef cmo_message m
        cdef Call call = Call.__new__(Call)
        cdef int i
        self.usable()
        memset(&m, 0, sizeof(m))
        call.comm = self
        call.keep = array
        m.peer, m.tag, m.dtype, m.extra, m.ndim = dest, tag, <cmo_dtype>dtype, extra, len(shape)
        for i in range(m.ndim):
            call.shape[i] = shape[i]
        m.shape, m.buffer, m.bytes = call.shape, cnp.PyArray_DATA(array), cnp.PyArray_NBYTES(array)
        self.launch(call)
        self.engine.inside += 1
        with nogil:
            err = cmo_send_start(&call.op, self.comm, &m, timeout)
        self.engine.inside -= 1
        self.launched(call, err)
        return call

    def send_parts(self, list parts, uint32_t extra, int dest, int64_t tag, double timeout):
        """Send bytes that lie in several buffers, none of them empty, as one array, and wait until they may be used
        again."""
        cdef cmo_err err
        cdef cmo_message m
        cdef Call call = Call.__new__(Call)
        cdef const uint8_t[::1] part
        cdef int i
        self.usable()
        memset(&m, 0, sizeof(m))
        call.comm, call.keep = self, parts
        call.parts = <iovec *>calloc(len(parts), sizeof(iovec))
        if call.parts == NULL:
            raise MemoryError
        for i in range(len(parts)):
            part = parts[i]
            call.parts[i].iov_base, call.parts[i].iov_len = <void *>&part[0], part.shape[0]
            call.shape[0] += part.shape[0]
        m.peer, m.tag, m.dtype, m.extra, m.ndim = dest, tag, <cmo_dtype>code_of_type[<int>cnp.NPY_UINT8], extra, 1
        m.shape, m.parts, m.bytes = call.shape, call.parts, call.shape[0]
        self.launch(call)
        self.engine.inside += 1
        with nogil:
            err = cmo_send_start(&call.op, self.comm, &m, timeout)
        self.engine.inside -= 1
        self.launched(call, err)
        call.wait(-1.0)

    def recv(self, alloc, int source, int64_t tag, double timeout):
        """Start receiving; `alloc` is asked for the array when a message has matched. Returns the Call."""
        cdef cmo_err err
        cdef cmo_message m
        cdef Call call = Call.__new__(Call)
        self.usable()
        memset(&m, 0, sizeof(m))
        call.comm = self
        call.allocate = alloc
        m.peer, m.tag, m.allocate, m.allocate_ctx = source, tag, allocate, <void *>call
        self.launch(call)
        self.engine.inside += 1
        with nogil:
            err = cmo_recv_start(&call.op, self.comm, &m, timeout, &call.status)
        self.engine.inside -= 1
        self.launched(call, err)
        return call

    def probe(self, int source, int64_t tag, double timeout):
        """Start waiting for a message that fits, without taking it. Returns the Call."""
        cdef cmo_err err
        cdef Call call = Call.__new__(Call)
        self.usable()
        call.comm = self
        self.launch(call)
        self.engine.inside += 1
        with nogil:
            err = cmo_probe_start(&call.op, self.comm, source, tag, timeout, &call.status)
        self.engine.inside -= 1
        self.launched(call, err)
        return call

    def probe_now(self, int source, int64_t tag):
        """The message that fits (see Call.message), or None."""
        cdef cmo_err err
        cdef cmo_status status
        self.usable()
        self.engine.inside += 1
        with nogil:
            err = cmo_probe_now(self.comm, source, tag, &status)
        self.engine.inside -= 1
        return None if err == CMO_AGAIN else status_tuple(&status)

    @property
    def window(self):
        """This process's shared memory."""
        self.usable()
        return self.engine.window

    def offer(self, int64_t color, int64_t key):
        """This rank's part in making a child communicator, as bytes for an allgather; also where memory is short."""
        cdef cmo_member member
        self.usable()
        cdef cmo_engine *engine = self.engine.engine
        self.engine.inside += 1
        with nogil:
            cmo_engine_enter(engine)
            cmo_comm_offer(self.comm, color, key, &member)
            cmo_engine_leave(engine)
        self.engine.inside -= 1
        return (<char *>&member)[:sizeof(cmo_member)]

    def build(self, const uint8_t[::1] members):
        """The child communicator of this rank's color from all contributions, or None for a negative color."""
        cdef Comm child = Comm.__new__(Comm)
        cdef cmo_err err
        self.usable()
        cdef cmo_engine *engine = self.engine.engine
        if <size_t>members.shape[0] != self.comm.size * sizeof(cmo_member):
            raise ValueError("contributions of another number of ranks")
        self.engine.inside += 1
        with nogil:
            cmo_engine_enter(engine)
            err = cmo_comm_build(self.comm, <const cmo_member *>&members[0], &child.comm)
            cmo_engine_leave(engine)
        self.engine.inside -= 1
        check(err)
        child.engine = self.engine
        return child if child.comm != NULL else None

    def close(self):
        """Say goodbye. Later calls fail."""
        cdef cmo_engine *engine = self.engine.engine
        if self.closed or engine == NULL or self.engine.forks != forks:
            return
        self.closed = True
        self.engine.inside += 1
        with nogil:
            cmo_engine_enter(engine)
            cmo_comm_close(self.comm)
            cmo_engine_leave(engine)
        self.engine.inside -= 1

    def describe(self):
        """(rank, size, local rank, local size, host number of each rank, world rank of each rank)."""
        self.usable()
        cdef cmo_comm *c = self.comm
        return (c.rank, c.size, c.local, c.nlocal, tuple([c.host[r] for r in range(c.size)]),
                tuple([c.world[r] for r in range(c.size)]))


def when_ended(Call call not None, f):
    """Call f() when the call has ended, from whatever thread ends it; at once if it has."""
    call.outlive()
    if cmo_op_ended(&call.op):
        f()
    elif call.on_done is None:
        call.on_done = [f]  # whoever ends it takes the interpreter's lock before it looks here
    else:
        call.on_done.append(f)
