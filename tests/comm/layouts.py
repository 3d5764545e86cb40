"""How many ranks, on how many hosts, connected by what."""

from __future__ import annotations

from dataclasses import dataclass, field


@dataclass(frozen=True)
class Layout:
    """Which ranks are on which host, and what connects them.

    Attributes
    ----------
    hosts : str
        A letter for each rank: its host.
    transport : str
        As for `commops.init`.
    settings : dict
        Environment of all ranks.
    name : str
        What tells it from another with the same ranks and transport, in the names of tests.
    """

    hosts: str
    transport: str = "auto"
    settings: tuple[tuple[str, str], ...] = field(default=(), repr=False)
    name: str = "small"

    @property
    def size(self) -> int:
        return len(self.hosts)

    def __str__(self) -> str:
        name = f"{self.size}" if len(set(self.hosts)) == 1 else self.hosts
        return f"{self.transport}-{name}{f'-{self.name}' if self.settings else ''}"


# Little arrays then take the ways of large ones: many slots, frames and segments.
SMALL = tuple(
    {
        "COMMOPS_SLOT_BYTES": "128",
        "COMMOPS_SLOTS": "12",
        "COMMOPS_ROUND_BYTES": "256",
        "COMMOPS_STREAM_BYTES": "128",
        "COMMOPS_AROUND_BYTES": "1000",
        "COMMOPS_STAGED_BYTES": "256",
        "COMMOPS_DIRECT_BYTES": "300",
        "COMMOPS_ATTACH_BYTES": "600",
        "COMMOPS_PIPE_BYTES": "4096",
        "COMMOPS_EAGER_BYTES": "200",
        "COMMOPS_EAGER_WINDOW": "512",
        "COMMOPS_FRAME_BYTES": "100",
        "COMMOPS_SEGMENT_BYTES": "96",
        "COMMOPS_DOUBLING_BYTES": "160",
    }.items()
)

SHARED = [Layout("a" * n, "shm") for n in (1, 2, 3, 4, 5)]
WIRED = [Layout("a" * n, "tcp") for n in (2, 3, 4, 5)]
HOSTS = [Layout(hosts) for hosts in ("aabb", "aaab", "abaab", "aabcc")]
ALL = [*SHARED, *WIRED, *HOSTS]
EVERY = [*ALL, *(Layout(layout.hosts, layout.transport, SMALL) for layout in ALL if layout.size > 1)]
FEW = [Layout("aaa", "shm"), Layout("aaa", "tcp"), Layout("aab")]
PAIRS = [Layout("aa", "shm"), Layout("aa", "tcp"), Layout("ab")]
