"""What the binding sees of the C core, and of C."""

from libc.stdint cimport int64_t, uint8_t, uint32_t, uint64_t

cdef extern from "<sys/uio.h>" nogil:
    ctypedef struct iovec "struct iovec":
        void *iov_base
        size_t iov_len

cdef extern from "<stdbool.h>":
    ctypedef int cbool "bool"

cdef extern from "<pthread.h>" nogil:
    int pthread_atfork(void (*)() noexcept, void (*)() noexcept, void (*)() noexcept)

cdef extern from * nogil:
    const char *COMMOPS_VERSION  # of the build

cdef extern from "commops.h" nogil:
    ctypedef enum cmo_err:
        CMO_OK, CMO_AGAIN, CMO_EINVAL, CMO_ETYPE, CMO_ENOMEM, CMO_ETIMEOUT, CMO_EPEERLOST, CMO_EMISMATCH
        CMO_EORDER
        CMO_EREVOKED, CMO_EAUTH, CMO_EINTERRUPT
    enum:
        CMO_NERRORS
    const char *cmo_err_name(cmo_err)
    const char *cmo_reason()
    cmo_err cmo_fail(cmo_err err, const char *format, ...)

    ctypedef enum cmo_kind:
        CMO_BARRIER, CMO_BROADCAST, CMO_ALLREDUCE, CMO_REDUCE, CMO_REDUCE_SCATTER, CMO_SCAN, CMO_GATHER, CMO_ALLGATHER
        CMO_ALLTOALL, CMO_NKINDS
    ctypedef enum cmo_meaning:
        CMO_OBJECTS, CMO_NMEANINGS
    const char *cmo_meaning_name(unsigned meaning)
    ctypedef enum cmo_redop:
        CMO_NOPS
    ctypedef enum cmo_dtype:
        CMO_NDTYPES
    const char *cmo_kind_name(cmo_kind)
    const char *cmo_redop_name(cmo_redop)
    const char *cmo_dtype_name(cmo_dtype)
    const char *cmo_isa_name()
    cmo_err cmo_isa_check()
    ctypedef void (*cmo_kernel)(void *, const void *const *, int, size_t, uint64_t)
    cmo_kernel cmo_kernel_for(cmo_dtype, cmo_redop)

    ctypedef struct cmo_tunables:
        int64_t slots, slot_bytes, pipe_bytes, handshake_ms, heartbeat_ms, socket_bytes, tls_kernel, flight
    ctypedef struct cmo_tunable_row:
        const char *name
        const char *env
        const char *doc
    const cmo_tunable_row cmo_tunable_rows[]
    const int cmo_ntunables
    int64_t cmo_tunable_default(const cmo_tunable_row *)
    cmo_err cmo_tunables_read(cmo_tunables *)
    cmo_err cmo_tunable_set(cmo_tunables *, const char *, int64_t)

    enum:
        CMO_PAGE
    size_t cmo_piece_head_bytes(int)
    size_t cmo_shm_pipe_bytes(int, size_t)

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
    cbool cmo_window_attaches(const cmo_window *)
    cmo_err cmo_window_alloc(cmo_window *, size_t, uint64_t *)
    void cmo_window_free(cmo_window *, uint64_t, size_t)
    cmo_err cmo_window_map(int, int, cmo_window_head **, size_t *)
    void cmo_window_unmap(cmo_window_head *, size_t)

    ctypedef struct cmo_net_ops:
        void (*close)(cmo_net *)
    ctypedef struct cmo_net:
        const cmo_net_ops *ops
    ctypedef struct cmo_tls_config:
        const char *pem
        size_t bytes
        cbool offload
        uint64_t records_per_key
    ctypedef struct cmo_tls:
        pass
    const char *cmo_tls_version()
    cmo_err cmo_tls_open(cmo_tls **, const cmo_tls_config *)
    void cmo_tls_close(cmo_tls *)
    ctypedef struct cmo_tcp_config:
        int rank, size
        uint32_t generation
        uint8_t job[16]
        const int *listeners
        int nlisteners
        const char *const *addresses
        cbool (*mac)(void *, const uint8_t *, size_t, uint8_t *) noexcept
        void *mac_ctx
        int64_t handshake_ns, heartbeat_ms, socket_bytes
        cmo_tls_config tls
    cmo_err cmo_tcp_net(cmo_net **, const cmo_tcp_config *)
    cbool cmo_tcp_offloaded(const cmo_net *)
    uint64_t cmo_tcp_refused(const cmo_net *, char *)

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
        uint64_t alike
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
    ctypedef struct cmo_flight:
        pass
    cmo_flight *cmo_engine_flight(const cmo_engine *)
    uint64_t cmo_flight_bytes(const cmo_flight *)
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
        const char *const *host_names
        cmo_window *window
        const cmo_neighbour *neighbours
        int nlocal
        cbool share
        cmo_net *remote
        const cmo_collectives *collectives
        cmo_tunables tunables
        const uint8_t *job
        cbool exact
        cbool (*interrupted)(void *) noexcept
        void *interrupt_ctx
    cmo_err cmo_engine_create(cmo_engine **, const cmo_world *)
    cmo_err cmo_engine_close(cmo_engine *)
    void cmo_engine_destroy(cmo_engine *)
    cmo_comm *cmo_engine_world(cmo_engine *)
    void cmo_engine_enter(cmo_engine *)
    void cmo_engine_leave(cmo_engine *)
    cmo_err cmo_call_begin(cmo_op *, cmo_comm *, const cmo_call *, double, cbool)
    cmo_err cmo_op_finish(cmo_op *)
    cmo_err cmo_call_start(cmo_op *, cmo_comm *, const cmo_call *, double)
    cmo_err cmo_op_wait(cmo_op *, double)
    cbool cmo_op_ended(const cmo_op *)
    cbool cmo_op_drop(cmo_op *, void (*)(void *) noexcept, void *)

    enum:
        CMO_ANY, CMO_MAX_DIMS
    ctypedef struct cmo_message:
        int peer
        int64_t tag
        cmo_dtype dtype
        uint32_t extra
        int ndim
        const uint64_t *shape
        const void *buffer
        const iovec *parts
        uint64_t bytes
        cmo_allocate allocate
        void *allocate_ctx
        cbool waits
    ctypedef struct cmo_status:
        int source
        int64_t tag
        uint64_t bytes
        cmo_dtype dtype
        uint32_t extra
        int ndim
        uint64_t shape[64]
    cmo_err cmo_send_begin(cmo_op *, cmo_comm *, const cmo_message *, double, cbool)
    cmo_err cmo_recv_begin(cmo_op *, cmo_comm *, const cmo_message *, double, cmo_status *, cbool)
    cmo_err cmo_send_now(cmo_comm *, const cmo_message *, cbool *)
    void cmo_send_rest(cmo_op *, cmo_comm *, const cmo_message *, double)
    cmo_err cmo_recv_now(cmo_op *, cmo_comm *, const cmo_message *, double, cmo_status *)
    cmo_err cmo_send_start(cmo_op *, cmo_comm *, const cmo_message *, double)
    cmo_err cmo_recv_start(cmo_op *, cmo_comm *, const cmo_message *, double, cmo_status *)
    cmo_err cmo_probe_start(cmo_op *, cmo_comm *, int, int64_t, double, cmo_status *)
    cmo_err cmo_probe_now(cmo_op *, cmo_comm *, int, int64_t, cmo_status *)
    ctypedef struct cmo_member:
        int64_t color, key
        uint64_t piece_offset
        int64_t error
    cmo_err cmo_comm_offer(cmo_comm *, int64_t, int64_t, cmo_member *)
    cmo_err cmo_comm_build(cmo_comm *, const cmo_member *, cmo_comm **)
    cmo_err cmo_comm_close(cmo_comm *)
    void cmo_comm_revoke(cmo_comm *)
    void cmo_comm_hold(cmo_comm *, cbool)
    cmo_err cmo_agree_start(cmo_op *, cmo_comm *, uint64_t, cbool, double)
    cbool cmo_agree_whole(const cmo_op *)
    void cmo_agree_cancel(cmo_op *)
    cmo_err cmo_shrink_start(cmo_op *, cmo_comm *, double)
    uint64_t cmo_agree_flag(const cmo_op *)
    cmo_err cmo_agree_build(cmo_comm *, cmo_comm **)
