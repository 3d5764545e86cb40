"""A rank's engine, its shared memory and its communicators."""

from cpython.exc cimport PyErr_CheckSignals
from libc.stdint cimport int64_t, uint8_t, uint32_t, uint64_t
from libc.stdlib cimport calloc, free
from libc.string cimport memcpy, memset

cimport numpy as cnp

from commops._native cimport check, error_of, set_tunables
from commops.core cimport (
    CMO_AGAIN, CMO_EINTERRUPT, CMO_EPEERLOST, CMO_OK, cbool, cmo_coll, cmo_comm, cmo_comm_build, cmo_comm_close,
    cmo_comm_hold, cmo_comm_offer, cmo_comm_revoke, cmo_engine, cmo_engine_close, cmo_engine_create, cmo_engine_destroy,
    cmo_engine_enter, cmo_engine_flight, cmo_engine_leave, cmo_engine_world, cmo_err, cmo_flight, cmo_flight_bytes,
    cmo_member, cmo_neighbour, cmo_net, cmo_op, cmo_op_finish, cmo_reason, cmo_tcp_config, cmo_tcp_net,
    cmo_tcp_offloaded, cmo_tcp_refused, cmo_tunables_read, cmo_window_alloc, cmo_window_attaches, cmo_window_base,
    cmo_window_create, cmo_window_destroy, cmo_window_fd, cmo_window_free, cmo_window_map, cmo_window_size,
    cmo_window_unmap, cmo_window_used, cmo_world, pthread_atfork
)

import os
import time

from commops import errors

cnp.import_array()

# The package's: what is in it calls for others.
cdef str folder = os.path.dirname(errors.__file__)

# How often this process is a fork of the one that it was: an engine belongs to one process.
cdef int forks = 0


cdef void count_fork() noexcept nogil:
    global forks
    forks += 1


pthread_atfork(NULL, NULL, count_fork)


