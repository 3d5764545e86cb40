"""``commops bench --tune``: measure which values of tunables are fastest here, and write a table of them.

Ranks are started anew for each tunable and round. They make a world for each of its values, and these take
turns (`commops.cli.measure.compare`), so that whatever else the machine does meets all of them.
"""

from __future__ import annotations

import contextlib
import datetime
import itertools
import os
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

import click

from commops import tuned
from commops.cli.knobs import KNOBS, choose
from commops.cli.options import usable_cores

if TYPE_CHECKING:
    from commops import Comm
    from commops.cli.knobs import Choice, Knob, Point
    from commops.tuned import Table, Tunable

__all__ = ["tune"]

_ROUNDS = 5
_BATCHES = 3  # in each round
_TRANSPORTS = {"shm": "shared memory", "tcp": "TCP over loopback"}


def tune(ctx: click.Context, ranks: int | None, transport: str, seconds: float, max_bytes: int) -> None:
    """Measure, print what was found, and write the table.

    Parameters
    ----------
    ctx : click.Context
    ranks : int or None
        How many; None for as many as there are usable cores, and with shared memory also for twice as many.
    transport : {"auto", "shm", "tcp"}
        ``auto`` is both.
    seconds : float
        For each call and value.
    max_bytes : int
        Calls with larger messages are left out.
    """
    path = _place(ctx, ranks)
    old = _replaced(path)
    defaults = {one.name: one for one in tuned.tunables({})}
    settings = _settings(ranks, transport)
    jobs = [
        Job(kind, count, knob, defaults[knob.name], knob.points(count, max_bytes))
        for kind, count in settings
        for knob in KNOBS[kind]
    ]
    choices = _choices([job for job in jobs if job.points], seconds)
    new = {setting: [choice for job, choice in choices if job[:2] == setting] for setting in settings}
    try:
        _write(path, old, new)
    except OSError as error:
        raise click.ClickException(f"cannot write {path}: {error.strerror}") from None
    _report(new, path)


class Job(NamedTuple):
    """A tunable that is measured in one setting.

    Attributes
    ----------
    kind : str
        The transport.
    ranks : int
    knob : Knob
    tunable : Tunable
    points : list of Point
    """

    kind: str
    ranks: int
    knob: Knob
    tunable: Tunable
    points: list[Point]


def _title(kind: str, ranks: int) -> str:
    crowd = ", more than cores" if ranks > usable_cores() else ""
    return f"{ranks} ranks{crowd}, {_TRANSPORTS[kind]}"


def _place(ctx: click.Context, ranks: int | None) -> str:
    """Return where the table goes, or say why nothing can be measured here."""
    from commops.launch.environment import detect

    try:
        launcher = detect(os.environ)
        given = [one.variable for one in tuned.tunables({}) if one.origin == "environment"]
    except ValueError as error:
        raise click.UsageError(str(error), ctx) from None
    if launcher is not None:
        text = f"--tune starts ranks itself, so it cannot be a rank of {launcher.launcher}"
        raise click.UsageError(text, ctx)
    if ranks == 1:
        raise click.UsageError("--tune: a rank that is alone has nothing to tune", ctx)
    if given:
        raise click.UsageError(f"--tune: unset {', '.join(given)} to have it measured", ctx)
    path = tuned.place()
    if path is None:
        raise click.UsageError("--tune: COMMOPS_TABLE is empty; name a file, or unset it", ctx)
    return path


def _replaced(path: str) -> Table | None:
    """Return the table that there is, and see to it that there can be another."""
    try:
        old, why = tuned.in_force()
    except ValueError as error:
        if os.path.lexists(path):  # perhaps it is no table at all
            raise click.ClickException(f"{error}; remove it, or name another file") from None
        old, why = None, ""
    if why:
        click.echo(f"commops: will be replaced: {why}", err=True)
    folder = os.path.dirname(os.path.abspath(path))
    try:
        os.makedirs(folder, exist_ok=True)
    except OSError as error:
        raise click.ClickException(f"cannot make the folder {folder}: {error.strerror}") from None
    if not os.access(folder, os.W_OK | os.X_OK):
        raise click.ClickException(f"cannot write to the folder {folder}")
    return old


def _settings(ranks: int | None, transport: str) -> list[tuple[str, int]]:
    """Return transport and number of ranks of each setting to be measured."""
    count = ranks or max(usable_cores(), 2)
    shared = [count] if ranks else [count, 2 * count]
    found = [("shm", number) for number in shared] if transport != "tcp" else []
    return found if transport == "shm" else [*found, ("tcp", count)]


