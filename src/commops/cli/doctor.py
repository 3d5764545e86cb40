"""``commops doctor``."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator, Mapping, MutableMapping
from importlib.util import find_spec
from typing import TYPE_CHECKING, Any

import click

from commops.cli.facts import Fact, State
from commops.cli.options import usable_cores

if TYPE_CHECKING:
    from commops import Comm
    from commops.tuned import Table, Tunable

__all__ = ["command"]

_STYLES = {State.OK: "green", State.NOTE: "yellow", State.BAD: "bold red"}

# Extra → the modules that it brings.
_EXTRAS = {
    "train": ("autograd", "sklearn", "matplotlib", "safetensors", "dotenv", "PIL"),
    "bench": ("matplotlib",),
    "redis": ("redis",),
    "bfloat16": ("ml_dtypes",),
    "tls": ("cryptography",),
}


@click.command()
@click.pass_context
def command(ctx: click.Context) -> None:
    """Say what would be used here and why, and what is wrong.

    Ends with 1 if something that ranks need does not work.
    """
    from rich.console import Console

    console = Console(file=sys.stdout)
    bad = []
    for title, facts in _sections():
        console.print(_table(title, facts))
        bad += [fact for fact in facts if fact.state is State.BAD]
    for part in _tuned(bad):
        console.print(part)
    for fact in bad:
        console.print(f"unusable: {fact.name}: {fact.value}", style="bold red", markup=False, highlight=False)
        if fact.advice:
            console.print(f"  what to do: {fact.advice}", markup=False, highlight=False)
    if not bad:
        console.print("Everything that ranks need works here.")
    ctx.exit(1 if bad else 0)


def _sections() -> Iterator[tuple[str, list[Fact]]]:
    from commops.cli import facts

    yield "this machine", facts.system() + facts.cores() + facts.memory() + facts.container_limits()
    yield "between ranks of this host", [*facts.shared_memory(), *_transport("shm")]
    yield "between hosts", [*facts.network(), *_transport("tcp"), *_tls(os.environ)]
    yield "commops", _software(os.environ)


def _software(environ: Mapping[str, str]) -> list[Fact]:
    """Versions, what the environment says, and which optional packages are there."""
    import numpy as np

    import commops
    from commops._core import native

    version = f"{commops.__version__}, Python {sys.version.split()[0]}, NumPy {np.__version__}"
    found = [Fact("version", version), Fact("kernels", native.isa()), _launcher(environ), _choice(environ)]
    for extra, modules in _EXTRAS.items():
        absent = [module for module in modules if find_spec(module) is None]
        if absent:
            advice = f"if you want it: pip install 'commops[{extra}]'"
            found.append(Fact(f"extra {extra}", f"without {', '.join(absent)}", State.NOTE, advice))
        else:
            found.append(Fact(f"extra {extra}", "installed"))
    return found


def _launcher(environ: Mapping[str, str]) -> Fact:
    from commops.launch.environment import detect

    try:
        place = detect(environ)
    except ValueError as error:
        return Fact("launcher", str(error), State.BAD, "unset the variable, or start through the launcher")
    if place is None:
        return Fact("launcher", "none: commops.init() is a single rank here; `commops run` starts more")
    where = place.rendezvous or ("nowhere needed" if place.size == 1 else "unknown")
    state, advice = (State.OK, "") if place.size == 1 or place.rendezvous else (State.BAD, place.hint)
    return Fact(
        "launcher", f"{place.launcher}, rank {place.rank} of {place.size}, meeting at {where}", state, advice
    )


def _choice(environ: Mapping[str, str]) -> Fact:
    """Which transports would carry data, and who decided."""
    chosen = environ.get("COMMOPS_TRANSPORT") or "auto"
    meaning = {
        "auto": "shared memory within a host, TCP between hosts (default)",
        "shm": "shared memory only: ranks of several hosts will not connect",
        "tcp": "TCP only, slower within a host",
    }
    if chosen not in meaning:
        return Fact("transports", f"COMMOPS_TRANSPORT={chosen}", State.BAD, "it must be auto, shm or tcp")
    origin = "" if chosen == "auto" else f" (COMMOPS_TRANSPORT={chosen})"
    return Fact("transports", meaning[chosen] + origin, State.OK if chosen == "auto" else State.NOTE)


def _add_up(comm: Comm) -> tuple[int, bool]:
    """Add two numbers, and tell whether the other rank's memory may be read."""
    import numpy as np

    return int(comm.allreduce(np.array([comm.rank + 1]))[0]), comm._core.window.attaches


