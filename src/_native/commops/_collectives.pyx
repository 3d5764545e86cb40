"""Collectives: those that Python has looked at, and those of plain arrays, which it need not."""

from libc.stdint cimport int64_t, uint64_t
from libc.string cimport memcpy, memset

cimport numpy as cnp

from commops._engine cimport Comm
from commops._work cimport Call, allocate, new_call
from commops.core cimport (
    CMO_ALLGATHER, CMO_ALLREDUCE, CMO_ALLTOALL, CMO_BARRIER, CMO_BROADCAST, CMO_GATHER, CMO_MAX_DIMS, CMO_REDUCE,
    CMO_REDUCE_SCATTER, CMO_SCAN, cmo_call, cmo_call_begin, cmo_call_start, cmo_dtype, cmo_err, cmo_kernel_for,
    cmo_kind, cmo_op, cmo_redop
)
from commops.plain cimport LIGHT_BYTES, overlap, plain_dtype, plain_result

from commops import _native

cnp.import_array()

cdef dict op_codes = _native.OPS
cdef int64_t MOST_ROWS = 2**63 - 1


cdef int check_order(Comm comm) except -1:
    """Ranks could not agree on the order of calls that two threads make at the same time."""
    if comm.collecting:
        raise ValueError("another thread is in a collective of this communicator, and ranks must make the same ones in"
                         " the same order: give each thread a communicator of its own (comm.dup())")
    return 0


cdef cmo_err make_op(cmo_op *op, Comm comm, const cmo_call *call, double timeout, bint light) except *:
    """Make a collective and wait for its end, which comm.finish() is to look at."""
    check_order(comm)
    comm.collecting = True
    comm.engine.inside += 1
    cdef cmo_err err = comm.ended(op, cmo_call_begin(op, comm.core, call, timeout, light))
    comm.collecting = False
    return err


cdef int make(Comm comm, const cmo_call *call, double timeout, bint light) except -1:
    """Make a collective and wait for its end."""
    cdef cmo_op op
    return comm.finish(&op, make_op(&op, comm, call, timeout, light))


def barrier(Comm comm not None, double timeout):
    """Make a barrier."""
    cdef cmo_call call
    comm.usable()
    memset(&call, 0, sizeof(call))
    call.kind = CMO_BARRIER
    make(comm, &call, timeout, True)


# ---- of arguments that Python has looked at
#
# What it asks for is the tuple that call_of in commops/calls.py makes, whose parts are those of cmo_call: contiguous
# arrays of the dtype, counts that are arrays of uint64 or None, and a function that makes the array which receives.

cdef enum:
    SENT = 4  # where in it the array stands that is sent
    ALLOCATE = 12  # and that function


cdef uint64_t *counts_of(object counts):
    return NULL if counts is None else <uint64_t *>cnp.PyArray_DATA(counts)


cdef int fill(cmo_call *call, uint64_t *dims, tuple asked) except -1:
    """Write down a call. The arrays are borrowed; `dims` has room for a shape."""
    cdef int kind, op, dtype, i
    kind, op, dtype, call.root, array, out, call.count, counts, recv_counts, call.exchange, shape, call.alike, _ = asked
    call.kind, call.op, call.dtype = <cmo_kind>kind, <cmo_redop>op, <cmo_dtype>dtype
    call.in_ = NULL if array is None else cnp.PyArray_DATA(array)
    call.out = NULL if out is None else cnp.PyArray_DATA(out)
    call.counts, call.recv_counts = counts_of(counts), counts_of(recv_counts)
    if shape is not None:
        call.ndim = len(shape)
        for i in range(call.ndim):
            dims[i] = shape[i]
        call.shape = dims
    return 0


cdef Call prepare(Comm comm, tuple asked):
    cdef Call call = new_call(comm)
    call.keep, call.allocate = asked, asked[ALLOCATE]
    fill(&call.call, call.shape, asked)
    if call.allocate is not None:
        call.call.allocate, call.call.allocate_ctx = allocate, <void *>call
    return call


def run(Comm comm not None, tuple asked not None, double timeout):
    """Make a collective and wait for its end. Returns the array that was made for it, if one was."""
    cdef Call call
    cdef cmo_call request
    cdef uint64_t dims[CMO_MAX_DIMS]
    comm.usable()
    if asked[ALLOCATE] is not None:
        call = prepare(comm, asked)
        light = asked[SENT] is None or cnp.PyArray_NBYTES(asked[SENT]) <= LIGHT_BYTES
        call.finish(make_op(&call.op, comm, &call.call, timeout, light))
        return call.array
    memset(&request, 0, sizeof(request))
    fill(&request, dims, asked)
    make(comm, &request, timeout, False)


