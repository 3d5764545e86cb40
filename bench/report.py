"""What a contest has found: ratios, and tables of them.

Times of a round are kept as ``{contender: {"allreduce 1024": microseconds}}``. A ratio is commops' time
divided by another's in the same round, so that less than 1 is ahead; the median of the rounds counts.
"""

from __future__ import annotations

from collections.abc import Sequence
from math import exp, log
from statistics import median
from typing import Any, NamedTuple

import peers
from commops.cli.chart import short_bytes

__all__ = ["Ratio", "Times", "geometric_mean", "medians", "point", "ratios", "split", "summary", "table"]

Times = dict[str, dict[str, float]]


def point(op: str, size: int) -> str:
    """Return how an operation at a size is named in records."""
    return f"{op} {size}"


def split(point: str) -> tuple[str, int]:
    """Return operation and size of a name in records."""
    op, size = point.split()
    return op, int(size)


def geometric_mean(values: Sequence[float]) -> float:
    """Return the mean of ratios."""
    return exp(sum(map(log, values)) / len(values))


def medians(rounds: Sequence[Times]) -> Times:
    """Return the median time of each contender at each point."""
    names = dict.fromkeys(name for times in rounds for name, rows in times.items() if rows)
    return {name: _medians([times.get(name, {}) for times in rounds]) for name in names}


def _medians(rounds: Sequence[dict[str, float]]) -> dict[str, float]:
    points = dict.fromkeys(point for rows in rounds for point in rows)
    return {point: median(rows[point] for rows in rounds if point in rows) for point in points}


class Ratio(NamedTuple):
    """A contender's time divided by a rival's, and that rival."""

    value: float
    rival: str


def ratios(
    rounds: Sequence[Times], name: str = "commops", others: Sequence[str] | None = None
) -> dict[str, Ratio]:
    """Return a contender's ratio at each point to whichever of the others does best against it there.

    Parameters
    ----------
    rounds : sequence of dict
    name : str
    others : sequence of str, optional
        By default all peers. Points at which none of them has a time are left out.
    """
    found: dict[str, Ratio] = {}
    for other in peers.PEERS if others is None else others:
        shares = [_shares(times.get(name, {}), times.get(other, {})) for times in rounds]
        for point, value in _medians(shares).items():
            found[point] = max(found.get(point, Ratio(value, other)), Ratio(value, other))
    return {point: found[point] for point in medians(rounds).get(name, {}) if point in found}


def _shares(own: dict[str, float], rival: dict[str, float]) -> dict[str, float]:
    return {point: time / rival[point] for point, time in own.items() if point in rival}


def summary(rounds: Sequence[Times]) -> dict[str, Any]:
    """Return the geometric mean of commops' ratios to the best peer, and the points where one is ahead."""
    found: dict[str, Any] = {}
    for name in peers.OWN:
        if ratio := ratios(rounds, name):
            found[name] = {
                "geometric_mean": geometric_mean([value for value, _ in ratio.values()]),
                "points": len(ratio),
                "behind": {
                    point: {"peer": rival, "ratio": value}
                    for point, (value, rival) in ratio.items()
                    if value > 1
                },
            }
    return found


def _digits(value: float) -> str:
    return f"{value:.0f}" if value >= 1000 else f"{value:#.3g}".rstrip(".")


def _label(point: str) -> str:
    op, size = split(point)
    return f"{op} {short_bytes(size)}" if size else op


def table(run: dict[str, Any], unit: str = "microseconds", per: float | None = None) -> str:
    """Return times and ratios as text: a line a point, then what they come to.

    Parameters
    ----------
    run : dict
        Of `contest.compete`.
    unit : str
        Of what is shown.
    per : float, optional
        Show this divided by the microseconds, instead of the microseconds.
    """
    rounds, setting = run["rounds"], run["setting"]
    times = medians(rounds)
    ratio = {point: value for point, (value, _) in ratios(rounds).items()}
    lines = [
        f"{setting['ranks']} ranks, {setting['transport']}: {unit}, rounds: {len(rounds)}"
        + ("; last column: time of commops / best peer, < where a peer is ahead" if ratio else ""),
        f"{'':26}" + "".join(f"{name:>14}" for name in times),
    ]
    for point in times["commops"]:
        cells = "".join(
            f"{_digits(per / rows[point] if per else rows[point]) if point in rows else '':>14}"
            for rows in times.values()
        )
        end = f"{ratio[point]:8.2f}{' <' if ratio[point] > 1 else ''}" if point in ratio else ""
        lines.append(f"{_label(point):26}{cells}{end}")
    for name, of in summary(rounds).items():
        behind = [
            f"{_label(point)} ({found['peer']}, {found['ratio']:.2f})"
            for point, found in of["behind"].items()
        ]
        lines += [
            f"{name} / best peer: geometric mean {of['geometric_mean']:.2f} of {of['points']} points; "
            f"a peer is ahead at {len(behind)}" + (":" if behind else ""),
            *(f"    {words}" for words in behind),
        ]
    for limit in peers.LIMITS:
        if limit in times:
            limits = ratios(rounds, others=[limit])
            lines += _matrix(f"commops / {limit}", {point: value for point, (value, _) in limits.items()})
    lines += [f"left out: {name}: {why}" for name, why in run["left_out"].items()]
    return "\n".join(lines)


def _matrix(title: str, values: dict[str, float]) -> list[str]:
    """Return a line an operation and a column a size."""
    sizes = sorted({size for _, size in map(split, values)})
    ops = dict.fromkeys(op for op, _ in map(split, values))
    lines = [f"{title:26}" + "".join(f"{short_bytes(size) if size else '':>9}" for size in sizes)]
    for op in ops:
        cells = [values.get(point(op, size)) for size in sizes]
        lines.append(f"{op:26}" + "".join(f"{'' if cell is None else f'{cell:.2f}':>9}" for cell in cells))
    return lines