def _transport(name: str) -> list[Fact]:
    """Have two ranks add two numbers over a transport."""
    import commops

    try:
        ends = commops.launch(_add_up, 2, transport=name, timeout=20.0)
    except Exception as error:  # whatever it is, to say so is what this command is for
        return [Fact(f"allreduce over {name}", f"{type(error).__name__}: {error}", State.BAD)]
    sums = [total for total, _ in ends]
    if sums != [3, 3]:
        return [Fact(f"allreduce over {name}", f"1 + 2 gave {sums}", State.BAD, "report this, please")]
    found = [Fact(f"allreduce over {name}", "works (two ranks, 1 + 2 = 3)")]
    if name == "shm":
        found.insert(0, _attached(all(attached for _, attached in ends)))
    return found


def _add_up_with_tls(comm: Comm) -> tuple[int, bool]:
    """Add two numbers, and tell whether the kernel encrypts them."""
    return _add_up(comm)[0], comm._core.tls_kernel


def _tls(environ: MutableMapping[str, str]) -> list[Fact]:
    """Which OpenSSL there is, and whether two ranks can add two numbers with it."""
    import commops
    from commops._core import native
    from commops.errors import CommError

    wanted = environ.get("COMMOPS_TLS")
    if wanted not in (None, "", "0", "1"):
        return [Fact("TLS", f"COMMOPS_TLS={wanted}", State.BAD, "it must be 0 or 1")]
    try:
        found = [Fact("TLS", f"{native.tls_version()}, TLS 1.3")]
    except CommError as error:
        return [Fact("TLS", "there is no OpenSSL 3", State.NOTE, str(error))]
    name = "allreduce over tcp with TLS"
    if not environ.get("COMMOPS_TLS_FILE") and find_spec("cryptography") is None:
        advice = "to have certificates made: pip install 'commops[tls]'"
        return [*found, Fact(name, "not tried without certificates", State.NOTE, advice)]
    environ["COMMOPS_TLS"] = "1"
    try:
        ends = commops.launch(_add_up_with_tls, 2, transport="tcp", timeout=20.0)
    except Exception as error:  # as in _transport
        return [*found, Fact(name, f"{type(error).__name__}: {error}", State.BAD)]
    finally:
        if wanted is None:
            del environ["COMMOPS_TLS"]
        else:
            environ["COMMOPS_TLS"] = wanted
    if [total for total, _ in ends] != [3, 3]:
        return [*found, Fact(name, f"1 + 2 gave {ends}", State.BAD, "report this, please")]
    kernel = all(offloaded for _, offloaded in ends)
    return [
        *found,
        Fact(name, "works (two ranks, 1 + 2 = 3)"),
        Fact(
            "encryption of TLS",
            "by the kernel" if kernel else "by OpenSSL, not by the kernel",
            advice=""
            if kernel
            else "the kernel does it with its module tls (`modprobe tls`), an OpenSSL that was built for "
            "that, and COMMOPS_TLS_KERNEL=1",
        ),
    ]


def _attached(works: bool) -> Fact:
    name = "memory of other ranks"
    if works:
        return Fact(name, "can be read (process_vm_readv)")
    advice = (
        "large arrays of scatter and alltoall are copied twice; to copy once, let processes of one user "
        "read each other's memory: kernel.yama.ptrace_scope=0, and a seccomp profile that allows "
        "process_vm_readv"
    )
    return Fact(name, "cannot be read (process_vm_readv)", State.NOTE, advice)


def _table(title: str, facts: list[Fact]) -> Any:
    from rich.table import Table as Grid
    from rich.text import Text

    table = Grid(title=title, title_justify="left", show_header=False, expand=False)
    table.add_column(style="bold", no_wrap=True)
    table.add_column(overflow="fold")
    table.add_column(no_wrap=True)
    for fact in facts:
        value = Text(fact.value)
        if fact.advice and fact.state is not State.BAD:
            value.append(f"\n{fact.advice}", style="dim")
        table.add_row(fact.name, value, Text(fact.state.value, style=_STYLES[fact.state]))
    return table


