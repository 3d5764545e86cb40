"""The system's clock may be set while a job runs: no deadline is on it."""

from __future__ import annotations

import re
from pathlib import Path

SOURCES = Path(__file__).parents[2] / "src"
# What people read: dates of runs and certificates, and the start of a trace.
MAY_TELL_TIME = {"certificates.py", "tune.py", "flight.c", "flight.py"}
REAL_TIME = re.compile(
    r"\btime\.time(_ns)?\(|\bCLOCK_REALTIME\b|\bgettimeofday\(|\bdatetime\b|[^_\w]time\(NULL\)"
)


def test_all_deadlines_are_on_the_monotonic_clock() -> None:
    files = [path for path in SOURCES.rglob("*") if path.suffix in {".c", ".h", ".py", ".pyx", ".pxd"}]
    assert len(files) > 100
    found = [
        f"{path.relative_to(SOURCES)}:{number}: {line.strip()}"
        for path in files
        if path.name not in MAY_TELL_TIME
        for number, line in enumerate(path.read_text(encoding="utf-8").splitlines(), 1)
        if REAL_TIME.search(line)
    ]
    assert not found, "\n".join(found)
