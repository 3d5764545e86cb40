"""What ranks have called lately: their flight recorders, read from outside.

Each rank keeps its last calls in memory that other processes of its user may read at any time, and that
outlives it as long as another rank of its host lives. The layout, and how a reader knows that an entry was
not being written meanwhile, are in ``comm/flight.h`` of the core. Nothing here disturbs the ranks, and
nothing that is read is trusted.
"""

from __future__ import annotations

import contextlib
import os
import struct
import time
import warnings
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

from commops._core import native

__all__ = ["Call", "Rank", "Recorder", "descriptors", "load", "parse", "running", "save", "status"]

_VERSION = 1
_MAGIC = 0x746867696C666D63
_WINDOW_MAGIC = 0x31776F646E69776F
_WINDOW_LINK = "/memfd:commops (deleted)"
_WINDOW = struct.Struct("<Q40xQ")  # magic, where the recorder is
_HEAD = struct.Struct("<QIIQQQIIiiIiqqq16s64s")
_COUNTS = struct.Struct("<QQIII")  # at the next cache line
_COUNTS_AT = 192
_ENTRIES_AT = 256
_ENTRY = struct.Struct("<QQQQqqIiQ")
_MOST_ENTRIES = 1 << 20
_SITES, _SITE_BYTES = 256, 128

_KINDS = [*native.KINDS, "send", "recv", "probe", "agree", "shrink"]
_MESSAGES = {"send", "recv", "probe"}
_ROOTED = {"broadcast", "reduce", "scatter", "gather"}
_REDUCING = {"allreduce", "reduce", "reduce_scatter", "scan", "exscan"}
_STATES = ["called", "running", "done", "brief", "failed"]
_WORLD = 1


class Call(NamedTuple):
    """A call that a rank has made, or is in.

    Attributes
    ----------
    number : int
        Among all calls of the rank, from 1.
    kind : str
        The name of a collective, or send, recv, probe, agree, shrink.
    comm : int
        Of its communicator; 1 is that of all ranks.
    seq : int
        Of a collective, its number in the communicator; 0: it waits for those before it.
    tag : int
        Of a message; -1: any.
    op, dtype : str
        Empty where there is none, or it is not known.
    elements : int
        As in the call.
    peer : int
        The other rank of a message, or the root; -1: any, or none.
    state : {"called", "running", "done", "brief", "failed"}
        Brief: it has ended well, at once, and its end was not timed.
    error : str
        Why it has failed, as the core names it; empty where it has not.
    start, end : int
        Nanoseconds of CLOCK_MONOTONIC. The start of a brief one may be a tick of the system too early. `end`
        is 0 where it is not known.
    site : str
        ``file:line:function`` of who called, or empty.
    apart : bool
        Whether the call goes on by itself: an ``i…`` call.
    """

    number: int
    kind: str
    comm: int
    seq: int
    tag: int
    op: str
    dtype: str
    elements: int
    peer: int
    state: str
    error: str
    start: int
    end: int
    site: str
    apart: bool

    @property
    def ended(self) -> bool:
        """Whether it has."""
        return self.state not in ("called", "running")

    def __str__(self) -> str:
        parts = []
        if self.elements or self.kind in _REDUCING:
            parts.append(f"{self.elements} × {self.dtype}" if self.dtype else str(self.elements))
        if self.kind in _REDUCING:
            parts.append(f"op={self.op}")
        if self.kind in _ROOTED:
            parts.append(f"root={self.peer}")
        if self.kind in _MESSAGES:
            name = "dest" if self.kind == "send" else "source"
            parts.append(f"{name}={'any' if self.peer < 0 else self.peer}")
            parts.append(f"tag={'any' if self.tag < 0 else self.tag}")
        return f"{'i' * self.apart}{self.kind}({', '.join(parts)})"

    @property
    def place(self) -> str:
        """Where it was made, in short: ``train.py:12``."""
        path, _, _ = self.site.rpartition(":")
        return path.rpartition("/")[2]


class Recorder(NamedTuple):
    """A rank's recorder, as it was read.

    Attributes
    ----------
    rank, size, generation, pid : int
        Who the rank is; the process as it knows itself.
    job : str
        What the job is known by.
    host : str
        Name of its host.
    created, realtime, tick : int
        Nanoseconds: when the rank joined (CLOCK_MONOTONIC), what CLOCK_REALTIME is beyond that clock, and how
        exact the starts of brief calls are.
    total, nbytes : int
        How many calls it has made, and of how many bytes.
    inside : bool
        Whether a thread waits in a call, or for one that goes on by itself.
    closed : bool
        Whether it has left the job.
    calls : list of Call
        The last ones, oldest first.
    """

    rank: int
    size: int
    generation: int
    pid: int
    job: str
    host: str
    created: int
    realtime: int
    tick: int
    total: int
    nbytes: int
    inside: bool
    closed: bool
    calls: list[Call]

    @property
    def current(self) -> Call | None:
        """The call that the rank is in."""
        for call in reversed(self.calls):
            if not call.ended and (self.inside or not call.apart):
                return call
            if not self.inside:
                return None
        return None

    @property
    def latest(self) -> Call | None:
        """The call that it has made last."""
        return self.calls[-1] if self.calls else None

    @property
    def seq(self) -> int:
        """Number of the last collective in the communicator of all ranks; 0: none that is remembered."""
        collectives = native.KINDS.keys()
        return max((c.seq for c in self.calls if c.comm == _WORLD and c.kind in collectives), default=0)


