"""What this machine offers to ranks: each question is a function, and its answer a fact or several."""

from __future__ import annotations

import contextlib
import os
import platform
import resource
import socket
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from enum import Enum
from pathlib import Path

__all__ = ["Fact", "State", "container_limits", "cores", "memory", "network", "shared_memory", "system"]


class State(Enum):
    """Whether a fact is as it should be."""

    OK = "ok"
    NOTE = "note"  # works, but worth knowing
    BAD = "unusable"


@dataclass(frozen=True)
class Fact:
    """One line of what was found.

    Attributes
    ----------
    name, value : str
    state : State
    advice : str
        What to do, where something can be done.
    """

    name: str
    value: str
    state: State = State.OK
    advice: str = ""


def _gib(count: int) -> str:
    return f"{count / (1 << 30):.1f} GiB"


def system() -> list[Fact]:
    """Kernel and limits of this process."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    address_space = resource.getrlimit(resource.RLIMIT_AS)[0]
    facts = [
        Fact("kernel", f"{platform.system()} {platform.release()}, {platform.machine()}"),
        Fact(
            "open files",
            f"{soft} (may be raised to {hard})",
            State.OK if hard < 0 or hard >= 1024 else State.NOTE,
            "" if hard < 0 or hard >= 1024 else "many ranks need many descriptors: raise `ulimit -Hn`",
        ),
    ]
    if address_space != resource.RLIM_INFINITY:
        facts.append(
            Fact(
                "address space",
                _gib(address_space),
                State.NOTE,
                "shared windows need room: `ulimit -v unlimited`",
            )
        )
    return facts


def cores() -> list[Fact]:
    """Cores of the machine and those that this process may use."""
    usable = sorted(os.sched_getaffinity(0))
    total = os.cpu_count() or len(usable)
    return [
        Fact("processor cores", f"{total}"),
        Fact(
            "usable cores",
            f"{len(usable)} ({_ranges(usable)})",
            State.OK if len(usable) == total else State.NOTE,
            ""
            if len(usable) == total
            else "the affinity mask (taskset, Slurm, a cpuset) leaves out the others",
        ),
    ]


def _ranges(numbers: list[int]) -> str:
    """Write sorted numbers as ``0-3,8``."""
    parts: list[list[int]] = []
    for number in numbers:
        if parts and number == parts[-1][-1] + 1:
            parts[-1].append(number)
        else:
            parts.append([number])
    return ",".join(f"{part[0]}-{part[-1]}" if len(part) > 1 else f"{part[0]}" for part in parts)


def memory(proc: Path = Path("/proc")) -> list[Fact]:
    """Memory of the machine."""
    amounts = {}
    for line in (proc / "meminfo").read_text().splitlines():
        name, _, rest = line.partition(":")
        if rest.endswith(" kB"):
            amounts[name] = int(rest.split()[0]) * 1024
    total, free = amounts["MemTotal"], amounts.get("MemAvailable", amounts.get("MemFree", 0))
    short = free < total // 20
    return [
        Fact(
            "memory",
            f"{_gib(total)}, {_gib(free)} available",
            State.NOTE if short else State.OK,
            "little is left: end other programs" if short else "",
        )
    ]


def container_limits(proc: Path = Path("/proc"), cgroups: Path = Path("/sys/fs/cgroup")) -> list[Fact]:
    """Find the tightest limits that control groups set, from this process's own group up to the root.

    Parameters
    ----------
    proc, cgroups : Path
        Where these file systems are mounted.
    """
    quotas: list[float] = []
    limits: list[int] = []
    for folder in _own_groups(proc, cgroups):
        with contextlib.suppress(OSError, ValueError):
            allowed, period = (folder / "cpu.max").read_text().split()  # version 2; "max" where there is none
            quotas.append(int(allowed) / int(period))
        with contextlib.suppress(OSError, ValueError):
            allowed = (folder / "cpu.cfs_quota_us").read_text()  # version 1; -1 where there is none
            quotas.append(int(allowed) / int((folder / "cpu.cfs_period_us").read_text()))
        for name in ("memory.max", "memory.limit_in_bytes"):
            with contextlib.suppress(OSError, ValueError):
                limits.append(int((folder / name).read_text()))
    quotas = [quota for quota in quotas if quota > 0]
    limits = [limit for limit in limits if limit < 1 << 60]  # version 1 writes "none" as a huge number
    facts = []
    if quotas:
        quota, usable = min(quotas), len(os.sched_getaffinity(0))
        throttled = quota < usable
        facts.append(
            Fact(
                "processor quota",
                f"{quota:g} cores",
                State.NOTE if throttled else State.OK,
                f"more than {max(1, int(quota))} busy ranks will be stopped and started by the kernel"
                if throttled
                else "",
            )
        )
    if limits:
        facts.append(Fact("memory limit", f"{_gib(min(limits))}; shared memory counts too"))
    return facts or [Fact("container limits", "none")]


def _own_groups(proc: Path, cgroups: Path) -> Iterator[Path]:
    """Yield this process's control groups and all above them, of both versions."""
    try:
        lines = (proc / "self/cgroup").read_text().splitlines()
    except OSError:
        return
    for line in lines:
        _, controllers, path = line.split(":", 2)
        roots = (
            [cgroups]
            if not controllers
            else [cgroups / controllers, *(cgroups / c for c in controllers.split(","))]
        )
        for root in roots:
            folder = root / path.lstrip("/")
            yield folder
            for above in folder.parents:
                if not above.is_relative_to(root):
                    break
                yield above


