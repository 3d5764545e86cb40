"""The C core, bound: buffers in, results out. What calls mean is decided in commops.comm."""

from cpython.exc cimport PyErr_CheckSignals
from cpython.ref cimport Py_DECREF, Py_INCREF, PyObject
from libc.stdint cimport int64_t, uint8_t, uint32_t, uint64_t
from libc.stdlib cimport calloc, free
from libc.string cimport memcpy, memset

cimport numpy as cnp

import os
import time

import numpy as np

from commops import errors

cnp.import_array()

cdef extern from "<stdbool.h>":
    ctypedef int cbool "bool"

cdef extern from "<pthread.h>" nogil:
    int pthread_atfork(void (*)() noexcept, void (*)() noexcept, void (*)() noexcept)

cdef extern from * nogil:
    const char *COMMOPS_VERSION  # of the build

cdef extern from "commops.h" nogil:
    ctypedef enum cmo_err:
        CMO_OK, CMO_AGAIN, CMO_EINVAL, CMO_ETYPE, CMO_ENOMEM, CMO_ESYS, CMO_ETIMEOUT, CMO_EPEERLOST, CMO_EMISMATCH
        CMO_EREVOKED, CMO_EAUTH, CMO_EPROTO, CMO_EINTERRUPT
    const char *cmo_reason()
    cmo_err cmo_fail(cmo_err err, const char *format, ...)

    ctypedef enum cmo_kind:
        CMO_ALLREDUCE, CMO_NKINDS
    ctypedef enum cmo_redop:
        CMO_NOPS
    ctypedef enum cmo_dtype:
        CMO_NDTYPES
    const char *cmo_kind_name(cmo_kind)
    const char *cmo_redop_name(cmo_redop)
    const char *cmo_dtype_name(cmo_dtype)
    size_t cmo_dtype_size(cmo_dtype)
    const char *cmo_isa_name()
    ctypedef void (*cmo_kernel)(void *, const void *const *, int, size_t, uint64_t)
    cmo_kernel cmo_kernel_for(cmo_dtype, cmo_redop)

    ctypedef struct cmo_tunables:
        int64_t slots, slot_bytes, pipe_bytes, handshake_ms, user_timeout_ms, socket_bytes
    ctypedef struct cmo_tunable_row:
        const char *name
        const char *env
        const char *doc
        int64_t default "def"
        int64_t least, greatest
    const cmo_tunable_row cmo_tunable_rows[]
    const int cmo_ntunables
    cmo_err cmo_tunables_read(cmo_tunables *)

    ctypedef struct cmo_window:
        pass
    ctypedef struct cmo_window_head:
        pass
    ctypedef struct cmo_neighbour:
        cmo_window_head *head
        size_t size
        int doorbell, pidfd
    cmo_err cmo_window_create(cmo_window **, int, size_t, cbool)
    void cmo_window_destroy(cmo_window *)
    int cmo_window_fd(const cmo_window *)
    cmo_window_head *cmo_window_base(const cmo_window *)
    size_t cmo_window_size(const cmo_window *)
    size_t cmo_window_used(const cmo_window *)
    cmo_err cmo_window_alloc(cmo_window *, size_t, uint64_t *)
    void cmo_window_free(cmo_window *, uint64_t, size_t)
    cmo_err cmo_window_map(int, int, cmo_window_head **, size_t *)
    void cmo_window_unmap(cmo_window_head *, size_t)

    ctypedef struct cmo_net_ops:
        void (*close)(cmo_net *)
    ctypedef struct cmo_net:
        const cmo_net_ops *ops
    ctypedef struct cmo_tcp_config:
        int rank, size
        uint32_t generation
        uint8_t job[16]
        const int *listeners
        int nlisteners
        const char *const *addresses
        cbool (*mac)(void *, const uint8_t *, size_t, uint8_t *) noexcept
        void *mac_ctx
        int64_t handshake_ns, user_timeout_ms, socket_bytes
    cmo_err cmo_tcp_net(cmo_net **, const cmo_tcp_config *)

    ctypedef struct cmo_layout:
        cmo_dtype dtype
        int ndim
        const uint64_t *shape
        const uint64_t *counts
        int ncounts
        uint32_t extra
        int source
        int64_t tag
    ctypedef cmo_err (*cmo_allocate)(void *, const cmo_layout *, void **) noexcept
    ctypedef struct cmo_call:
        cmo_kind kind
        cmo_redop op
        cmo_dtype dtype
        int root
        const void *in_ "in"
        void *out
        uint64_t count
        const uint64_t *counts
        const uint64_t *recv_counts
        cbool exchange
        int ndim
        const uint64_t *shape
        cmo_allocate allocate
        void *allocate_ctx

    ctypedef struct cmo_op:
        uint32_t signal
        void (*on_done)(void *) noexcept
        void *on_done_ctx
        cmo_err err
        int lost

    ctypedef struct cmo_engine:
        pass
    ctypedef struct cmo_comm:
        int rank, size, nhosts, local, nlocal
        int *world
        int *host
        uint8_t *lost
        cmo_err failed
    ctypedef struct cmo_collectives:
        pass
    const cmo_collectives cmo_coll
    ctypedef struct cmo_world:
        int rank, size
        uint32_t generation
        const int *host
        cmo_window *window
        const cmo_neighbour *neighbours
        int nlocal
        cbool share
        cmo_net *remote
        const cmo_collectives *collectives
        cmo_tunables tunables
        cbool (*interrupted)(void *) noexcept
        void *interrupt_ctx
    cmo_err cmo_engine_create(cmo_engine **, const cmo_world *)
    void cmo_engine_close(cmo_engine *)
    void cmo_engine_destroy(cmo_engine *)
    cmo_comm *cmo_engine_world(cmo_engine *)
    void cmo_engine_enter(cmo_engine *)
    void cmo_engine_leave(cmo_engine *)
    cmo_err cmo_call_blocking(cmo_op *, cmo_comm *, const cmo_call *, double)
    cmo_err cmo_call_start(cmo_op *, cmo_comm *, const cmo_call *, double)
    cmo_err cmo_op_wait(cmo_op *, double)

    enum:
        CMO_OP_ENDED, CMO_ANY, CMO_MAX_DIMS
    ctypedef struct cmo_message:
        int peer
        int64_t tag
        cmo_dtype dtype
        uint32_t extra
        int ndim
        const uint64_t *shape
        const void *buffer
        uint64_t bytes
        cmo_allocate allocate
        void *allocate_ctx
    ctypedef struct cmo_status:
        int source
        int64_t tag
        uint64_t bytes
        cmo_dtype dtype
        uint32_t extra
        int ndim
        uint64_t shape[64]
    cmo_err cmo_send_start(cmo_op *, cmo_comm *, const cmo_message *, double)
    cmo_err cmo_recv_start(cmo_op *, cmo_comm *, const cmo_message *, double, cmo_status *)
    cmo_err cmo_probe_start(cmo_op *, cmo_comm *, int, int64_t, double, cmo_status *)
    cmo_err cmo_probe_now(cmo_comm *, int, int64_t, cmo_status *)
    ctypedef struct cmo_member:
        int64_t color, key
        uint64_t piece_offset
        int64_t error
    cmo_err cmo_comm_offer(cmo_comm *, int64_t, int64_t, cmo_member *)
    cmo_err cmo_comm_build(cmo_comm *, const cmo_member *, cmo_comm **)
    void cmo_comm_close(cmo_comm *)