class Rank(NamedTuple):
    """A rank of a running job of this machine.

    Attributes
    ----------
    recorder : Recorder
    pid : int
        Its process as this one knows it; 0: it has ended.
    state : {"in", "computing", "stopped", "left", "ended"}
    read : int
        When the recorder was read, in nanoseconds of CLOCK_MONOTONIC.
    """

    recorder: Recorder
    pid: int
    state: str
    read: int


# ---- bytes


def _name(names: list[str], number: int) -> str:
    return names[number] if number < len(names) else ""


def _printable(data: bytes) -> str:
    text = data.split(b"\0", 1)[0].decode(errors="replace")
    return "".join(c if c.isprintable() else "?" for c in text)


def _call(fields: tuple[Any, ...], sites: list[str]) -> Call:
    number, comm, seq, count, start, end, site, peer, what = fields
    kind = _name(_KINDS, what & 0xFF) or "unknown"
    message = kind in _MESSAGES
    tag = (seq if seq < 1 << 63 else seq - (1 << 64)) if message else -1
    state = _name(_STATES, what >> 24 & 0xFF) or "failed"
    return Call(
        number=number,
        kind=kind,
        comm=comm,
        seq=0 if message else seq,
        tag=tag,
        op=_name(list(native.OPS), what >> 8 & 0xFF) if kind in _REDUCING else "",
        dtype=_name(native.DTYPES, what >> 16 & 0xFF) if kind != "barrier" else "",
        elements=count,
        peer=peer if message or kind in _ROOTED else -1,
        state=state,
        error=_name(native.ERRORS, what >> 32 & 0xFF) if state == "failed" else "",
        start=start,
        end=end if state in ("done", "failed") else 0,
        site=sites[site - 1] if 0 < site <= len(sites) else "",
        apart=bool(what >> 40 & 1),
    )


def _size(head: bytes) -> int:
    """Return how many bytes a recorder has, by its first ones; ValueError if it is none."""
    magic, version, entry_bytes, at, entries, sites_at, sites, site_bytes = _HEAD.unpack_from(head)[:8]
    if magic != _MAGIC:
        raise ValueError("no flight recorder")
    if version != _VERSION:
        raise ValueError(f"a flight recorder of another version of commops ({version}, not {_VERSION})")
    sane = (entry_bytes, at, sites, site_bytes) == (_ENTRY.size, _ENTRIES_AT, _SITES, _SITE_BYTES)
    if not (sane and 0 < entries <= _MOST_ENTRIES and sites_at == at + entries * entry_bytes):
        raise ValueError("a flight recorder that makes no sense")
    return int(sites_at) + _SITES * _SITE_BYTES


def parse(data: bytes, before: bytes | None = None, after: bytes | None = None) -> Recorder:
    """Read a recorder.

    Parameters
    ----------
    data : bytes
        All of it.
    before, after : bytes, optional
        The same, read earlier and later, if its rank may have been writing: what had not the same number in
        both is left out.

    Raises
    ------
    ValueError
        If it is none.
    """
    if len(data) < _ENTRIES_AT or len(data) < _size(data):
        raise ValueError("no flight recorder, or not all of it")
    head = _HEAD.unpack_from(data)
    total, nbytes, nsites, inside, closed = _COUNTS.unpack_from(data, _COUNTS_AT)
    entries, sites_at = head[4], head[5]
    texts = [
        data[at : at + _SITE_BYTES]
        for at in range(sites_at, sites_at + min(nsites, _SITES) * _SITE_BYTES, _SITE_BYTES)
    ]
    sites = [_printable(text) for text in texts]
    calls = []
    for at in range(_ENTRIES_AT, sites_at, _ENTRY.size):
        number = data[at : at + 8]
        if number == bytes(8) or any(other and other[at : at + 8] != number for other in (before, after)):
            continue
        fields = _ENTRY.unpack_from(data, at)
        if (fields[0] - 1) % entries == (at - _ENTRIES_AT) // _ENTRY.size:
            calls.append(_call(fields, sites))
    calls.sort()
    rank, size, generation, pid, created, realtime, tick, job, host = head[8:]
    return Recorder(
        rank=rank,
        size=size,
        generation=generation,
        pid=pid,
        job=job.hex() if any(job) else f"process-{pid}",
        host=_printable(host),
        created=created,
        realtime=realtime,
        tick=tick,
        total=total,
        nbytes=nbytes,
        inside=bool(inside),
        closed=bool(closed),
        calls=calls,
    )


