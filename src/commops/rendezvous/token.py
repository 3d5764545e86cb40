"""The token: the secret that the ranks of one job share and no stranger has."""

from __future__ import annotations

import os
import re
import select
import stat

from commops.errors import RendezvousError
from commops.rendezvous.deadline import Deadline

__all__ = ["Token", "is_descriptor", "load_token", "new_token", "read_private"]

_LONGEST = 4096
_READ_TIMEOUT = 5.0  # a pipe whose writer never finishes must not hang the rank
_DESCRIPTOR_PATH = re.compile(r"/dev/fd/\d+|/proc/(self|thread-self|\d+)/fd/\d+")


class Token(bytes):
    """A token. It is `bytes`, except that printing it, or a traceback that shows it, gives nothing away."""

    def __repr__(self) -> str:
        return "<token>"

    __str__ = __repr__


def new_token() -> Token:
    """Return a fresh token: 32 bytes from the system's generator, as 64 hexadecimal digits."""
    return Token(os.urandom(32).hex().encode())


def load_token(explicit: str | bytes | None = None) -> Token | None:
    """Return this job's token from the first of three places that has one.

    Parameters
    ----------
    explicit : str or bytes, optional
        A token given by the caller. Otherwise the environment variable ``COMMOPS_TOKEN`` is taken, or else
        the content of the file that ``COMMOPS_TOKEN_FILE`` names: a regular file that only its owner may
        read, or a descriptor path such as ``/proc/self/fd/3``.

    Returns
    -------
    Token or None
        The token without newlines at its end, or None where none of the three is there.

    Raises
    ------
    ValueError
        If the token is empty or longer than 4 KiB. A variable that is set but empty is not taken as "no
        token": that would open a job whose owner meant to close it.
    RendezvousError
        If the file cannot be read, is of another kind, or may be read by its group or by others.
    """
    if explicit is not None:
        return _clean(explicit.encode() if isinstance(explicit, str) else explicit, "token")
    if "COMMOPS_TOKEN" in os.environ:
        return _clean(os.environb[b"COMMOPS_TOKEN"], "COMMOPS_TOKEN")
    path = os.environ.get("COMMOPS_TOKEN_FILE")
    if path is None:
        return None
    content = read_private(path, "COMMOPS_TOKEN_FILE", _LONGEST)
    return _clean(content, f"the file {path!r} of COMMOPS_TOKEN_FILE")


def _clean(raw: bytes, origin: str) -> Token:
    token = Token(bytes(raw).rstrip(b"\r\n"))
    if not token:
        raise ValueError(
            f"{origin} is empty; give a secret (`openssl rand -hex 32` makes one) or none at all"
        )
    if len(token) > _LONGEST:
        raise ValueError(f"{origin} has over {_LONGEST} bytes, which cannot be a token")
    return token


def is_descriptor(path: str) -> bool:
    """Say whether `path` names a descriptor of a process, as ``/proc/self/fd/3`` does."""
    return bool(_DESCRIPTOR_PATH.fullmatch(path))


def read_private(path: str, origin: str, longest: int) -> bytes:
    """Read a file that only its owner may read, or one that was handed to this process as a descriptor.

    Parameters
    ----------
    path : str
    origin : str
        Who names the file, for messages.
    longest : int
        Bytes; of a longer file, one more is returned.

    Raises
    ------
    RendezvousError
        If it cannot be read, is of another kind, or may be read by its group or by others.
    """
    try:
        return _read(path, origin, longest)
    except OSError as error:
        raise RendezvousError(f"{origin}: cannot read {path!r}: {error.strerror or error}") from error


def _read(path: str, origin: str, longest: int) -> bytes:
    # Non-blocking, so that neither opening nor reading a FIFO can hang.
    descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_NOCTTY | os.O_CLOEXEC)
    try:
        status = os.fstat(descriptor)
        # A descriptor was handed to this process and is nobody else's to open, whatever its mode bits are
        # (a memfd has all of them set).
        if not is_descriptor(path):
            if not stat.S_ISREG(status.st_mode):
                raise RendezvousError(
                    f"{origin}: {path!r} is neither a regular file nor a descriptor such as /proc/self/fd/3"
                )
            if status.st_mode & 0o077:
                raise RendezvousError(
                    f"{origin}: {path!r} is open to its group or to others "
                    f"(mode {stat.S_IMODE(status.st_mode):04o}); run: chmod 600 {path}"
                )
        return _read_all(descriptor, Deadline(_READ_TIMEOUT), longest)
    finally:
        os.close(descriptor)


def _read_all(descriptor: int, deadline: Deadline, longest: int) -> bytes:
    content = b""
    poll = select.poll()
    poll.register(descriptor, select.POLLIN)
    while len(content) <= longest:
        if not poll.poll(deadline.remaining() * 1000):
            raise TimeoutError(f"its writer did not finish within {deadline.timeout:g} s")
        part = os.read(descriptor, longest + 1 - len(content))
        if not part:
            break
        content += part
    return content
