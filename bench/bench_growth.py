"""How the cost of a collective grows with the ranks, up to 4,096 of them in the simulated transport.

What is measured are hops on the longest path, where a hop takes one unit of time and nothing else takes any,
and the messages and bytes that a rank sends. No time of this machine is: the result is the same everywhere.
The program is `tests/native/test_coll_growth.c`, which also has the formulas, and fails where a call costs
anything else. Algorithms that send n messages a rank, so n² in all, stop at 256 or 512 ranks.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

_ROOT = Path(__file__).resolve().parents[1]
_BUILD = _ROOT / ".build" / "growth"
_PROGRAM = "tests/native/test_coll_growth"


def measure(quick: bool) -> dict[str, Any]:
    environ = {**os.environ, "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}"}
    if not (_BUILD / "build.ninja").exists():
        command = ["meson", "setup", str(_BUILD), str(_ROOT), "-Dtests=true"]
        subprocess.run(command, check=True, env=environ, stdout=subprocess.DEVNULL)
    command = ["ninja", "-C", str(_BUILD), _PROGRAM]
    subprocess.run(command, check=True, env=environ, stdout=subprocess.DEVNULL)
    environ["QUICK"] = "1" if quick else "0"
    printed = subprocess.run([str(_BUILD / _PROGRAM)], check=True, env=environ, stdout=subprocess.PIPE).stdout
    return {"rows": json.loads(printed)}


def _amounts(row: dict[str, Any], which: str) -> dict[str, float]:
    """Return what one panel shows of a row: a cost by its label. Bytes count in arrays or blocks."""
    cost, ranks, array = row[which], row["ranks"], row["array"] or 1
    return {
        "steps": cost["steps"],
        "messages, most": cost["messages"],
        "messages, mean": cost["all_messages"] / ranks,
        "arrays, most": cost["bytes"] / array,
        "arrays, mean": cost["all_bytes"] / ranks / array,
    }


_TICKS = (2, 8, 64, 512, 4096)
_STYLES: dict[str, dict[str, Any]] = {
    "steps": {"color": "black", "marker": "x", "markersize": 6},
    "messages, most": {"color": "#d1495b", "marker": "o", "markersize": 7, "fillstyle": "none"},
    "messages, mean": {"color": "#d1495b", "marker": ".", "markersize": 5},
    "arrays, most": {"color": "#2e6f95", "marker": "s", "markersize": 6, "fillstyle": "none"},
    "arrays, mean": {"color": "#2e6f95", "marker": ".", "markersize": 5},
}


def plot(record: dict[str, Any], path: Path) -> None:
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    panels: dict[tuple[str, str], list[dict[str, Any]]] = {}
    for row in record["rows"]:
        panels.setdefault((row["operation"], row["algorithm"]), []).append(row)
    figure = Figure(figsize=(15, 11.5), dpi=130, layout="constrained")
    FigureCanvasAgg(figure)
    grid = figure.subplots(4, 5, sharex=True, sharey=True).flat
    for ((operation, algorithm), rows), axes in zip(panels.items(), grid, strict=True):
        ranks = [row["ranks"] for row in rows]
        for label, style in _STYLES.items():
            expected = [_amounts(row, "formula")[label] for row in rows]
            if any(expected):
                found = [_amounts(row, "measured")[label] for row in rows]
                axes.loglog(ranks, expected, color=style["color"], lw=0.8, alpha=0.7)
                axes.loglog(ranks, found, ls="none", label=label, **style)
        axes.set_title(f"{operation}: {algorithm}", fontsize=10)
        axes.grid(alpha=0.25)
        axes.set_xticks(_TICKS, [f"{tick:,}" for tick in _TICKS])
        axes.minorticks_off()
    for axes in grid[15:]:
        axes.set_xlabel("ranks")
    figure.legend(
        *grid[1].get_legend_handles_labels(), loc="outside lower center", ncols=len(_STYLES), frameon=False
    )
    figure.suptitle("What a call costs: measured (points), by formula (lines); bytes are counted in arrays")
    figure.savefig(path)
