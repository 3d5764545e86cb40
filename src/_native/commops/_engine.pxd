from commops.core cimport cmo_comm, cmo_engine, cmo_err, cmo_flight, cmo_net, cmo_op, cmo_window


cdef extern from "site.h":
    ctypedef struct site_table:
        pass
    site_table *site_table_new(object, cmo_flight *)
    void site_table_free(site_table *)
    void site_note(site_table *)


cdef class Window:
    cdef cmo_window *window
    cdef int forks


cdef class Engine:
    cdef cmo_engine *engine
    cdef cmo_net *sockets  # the engine's
    cdef readonly Window window
    cdef site_table *sites  # owned; NULL: there is no recorder
    cdef list shown  # descriptors of the other ranks' windows: with ours, they are how their recorders are found
    cdef object token
    cdef object pending
    cdef int inside  # threads that are in a call; the interpreter's lock protects it
    cdef bint over  # closed: every call has ended, or never will
    cdef int forks
    cdef object __weakref__

    cdef int alive(self) except -1
    cdef wind_up(self, cmo_engine *engine)
    cdef bint gone(self) noexcept


cdef class Comm:
    cdef Engine engine
    cdef cmo_comm *core
    cdef object spare  # a Call for the rest of a message: nothing may be made while this thread keeps the engine
    cdef bint closed
    cdef bint collecting  # a thread is in a blocking collective; the interpreter's lock protects it

    cdef void take(self, Engine engine, cmo_comm *core) noexcept
    cdef int usable(self) except -1
    cdef tuple lost(self)
    cdef int finish(self, cmo_op *op, cmo_err err) except -1
    cdef cmo_err ended(self, cmo_op *op, cmo_err err) noexcept