KINDS = {cmo_kind_name(<cmo_kind>i).decode(): i for i in range(CMO_NKINDS)}
OPS = {cmo_redop_name(<cmo_redop>i).decode(): i for i in range(CMO_NOPS)}
DTYPES = [cmo_dtype_name(<cmo_dtype>i).decode() for i in range(CMO_NDTYPES)]
VERSION = COMMOPS_VERSION.decode()
ANY = CMO_ANY

# The core's number of each of NumPy's own types, by NumPy's number of it; -1: the core has none.
cdef int[24] code_of_type  # the last is NPY_HALF


cdef void learn_types():
    cdef int i
    for i in range(24):
        code_of_type[i] = -1
    for code, name in enumerate(DTYPES):
        if name != "bfloat16":
            code_of_type[np.dtype(name).num] = code
    for character in "lLqQ":  # one of long and long long is int64 by name, and the other is as well
        dtype = np.dtype(character)
        code_of_type[dtype.num] = DTYPES.index(f"{'int' if dtype.kind == 'i' else 'uint'}{8 * dtype.itemsize}")


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
    check(cmo_tunables_read(&values))
    cdef int64_t *value = <int64_t *>&values
    return [(cmo_tunable_rows[i].name.decode(), cmo_tunable_rows[i].env.decode(), cmo_tunable_rows[i].default, value[i],
             cmo_tunable_rows[i].doc.decode()) for i in range(cmo_ntunables)]


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
    cdef int forks
    cdef object __weakref__

    def __cinit__(self, int rank, int size, list hosts, Window window, list neighbours, *, bint share, list listeners,
                  list addresses, bytes job, object token, uint32_t generation=0):
        """`hosts`: a number per rank. `neighbours`: (window fd, doorbell fd, pidfd) of each rank of this host, in rank
        order, our own with window fd and pidfd -1; the descriptors are taken, those of windows even if this raises.
        `listeners`: listening sockets, taken; `addresses`: a string per rank; both empty where every rank is on this
        host and memory is shared."""
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


