"""How soon ranks are ready, and what `import commops` costs.

"Ready" is when every rank has its communicator and has passed a barrier. Times are counted from the moment at
which the interpreter was started, and given beyond those of an interpreter that imports NumPy and nothing
else: what is left is commops' own.
"""

from __future__ import annotations

import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

_READY = """
import time
import commops

with commops.init() as comm:
    comm.barrier()
    if comm.rank == 0:
        print(time.monotonic())
"""
_NUMPY = "import time, numpy; print(time.monotonic())"
_COMMAND = str(Path(sys.executable).with_name("commops"))


def _seconds_until(*arguments: str) -> float:
    """Start an interpreter, and return after how many seconds it wrote down the time."""
    begin = time.monotonic()  # CLOCK_MONOTONIC: the same in all processes
    end = subprocess.run([sys.executable, *arguments], check=True, capture_output=True, text=True).stdout
    return float(end) - begin


def _import_milliseconds() -> float:
    """Return what importing commops takes where NumPy is imported already."""
    command = [sys.executable, "-X", "importtime", "-c", "import numpy, commops"]
    log = subprocess.run(command, check=True, capture_output=True, text=True).stderr
    for line in log.splitlines():
        _, cumulative, name = line.removeprefix("import time:").split("|")
        if name.strip() == "commops":
            return int(cumulative) / 1000
    raise RuntimeError("commops is not in the log of imports")


def measure(quick: bool) -> dict[str, Any]:
    repeats = 3 if quick else 15
    with tempfile.TemporaryDirectory() as folder:
        script = Path(folder) / "ready.py"
        script.write_text(_READY)
        times: dict[str, list[float]] = {"numpy": [], "1": [], "2": [], "8": [], "32": []}
        # In turn, so that a slow spell of the machine meets all of them.
        for _ in range(repeats):
            for what, found in times.items():
                if what == "numpy":
                    found.append(_seconds_until("-c", _NUMPY))
                else:
                    found.append(_seconds_until(_COMMAND, "run", "-n", what, str(script)))
    base = statistics.median(times.pop("numpy"))
    return {
        "numpy_seconds": base,
        "seconds_beyond_numpy": {what: statistics.median(found) - base for what, found in times.items()},
        "import_milliseconds": statistics.median(_import_milliseconds() for _ in range(repeats)),
    }


def table(record: dict[str, Any]) -> str:
    lines = [
        f"{'ranks: ' + ranks:24}{1000 * seconds:8.0f}"
        for ranks, seconds in record["seconds_beyond_numpy"].items()
    ]
    title = "start-up: milliseconds beyond those of Python and NumPy"
    return "\n".join([title, *lines, f"{'import commops':24}{record['import_milliseconds']:8.1f}"])


def plot(record: dict[str, Any], path: Path) -> None:
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(6.4, 4), dpi=150, layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.add_subplot()
    beyond = record["seconds_beyond_numpy"]
    bars = axes.bar(list(beyond), [1000 * seconds for seconds in beyond.values()], color="#3b6fb6")
    axes.bar_label(bars, fmt="%.0f")
    axes.set_xlabel("ranks")
    axes.set_ylabel("milliseconds until all are ready,\nbeyond those of Python and NumPy")
    axes.set_title(f"import commops: {record['import_milliseconds']:.1f} ms beyond NumPy's", fontsize=10)
    axes.spines[["top", "right"]].set_visible(False)
    figure.savefig(path)
