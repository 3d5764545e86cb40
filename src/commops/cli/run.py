"""``commops run``."""

from __future__ import annotations

import click

from commops.cli.options import ranks_option

__all__ = ["command"]


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
    default=0,
    show_default=True,
    help="When a rank fails, end the others and start all of them again, K times at most.",
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
    max_restarts: int,
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
    n = ranks or usable_cores()
    ctx.exit(
        run(n, program, arguments, module=module, label=label, tls=credentials, max_restarts=max_restarts)
    )
