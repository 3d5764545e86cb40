"""Who takes part: how each contender is installed, and how its ranks are started.

Peers are the libraries that commops is measured against. Each has an environment of its own, because their
launchers and libraries have the same names; `prepare` makes those that are missing, from PyPI. commops, and
the limits of the machine (`limits.py`), run in the environment of the program that asks.
"""

from __future__ import annotations

import os
import re
import subprocess
import sys
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import NamedTuple

__all__ = ["CONTENDERS", "LIMITS", "OWN", "PEERS", "Contender", "command", "last_line", "only", "prepare"]

FOLDER = Path(__file__).resolve().parents[1] / ".build" / "peers"
_INSTALLATION = 1800.0  # seconds that the download of a peer may take


class Contender(NamedTuple):
    """One who takes part, as it is started for one of the settings.

    Attributes
    ----------
    library : str
        As `rank.py` calls it.
    start : tuple of str
        What starts the ranks; the path of `rank.py` follows. ``{ranks}`` and ``{python}`` are filled in.
    environment : str or None
        Name of its virtual environment: several peers may be one library with other settings.
    packages : tuple of str
        What is installed there beside NumPy.
    variables : dict
        Added to its ranks' environment.
    """

    library: str
    start: tuple[str, ...]
    environment: str | None = None
    packages: tuple[str, ...] = ()
    variables: dict[str, str] = {}  # noqa: RUF012 (never written to)


_RUN = ("commops", "run", "-n", "{ranks}")

OWN = {
    "commops": Contender("commops", _RUN),
    "comm.empty": Contender("commops on comm.empty", _RUN),
    "commops, TLS": Contender("commops", (*_RUN, "--tls")),
}
LIMITS = {
    "memcpy": Contender("memcpy", _RUN, variables={"COMMOPS_TRANSPORT": "shm"}),
    "raw sockets": Contender("raw sockets", _RUN, variables={"COMMOPS_TRANSPORT": "shm"}),
}

_MPI = ("-n", "{ranks}", "{python}")
_OPENMPI = ("mpiexec", "--allow-run-as-root", "--oversubscribe", "--bind-to", "none")
_INTEL = Contender(
    "mpi4py", ("mpiexec", *_MPI), "intelmpi", ("mpi4py>=4", "impi-rt"), {"I_MPI_FABRICS": "shm"}
)
_MPICH = Contender("mpi4py", ("mpiexec", *_MPI), "mpich", ("mpi4py>=4", "mpich>=5"))
_OPEN = Contender("mpi4py", (*_OPENMPI, *_MPI), "openmpi", ("mpi4py>=4", "openmpi>=5"))

PEERS = {
    "intelmpi": _INTEL,
    "mpich": _MPICH,
    "openmpi": _OPEN,
    # An endpoint of its own, so that two runs on one machine do not meet.
    "gloo": Contender(
        "gloo",
        (
            *("torchrun", "--rdzv-backend", "c10d", "--rdzv-endpoint", "localhost:0"),
            *("--nproc-per-node", "{ranks}"),
        ),
        "gloo",
        ("torch==2.13.0",),
    ),
    "openmpi-tcp": _OPEN._replace(
        start=(*_OPENMPI, "--mca", "pml", "ob1", "--mca", "btl", "tcp,self", *_MPI)
    ),
    "mpich-tcp": _MPICH._replace(variables={"UCX_TLS": "tcp,self", "MPIR_CVAR_NOLOCAL": "1"}),
    # Objects with their buffers beside the pickle.
    "intelmpi-pkl5": _INTEL._replace(library="mpi4py.util.pkl5"),
    "mpich-pkl5": _MPICH._replace(library="mpi4py.util.pkl5"),
    "openmpi-pkl5": _OPEN._replace(library="mpi4py.util.pkl5"),
}
CONTENDERS = OWN | LIMITS | PEERS

_wanted: set[str] | None = None  # environments of peers; None: all


def only(environments: Iterable[str]) -> None:
    """Let those peers alone take part, from now on, whose environments these are."""
    global _wanted
    _wanted = set(environments)


def last_line(text: str) -> str:
    """Return what a program has said last: most say there why they failed."""
    lines = [line.strip() for line in text.splitlines() if re.search(r"\w", line)]
    return lines[-1][:100] if lines else "no word of why"


def prepare(names: Sequence[str]) -> dict[str, str]:
    """Make the environments that these contenders need and that do not exist yet.

    Parameters
    ----------
    names : sequence of str
        Keys of `CONTENDERS`.

    Returns
    -------
    dict
        Which of them cannot take part, and why.
    """
    absent: dict[str, str] = {}
    failed: dict[str, str] = {}  # environments
    for name in names:
        environment = CONTENDERS[name].environment
        if environment is None:
            continue
        if _wanted is not None and environment not in _wanted:
            absent[name] = "was not asked for"
            continue
        if environment not in failed:
            try:
                _install(environment, CONTENDERS[name].packages)
            except subprocess.TimeoutExpired:
                failed[environment] = f"not installed in {_INSTALLATION:.0f} s"
            except subprocess.CalledProcessError as error:
                failed[environment] = f"cannot be installed: {last_line(error.stderr)}"
        if environment in failed:
            absent[name] = failed[environment]
    return absent


def _install(environment: str, packages: Sequence[str]) -> None:
    folder = FOLDER / environment
    if (folder / "ready").exists():
        return
    print(f"{environment} goes into {folder}", file=sys.stderr, flush=True)
    pip = [str(folder / "bin" / "python"), "-m", "pip", "install"]
    pip += ["--quiet", "--retries", "2", "--disable-pip-version-check"]
    for command in ([sys.executable, "-m", "venv", str(folder)], [*pip, "numpy", *packages]):
        subprocess.run(command, check=True, capture_output=True, text=True, timeout=_INSTALLATION)
    (folder / "ready").touch()


def command(name: str, ranks: int, transport: str, *program: str) -> tuple[list[str], dict[str, str]]:
    """Return what starts a Python program as ranks of a contender, and its environment.

    Parameters
    ----------
    name : str
        A key of `CONTENDERS`.
    ranks : int
    transport : str
        ``shm`` or ``tcp``, for commops; a peer has a name for each of its own.
    *program : str
        A path, and arguments.
    """
    contender = CONTENDERS[name]
    environ = os.environ | {"OMP_NUM_THREADS": "1"} | contender.variables
    programs = Path(sys.executable).parent
    if contender.environment is not None:
        programs = FOLDER / contender.environment / "bin"
        environ.pop("PYTHONPATH", None)  # modules of this environment, which are not for that one
    elif name in OWN:
        environ["COMMOPS_TRANSPORT"] = transport
    environ["PATH"] = f"{programs}:{environ['PATH']}"
    words = [word.format(ranks=ranks, python=programs / "python") for word in contender.start]
    return [str(programs / words[0]), *words[1:], *program], environ