def _tuned(bad: list[Fact]) -> Iterator[Any]:
    """Yield what is printed of the tunables, and of memory that they bound; what is wrong goes to `bad`."""
    from commops import tuned

    ranks = max(usable_cores(), 2)
    try:
        table, why = tuned.in_force()
    except ValueError as error:
        fact = Fact(
            "table", str(error), State.BAD, "unset it, or run `commops bench --tune` to write that file"
        )
        bad.append(fact)
        yield _table("table of tunables", [fact])
        table = None
    else:
        yield _table("table of tunables", _table_facts(table, why, ranks))
    try:
        rows = tuned.tunables(table.values("shm", ranks) if table else {})
    except ValueError as error:
        bad.append(Fact("tunables", str(error), State.BAD, "unset the variable or give it such a value"))
        return
    yield _rows(rows, ranks)
    yield _table(f"memory of a rank, of {ranks} on this host", _memory_facts(rows, ranks))


def _table_facts(table: Table | None, why: str, ranks: int) -> list[Fact]:
    """Which table holds here, and what it says; or why there is none."""
    from commops import tuned

    if table is None:
        advice = "`commops bench --tune` measures this machine and writes one"
        text = why or f"none at {tuned.place()}"
        return [Fact("in force", f"{text}: defaults are used", State.NOTE if why else State.OK, advice)]
    found = [Fact("in force", f"{table.path}, measured on this machine on {table.date}")]
    used = [table.nearest("shm", ranks), table.nearest("tcp", ranks)]
    for setting in table.settings:
        where = {"shm": "shared memory", "tcp": "TCP within the machine"}[setting.transport]
        values = ", ".join(f"{name} {value}" for name, value in setting.tunables.items())
        advice = f"nearest to {ranks} ranks, as `commops run` starts here" if setting in used else ""
        found.append(Fact(f"{setting.ranks} ranks, {where}", values or "defaults", State.OK, advice))
    return found


def _rows(rows: list[Tunable], ranks: int) -> Any:
    """Return the table of what may be tuned."""
    from rich.table import Table as Grid
    from rich.text import Text

    grid = Grid(title=f"tunables, for {ranks} ranks on this host", title_justify="left")
    grid.add_column("variable", no_wrap=True)
    grid.add_column("value", justify="right", no_wrap=True)
    grid.add_column("from", no_wrap=True)
    grid.add_column("meaning")
    for row in rows:
        origin = Text(row.origin, style="" if row.origin == "default" else "yellow")
        meaning = row.meaning if row.value == row.default else f"{row.meaning} (default {row.default})"
        grid.add_row(row.variable, str(row.value), origin, meaning)
    return grid


def _memory_facts(rows: list[Tunable], ranks: int) -> list[Fact]:
    """Memory of a rank for what is on its way, and what bounds it."""
    from commops._core import native

    value = {row.name: row.value for row in rows}
    staging, pipe = native.staging(ranks, value["slots"], value["slot_bytes"], value["pipe_bytes"])
    return [
        Fact(
            "staging",
            f"{staging} bytes ({_mib(staging)}) for each communicator: {value['slots']} slots of"
            f" {value['slot_bytes']} bytes, and announcements",
            advice="COMMOPS_SLOTS, COMMOPS_SLOT_BYTES",
        ),
        Fact(
            "pipes",
            f"{pipe} bytes ({_mib(pipe)}) for each rank of this host that it sends messages to, itself too:"
            f" {_mib(ranks * pipe)} at most",
            advice="COMMOPS_PIPE_BYTES, and less for each where ranks are many",
        ),
        Fact(
            "messages",
            f"{value['eager_window']} bytes ({_mib(value['eager_window'])}) from each rank, sent before"
            " their receive was known",
            advice="COMMOPS_EAGER_WINDOW",
        ),
    ]


def _mib(count: int) -> str:
    return f"{count / (1 << 20):.3g} MiB"
