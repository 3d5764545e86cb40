"""What README.md shows is run here, in its order and in one folder.

A `python` block is saved under the name in its first line. Each line of a `sh` block is run, but for lines
that would install or call make: those are compared with the Makefile and with pyproject.toml. The lines of a
`text` block are what the command before it prints. Links lead somewhere.
"""

from __future__ import annotations

import os
import re
import socket
import subprocess
import sysconfig
import tomllib
from dataclasses import dataclass
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
PAGES = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs").glob("*.md"))]
SCRIPTS = Path(sysconfig.get_path("scripts"))
# Launchers that a machine need not have, and how to find out whether one works here.
OPTIONAL = {
    "torchrun": f"{SCRIPTS}/torchrun --help",
    "srun": "timeout 10 srun -n 2 true",
    "mpirun": "timeout 10 mpirun -n 2 true",
}


@dataclass(frozen=True)
class Block:
    """A fenced block: its language, and its lines."""

    language: str
    lines: tuple[str, ...]


def blocks_of(page: Path) -> list[Block]:
    found = re.findall(r"^```(\w+)\n(.*?)^```$", page.read_text(), re.MULTILINE | re.DOTALL)
    return [Block(language, tuple(text.splitlines())) for language, text in found]


BLOCKS = blocks_of(ROOT / "README.md")
PROGRAMS = {block.lines[0].removeprefix("# "): block for block in BLOCKS if block.language == "python"}
COMMANDS = [line for block in BLOCKS if block.language == "sh" for line in block.lines]
SPOKEN_OF = [
    line for page in PAGES for block in blocks_of(page) if block.language == "sh" for line in block.lines
]


def is_run(command: str) -> bool:
    return not command.startswith(("make ", "pip ", "."))


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("readme")
    for name, block in PROGRAMS.items():
        (folder / name).write_text("\n".join(block.lines) + "\n")
    return folder


def run(command: str, folder: Path) -> str:
    # The port in the README may be taken, here and now.
    with socket.create_server(("127.0.0.1", 0)) as server:
        command = command.replace(":29517", f":{server.getsockname()[1]}")
    env = os.environ | {"PATH": f"{SCRIPTS}:{os.environ['PATH']}"}
    ended = subprocess.run(
        ["bash", "-euo", "pipefail", "-c", command],
        cwd=folder,
        env=env,
        capture_output=True,
        text=True,
        check=False,
    )
    assert ended.returncode == 0, f"{command}\n{ended.stdout}\n{ended.stderr}"
    return ended.stdout


@pytest.mark.parametrize("command", list(filter(is_run, COMMANDS)))
def test_command_works(command: str, folder: Path) -> None:
    program = command.split()[0]
    if program in OPTIONAL and subprocess.run(OPTIONAL[program], shell=True, capture_output=True).returncode:
        pytest.skip(f"`{OPTIONAL[program]}` does not work here")
    run(command, folder)


def test_every_program_is_run() -> None:
    named = " ".join(COMMANDS)
    assert [name for name in PROGRAMS if not re.search(rf"\b{re.escape(name)}\b", named)] == ["launch.py"]


@pytest.mark.parametrize("index", [i for i, block in enumerate(BLOCKS) if block.language == "text"])
def test_output_is_as_shown(index: int, folder: Path) -> None:
    before = BLOCKS[index - 1]
    is_program = before.language == "python"
    command = f"python {before.lines[0].removeprefix('# ')}" if is_program else before.lines[-1]
    assert run(command, folder).splitlines() == list(BLOCKS[index].lines)


def test_make_targets_exist() -> None:
    targets = set(re.findall(r"^([\w-]+):", (ROOT / "Makefile").read_text(), re.MULTILINE))
    spoken_of = {line.split()[1] for line in SPOKEN_OF if line.startswith("make ")}
    assert {"demo", "test"} <= spoken_of <= targets


def test_extras_exist() -> None:
    extras = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["optional-dependencies"]
    pages = " ".join(page.read_text() for page in PAGES)
    spoken_of = {
        name for names in re.findall(r"pip install '\.\[([\w,]+)\]'", pages) for name in names.split(",")
    }
    assert spoken_of
    assert spoken_of <= extras.keys()


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_links_lead_somewhere(page: Path) -> None:
    links = re.findall(r"\]\(([^)#\s]+)\)", page.read_text())
    broken = [link for link in links if "://" not in link and not (page.parent / link).exists()]
    assert broken == []


def test_every_call_of_the_table_exists() -> None:
    import commops

    rows = re.findall(r"^\| (`.*?) \|", (ROOT / "README.md").read_text(), re.MULTILINE)
    called = {name for row in rows for name in re.findall(r"`(\w+)\(", row)}
    assert {"allreduce", "recv", "zeros"} <= called
    assert [name for name in called if not hasattr(commops.Comm, name)] == []
