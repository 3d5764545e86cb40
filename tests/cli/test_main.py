"""The command itself: help, version, errors, and what it costs to start."""

from __future__ import annotations

import platform
import subprocess
import sys

import numpy as np
import pytest
from click.testing import CliRunner

from commops import cli

from .conftest import Run, only_line

COMMANDS = [[], ["run"], ["train"], ["train", "iris"], ["bench"], ["doctor"]]


@pytest.mark.parametrize("command", COMMANDS, ids=" ".join)
def test_every_command_has_help(command: list[str]) -> None:
    result = CliRunner().invoke(cli._group, [*command, "--help"])
    assert result.exit_code == 0
    assert result.output.startswith("Usage: ")


def test_help_lists_all_commands() -> None:
    listing = CliRunner().invoke(cli._group, ["--help"]).output
    for name in ("run", "train", "bench", "doctor"):
        assert f"  {name} " in listing


def test_version_names_what_it_runs_on(commops: Run) -> None:
    result = commops("--version")
    assert result.returncode == 0
    line = only_line(result.stdout)
    assert line.startswith("commops ")
    assert f"Python {platform.python_version()}, NumPy {np.__version__}, kernels for " in line


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["fly"], ["No such command 'fly'", "commops --help"]),
        (["--loud"], ["--loud"]),
        (["run"], ["PROGRAM", "commops run --help"]),
        (["run", "-n", "0", "x.py"], ["-n", "0"]),
        (["run", "-n", "two", "x.py"], ["-n", "two"]),
        (["train", "roses"], ["roses"]),
        (["train", "iris", "--epochs", "0"], ["epochs", "0"]),
        (["train", "iris", "--learning-rate", "-1"], ["learning_rate", "-1"]),
        (["train", "iris", "--held-out", "0.001"], ["held_out=0.001"]),
        (["bench", "--ops", "allreduce,dance"], ["dance", "allgather"]),
        (["bench", "--transport", "pigeon"], ["pigeon", "shm"]),
        (["bench", "--max-bytes", "4"], ["--max-bytes", "4"]),
        (["doctor", "who"], ["who"]),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else None,
)
def test_a_wrong_argument_is_one_line_and_2(
    arguments: list[str], words: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as end:
        cli.main(arguments)
    assert end.value.code == 2
    printed = capsys.readouterr()
    assert printed.out == ""
    line = only_line(printed.err)
    assert line.startswith("commops: ")
    assert all(word in line for word in words)


@pytest.mark.parametrize("command", [[], ["train"]], ids=" ".join)
def test_nothing_to_do_shows_help_and_ends_with_2(
    command: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as end:
        cli.main(command)
    assert end.value.code == 2
    assert "Usage: commops" in capsys.readouterr().err


def test_run_and_help_import_nothing_heavy() -> None:
    code = """
import sys
from commops import cli
for arguments in ("run missing.py", "--help", "run --help", "train iris --help", "doctor --help"):
    try:
        cli.main(arguments.split())
    except SystemExit:
        pass
heavy = {"rich", "autograd", "sklearn", "scipy", "matplotlib", "cloudpickle"} & sys.modules.keys()
assert not heavy, heavy
"""
    subprocess.run(
        [sys.executable, "-c", code], check=True, env={"PYTHONPATH": ":".join(sys.path)}, capture_output=True
    )