cdef class Window:
    """This process's shared memory. Lives as long as the engine or any array in it does."""

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

    def __cinit__(self, int rank, int size, list hosts, Window window, list neighbours, *, bint share, list listeners,
                  list addresses, bytes job, object token, dict tunables, list host_names, bytes tls=None,
                  uint32_t generation=0, bint exact=False):
        """`hosts`: a number per rank. `neighbours`: (window fd, doorbell fd, pidfd) of each rank of this host, in rank
        order, our own with window fd and pidfd -1; the descriptors are taken, those of windows even if this raises.
        `listeners`: listening sockets, taken; `addresses`: a string per rank; both empty where every rank is on this
        host and memory is shared. `tunables`: what goes before the environment and the defaults. `host_names`: of each
        rank's host, for people. `tls`: the PEM of this rank's key and certificates; None: no TLS. `exact`: the flight
        recorder is to time every call."""
        cdef cmo_world world
        cdef cmo_tcp_config tcp
        cdef cmo_net *net = NULL
        cdef int nlocal = len(neighbours), i
        cdef int *host = <int *>calloc(size, sizeof(int))
        cdef int *fds = <int *>calloc(len(listeners) + 1, sizeof(int))
        cdef const char **names = <const char **>calloc(size, sizeof(char *))
        cdef const char **known_as = <const char **>calloc(size, sizeof(char *))
        cdef cmo_neighbour *near = <cmo_neighbour *>calloc(nlocal, sizeof(cmo_neighbour))
        memset(&world, 0, sizeof(world))
        memset(&tcp, 0, sizeof(tcp))
        self.window = window
        self.token = token
        self.forks = forks
        self.shown = []
        encoded = [a.encode() for a in addresses]
        hosts_encoded = [name.encode(errors="replace") for name in host_names]
        try:
            if not (host and fds and names and known_as and near):
                raise MemoryError
            for i in range(size):
                host[i], known_as[i] = hosts[i], hosts_encoded[i]
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
                tcp.heartbeat_ms, tcp.socket_bytes = world.tunables.heartbeat_ms, world.tunables.socket_bytes
                if tls is not None:
                    tcp.tls.pem, tcp.tls.bytes = tls, len(tls)
                    tcp.tls.offload = world.tunables.tls_kernel
                check(cmo_tcp_net(&net, &tcp))
            for i in range(nlocal):
                fd, near[i].doorbell, near[i].pidfd = neighbours[i]
                if fd < 0:
                    near[i].head, near[i].size = cmo_window_base(window.window), cmo_window_size(window.window)
                else:
                    check(cmo_window_map(fd, nlocal, &near[i].head, &near[i].size))
                    if world.tunables.flight:
                        self.shown.append(fd)
                    else:
                        os.close(fd)
            world.rank, world.size, world.generation = rank, size, generation
            world.host_names = known_as
            world.host, world.window, world.neighbours, world.nlocal = host, window.window, near, nlocal
            world.share, world.remote, world.collectives = share, net, &cmo_coll
            world.interrupted, world.interrupt_ctx = interrupted, <void *>self
            world.job, world.exact = <const uint8_t *><const char *>job, exact
            check(cmo_engine_create(&self.engine, &world))
            self.sockets, net = net, NULL
            self.sites = site_table_new(folder, cmo_engine_flight(self.engine))
        finally:
            if net != NULL:
                net.ops.close(net)
            if self.engine == NULL:  # windows are taken all the same; doorbells and pidfds stay the caller's
                while self.shown:
                    os.close(self.shown.pop())
                for i in range(nlocal):
                    if neighbours[i][0] >= 0 and near[i].head != NULL:
                        cmo_window_unmap(near[i].head, near[i].size)
                    elif neighbours[i][0] >= 0:
                        os.close(neighbours[i][0])
            free(host)
            free(fds)
            free(names)
            free(known_as)
            free(near)

    def __dealloc__(self):
        # Without close() there is no time to say goodbye here; what remains goes with the process.
        site_table_free(self.sites)

    def close(self):
        """End every communicator. Waits for what is queued to go out, a few seconds at most.

        MismatchError where one has ended in different calls and no call has told so; it is closed all the same."""
        cdef cmo_engine *engine = self.engine
        cdef cmo_err err
        self.engine = NULL
        if engine == NULL or self.forks != forks:
            return
        with nogil:
            err = cmo_engine_close(engine)
        reason = cmo_reason().decode(errors="replace") if err else None
        self.over = True
        self.wind_up(engine)
        if err:
            raise error_of(err, reason)

    cdef wind_up(self, cmo_engine *engine):
        for _ in range(5000):  # other threads' calls have ended; let them come out
            if not self.inside:
                break
            time.sleep(0.001)
        else:
            return  # a thread that is stopped in a call may still use the engine
        with nogil:
            cmo_engine_destroy(engine)
        while self.shown:
            os.close(self.shown.pop())

    def flight(self):
        """The bytes of this rank's flight recorder (comm/flight.h); None where there is none, or no longer."""
        if self.engine == NULL or self.forks != forks:
            return None
        cdef cmo_flight *flight = cmo_engine_flight(self.engine)
        return None if flight == NULL else (<char *>flight)[:cmo_flight_bytes(flight)]

    def refused(self):
        """How many connections from strangers were refused, and from where the last came; None: there were none."""
        cdef char last[128]
        cdef uint64_t count
        if self.engine == NULL or self.sockets == NULL or self.forks != forks:
            return None
        self.inside += 1
        with nogil:
            cmo_engine_enter(self.engine)
            count = cmo_tcp_refused(self.sockets, last)
            cmo_engine_leave(self.engine)
        self.inside -= 1
        return (count, last.decode()) if count else None

    cdef int alive(self) except -1:
        if self.engine == NULL:
            raise errors.RevokedError("the communicator is closed")
        if self.forks != forks:
            raise errors.CommError("this communicator was made by another process: call commops.init() after a fork,"
                                   " not before")
        return 0

    cdef bint gone(self) noexcept:
        """Whether no call of it will end any more: all have, or it was left behind by a fork."""
        return self.over or self.forks != forks

    def world(self):
        """The communicator of all ranks."""
        cdef Comm comm = Comm.__new__(Comm)
        self.alive()
        comm.take(self, cmo_engine_world(self.engine))
        return comm