cdef class Call:
    """One call in progress. Owns what the core reads and writes until the call has ended."""

    cdef cmo_op op
    cdef cmo_call call
    cdef cmo_status status
    cdef uint64_t shape[64]
    cdef Comm comm
    cdef object keep, allocate, array, error, on_done

    cdef int finish(self, cmo_err err) except -1:
        """Turn the core's answer into a return or an exception. `err` and its reason are this thread's."""
        if err != CMO_OK and self.error is not None:
            raise self.error
        return self.comm.finish(&self.op, err)

    def wait(self, double seconds):
        """Until the call has ended; CommTimeoutError after `seconds` (negative: never) leaves it as it is."""
        cdef cmo_err err
        self.comm.engine.alive()
        self.comm.engine.inside += 1
        with nogil:
            err = cmo_op_wait(&self.op, seconds)
        self.comm.engine.inside -= 1
        self.finish(err)

    @property
    def done(self):
        return self.op.signal == CMO_OP_ENDED

    @property
    def result(self):
        """What `allocate` has returned, if it was asked."""
        return self.array

    def message(self):
        """(source, tag, bytes, dtype code, extra, shape) of the received or probed message."""
        return status_tuple(&self.status)


cdef tuple status_tuple(cmo_status *s):
    return (s.source, s.tag, s.bytes, <int>s.dtype, s.extra, tuple([s.shape[i] for i in range(s.ndim)]))


cdef cmo_err allocate(void *ctx, const cmo_layout *layout, void **address) noexcept with gil:
    cdef Call call = <Call>ctx
    cdef int i
    try:
        shape = tuple([layout.shape[i] for i in range(layout.ndim)])
        counts = [layout.counts[i] for i in range(layout.ncounts)] if layout.counts != NULL else None
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


cdef class Comm:
    """A communicator of the core."""

    cdef Engine engine
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

    cdef cmo_err block(self, cmo_op *op, const cmo_call *call, double timeout) noexcept:
        cdef cmo_err err
        self.engine.inside += 1
        with nogil:
            err = cmo_call_blocking(op, self.comm, call, timeout)
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
        cdef uint64_t dims[64]
        self.usable()
        if alloc is not None:
            call = self.prepare(kind, op, dtype, root, array, out, count, counts, recv_counts, exchange, shape, alloc)
            call.finish(self.block(&call.op, &call.call, timeout))
            return call.array
        memset(&state, 0, sizeof(state))
        memset(&request, 0, sizeof(request))
        fill(&request, dims, kind, op, dtype, root, array, out, count, counts, recv_counts, exchange, shape)
        self.finish(&state, self.block(&state, &request, timeout))

    def allreduce(self, x, op, out, double timeout):
        """Make the allreduce of an ordinary array into `out`, or into a new array if that is None, and return it.

        Ordinary is what needs no packing and no second look, so that the smallest calls cost little in Python. With
        anything else, or anything wrong, nothing is done and None is returned: commops.reduction_calls has a look."""
        cdef cmo_op state
        cdef cmo_call request
        cdef char *data
        cdef char *result
        cdef size_t nbytes
        cdef int dtype
        if not (cnp.PyArray_CheckExact(x) and cnp.PyArray_ISCARRAY_RO(x) and type(op) is str):
            return None
        number = OPS.get(op)
        dtype = cnp.PyArray_TYPE(x)
        dtype = code_of_type[dtype] if dtype < 24 else -1
        if dtype < 0 or number is None or cmo_kernel_for(<cmo_dtype>dtype, <cmo_redop><int>number) == NULL:
            return None
        if out is None:
            out = cnp.PyArray_EMPTY(cnp.PyArray_NDIM(x), cnp.PyArray_DIMS(x), cnp.PyArray_TYPE(x), 0)
        elif not (cnp.PyArray_CheckExact(out) and cnp.PyArray_ISCARRAY(out) and cnp.PyArray_SAMESHAPE(out, x)
                  and cnp.PyArray_TYPE(out) == cnp.PyArray_TYPE(x)):
            return None
        data, result, nbytes = <char *>cnp.PyArray_DATA(x), <char *>cnp.PyArray_DATA(out), cnp.PyArray_NBYTES(x)
        if data != result and data < result + nbytes and result < data + nbytes:
            return None
        self.usable()
        memset(&state, 0, sizeof(state))
        memset(&request, 0, sizeof(request))
        request.kind, request.op, request.dtype = CMO_ALLREDUCE, <cmo_redop><int>number, <cmo_dtype>dtype
        request.in_, request.out, request.count = data, result, cnp.PyArray_SIZE(x)
        self.finish(&state, self.block(&state, &request, timeout))
        return out

    cdef int launch(self, Call call) except -1:
        """Keep the call alive until it has ended."""
        call.on_done = []
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
        """This rank's contribution to a child communicator, also where reserving memory failed: bytes for an allgather."""
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
    if call.on_done is None or call.op.signal == CMO_OP_ENDED:
        f()
    else:
        call.on_done.append(f)
