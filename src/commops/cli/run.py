"""``commops run``."""

from __future__ import annotations

import click

from commops.cli.options import ranks_option

__all__ = ["command"]


def _bounds(ctx: click.Context, param: click.Parameter, value: str | None) -> tuple[int, int] | None:
    """Return the two numbers of ``MIN:MAX``."""
    if value is None:
        return None
    least, colon, most = value.partition(":")
    if not (colon and least.isdecimal() and most.isdecimal() and 1 <= int(least) <= int(most)):
        raise click.BadParameter(f"{value!r} is not MIN:MAX, two numbers of ranks from 1 on, as in 2:4")
    return int(least), int(most)


@click.command(context_settings={"allow_interspersed_args": False})
@ranks_option
@click.option("-m", "module", is_flag=True, help="PROGRAM is a module's name, as in python -m.")
@click.option("--label", is_flag=True, help="Put [rank] before each line of output.")
@click.option(
    "--tls",
    is_flag=True,
    help="Encrypt what goes over TCP, with certificates made for this job, or those of COMMOPS_TLS_FILE.",
)
@click.option(
    "--max-restarts",
    type=click.IntRange(min=0),
    metavar="K",
    help="When a rank fails, end the others and start all of them again, K times at most; with --elastic,"
    " start K replacements at most.  [default: 0; with --elastic 3]",
)
@click.option(
    "--elastic",
    metavar="MIN:MAX",
    callback=_bounds,
    help="When a rank fails, let the others go on if there are MIN at least, and start a replacement, which"
    " joins when they call grow; never more than MAX.  [default of -n: MAX]",
)
@click.argument("program")
@click.argument("arguments", nargs=-1, type=click.UNPROCESSED)
@click.pass_context
def command(
    ctx: click.Context,
    ranks: int | None,
    module: bool,
    label: bool,
    tls: bool,
    max_restarts: int | None,
    elastic: tuple[int, int] | None,
    program: str,
    arguments: tuple[str, ...],
) -> None:
    """Run PROGRAM, a script or a module, as several ranks.

    In the program, commops.init() finds the ranks. Everything after PROGRAM is the program's own.
    """
    from commops.cli.options import usable_cores
    from commops.errors import CommError
    from commops.launch.run import run
    from commops.rendezvous.credentials import job_credentials

    try:
        credentials = job_credentials(tls)
    except (ImportError, ValueError, CommError) as error:
        raise click.ClickException(str(error)) from error
    n = ranks or (elastic[1] if elastic else usable_cores())
    if elastic and not elastic[0] <= n <= elastic[1]:
        raise click.UsageError(f"-n {n} is not within --elastic {elastic[0]}:{elastic[1]}")
    if max_restarts is None:
        max_restarts = 3 if elastic else 0
    code = run(
        n,
        program,
        arguments,
        module=module,
        label=label,
        tls=credentials,
        max_restarts=max_restarts,
        elastic=elastic,
    )
    ctx.exit(code)