def start(Comm comm not None, tuple asked not None, double timeout):
    """Make a collective and return its Call at once."""
    cdef Call call = prepare(comm, asked)
    cdef cmo_err err
    check_order(comm)
    call.launch()
    with nogil:
        err = cmo_call_start(&call.op, comm.core, &call.call, timeout)
    call.launched(err)
    return call


# ---- plain arrays (commops/plain.pxd)

cdef uint64_t no_dims = 0


cdef inline void tell_shape(cmo_call *call, x) noexcept:
    """Borrows it. The shape of a 0-d array has no address of its own."""
    call.ndim = cnp.PyArray_NDIM(x)
    call.shape = <uint64_t *>cnp.PyArray_DIMS(x) if call.ndim else &no_dims


cdef inline bint elementwise(int kind) noexcept:
    return kind == CMO_ALLREDUCE or kind == CMO_REDUCE or kind == CMO_SCAN


cdef inline bint plain_shape(Comm comm, int kind, x, uint64_t *count, cnp.npy_intp *dims) noexcept:
    """The shape of the result, and the elements of a block. False where blocks are not equal."""
    cdef int ndim = cnp.PyArray_NDIM(x), size = comm.core.size
    memcpy(dims, cnp.PyArray_DIMS(x), ndim * sizeof(cnp.npy_intp))
    if elementwise(kind):
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


def plain(Comm comm not None, int kind, x, op, root, out, double timeout):
    """Make a collective of plain arrays, in equal blocks, and return its result.

    Plain is what needs no packing and no second look: contiguous arrays of NumPy's own dtypes, `op` by its name. Of
    anything else, and of what is wrong, nothing is done and NotImplemented is returned: commops.calls and
    commops.reduction_calls then look at it. Not for exscan, nor for broadcast and scatter."""
    cdef cmo_call call
    cdef cnp.npy_intp dims[CMO_MAX_DIMS]
    cdef int dtype = plain_dtype(x), at
    if dtype < 0 or type(root) is not int:
        return NotImplemented
    comm.usable()
    at = root if 0 <= root < comm.core.size else -1
    memset(&call, 0, sizeof(call))
    if elementwise(kind) or kind == CMO_REDUCE_SCATTER:
        number = op_codes.get(op) if type(op) is str else None
        if number is None or cmo_kernel_for(<cmo_dtype>dtype, <cmo_redop><int>number) == NULL:
            return NotImplemented
        call.op = <cmo_redop><int>number
    call.count = cnp.PyArray_SIZE(x)
    if at < 0 or not plain_shape(comm, kind, x, &call.count, dims):
        return NotImplemented
    if (kind == CMO_REDUCE or kind == CMO_GATHER) and at != comm.core.rank:
        out = None
    else:
        out = plain_result(out, x, dims)
        if out is None:
            return NotImplemented
        call.out = cnp.PyArray_DATA(out)
    call.in_ = cnp.PyArray_DATA(x)
    if out is not None and overlap(x, out) and not (elementwise(kind) and call.out == call.in_):
        return NotImplemented
    call.kind, call.dtype, call.root = <cmo_kind>kind, <cmo_dtype>dtype, at
    tell_shape(&call, x)
    make(comm, &call, timeout, cnp.PyArray_NBYTES(x) <= LIGHT_BYTES)
    return out


def plain_from_root(Comm comm not None, int kind, x, root, out, double timeout):
    """`plain` for broadcast and scatter: of `x` that is an array, or `out` where this rank only receives."""
    cdef cmo_call call
    cdef cnp.npy_intp dims[CMO_MAX_DIMS]
    cdef int dtype, at
    if type(root) is not int:
        return NotImplemented
    comm.usable()
    at = root if 0 <= root < comm.core.size else -1
    memset(&call, 0, sizeof(call))
    if at == comm.core.rank:
        dtype = plain_dtype(x)
        if dtype < 0:
            return NotImplemented
        call.in_ = cnp.PyArray_DATA(x)
        tell_shape(&call, x)
        call.count = cnp.PyArray_SIZE(x)
        if kind == CMO_BROADCAST:
            out, call.out = x, <void *>call.in_
        else:
            memcpy(dims, cnp.PyArray_DIMS(x), call.ndim * sizeof(cnp.npy_intp))
            if call.ndim == 0 or dims[0] % comm.core.size:
                return NotImplemented
            dims[0] //= comm.core.size
            call.count //= <uint64_t>comm.core.size
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
        tell_shape(&call, out)
    call.kind, call.dtype, call.root = <cmo_kind>kind, <cmo_dtype>dtype, at
    make(comm, &call, timeout, cnp.PyArray_NBYTES(out) <= LIGHT_BYTES)
    return out
