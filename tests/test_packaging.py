"""What is installed, and what `make dist` has built: run by it with COMMOPS_TEST_DIST naming the folder."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
import sysconfig
import tarfile
import zipfile
from pathlib import Path

import pytest

import commops
from commops._core import native

ROOT = Path(__file__).parents[1]
PACKAGE = ROOT / "src" / "commops"
# The modules that share the one extension file.
COMPILED = sorted(path.stem for path in (ROOT / "src" / "_native" / "commops").glob("*.pyx"))
INITS = {f"PyInit_{name}" for name in COMPILED}
DIST = os.environ.get("COMMOPS_TEST_DIST")

built = pytest.mark.skipif(DIST is None, reason="looks at what `make dist` has built")
needs_nm = pytest.mark.skipif(shutil.which("nm") is None, reason="needs nm, of binutils")


def run(*command: str | Path, cwd: Path | None = None, env: dict[str, str] | None = None) -> str:
    ended = subprocess.run(command, cwd=cwd, env=env, capture_output=True, text=True, check=False)
    assert ended.returncode == 0, f"{command}\n{ended.stdout}\n{ended.stderr}"
    return ended.stdout


def the_only(pattern: str) -> Path:
    [found] = Path(str(DIST)).glob(pattern)
    return found


def exports_of(library: Path) -> set[str]:
    listing = run("nm", "--dynamic", "--defined-only", library)
    return {line.split()[-1] for line in listing.splitlines()}


def python_sources() -> set[str]:
    kinds = (".py", ".pyi", ".typed")
    return {f"commops/{path.relative_to(PACKAGE)}" for path in PACKAGE.rglob("*") if path.suffix in kinds}


# ---------------------------------------------------------------- as installed


@needs_nm
def test_extension_exports_its_init_functions_and_nothing_else() -> None:
    assert exports_of(Path(native.__file__)) == INITS


@pytest.mark.parametrize("name", ["py.typed", *(f"{name}.pyi" for name in COMPILED)])
def test_types_are_installed(name: str) -> None:
    assert (Path(str(commops.__file__)).parent / name).is_file()


def test_the_command_and_the_module_are_the_same() -> None:
    command = Path(sysconfig.get_path("scripts")) / "commops"
    if not command.exists():
        pytest.skip("commops is imported here without having been installed")
    assert run(command, "--version") == run(sys.executable, "-m", "commops", "--version")


# ---------------------------------------------------------------- as built


@pytest.fixture(scope="module")
def wheel() -> Path:
    return the_only("commops-*.whl")


@pytest.fixture(scope="module")
def clean(wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The programs of a new environment that has the wheel and what it asks for."""
    folder = tmp_path_factory.mktemp("clean")
    run(sys.executable, "-m", "venv", folder)
    run(folder / "bin" / "python", "-m", "pip", "install", wheel)
    return folder / "bin"


@built
def test_wheel_has_the_package_and_one_extension(wheel: Path) -> None:
    with zipfile.ZipFile(wheel) as archive:
        names = {name for name in archive.namelist() if not name.endswith("/")}
    info = {name for name in names if re.match(r"commops-[^/]+\.dist-info/", name)}
    extensions = {name for name in names if name.endswith(".so")}
    assert len(extensions) == 1
    assert extensions.pop().startswith("commops/_native.")
    assert {name for name in names - info if not name.endswith(".so")} == python_sources()
    assert any(name.endswith("LICENSE") for name in info)


@built
@needs_nm
def test_extension_of_the_wheel_exports_nothing_but_its_init_functions(wheel: Path, tmp_path: Path) -> None:
    with zipfile.ZipFile(wheel) as archive:
        [name] = (name for name in archive.namelist() if name.endswith(".so"))
        library = Path(archive.extract(name, tmp_path))
    assert exports_of(library) == INITS


@built
@pytest.mark.skipif(shutil.which("readelf") is None, reason="needs readelf, of binutils")
def test_extension_of_the_wheel_needs_only_the_c_library(wheel: Path, tmp_path: Path) -> None:
    with zipfile.ZipFile(wheel) as archive:
        [name] = (name for name in archive.namelist() if name.endswith(".so"))
        library = Path(archive.extract(name, tmp_path))
    needed = re.findall(r"Shared library: \[([\w-]+)\.", run("readelf", "--dynamic", library))
    ours = {"libc", "libdl", "libm", "libpthread"}
    assert {name for name in needed if not name.startswith("ld-linux")} <= ours


@built
def test_sdist_has_all_that_a_build_and_its_tests_need_and_no_products() -> None:
    with tarfile.open(the_only("commops-*.tar.gz")) as archive:
        names = {name.split("/", 1)[1] for name in archive.getnames() if "/" in name}
    needed = {
        *(
            "pyproject.toml",
            "meson.build",
            "meson.options",
            "Makefile",
            "README.md",
            "LICENSE",
            "CHANGELOG.md",
        ),
        *("src/_native/commops/_native.pyx", "src/_native/commops.h", "tests/native/meson.build"),
    }
    assert needed <= names
    assert not [name for name in names if name.endswith((".so", ".o", ".pyc")) or "__pycache__" in name]


@built
@pytest.mark.timeout(300)
def test_wheel_works_in_a_clean_environment(clean: Path, tmp_path: Path) -> None:
    program = tmp_path / "total.py"
    program.write_text(
        "import commops, numpy as np\n"
        "with commops.init() as comm:\n"
        "    print(int(comm.allreduce(np.array(comm.rank + 1))))\n"
    )
    printed = run(clean / "commops", "run", "-n", "3", program, cwd=tmp_path)
    assert printed.split() == ["6", "6", "6"]


@built
@pytest.mark.timeout(300)
def test_commands_that_need_an_extra_say_which(clean: Path, tmp_path: Path) -> None:
    command = [clean / "commops", "train", "iris", "-n", "2"]
    ended = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=False)
    assert ended.returncode != 0
    assert "commops[train]" in ended.stderr + ended.stdout
    assert "Traceback" not in ended.stderr


@built
@pytest.mark.timeout(600)
def test_editable_install_rebuilds_on_import(tmp_path: Path) -> None:
    with tarfile.open(the_only("commops-*.tar.gz")) as archive:
        archive.extractall(tmp_path, filter="data")
    [source] = tmp_path.glob("commops-*")
    environment = tmp_path / "environment"
    run(sys.executable, "-m", "venv", environment)
    # The tools come from the environment that runs this test.
    [packages] = environment.glob("lib/python*/site-packages")
    (packages / "tools.pth").write_text(sysconfig.get_path("purelib"))
    path = f"{environment}/bin:{sysconfig.get_path('scripts')}:{os.environ['PATH']}"
    env = os.environ | {"PATH": path}
    python = environment / "bin" / "python"
    options = ("--no-build-isolation", "--no-deps", "--editable")
    run(python, "-m", "pip", "install", *options, source, env=env)

    look = (python, "-c", "import commops; from commops._core import native; print(native.tunables())")
    assert "a changed sentence" not in run(*look, cwd=tmp_path, env=env)
    header = source / "src" / "_native" / "base" / "tunable.h"
    text, changes = re.subn(
        r'(COMMOPS_SLOT_BYTES".*?)"[^"]*"\)',
        r'\1"a changed sentence")',
        header.read_text(),
        count=1,
        flags=re.S,
    )
    assert changes == 1
    header.write_text(text)
    assert "a changed sentence" in run(*look, cwd=tmp_path, env=env)
