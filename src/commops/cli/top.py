"""``commops top``."""

from __future__ import annotations

import contextlib
import sys
import time
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any

import click

if TYPE_CHECKING:
    from commops.cli.elsewhere import Elsewhere
    from commops.flight import Rank

__all__ = ["chosen", "command"]

_STYLES = {"stopped": "bold red", "ended": "bold red", "left": "dim"}
_MOMENT = 0.2  # seconds over which --once measures rates
_WIDE = 120  # characters of a line in which there is room for everything
_UNLIMITED = 250  # … in a file


@click.command()
@click.option("--once", is_flag=True, help="Print the table once, and end.")
@click.option("--job", metavar="JOB", default="", help="Only the job whose name begins so.")
@click.option(
    "--interval",
    type=click.FloatRange(min=0.05),
    default=1.0,
    show_default=True,
    help="Seconds between looks.",
)
@click.option(
    "--stack",
    type=click.IntRange(min=0),
    metavar="RANK",
    help="Print the Python stacks of this rank instead.",
)
@click.option(
    "--on",
    "others",
    multiple=True,
    metavar="COMMAND",
    help="Of another machine too, where this runs a command: --on 'ssh node2'. May be given again.",
)
@click.option("--json", "as_json", is_flag=True, help="Print looks as JSON, a line each.")
def command(
    once: bool, job: str, interval: float, stack: int | None, others: tuple[str, ...], as_json: bool
) -> None:
    """Show what every rank is doing now.

    All ranks of your jobs on this machine, those with another COMMOPS_HOST too; and on other machines by
    whatever runs a command there, at the same path as here: --on 'ssh node2', or
    --on 'srun --overlap --jobid=57 -w node2'.

    A rank that has ended is shown as long as another one, with which it shared memory, runs. Times count from
    when the rank called, or came out of, the call that is shown. The number is that of its last collective in
    the communicator of all ranks; who is behind the others has a lower one.

    The stacks that --stack prints are asked for by signal SIGRTMAX-7, which each rank has a handler for.
    """
    if stack is not None:
        _print_stacks(job, stack, others)
        return
    with contextlib.ExitStack() as stack_of:
        machines = _machines(stack_of, others, job, interval)
        if as_json:
            _print_json(job, interval, machines, once)
        else:
            _show(job, interval, machines, once)


def _machines(
    stack: contextlib.ExitStack, others: Sequence[str], job: str, interval: float
) -> list[Elsewhere]:
    from commops.cli.elsewhere import Elsewhere

    machines = []
    for other in others:
        machine = Elsewhere(other, [f"--interval={interval}", *([f"--job={job}"] if job else [])])
        stack.callback(machine.close)
        machines.append(machine)
    return machines


def _print_json(job: str, interval: float, machines: list[Elsewhere], once: bool) -> None:
    from commops.cli.elsewhere import packed

    for ranks in _looks(job, interval, machines):
        click.echo(packed(ranks))
        if once:
            return


def _show(job: str, interval: float, machines: list[Elsewhere], once: bool) -> None:
    from rich.console import Console, Group
    from rich.live import Live

    console = Console(file=sys.stdout)
    if once or not console.is_terminal:
        if not console.is_terminal:
            console = Console(file=sys.stdout, width=max(console.width, _UNLIMITED))
        looks = _looks(job, max(_MOMENT, interval) if machines else _MOMENT, machines)
        console.print(*_tables(next(looks), next(looks), console.width), sep="\n")
        return
    looks = _looks(job, interval, machines)
    before = next(looks)
    with Live(Group(*_tables([], before, console.width)), console=console, auto_refresh=False) as live:
        for now in looks:
            live.update(Group(*_tables(before, now, console.width)), refresh=True)
            before = now


def _looks(job: str, interval: float, machines: Sequence[Elsewhere] = ()) -> Iterator[list[Rank]]:
    """Look at the ranks again and again, until none is left."""
    told: set[str] = set()
    ranks = _everywhere(job, machines)
    while ranks:
        for problem in {machine.problem for machine in machines} - {"", *told}:
            click.echo(f"commops: {problem}", err=True)
            told.add(problem)
        yield ranks
        time.sleep(interval)
        with contextlib.suppress(click.ClickException):
            ranks = _everywhere(job, machines)
            continue
        click.echo("No rank is left.", err=True)
        return


def _everywhere(job: str, machines: Sequence[Elsewhere]) -> list[Rank]:
    """Return the ranks of this machine and of others; it is an error if there are none."""
    if not machines:
        return chosen(job)
    found: dict[tuple[object, ...], Rank] = {}
    with contextlib.suppress(click.ClickException):
        found |= {_identity(rank): rank for rank in chosen(job)}
    for machine in machines:
        found |= {_identity(rank): rank for rank in machine.ranks() if _identity(rank) not in found}
    if not found:
        problems = [machine.problem for machine in machines if machine.problem]
        raise click.ClickException("; ".join(["no rank runs here or there", *problems]))
    return sorted(found.values(), key=lambda rank: (rank.recorder.job, rank.recorder.rank))


def _identity(rank: Rank) -> tuple[object, ...]:
    """Tell a rank from all others, wherever it was seen."""
    r = rank.recorder
    return r.job, r.rank, r.generation, r.host, r.created, r.pid


