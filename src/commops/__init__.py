"""Collectives for NumPy arrays: over shared memory within a host, over TCP between hosts.

    with commops.init() as comm:
        total = comm.allreduce(grad)

`init` makes a process one of the ranks that were started together; `launch` starts some from a program.
"""

import atexit as _atexit

from commops._version import __version__
from commops.comm import ANY, Comm, Status
from commops.comm import close_all as _close_all
from commops.errors import (
    AuthenticationError,
    CommError,
    CommTimeoutError,
    MismatchError,
    PeerLostError,
    RendezvousError,
    RevokedError,
)
from commops.join import init
from commops.launch import launch
from commops.work import Work

__all__ = [
    "ANY",
    "AuthenticationError",
    "Comm",
    "CommError",
    "CommTimeoutError",
    "MismatchError",
    "PeerLostError",
    "RendezvousError",
    "RevokedError",
    "Status",
    "Work",
    "__version__",
    "init",
    "launch",
]

# While threads and modules still work: a rank that ends without close() says goodbye here.
_atexit.register(_close_all)
