"""The ``commops`` command; ``python -m commops`` is the same.

Each command is a module of its own, imported when it is called, so that none pays for what another needs:
``commops run`` starts ranks, and every millisecond before that is one of theirs.
"""

from __future__ import annotations

import errno
import importlib
import os
import sys

import click

__all__ = ["main"]

# In the order in which help lists them. Help is here too: it should not import all the commands.
_COMMANDS = {
    "run": "Run a script or a module as several ranks.",
    "train": "Train a network on several ranks.",
    "bench": "Measure latency and bandwidth on this machine.",
    "doctor": "Say what would be used here, and what is wrong.",
    "top": "Show what every rank on this machine is doing now.",
    "trace": "Write the calls of all ranks as Chrome-trace JSON.",
}


class _Commands(click.Group):
    """Commands that live in modules of their names."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        return list(_COMMANDS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        if cmd_name not in _COMMANDS:
            return None
        command: click.Command = importlib.import_module(f"{__name__}.{cmd_name}").command
        return command

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        with formatter.section("Commands"):
            formatter.write_dl(list(_COMMANDS.items()))


def _show_version(ctx: click.Context, option: click.Parameter, wanted: bool) -> None:
    if not wanted or ctx.resilient_parsing:
        return
    import platform

    import numpy as np

    import commops
    from commops._core import native

    click.echo(
        f"commops {commops.__version__} (Python {platform.python_version()}, NumPy {np.__version__},"
        f" kernels for {native.isa()}, {platform.system()} {platform.machine()})"
    )
    ctx.exit()


@click.group(
    cls=_Commands, context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100}
)
@click.option(
    "--version",
    is_flag=True,
    expose_value=False,
    is_eager=True,
    callback=_show_version,
    help="Show the versions of commops, Python and NumPy, and the kernels in use.",
)
def _group() -> None:
    """Start ranks that exchange NumPy arrays, train on them, and measure them."""


def main(arguments: list[str] | None = None) -> None:
    """Run the command; the entry point of ``commops``.

    Parameters
    ----------
    arguments : list of str, optional
        ``sys.argv[1:]`` by default.

    Raises
    ------
    SystemExit
        With 0; with 1 where something failed and 2 for a wrong argument, after one line that says what; with
        130 after an interrupt. ``commops run`` ends as `commops.launch.run.run` says.
    """
    try:
        code = _group.main(arguments, prog_name="commops", standalone_mode=False)
    except click.exceptions.NoArgsIsHelpError as error:
        error.show()
        code = error.exit_code
    except click.UsageError as error:
        command = error.ctx.command_path if error.ctx else "commops"
        click.echo(f"commops: {error.format_message()} (see {command} --help)", err=True)
        code = error.exit_code
    except click.ClickException as error:
        click.echo(f"commops: {error.format_message()}", err=True)
        code = error.exit_code
    except click.Abort:
        click.echo("commops: interrupted", err=True)
        code = 130
    except BrokenPipeError:  # whoever read our output has gone: nothing is left to be said
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        code = 1
    except OSError as error:
        if error.errno not in (errno.ENOSPC, errno.EDQUOT, errno.EIO):
            raise
        click.echo(f"commops: cannot write: {error.strerror}", err=True)
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        code = 1
    sys.exit(code)