# ---- the ranks of this machine


def _read(fd: int) -> Recorder:
    """Read the recorder in a window; ValueError if there is none."""
    page = os.pread(fd, _WINDOW.size, 0)
    magic, at = _WINDOW.unpack(page) if len(page) == _WINDOW.size else (0, 0)
    if magic != _WINDOW_MAGIC or not 0 < at < 1 << 62:
        raise ValueError("no window with a recorder")
    size = _size(os.pread(fd, _ENTRIES_AT, at).ljust(_ENTRIES_AT, b"\0"))
    # In this order: a number that stands before and after was there all the time.
    before, data, after = (os.pread(fd, size, at) for _ in range(3))
    return parse(data, before, after)


def _processes() -> Iterator[int]:
    """Find the processes whose memory this user may look at."""
    user = os.geteuid()
    for name in os.listdir("/proc"):
        if name.isdecimal():
            with contextlib.suppress(OSError):
                if user == 0 or os.stat(f"/proc/{name}").st_uid == user:
                    yield int(name)


def status(pid: int) -> dict[str, str]:
    """Return what /proc says of a process; nothing of one that has ended."""
    with contextlib.suppress(OSError):
        lines = Path(f"/proc/{pid}/status").read_text(errors="replace").splitlines()
        return dict(line.split(":", 1) for line in lines if ":" in line)
    return {}


def descriptors(link: str) -> Iterator[tuple[int, str]]:
    """Find open descriptors by what their link in /proc begins with: (process, path in /proc) of each."""
    for pid in _processes():
        with contextlib.suppress(OSError):
            for fd in os.listdir(f"/proc/{pid}/fd"):
                path = f"/proc/{pid}/fd/{fd}"
                with contextlib.suppress(OSError):
                    if os.readlink(path).startswith(link):
                        yield pid, path


def _state(recorder: Recorder, pid: int) -> str:
    if recorder.closed:
        return "left"
    letter = status(pid).get("State", "X").strip()[:1] if pid else "X"
    if letter in ("Z", "X"):
        return "ended"
    if letter in ("T", "t"):
        return "stopped"
    return "in" if recorder.current else "computing"


def running() -> list[Rank]:
    """Read the recorders of all ranks on this machine that are this user's; of all users, for root.

    A rank that has ended is among them as long as another rank, with which it has shared memory, runs.

    Returns
    -------
    list of Rank
        By job and rank.
    """
    found: dict[tuple[int, int], Recorder] = {}
    owners: dict[tuple[int, int], int] = {}
    for pid, path in descriptors(_WINDOW_LINK):
        with contextlib.suppress(OSError, ValueError):
            fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
            try:
                stat = os.fstat(fd)
                key = (stat.st_dev, stat.st_ino)
                if key not in found:
                    found[key] = _read(fd)
            finally:
                os.close(fd)
            if status(pid).get("NSpid", "").split()[-1:] == [str(found[key].pid)]:
                owners[key] = pid
    now = time.monotonic_ns()
    ranks = []
    for key, recorder in found.items():
        pid = owners.get(key, 0)
        state = _state(recorder, pid)
        ranks.append(Rank(recorder, 0 if state == "ended" else pid, state, now))
    return sorted(
        ranks, key=lambda r: (r.recorder.job, r.recorder.rank, r.recorder.generation, r.recorder.created)
    )


# ---- files


def save(engine: Any, folder: str) -> None:
    """Write a rank's recorder into a folder, which is made if it is missing.

    Parameters
    ----------
    engine : native Engine
    folder : str

    Warns
    -----
    RuntimeWarning
        If that cannot be done.
    """
    data = engine.flight()
    if data is None:
        return
    recorder = parse(data)
    name = f"{recorder.job[:16]}.{recorder.generation}-rank-{recorder.rank}.flight"
    part = os.path.join(folder, f".{name}.{os.getpid()}")
    try:
        os.makedirs(folder, exist_ok=True)
        Path(part).write_bytes(data)
        os.replace(part, os.path.join(folder, name))
    except OSError as error:
        warnings.warn(
            f"rank {recorder.rank} cannot save its calls in COMMOPS_TRACE={folder}: {error}",
            RuntimeWarning,
            stacklevel=2,
        )


def load(folders: Iterable[str | os.PathLike[str]]) -> list[Recorder]:
    """Read the recorders that ranks have saved in these folders.

    Raises
    ------
    ValueError
        If there is none, or a file is none. The message names it.
    OSError
        If a folder cannot be read.
    """
    found = []
    for folder in folders:
        paths = sorted(path for path in Path(folder).iterdir() if path.suffix == ".flight")
        if not paths:
            raise ValueError(f"no rank has saved its calls in {folder}: was COMMOPS_TRACE set to it?")
        for path in paths:
            try:
                found.append(parse(path.read_bytes()))
            except ValueError as error:
                raise ValueError(f"{path}: {error}") from None
    return found
