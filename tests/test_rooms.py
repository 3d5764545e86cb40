"""The rooms and their one-way dependencies: C by include and by symbol, Python by import."""

from __future__ import annotations

import ast
import re
import shutil
import subprocess
import sys
from functools import cache
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
NATIVE = ROOT / "src" / "_native"
BINDING = NATIVE / "commops"
PACKAGE = ROOT / "src" / "commops"

# A room may use itself and the rooms before it.
ROOMS = ("base", "reduce", "transport", "comm", "coll")

# The folders of the package use the communicator; what is below it is for the modules beside them alone.
SYSTEMS = sorted(path.parent.name for path in PACKAGE.glob("*/__init__.py"))

INCLUDE = re.compile(r'^\s*#\s*include\s+"([^"]+)"', re.MULTILINE)
HEAVY = {"autograd", "click", "cloudpickle", "matplotlib", "redis", "rich", "scipy", "sklearn", "torch"}


def allowed(room: str) -> set[str]:
    return set(ROOMS[: ROOMS.index(room) + 1])


def room_files(room: str, suffixes: tuple[str, ...]) -> list[Path]:
    return sorted(path for path in (NATIVE / room).iterdir() if path.suffix in suffixes)


def test_every_folder_of_the_core_is_a_known_room() -> None:
    folders = {path.name for path in NATIVE.iterdir() if path.is_dir() and path.name != "__pycache__"}
    assert folders == {*ROOMS, BINDING.name}


@pytest.mark.parametrize("room", ROOMS)
def test_room_includes_only_rooms_above_it(room: str) -> None:
    offences = []
    for path in room_files(room, (".c", ".h")):
        for included in INCLUDE.findall(path.read_text(encoding="utf-8")):
            named_from_root = (NATIVE / included).is_file()
            target = (NATIVE if named_from_root else path.parent) / included
            if target.resolve().relative_to(NATIVE).parts[0] not in allowed(room):
                offences.append(f"{path.name} includes {included}")
    assert not offences


def test_binding_sees_one_header_of_the_core() -> None:
    text = "".join(path.read_text(encoding="utf-8") for path in BINDING.iterdir())
    headers = set(re.findall(r'cdef extern from "([^"]+)"', text))
    ours = {header for header in headers if (NATIVE / header).is_file()}
    assert ours == {"commops.h"}


def output_of(*command: str) -> str:
    return subprocess.run(command, check=True, capture_output=True, text=True).stdout


@cache
def symbols(room: str, folder: Path) -> tuple[frozenset[str], frozenset[str]]:
    """Names that a room's objects define, and those that they leave to others."""
    flags = ["-std=c11", "-D_GNU_SOURCE=", "-O0", "-fPIC", f"-I{NATIVE}", "-c"]
    defined: set[str] = set()
    undefined: set[str] = set()
    for source in room_files(room, (".c",)):
        # The kernels are compiled once for each instruction set; one of them stands for all here.
        sets = ["baseline", "avx2", "avx512"] if source.name == "kernels.c" else [""]
        for isa in sets:
            out = folder / f"{room}_{source.stem}{isa}.o"
            define = [f"-DCMO_ISA={isa}"] if isa else []
            output_of("cc", *flags, *define, str(source), "-o", str(out))
            for line in output_of("nm", "-g", "-P", str(out)).splitlines():
                name, kind = line.split()[:2]
                (undefined if kind in "Uw" else defined).add(name)
    return frozenset(defined), frozenset(undefined - defined)


@pytest.fixture(scope="module")
def objects(tmp_path_factory: pytest.TempPathFactory) -> Path:
    for tool in ("cc", "nm"):
        if shutil.which(tool) is None:
            pytest.skip(f"{tool} is not installed")
    return tmp_path_factory.mktemp("objects")


@pytest.mark.parametrize("room", ROOMS)
def test_room_links_only_against_rooms_above_it(room: str, objects: Path) -> None:
    wanted = {name for name in symbols(room, objects)[1] if name.startswith("cmo_")}
    offered: set[str] = set()
    for other in allowed(room):
        offered |= symbols(other, objects)[0]
    assert wanted <= offered


@pytest.mark.parametrize("room", ROOMS)
def test_names_that_cross_files_have_the_prefix(room: str, objects: Path) -> None:
    assert not {name for name in symbols(room, objects)[0] if not name.startswith("cmo_")}


def imported_modules(path: Path) -> set[str]:
    """Full names of the modules that a file of the package imports, relative imports resolved."""
    parts = path.relative_to(PACKAGE.parent).with_suffix("").parts
    package = parts[:-1]
    names: set[str] = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            base = package[: len(package) - node.level + 1] if node.level else ()
            stem = ".".join((*base, *([node.module] if node.module else [])))
            names |= {stem} | {f"{stem}.{alias.name}" for alias in node.names}
    return names


# What the binding is to Python, and where the package loads it.
COMPILED = {f"commops.{path.stem}" for path in BINDING.glob("*.pyx")}


@pytest.mark.parametrize("system", SYSTEMS)
def test_systems_do_not_touch_the_extension(system: str) -> None:
    files = sorted((PACKAGE / system).rglob("*.py"))
    offences = [path.name for path in files if COMPILED & imported_modules(path)]
    assert not offences


def test_import_of_commops_loads_numpy_and_the_core_alone() -> None:
    program = "import sys, commops; print(*{name.partition('.')[0] for name in sys.modules})"
    loaded = set(output_of(sys.executable, "-c", program).split())
    assert {"commops", "numpy"} <= loaded
    assert not loaded & HEAVY
