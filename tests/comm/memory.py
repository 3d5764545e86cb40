"""How much memory this process has."""

from __future__ import annotations


def _rows(*names: str) -> int:
    with open("/proc/self/smaps_rollup") as file:
        rows = dict(line.split(":") for line in file if ":" in line and "-" not in line.split(":")[0])
    return 1024 * sum(int(rows[name].split()[0]) for name in names)


def private_memory() -> int:
    """Return the bytes of this process that are in memory, and not shared with another."""
    return _rows("Private_Clean", "Private_Dirty")


def resident_memory() -> int:
    """Return the bytes of this process that are in memory, shared ones included."""
    return _rows("Rss")
