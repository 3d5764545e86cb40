"""What Linux offers to keep a family of processes together."""

from __future__ import annotations

import contextlib
import ctypes
import os
import re
import resource
import signal
from collections.abc import Callable, Iterator, Set
from typing import NoReturn

__all__ = [
    "adopting_orphans",
    "children",
    "default_threads",
    "die_with",
    "end_process",
    "kill_children",
    "limit_loaded_blas",
    "room_for_descriptors",
    "sealed_memory",
]

_PR_SET_PDEATHSIG = 1
_PR_SET_CHILD_SUBREAPER = 36
_PR_GET_CHILD_SUBREAPER = 37

_libc = ctypes.CDLL(None, use_errno=True)


def _prctl(option: int, argument: object) -> None:
    if _libc.prctl(option, argument, 0, 0, 0) != 0:
        number = ctypes.get_errno()
        raise OSError(number, f"prctl({option}): {os.strerror(number)}")


def die_with(parent: int) -> None:
    """Have the kernel kill this process when `parent`, the process that forked it, ends in whatever way."""
    _prctl(_PR_SET_PDEATHSIG, ctypes.c_ulong(signal.SIGKILL))
    if os.getppid() != parent:  # it ended before the kernel was told
        os._exit(128 + signal.SIGKILL)


@contextlib.contextmanager
def adopting_orphans() -> Iterator[None]:
    """Become the parent of descendants whose own parent ends, so that none of them gets out of sight."""
    before = ctypes.c_int()
    _prctl(_PR_GET_CHILD_SUBREAPER, ctypes.byref(before))
    _prctl(_PR_SET_CHILD_SUBREAPER, ctypes.c_ulong(1))
    try:
        yield
    finally:
        _prctl(_PR_SET_CHILD_SUBREAPER, ctypes.c_ulong(before.value))


def children() -> set[int]:
    """Return the process ids of this process's children, zombies included."""
    mine: set[int] = set()
    try:
        os.waitid(os.P_ALL, 0, os.WEXITED | os.WNOHANG | os.WNOWAIT)
    except ChildProcessError:  # the rule, and cheaper than a look at every process of the machine
        return mine
    me = str(os.getpid()).encode()
    for name in os.listdir("/proc"):
        if name.isdecimal():
            # A process may end between the two calls.
            with contextlib.suppress(OSError), open(f"/proc/{name}/stat", "rb") as file:
                if file.read().rpartition(b")")[2].split()[1] == me:
                    mine.add(int(name))
    return mine


def kill_children(spare: Set[int]) -> None:
    """Kill this process's children except `spare`, and theirs as they become its own, until none is left."""
    while doomed := children() - spare:
        for pid in doomed:
            os.kill(pid, signal.SIGKILL)
        for pid in doomed:
            with contextlib.suppress(ChildProcessError):
                os.waitpid(pid, 0)


def end_process(status: int) -> NoReturn:
    """End this process as the interpreter ends itself, whatever calls are on the stack.

    A forked rank must not return into the frames that it inherited: their ``finally`` clauses, context
    managers and event loops belong to the launcher. ``os._exit`` would skip too much. This is the call that
    the interpreter makes for an uncaught `SystemExit`: it joins threads, runs `atexit`, flushes, finalises.
    """
    ctypes.pythonapi.Py_Exit(ctypes.c_int(status))
    raise AssertionError("Py_Exit returned")


def sealed_memory(name: str, content: bytes) -> int:
    """Return a descriptor of an unnamed file in memory that holds `content` and can no longer be changed."""
    import fcntl

    descriptor = os.memfd_create(name, os.MFD_CLOEXEC | os.MFD_ALLOW_SEALING)
    try:
        os.write(descriptor, content)
        seals = fcntl.F_SEAL_SEAL | fcntl.F_SEAL_SHRINK | fcntl.F_SEAL_GROW | fcntl.F_SEAL_WRITE
        fcntl.fcntl(descriptor, fcntl.F_ADD_SEALS, seals)
    except BaseException:
        os.close(descriptor)
        raise
    return descriptor


@contextlib.contextmanager
def room_for_descriptors(count: int) -> Iterator[Callable[[], None]]:
    """Raise the soft limit of open files by `count` where the hard one allows it.

    Yields
    ------
    callable
        Sets the limit back, for a child to which it should not be handed down.
    """
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)

    def restore() -> None:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))

    wanted = len(os.listdir("/proc/self/fd")) + count
    if soft != resource.RLIM_INFINITY and wanted > soft:
        ceiling = wanted if hard == resource.RLIM_INFINITY else min(wanted, hard)
        resource.setrlimit(resource.RLIMIT_NOFILE, (ceiling, hard))
    try:
        yield restore
    finally:
        restore()


def default_threads(n: int) -> dict[str, str]:
    """Return the environment that keeps `n` ranks from using more threads together than there are cores.

    Only ``OMP_NUM_THREADS``, and only where the user has not set it: OpenBLAS, MKL, BLIS, numexpr and torch
    all fall back to it, so a more specific variable of the user's stays in force.
    """
    if n == 1 or os.environ.get("OMP_NUM_THREADS"):
        return {}
    return {"OMP_NUM_THREADS": str(max(1, len(os.sched_getaffinity(0)) // n))}


def limit_loaded_blas(threads: int) -> None:
    """Set the thread count of an OpenBLAS that is loaded already, which reads the environment no more."""
    if any(os.environ.get(name) for name in ("OPENBLAS_NUM_THREADS", "GOTO_NUM_THREADS", "OMP_NUM_THREADS")):
        return
    with open("/proc/self/maps", encoding="utf-8", errors="surrogateescape") as file:
        paths = set(re.findall(r"/.*openblas.*\.so.*", file.read()))
    for path in paths:
        library = ctypes.CDLL(path.rstrip(), mode=os.RTLD_NOLOAD | os.RTLD_NOW)
        for prefix in ("", "scipy_"):
            for suffix in ("", "64_"):
                with contextlib.suppress(AttributeError):  # NumPy's wheels rename the function
                    library[f"{prefix}openblas_set_num_threads{suffix}"](ctypes.c_int(threads))
