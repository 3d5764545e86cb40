"""What the core is and can do: its names and numbers, its errors, its tunables.

The shared library is called after this module, and holds the other modules of this folder too."""

from libc.stdint cimport int64_t

from commops.core cimport (
    CMO_ANY, CMO_EAUTH, CMO_EINTERRUPT, CMO_EINVAL, CMO_EMISMATCH, CMO_ENOMEM, CMO_EORDER, CMO_EREVOKED,
    CMO_ETIMEOUT, CMO_ETYPE, CMO_MAX_DIMS, CMO_NDTYPES, CMO_NERRORS, CMO_NKINDS, CMO_NMEANINGS, CMO_NOPS,
    CMO_OBJECTS, CMO_OK, CMO_PAGE, COMMOPS_VERSION, cmo_dtype, cmo_dtype_name, cmo_err, cmo_err_name, cmo_isa_check,
    cmo_isa_name, cmo_kernel_for, cmo_kind, cmo_kind_name, cmo_meaning_name, cmo_ntunables, cmo_piece_head_bytes,
    cmo_reason, cmo_redop, cmo_redop_name, cmo_shm_pipe_bytes, cmo_tls, cmo_tls_close, cmo_tls_config, cmo_tls_open,
    cmo_tls_version, cmo_tunable_default, cmo_tunable_rows, cmo_tunable_set, cmo_tunables, cmo_tunables_read
)

import numpy as np

from commops import errors

KINDS = {cmo_kind_name(<cmo_kind>i).decode(): i for i in range(CMO_NKINDS)}
MEANINGS = {cmo_meaning_name(i).decode(): i for i in range(CMO_NMEANINGS) if cmo_meaning_name(i)[0]}
MEANINGS["objects"] = CMO_OBJECTS  # which bears the name of its kind
OPS = {cmo_redop_name(<cmo_redop>i).decode(): i for i in range(CMO_NOPS)}
DTYPES = [cmo_dtype_name(<cmo_dtype>i).decode() for i in range(CMO_NDTYPES)]
ERRORS = [cmo_err_name(<cmo_err>i).decode() for i in range(CMO_NERRORS)]
VERSION = COMMOPS_VERSION.decode()
ANY = CMO_ANY
MAX_DIMS = CMO_MAX_DIMS
MAX_TAG = LAST_TAG = 2**62 - 1

cdef enum:
    NUMPY_TYPES = 24  # those that NumPy itself brings; the last is NPY_HALF

cdef int[NUMPY_TYPES] codes


cdef void learn_types():
    cdef int i
    for i in range(NUMPY_TYPES):
        codes[i] = -1
    for character in np.typecodes["All"]:
        dtype = np.dtype(character)
        for name in (dtype.name, dtype.type.__name__):  # long and long long share the first; long double has the second
            if name in DTYPES:
                codes[dtype.num] = DTYPES.index(name)


learn_types()


cdef int code_of_type(int number) noexcept:
    """The core's number of a dtype that NumPy itself brings, by NumPy's number of it; -1: the core has none."""
    return codes[number] if number < NUMPY_TYPES else -1


cdef int check(cmo_err err) except -1:
    if err == CMO_OK:
        return 0
    raise error_of(err, cmo_reason().decode(errors="replace"))


cdef dict exceptions = {
    CMO_EINVAL: ValueError,
    CMO_ETYPE: TypeError,
    CMO_ENOMEM: MemoryError,
    CMO_ETIMEOUT: errors.CommTimeoutError,
    CMO_EMISMATCH: errors.MismatchError,
    CMO_EORDER: errors.MismatchError,
    CMO_EAUTH: errors.AuthenticationError,
    CMO_EREVOKED: errors.RevokedError,
    CMO_EINTERRUPT: KeyboardInterrupt,
}


cdef object error_of(int err, str reason):
    return exceptions.get(err, errors.CommError)(reason)


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


def tls_version():
    """Name and version of the OpenSSL that TLS would use; CommError where there is none."""
    cdef const char *version = cmo_tls_version()
    if version == NULL:
        raise errors.CommError(cmo_reason().decode(errors="replace"))
    return version.decode()


def check_tls(bytes pem):
    """ValueError if these are no key and certificates that TLS can use; CommError where there is no TLS."""
    cdef cmo_tls_config config
    cdef cmo_tls *tls
    config.pem, config.bytes, config.offload, config.records_per_key = pem, len(pem), False, 0
    check(cmo_tls_open(&tls, &config))
    cmo_tls_close(tls)


def staging(int nlocal, int64_t slots, int64_t slot_bytes, int64_t pipe_bytes):
    """Bytes of shared memory that a rank has for each communicator, and for a pipe to each rank of its host, where
    `nlocal` are on it and the tunables have these values."""
    cdef size_t head = cmo_piece_head_bytes(nlocal), page = CMO_PAGE
    return (head + slots * slot_bytes + page - 1) // page * page, cmo_shm_pipe_bytes(nlocal, pipe_bytes)