cdef class Comm:
    """A communicator of the core. Its calls are functions of the modules _collectives, _messages and _recovery."""

    cdef void take(self, Engine engine, cmo_comm *core) noexcept:
        """It must not be freed while this object can be passed to a call, in whatever thread."""
        self.engine, self.core = engine, core
        cmo_comm_hold(core, True)

    def __dealloc__(self):
        if self.core != NULL and self.engine is not None and self.engine.engine != NULL and self.engine.forks == forks:
            cmo_comm_hold(self.core, False)

    cdef int usable(self) except -1:
        """May calls be made? Also notes where the one that is about to be made comes from."""
        self.engine.alive()
        if self.closed:
            raise errors.RevokedError("the communicator is closed")
        site_note(self.engine.sites)
        return 0

    cdef tuple lost(self):
        return () if self.closed else tuple([r for r in range(self.core.size) if self.core.lost[r]])

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

    cdef cmo_err ended(self, cmo_op *op, cmo_err err) noexcept:
        """See a blocking call to its end, which the core has begun; `inside` has been raised for it.

        A light one has mostly ended by then: to give up the interpreter's lock and take it again costs as much as
        all else in it."""
        if err == CMO_AGAIN:
            with nogil:
                err = cmo_op_finish(op)
        self.engine.inside -= 1
        return err

    @property
    def window(self):
        """This process's shared memory."""
        self.usable()
        return self.engine.window

    @property
    def tls_kernel(self):
        """Whether the kernel encrypts what this rank sends with TLS, as far as it is connected."""
        cdef cbool offloaded = False
        self.usable()
        cdef cmo_engine *engine = self.engine.engine
        if self.engine.sockets != NULL:
            self.engine.inside += 1
            with nogil:
                cmo_engine_enter(engine)
                offloaded = cmo_tcp_offloaded(self.engine.sockets)
                cmo_engine_leave(engine)
            self.engine.inside -= 1
        return bool(offloaded)

    def offer(self, int64_t color, int64_t key):
        """This rank's part in making a child communicator, as bytes for an allgather; also where memory is short."""
        cdef cmo_member member
        self.usable()
        cdef cmo_engine *engine = self.engine.engine
        self.engine.inside += 1
        with nogil:
            cmo_engine_enter(engine)
            cmo_comm_offer(self.core, color, key, &member)
            cmo_engine_leave(engine)
        self.engine.inside -= 1
        return (<char *>&member)[:sizeof(cmo_member)]

    def build(self, cnp.ndarray members not None):
        """The child communicator of this rank's color from all contributions, or None for a negative color."""
        cdef Comm child = Comm.__new__(Comm)
        cdef cmo_comm *core = NULL
        cdef cmo_err err
        self.usable()
        cdef cmo_engine *engine = self.engine.engine
        cdef const cmo_member *all = <const cmo_member *>cnp.PyArray_DATA(members)
        if cnp.PyArray_NBYTES(members) != self.core.size * <cnp.npy_intp>sizeof(cmo_member):
            raise ValueError("contributions of another number of ranks")
        self.engine.inside += 1
        with nogil:
            cmo_engine_enter(engine)
            err = cmo_comm_build(self.core, all, &core)
            cmo_engine_leave(engine)
        self.engine.inside -= 1
        check(err)
        if core == NULL:
            return None
        child.take(self.engine, core)
        return child

    def revoke(self):
        """Break it for all members."""
        self.usable()
        cdef cmo_engine *engine = self.engine.engine
        self.engine.inside += 1
        with nogil:
            cmo_engine_enter(engine)
            cmo_comm_revoke(self.core)
            cmo_engine_leave(engine)
        self.engine.inside -= 1

    @property
    def failed(self):
        """Whether it is known to be broken here."""
        self.usable()
        return self.core.failed != CMO_OK

    def close(self):
        """Say goodbye. Later calls fail. MismatchError as in Engine.close."""
        cdef cmo_engine *engine = self.engine.engine
        cdef cmo_err err
        if self.closed or engine == NULL or self.engine.forks != forks:
            return
        self.closed = True
        self.engine.inside += 1
        with nogil:
            cmo_engine_enter(engine)
            err = cmo_comm_close(self.core)
            cmo_engine_leave(engine)
        self.engine.inside -= 1
        check(err)

    def describe(self):
        """(rank, size, local rank, local size, host number of each rank, world rank of each rank)."""
        self.usable()
        cdef cmo_comm *c = self.core
        return (c.rank, c.size, c.local, c.nlocal, tuple([c.host[r] for r in range(c.size)]),
                tuple([c.world[r] for r in range(c.size)]))
