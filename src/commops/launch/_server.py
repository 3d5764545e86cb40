"""The process between `commops.launch` and its ranks: fresh, single-threaded, and thus fit to be forked."""

from __future__ import annotations

import pickle
import socket
import sys

from commops.launch.parcel import Kind, Parcel, pack, receive, send, unpack
from commops.launch.supervise import fork_ranks
from commops.rendezvous.credentials import job_credentials

__all__ = ["main"]

_NOTHING = pickle.dumps(None)


def main(descriptor: int) -> None:
    """Take an order from the socket, run it, and report. The other side ends everything by closing."""
    # What ranks need is imported once, here, before they are forked.
    import cloudpickle  # type: ignore[import-untyped]  # noqa: F401

    import commops  # noqa: F401

    with socket.socket(fileno=descriptor) as sock:
        sock.set_inheritable(False)  # programs that ranks start have no business with it
        received = receive(sock)
        if received is None:
            return
        _, (n, transport, argv), order = received
        sys.argv[:] = argv
        outcome = fork_ranks(
            n,
            lambda rank: _run(rank, sock, transport, order),
            speak=False,
            stop=sock.fileno(),
            tls=job_credentials(False),
        )
        order.close()
        try:
            send(sock, Kind.OUTCOME, None, pack(outcome))
        except (BrokenPipeError, ConnectionResetError):
            return  # nobody waits for it any more


def _run(rank: int, sock: socket.socket, transport: str, order: Parcel) -> int:
    """Be one rank: call the function and send what it returns, or what it raises."""
    import commops

    try:
        try:
            fn, args, kwargs = unpack(order, shared=True)
            with commops.init(transport=transport) as comm:
                value = fn(comm, *args, **kwargs)
        except SystemExit as end:
            raise RuntimeError(f"the function called sys.exit({end.code!r})") from end
        try:
            result = pack(value)
        except Exception as error:
            kind = type(value).__qualname__
            raise TypeError(f"rank {rank} returned a {kind} that cannot be pickled: {error}") from None
    except Exception as error:
        send(sock, Kind.ERROR, rank, _portable(error))
        raise
    send(sock, Kind.RESULT, rank, result)
    result.close()
    return 0


def _portable(error: Exception) -> Parcel:
    """Pack an exception, or None in the place of one that would not survive the journey."""
    try:
        parcel = pack(error)
        unpack(parcel)  # many exceptions can be pickled but not made again
        return parcel
    except Exception:
        return Parcel(((0, len(_NOTHING), True),), _NOTHING)