def shared_memory() -> list[Fact]:
    """Try what ranks of one host need: unnamed memory, Unix sockets, and word of each other's end."""
    return [
        _try(
            "unnamed shared memory",
            _memfd,
            "memfd_create and fallocate",
            "allow memfd_create and fallocate in the container's seccomp profile",
        ),
        _try(
            "Unix sockets",
            _unix_socket,
            "connect, pass descriptors",
            "allow AF_UNIX sockets in the container's profile",
        ),
        _try(
            "process descriptors",
            _pidfd,
            "pidfd_open",
            "Linux 5.3 or newer, and a seccomp profile that allows pidfd_open",
        ),
    ]


def network() -> list[Fact]:
    """Try what ranks of several hosts need."""
    from commops.rendezvous.addresses import local_addresses

    four = _try("loopback IPv4", lambda: _loopback("127.0.0.1"), "127.0.0.1", "bring up the interface lo")
    six = _try("loopback IPv6", lambda: _loopback("::1"), "::1", "nothing, unless you want it: IPv4 will do")
    if six.state is State.BAD and four.state is State.OK:
        six = Fact(six.name, six.value, State.NOTE, six.advice)
    found = local_addresses()
    return [
        four,
        six,
        Fact(
            "addresses",
            ", ".join(found) or "none but loopback",
            State.OK if found else State.NOTE,
            "" if found else "ranks on other hosts cannot reach this one",
        ),
    ]


def _try(name: str, attempt: Callable[[], None], what: str, advice: str) -> Fact:
    try:
        attempt()
    except (OSError, AttributeError) as error:
        return Fact(name, f"{what}: {error}", State.BAD, advice)
    return Fact(name, f"works ({what})")


def _memfd() -> None:
    descriptor = os.memfd_create("commops-doctor", os.MFD_CLOEXEC | os.MFD_ALLOW_SEALING)
    try:
        os.posix_fallocate(descriptor, 0, 1 << 16)
    finally:
        os.close(descriptor)


def _unix_socket() -> None:
    one, other = socket.socketpair(socket.AF_UNIX, socket.SOCK_STREAM)
    with one, other:
        socket.send_fds(one, [b"x"], [0])
        _, received, _, _ = socket.recv_fds(other, 1, 1)
        for descriptor in received:
            os.close(descriptor)
        if not received:
            raise OSError("no descriptor came through")


def _pidfd() -> None:
    os.close(os.pidfd_open(os.getpid()))


def _loopback(host: str) -> None:
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    with socket.create_server((host, 0), family=family) as server:
        socket.create_connection(server.getsockname()[:2], timeout=2.0).close()