def chosen(job: str) -> list[Rank]:
    """Return the ranks on this machine of jobs whose name begins so; it is an error if there are none."""
    from commops import flight

    ranks = [rank for rank in flight.running() if rank.recorder.job.startswith(job)]
    if not ranks:
        which = f" of a job {job}…" if job else ""
        raise click.ClickException(
            f"no rank{which} runs on this machine, as this user, that records its calls (COMMOPS_FLIGHT)"
        )
    return ranks


def _print_stacks(job: str, number: int, others: Sequence[str]) -> None:
    from commops import stacks
    from commops.cli.elsewhere import begun

    ranks: list[Rank] = []
    try:
        ranks = [rank for rank in chosen(job) if rank.recorder.rank == number and rank.pid]
    except click.ClickException:
        if not others:
            raise
    if not ranks:
        for other in others:
            machine = begun(other, f"--stack={number}", *([f"--job={job}"] if job else []))
            answer, _ = machine.communicate()
            if machine.returncode == 0:
                click.echo(answer, nl=False)
                return
        raise click.ClickException(f"no rank {number} runs on this machine")
    if len(jobs := sorted({rank.recorder.job for rank in ranks})) > 1:
        raise click.ClickException(
            f"rank {number} of which job? Give --job: {', '.join(name[:8] for name in jobs)}"
        )
    try:
        click.echo(stacks.ask(ranks[-1].pid), nl=False)
    except ValueError as error:
        raise click.ClickException(str(error)) from error


# ---- the table


def _tables(before: list[Rank], now: list[Rank], width: int) -> list[Any]:
    jobs = dict.fromkeys(rank.recorder.job for rank in now)
    return [_table([rank for rank in now if rank.recorder.job == job], before, width) for job in jobs]


def _table(ranks: list[Rank], before: list[Rank], width: int) -> Any:
    from rich import box
    from rich.table import Table
    from rich.text import Text

    wide = width >= _WIDE
    hosts = {rank.recorder.host for rank in ranks}
    there = [rank.recorder.seq for rank in ranks if rank.state != "left"]
    least, most = min(there, default=0), max(there, default=0)
    table = Table(
        title=_title(ranks), title_justify="left", title_style="bold", box=box.SIMPLE_HEAD, padding=(0, 1)
    )
    for name in ("rank", "process", *(["host"] if len(hosts) > 1 else []), "state", "call"):
        table.add_column(name, justify="right" if name in ("rank", "process") else "left", overflow="fold")
    if wide:
        table.add_column("at", overflow="fold")
    for name in ("number", "behind", *(["calls/s", "bytes/s"] if wide else [])):
        table.add_column(name, justify="right", no_wrap=True)
    for rank in ranks:
        r = rank.recorder
        behind = most - r.seq if rank.state != "left" and r.seq == least else 0
        call = r.current or r.latest
        what = [str(call) if call else "none yet", call.place if call else ""]
        cells = [
            str(r.rank),
            str(rank.pid or r.pid),
            *([r.host] if len(hosts) > 1 else []),
            _state(rank),
            *(what if wide else ["\n".join(filter(None, what))]),
            str(r.seq),
            str(behind or ""),
            *(_rates(before, rank) if wide else ()),
        ]
        style = _STYLES.get(rank.state, "bold yellow" if behind else "")
        table.add_row(*(Text(cell) for cell in cells), style=style)
    return table


def _title(ranks: list[Rank]) -> str:
    first = ranks[0].recorder
    size = max(rank.recorder.size for rank in ranks)
    unseen = size - len({rank.recorder.rank for rank in ranks})
    name = first.job if first.job.startswith("process") else first.job[:8]
    where = f" on {first.host}" if len({rank.recorder.host for rank in ranks}) == 1 else ""
    others = f", {unseen} not seen from here" if unseen > 0 else ""
    return f"job {name}: {size} rank{'s' if size > 1 else ''}{where}{others}"


def _state(rank: Rank) -> str:
    call = rank.recorder.current
    if rank.state in ("stopped", "ended", "left"):
        return f"{rank.state}, in" if call and rank.state != "left" else rank.state
    since = call.start if call else rank.recorder.created
    if not call and (latest := rank.recorder.latest):
        since = latest.end or latest.start
    return f"{rank.state} {_seconds((rank.read - since) / 1e9)}"


def _seconds(seconds: float) -> str:
    if seconds < 0.1:
        return f"{max(seconds, 0.0) * 1e3:.0f} ms"
    return f"{seconds:.1f} s" if seconds < 60 else f"{seconds / 60:.0f} min"


def _rates(before: list[Rank], rank: Rank) -> tuple[str, str]:
    r = rank.recorder
    for old in before:
        same = (old.recorder.job, old.recorder.rank, old.recorder.created) == (r.job, r.rank, r.created)
        if same and rank.read > old.read:
            seconds = (rank.read - old.read) / 1e9
            return _scaled((r.total - old.recorder.total) / seconds), _scaled(
                (r.nbytes - old.recorder.nbytes) / seconds
            )
    return "", ""


def _scaled(rate: float) -> str:
    for factor, unit in ((1e9, " G"), (1e6, " M"), (1e3, " k")):
        if rate >= factor:
            return f"{rate / factor:.3g}{unit}"
    return f"{rate:.3g}"