def _choices(jobs: Sequence[Job], seconds: float) -> list[tuple[Job, Choice]]:
    """Measure all of this, and choose.

    A round is of everything, so that those of one tunable are far apart: what a machine does for a while,
    such as moving cores about, then meets one of them.
    """
    import numpy as np
    from rich.console import Console
    from rich.progress import track

    console = Console(stderr=True)
    steps = [(number, job) for _ in range(_ROUNDS) for number, job in enumerate(jobs)]
    times: list[list[Any]] = [[] for _ in jobs]
    with _environment({"COMMOPS_TABLE": ""}):
        for number, job in track(
            steps, "measuring", console=console, disable=not console.is_terminal, transient=True
        ):
            times[number].append(_measure(job, seconds / _ROUNDS))
    return [
        (job, choose(job.knob, job.tunable.default, job.points, np.array(rounds)))
        for job, rounds in zip(jobs, times, strict=True)
    ]


def _measure(job: Job, seconds: float) -> list[list[float]]:
    """Return the time of each point with each value."""
    import commops

    variable = job.tunable.variable
    variants = [{variable: str(value)} for value in job.knob.measured(job.tunable.default)]
    times: list[list[float]] = commops.launch(
        _rank, job.ranks, job.kind, variants, job.points, seconds, shared=job.knob.shared, transport=job.kind
    )[0]
    return times


def _rank(
    comm: Comm,
    kind: str,
    variants: Sequence[Mapping[str, str]],
    points: Sequence[Point],
    seconds: float,
    *,
    shared: bool,
) -> list[list[float]]:
    """Measure, as one of the ranks: microseconds of each point with each variant."""
    import commops
    from commops.cli.measure import compare

    worlds = []
    for variant in variants:
        with _environment(variant):
            worlds.append(commops.init(transport=kind))
    times = []
    for point in points:
        makers = [_zeros(world) for world in worlds] if shared else _same(len(worlds))
        rows = compare(worlds, point.op, point.bytes, batches=_BATCHES, seconds=seconds, new=makers)
        times.append([row.microseconds for row in rows])
    for world in worlds:
        world.close()
    return times


def _zeros(comm: Comm) -> Callable[[int], Any]:
    import numpy as np

    return lambda count: comm.zeros(count, np.float32)


def _same(number: int) -> list[Callable[[int], Any]]:
    """Return makers of arrays, each of which makes the same ones."""
    import numpy as np

    arrays: dict[int, Any] = {}

    def maker() -> Callable[[int], Any]:
        places = itertools.count()
        return lambda count: arrays.setdefault(next(places), np.zeros(count, np.float32))

    return [maker() for _ in range(number)]


def _write(path: str, old: Table | None, new: Mapping[tuple[str, int], Sequence[Choice]]) -> None:
    """Write a table of what is new, and of what the old one says of other settings."""
    settings = {one[:3]: one for one in old.settings} if old else {}
    for (kind, ranks), choices in new.items():
        better = {choice.knob.name: choice.value for choice in choices if choice.value != choice.default}
        setting = tuned.Setting(kind, ranks, ranks > usable_cores(), better)
        settings[setting[:3]] = setting
    date = datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds")
    tuned.write(path, date, [settings[key] for key in sorted(settings)])


@contextlib.contextmanager
def _environment(variables: Mapping[str, str]) -> Iterator[None]:
    before = {name: os.environ.get(name) for name in variables}
    os.environ.update(variables)
    try:
        yield
    finally:
        for name, value in before.items():
            if value is None:
                del os.environ[name]
            else:
                os.environ[name] = value


def _report(new: Mapping[tuple[str, int], Sequence[Choice]], path: str) -> None:
    from rich.console import Console
    from rich.table import Table as Grid

    from commops.cli.chart import short_bytes

    console = Console(file=sys.stdout)
    for setting, choices in new.items():
        grid = Grid(title=_title(*setting), title_justify="left")
        grid.add_column("tunable", no_wrap=True)
        grid.add_column("tried (time by that of the default)", overflow="fold")
        grid.add_column("default", justify="right", no_wrap=True)
        grid.add_column("chosen", justify="right", no_wrap=True)
        grid.add_column("time", justify="right", no_wrap=True)
        for choice in choices:
            tried = ", ".join(
                f"{short_bytes(value)} {ratio:.2f}"
                for value, ratio in choice.ratios.items()
                if value != choice.default
            )
            grid.add_row(
                choice.knob.name,
                f"{', '.join(choice.knob.ops)}: {tried}",
                short_bytes(choice.default),
                "as it is" if choice.value == choice.default else short_bytes(choice.value),
                "" if choice.value == choice.default else f"{choice.ratios[choice.value]:.2f}",
            )
        console.print(grid)
    text = f"In force from now on, for jobs whose rank 0 is on this machine: {path}"
    console.print(text, soft_wrap=True, highlight=False, markup=False)
