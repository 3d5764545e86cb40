"""How the files of the project look, whatever language they are in: no line too wide, no source too long."""

from __future__ import annotations

import re
import subprocess
import tomllib
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]

COLUMNS = 120
PYTHON_COLUMNS = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["ruff"]["line-length"]
# What tools read at the end of a line, and must stand in that line, does not count; ruff sees it so too.
PRAGMA = re.compile(r"\s*#\s*(type: ignore|noqa)\b.*")

LINES = 500
SOURCES = (".py", ".pyi", ".pyx", ".pxd", ".c", ".h", ".build")


def listed() -> list[str]:
    """Return the names of all files that belong to the project, those not yet committed too."""
    command = ["git", "ls-files", "--cached", "--others", "--exclude-standard"]
    try:
        names = subprocess.run(command, cwd=ROOT, check=True, capture_output=True, text=True).stdout
    except (OSError, subprocess.CalledProcessError):  # an unpacked sdist has no history
        return []
    return sorted({name for name in names.splitlines() if (ROOT / name).is_file()})


FILES = listed()

pytestmark = pytest.mark.skipif(not FILES, reason="there is no git here, or no repository of it")


INPUTS = ("tests/fuzz/corpus/", "tests/fuzz/regressions/")  # bytes, also where they happen to be letters


def lines_of(name: str) -> list[str]:
    """Return the lines of a text; of anything else, none."""
    if name.startswith(INPUTS):
        return []
    try:
        return (ROOT / name).read_text(encoding="utf-8").splitlines()
    except UnicodeDecodeError:
        return []


def width_of(name: str, line: str) -> int:
    if name.endswith(".md") and line.startswith("|"):
        return 0  # a row of a table is one line, however long
    return len(PRAGMA.sub("", line) if name.endswith((".py", ".pyi")) else line)


def test_no_line_is_too_wide() -> None:
    wide = [
        f"{name}:{number}: {width} columns"
        for name in FILES
        for number, line in enumerate(lines_of(name), 1)
        if (width := width_of(name, line)) > (PYTHON_COLUMNS if name.endswith((".py", ".pyi")) else COLUMNS)
    ]
    assert not wide, "\n".join(wide)


def test_no_source_is_too_long() -> None:
    long = [
        f"{name}: {count} lines"
        for name in FILES
        if name.endswith(SOURCES) and (count := len(lines_of(name))) > LINES
    ]
    assert not long, "\n".join(long)
