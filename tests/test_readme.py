"""What README.md and CONTRIBUTING.md show is run here, in its order and in one folder.

A `python` block is saved under the name in its first line. Each line of a `sh` block is run, but for lines
that would install or call make: those are compared with the Makefile and with pyproject.toml. The lines of a
`text` block are what the command before it prints. Links lead somewhere, and the variables of the environment
that are listed are those that there are.
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
    return [Block(language, tuple(text.replace("\\\n", "").splitlines())) for language, text in found]


README = (ROOT / "README.md").read_text()
BLOCKS = [block for page in ("README.md", "CONTRIBUTING.md") for block in blocks_of(ROOT / page)]
PROGRAMS = {block.lines[0].removeprefix("# "): block for block in BLOCKS if block.language == "python"}
COMMANDS = [line for block in BLOCKS if block.language == "sh" for line in block.lines]


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
    pages = "\n".join(page.read_text() for page in PAGES)
    spoken_of = set(re.findall(r"(?:^|`)make ([\w-]+)", pages, re.MULTILINE))
    assert {"demo", "test", "lint"} <= spoken_of <= targets


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


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_files_and_names_that_are_spoken_of_exist(page: Path) -> None:
    files = [path for folder in ("src", "tests", "bench") for path in (ROOT / folder).rglob("*.*")]
    sources = [path for path in files if path.suffix in (".py", ".pyx", ".pxd", ".c", ".h", ".build")]
    text = "".join(path.read_text(encoding="utf-8") for path in sources if path != Path(__file__))
    spoken_of = re.findall(r"`([^`\n]+)`", page.read_text())
    names = [word for word in spoken_of if re.fullmatch(r"\w*_\w*", word)]
    paths = [word for word in spoken_of if re.fullmatch(r"[\w/]+\.(c|h|py|pyx|pxd|build)", word)]
    assert [name for name in names if not re.search(rf"\b{name}\b", text)] == []
    assert [path for path in paths if not any(f"/{source}".endswith(f"/{path}") for source in sources)] == []


def test_every_call_of_the_table_exists() -> None:
    import commops

    rows = re.findall(r"^\| (`.*?) \|", README, re.MULTILINE)
    called = {name for row in rows for name in re.findall(r"`(\w+)\(", row)}
    assert {"allreduce", "recv", "zeros"} <= called
    assert [name for name in called if not hasattr(commops.Comm, name)] == []


def test_every_variable_of_the_environment_is_listed_and_no_other() -> None:
    from commops._core import native

    section = re.search(r"^## Environment variables\n(.*?)^## ", README, re.MULTILINE | re.DOTALL)
    assert section is not None
    listed = set(re.findall(r"`([A-Z][A-Z_]+…?)`", section[1]))
    tunables = {variable for _, variable, *_ in native.tunables()}
    of_others = tuple(name.removesuffix("…") for name in listed if name.endswith("…"))

    sources = [path for path in (ROOT / "src").rglob("*") if path.suffix in (".py", ".pyx", ".c", ".h")]
    text = "".join(path.read_text() for path in sources)
    ours = set(re.findall(r"""["'](COMMOPS_[A-Z_]+)["']""", text))
    assert {"COMMOPS_TOKEN", "COMMOPS_ISA"} | tunables <= ours
    assert {name for name in listed - tunables if name.startswith("COMMOPS_")} == ours - tunables

    launchers = (ROOT / "src" / "commops" / "launch" / "environment.py").read_text()
    read = set(re.findall(r"""["']([A-Z]+(?:_[A-Z]+)+)["']""", launchers)) - ours
    assert {"WORLD_SIZE", "SLURM_PROCID"} <= read
    parts = {"LOCAL_SIZE", "RUN_ID", "RESTART_COUNT"}  # of names that are put together there
    assert [name for name in read - parts if name not in listed and not name.startswith(of_others)] == []
