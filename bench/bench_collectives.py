"""Latency and bandwidth of the collectives beside those of MPI libraries and gloo.

8 operations × 9 sizes; 2 and 4 ranks over shared memory, 2 over TCP on loopback; the method is that of
`commops.cli.measure`. The contenders alternate: in each round every one of them measures everything once, and
what counts is the median of the rounds. Ratios are of times in one such run.
"""

from __future__ import annotations

import json
import statistics
import subprocess
from collections.abc import Sequence
from math import exp, log
from pathlib import Path
from typing import Any, NamedTuple

import commops
import peers
from commops.cli import measure as method
from commops.cli.measure import OPS, SIZES

_Times = dict[str, dict[str, float]]  # contender → "op bytes" → microseconds

_DIRECT = ("allreduce", "allgather", "broadcast", "reduce_scatter")  # gain most by comm.empty


class Setting(NamedTuple):
    """Ranks, a transport, and who competes there."""

    ranks: int
    transport: str
    peers: tuple[str, ...]

    @property
    def name(self) -> str:
        return f"{self.transport}{self.ranks}"


SETTINGS = (
    Setting(2, "shm", ("intelmpi", "mpich", "openmpi", "gloo")),
    Setting(2, "tcp", ("openmpi-tcp", "mpich-tcp", "gloo")),
    Setting(4, "shm", ("intelmpi", "mpich", "openmpi", "gloo")),
)


def _rank(comm: commops.Comm, shared: bool, arguments: dict[str, Any]) -> list[dict[str, Any]]:
    new = (lambda count: comm.zeros(count, "f4")) if shared else None
    return [row._asdict() for row in method.measure(comm, new=new, **arguments)]


def run_once(contender: str, setting: Setting, arguments: dict[str, Any]) -> dict[str, float]:
    """Measure one contender once.

    Parameters
    ----------
    contender : str
        ``commops``, ``commops (comm.empty)`` or a key of `peers.PEERS`.
    setting : Setting
    arguments : dict
        For `commops.cli.measure.measure`.

    Returns
    -------
    dict
        Microseconds by operation and size.
    """
    if contender.startswith("commops"):
        shared = contender != "commops"
        rows = commops.launch(_rank, setting.ranks, shared, arguments, transport=setting.transport)[0]
    else:
        program = Path(__file__).with_name("peer_rank.py")
        library = peers.PEERS[contender].library
        command, environ = peers.command(
            contender, setting.ranks, str(program), library, method.__file__, json.dumps(arguments)
        )
        done = subprocess.run(command, env=environ, capture_output=True, text=True, check=False)
        if done.returncode:
            raise RuntimeError(f"{contender}: {done.stderr[-2000:]}")
        rows = json.loads(next(line for line in done.stdout.splitlines() if line.startswith("[{")))
    return {f"{row['op']} {row['bytes']}": row["microseconds"] for row in rows}


def compare(
    setting: Setting,
    contenders: Sequence[str],
    *,
    ops: Sequence[str] = tuple(OPS),
    sizes: Sequence[int] = SIZES,
    rounds: int = 5,
    batches: int = 3,
    seconds: float = 0.06,
) -> _Times:
    """Let the contenders alternate; return the median time of each at each point."""
    peers.prepare(tuple(name for name in contenders if name in peers.PEERS))
    found: dict[str, list[dict[str, float]]] = {name: [] for name in contenders}
    for _ in range(rounds):
        for name in contenders:
            chosen = [op for op in ops if op in _DIRECT] if name == "commops (comm.empty)" else ops
            arguments = {"ops": list(chosen), "sizes": list(sizes), "batches": batches, "seconds": seconds}
            found[name].append(run_once(name, setting, arguments))
    return {
        name: {point: statistics.median(run[point] for run in runs) for point in runs[0]}
        for name, runs in found.items()
    }


def ratios(times: _Times, name: str = "commops") -> dict[str, float]:
    """Return how long a contender takes at each point, beside the best peer there."""
    rivals = [rows for contender, rows in times.items() if not contender.startswith("commops")]
    return {point: t / min(rows[point] for rows in rivals) for point, t in times[name].items()}


def geometric_mean(values: Sequence[float]) -> float:
    """Return the mean of ratios."""
    return exp(sum(map(log, values)) / len(values))


def measure(quick: bool) -> dict[str, Any]:
    rounds, sizes = (1, [size for size in SIZES if size <= 1 << 20]) if quick else (5, list(SIZES))
    runs = []
    for setting in SETTINGS:
        own = ("commops", "commops (comm.empty)") if setting.transport == "shm" else ("commops",)
        times = compare(setting, (*own, *setting.peers), rounds=rounds, sizes=sizes)
        summary = {name: geometric_mean(list(ratios(times, name).values())) for name in own}
        runs.append({"setting": setting._asdict(), "microseconds": times, "geometric_means": summary})
    return {"runs": runs}


def table(times: _Times) -> str:
    """Return times and ratios as text, a line a point; ``<`` marks where a peer is ahead."""
    names = list(times)
    lines = [f"{'':24}" + "".join(f"{name[:14]:>15}" for name in names) + f"{'ratio':>8}"]
    for point, ratio in ratios(times).items():
        cells = "".join(
            f"{times[name][point]:15.1f}" if point in times[name] else f"{'':15}" for name in names
        )
        lines.append(f"{point:24}{cells}{ratio:8.2f}{' <' if ratio > 1 else ''}")
    lines.append(f"geometric mean of the ratios: {geometric_mean(list(ratios(times).values())):.2f}")
    return "\n".join(lines)


def plot(record: dict[str, Any], path: Path) -> None:
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    for run in record["runs"]:
        setting, times = Setting(**run["setting"]), run["microseconds"]
        ops = [op for op in OPS if op != "barrier"]
        figure = Figure(figsize=(13, 6.5), dpi=130, layout="constrained")
        FigureCanvasAgg(figure)
        grid = figure.subplots(2, 4, sharex=True).flat
        for op, axes in zip(ops, grid, strict=False):
            for name, rows in times.items():
                points = [(int(p.split()[1]), t) for p, t in rows.items() if p.split()[0] == op]
                style: dict[str, Any] = {"lw": 2.2, "color": "#c0392b"} if name == "commops" else {"lw": 1.2}
                axes.loglog(*zip(*points, strict=True), label=name, **style) if points else None
            axes.set_title(op, fontsize=10)
            axes.grid(alpha=0.3)
        grid[0].set_ylabel("µs")
        grid[4].set_ylabel("µs")
        grid[-1].axis("off")
        grid[-1].legend(*grid[0].get_legend_handles_labels(), loc="center", frameon=False)
        figure.suptitle(f"{setting.ranks} ranks, {setting.transport}: time of a call against bytes")
        figure.savefig(path.with_stem(f"{path.stem}_{setting.name}"))
