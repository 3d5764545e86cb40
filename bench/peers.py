"""The libraries that commops is measured against: how to install each, and how to start its ranks.

Each has an environment of its own, because their launchers and libraries have the same names. `prepare` makes
those that are missing, from PyPI.
"""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from typing import NamedTuple

__all__ = ["PEERS", "Peer", "command", "prepare"]

FOLDER = Path(__file__).resolve().parents[1] / ".build" / "peers"
_OPENMPI = ("mpiexec", "--allow-run-as-root", "--oversubscribe", "--bind-to", "none")


class Peer(NamedTuple):
    """A library, as it is started for one of the settings.

    Attributes
    ----------
    environment : str
        Name of its virtual environment: several peers may be one library with other settings.
    packages : tuple of str
        What is installed there beside NumPy.
    library : str
        As `peer_rank.py` calls it.
    start : tuple of str
        The launcher and its options; ``-n <ranks>`` follows.
    variables : dict
        Added to its ranks' environment.
    """

    environment: str
    packages: tuple[str, ...]
    library: str
    start: tuple[str, ...]
    variables: dict[str, str] = {}  # noqa: RUF012 (never written to)


_MPI = {
    "openmpi": ("mpi4py>=4", "openmpi>=5"),
    "mpich": ("mpi4py>=4", "mpich>=5"),
    "intelmpi": ("mpi4py>=4", "impi-rt"),
}
_TORCH = ("torch==2.13.0",)

PEERS: dict[str, Peer] = {
    "intelmpi": Peer("intelmpi", _MPI["intelmpi"], "mpi4py", ("mpiexec",), {"I_MPI_FABRICS": "shm"}),
    "mpich": Peer("mpich", _MPI["mpich"], "mpi4py", ("mpiexec",)),
    "openmpi": Peer("openmpi", _MPI["openmpi"], "mpi4py", _OPENMPI),
    "gloo": Peer("gloo", _TORCH, "gloo", ("torchrun", "--nproc-per-node")),
    "openmpi-tcp": Peer(
        "openmpi",
        _MPI["openmpi"],
        "mpi4py",
        (*_OPENMPI, "--mca", "pml", "ob1", "--mca", "btl", "tcp,self"),
    ),
    "mpich-tcp": Peer(
        "mpich", _MPI["mpich"], "mpi4py", ("mpiexec",), {"UCX_TLS": "tcp,self", "MPIR_CVAR_NOLOCAL": "1"}
    ),
}


def prepare(names: tuple[str, ...]) -> None:
    """Make the environments that these peers need and that do not exist yet."""
    for name in names:
        peer = PEERS[name]
        folder = FOLDER / peer.environment
        if (folder / "ready").exists():
            continue
        subprocess.run([sys.executable, "-m", "venv", str(folder)], check=True)
        pip = [str(folder / "bin" / "python"), "-m", "pip", "install", "--quiet"]
        subprocess.run([*pip, "numpy", *peer.packages], check=True)
        (folder / "ready").touch()


def command(name: str, ranks: int, *program: str) -> tuple[list[str], dict[str, str]]:
    """Return what starts a Python program as ranks of a peer, and its environment."""
    peer = PEERS[name]
    programs = FOLDER / peer.environment / "bin"
    count = [str(ranks)] if peer.library == "gloo" else ["-n", str(ranks), str(programs / "python")]
    environ = {
        **os.environ,
        "PATH": f"{programs}:{os.environ['PATH']}",
        "OMP_NUM_THREADS": "1",
        **peer.variables,
    }
    return [str(programs / peer.start[0]), *peer.start[1:], *count, *program], environ
