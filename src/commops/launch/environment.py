"""Who am I among the ranks: what launchers tell a process through its environment.

Each launcher is one small function over a mapping, and `detect` asks them in order. Nothing here opens a
connection; the one thing looked up outside the mapping is the identity of the hydra proxy (see `_proxy`),
which MPICH and Intel MPI do not put into the environment.
"""

from __future__ import annotations

import hashlib
import os
import re
from collections.abc import Callable, Mapping
from typing import NamedTuple

__all__ = ["Environment", "detect", "expand_nodelist"]

_Place = tuple[int, int, int, int]  # rank, size, local rank, local size

_PORTS = range(20000, 32000)  # below Linux's ephemeral ports, so that no outgoing connection sits there


class Environment(NamedTuple):
    """A process's place in a job, as its launcher states it.

    Attributes
    ----------
    rank, size : int
        ``0 <= rank < size``.
    local_rank, local_size : int
        The same among the ranks of this host; 0 and 1 where the launcher does not say.
    launcher : str
        ``"commops"``, ``"torchrun"``, ``"env"`` (torchrun's variables set by something else), ``"openmpi"``,
        ``"hydra"`` (MPICH, Intel MPI) or ``"slurm"``.
    rendezvous : str or None
        Where the ranks meet: ``COMMOPS_RENDEZVOUS`` if it is set, else ``unix:<name>`` for ranks of one host
        and ``tcp://host:port`` for several. None where it cannot be told; `hint` then says what to do.
    job : str
        Equal on all ranks of the job, and different from that of other jobs.
    """

    rank: int
    size: int
    local_rank: int
    local_size: int
    launcher: str
    rendezvous: str | None
    job: str

    @property
    def hint(self) -> str:
        """What to tell a user whose `rendezvous` is None."""
        return (
            f"{self.launcher} started {self.size} ranks on several hosts but does not say where they can "
            "meet: set COMMOPS_RENDEZVOUS=tcp://<host of rank 0>:<free port> on all ranks"
        )


def detect(
    environ: Mapping[str, str], *, proxy: Callable[[str, str], str] | None = None
) -> Environment | None:
    """Return this process's place in a job, or None where no launcher has set one.

    Parameters
    ----------
    environ : mapping
        Usually ``os.environ``.
    proxy : callable, optional
        ``proxy(variable, value)`` names the process that started the ranks of this host; for tests. The
        default is the nearest ancestor that does not have ``variable=value`` in its environment.

    Raises
    ------
    ValueError
        If the variables of the first launcher that is recognised are incomplete or make no sense. The message
        names the variable and its value.
    """
    for recognise in (_from_torchrun, _from_openmpi, lambda e: _from_hydra(e, proxy or _proxy), _from_slurm):
        found = recognise(environ)
        if found is not None:
            return found
    return None


# ---- one function a launcher


def _from_torchrun(environ: Mapping[str, str]) -> Environment | None:
    """`commops run`, torchrun, and whoever else sets the same variables."""
    if "RANK" not in environ and "WORLD_SIZE" not in environ:
        return None
    rank, size = _place(environ, "RANK", "WORLD_SIZE")
    local_rank, local_size = 0, 1
    if "LOCAL_RANK" in environ or "LOCAL_WORLD_SIZE" in environ:
        local_rank, local_size = _place(environ, "LOCAL_RANK", "LOCAL_WORLD_SIZE")
    _check_local(size, local_size, "WORLD_SIZE", "LOCAL_WORLD_SIZE")
    explicit = environ.get("COMMOPS_RENDEZVOUS")
    if "COMMOPS_JOB" in environ:
        launcher, job = "commops", environ["COMMOPS_JOB"]
        return Environment(rank, size, local_rank, local_size, launcher, explicit, job)
    launcher = "torchrun" if "TORCHELASTIC_RUN_ID" in environ else "env"
    address, port = environ.get("MASTER_ADDR"), environ.get("MASTER_PORT")
    # A restarted worker group must not meet the remains of the group before it.
    run, restart = (environ.get(f"TORCHELASTIC_{name}", "") for name in ("RUN_ID", "RESTART_COUNT"))
    job = f"{run}.{restart}@{address}:{port}"
    rendezvous = explicit
    if not rendezvous and size > 1:
        if address is None or port is None:
            missing = "MASTER_ADDR" if address is None else "MASTER_PORT"
            raise ValueError(f"RANK={rank} and WORLD_SIZE={size} are set but {missing} is not")
        number = _integer(environ, "MASTER_PORT")
        if not 0 < number < 1 << 16:
            raise ValueError(f"MASTER_PORT={port!r} is not a port")
        if environ.get("TORCHELASTIC_USE_AGENT_STORE") != "True":
            rendezvous = _tcp(address, number)
        elif local_size == size:  # torchrun's agent serves its own store on that port
            rendezvous = _unix(launcher, job)
        else:
            rendezvous = _tcp(address, number + 1 if number < 65535 else number - 1)
    return Environment(rank, size, local_rank, local_size, launcher, rendezvous, job)


def _from_openmpi(environ: Mapping[str, str]) -> Environment | None:
    """Open MPI's mpirun (PRRTE in version 5, ORTE before)."""
    names = [f"OMPI_COMM_WORLD_{name}" for name in ("RANK", "SIZE", "LOCAL_RANK", "LOCAL_SIZE")]
    if not any(name in environ for name in names[:2]):
        return None
    rank, size = _place(environ, names[0], names[1])
    local_rank, local_size = _place(environ, names[2], names[3])
    _check_local(size, local_size, names[1], names[3])
    job = environ.get("PMIX_NAMESPACE") or environ.get("OMPI_MCA_ess_base_jobid")
    if not job:
        missing = "neither PMIX_NAMESPACE nor OMPI_MCA_ess_base_jobid"
        raise ValueError(f"{names[0]}={rank} is set but {missing} is")
    return _placed(environ, (rank, size, local_rank, local_size), "openmpi", job)


def _from_hydra(environ: Mapping[str, str], proxy: Callable[[str, str], str]) -> Environment | None:
    """MPICH's and Intel MPI's mpiexec; not Slurm's own PMI, which sets no ``MPI_LOCAL…``."""
    if "PMI_RANK" not in environ and "PMI_SIZE" not in environ:
        return None
    if "SLURM_STEP_ID" in environ and "MPI_LOCALNRANKS" not in environ:
        return None
    rank, size = _place(environ, "PMI_RANK", "PMI_SIZE")
    local_rank, local_size = _place(environ, "MPI_LOCALRANKID", "MPI_LOCALNRANKS")
    _check_local(size, local_size, "PMI_SIZE", "MPI_LOCALNRANKS")
    # Intel's UUID is the job's; MPICH has nothing like it, but all ranks of one host have one proxy.
    job = environ.get("I_MPI_HYDRA_UUID") or ""
    if not job and local_size == size:
        job = proxy("PMI_RANK", str(rank))
    elif not job:
        job = environ.get("SLURM_JOB_ID", "")
    return _placed(environ, (rank, size, local_rank, local_size), "hydra", job)


def _from_slurm(environ: Mapping[str, str]) -> Environment | None:
    """Slurm's job steps, with or without its PMI.

    A batch script has ``SLURM_PROCID=0`` and ``SLURM_NTASKS`` too but is one process in front of the tasks,
    so only a step counts.
    """
    if "SLURM_STEP_ID" not in environ or "SLURM_PROCID" not in environ:
        return None
    count = "SLURM_STEP_NUM_TASKS" if "SLURM_STEP_NUM_TASKS" in environ else "SLURM_NTASKS"
    rank, size = _place(environ, "SLURM_PROCID", count)
    tasks = "SLURM_STEP_TASKS_PER_NODE" if "SLURM_STEP_TASKS_PER_NODE" in environ else "SLURM_TASKS_PER_NODE"
    per_node = _expand_counts(tasks, environ.get(tasks, ""))
    node = _integer(environ, "SLURM_NODEID") if "SLURM_NODEID" in environ else 0
    if node >= len(per_node):
        raise ValueError(f"SLURM_NODEID={node} but {tasks}={environ.get(tasks)!r}")
    local_rank, local_size = _integer(environ, "SLURM_LOCALID"), per_node[node]
    if local_rank >= local_size:
        raise ValueError(f"SLURM_LOCALID={local_rank} but {tasks}={environ.get(tasks)!r} on node {node}")
    _check_local(size, local_size, count, tasks)
    job = f"{environ.get('SLURM_JOB_ID', '')}.{environ['SLURM_STEP_ID']}"
    return _placed(environ, (rank, size, local_rank, local_size), "slurm", job)


def _placed(environ: Mapping[str, str], place: _Place, launcher: str, job: str) -> Environment:
    """Add where to meet: as given, or a Unix name on one host, or the first of Slurm's nodes, or unknown."""
    rendezvous = environ.get("COMMOPS_RENDEZVOUS")
    nodes = environ.get("SLURM_JOB_NODELIST")
    if launcher == "slurm":  # the steps of others are those of their daemons, and may lack rank 0's node
        nodes = environ.get("SLURM_STEP_NODELIST") or nodes
    rank, size, local_rank, local_size = place
    if not rendezvous and size > 1:
        if local_size == size:
            rendezvous = _unix(launcher, job)
        elif nodes and job:
            rendezvous = _tcp(expand_nodelist(nodes)[0], _PORTS[_digest(launcher, job) % len(_PORTS)])
    return Environment(rank, size, local_rank, local_size, launcher, rendezvous, job)


# ---- reading variables


def _integer(environ: Mapping[str, str], name: str) -> int:
    value = environ.get(name)
    if value is None:
        raise ValueError(f"{name} is not set, though others of its launcher's variables are")
    if not re.fullmatch(r"\s*\d{1,9}\s*", value, re.ASCII):
        raise ValueError(f"{name}={value!r} is not a number of 0 or more")
    return int(value)


def _place(environ: Mapping[str, str], rank_name: str, size_name: str) -> tuple[int, int]:
    """Return a rank and a size that fit each other."""
    for name, other in ((rank_name, size_name), (size_name, rank_name)):
        if name not in environ:
            value = f"{other}={environ[other]!r}" if other in environ else "its launcher"
            raise ValueError(f"{name} is not set, though {value} is there")
    rank, size = _integer(environ, rank_name), _integer(environ, size_name)
    if rank >= size:
        raise ValueError(f"{rank_name}={rank} is not below {size_name}={size}")
    return rank, size


def _check_local(size: int, local_size: int, size_name: str, local_name: str) -> None:
    if local_size > size:
        raise ValueError(f"{local_name}={local_size} is more than {size_name}={size}")


def _expand_counts(name: str, text: str) -> list[int]:
    """Expand Slurm's ``2(x3),1`` to ``[2, 2, 2, 1]``."""
    counts: list[int] = []
    for part in text.split(","):
        match = re.fullmatch(r"(\d{1,9})(?:\(x(\d{1,6})\))?", part, re.ASCII)
        if not match:
            raise ValueError(f"{name}={text!r} is not a list of task counts such as 2(x3),1")
        counts += [int(match[1])] * int(match[2] or 1)
    return counts


def expand_nodelist(text: str) -> list[str]:
    """Expand Slurm's short form of host names.

    Parameters
    ----------
    text : str
        Such as ``login1,node[01-03,7]-ib``.

    Returns
    -------
    list of str
        ``["login1", "node01-ib", "node02-ib", "node03-ib", "node7-ib"]``; several brackets in one name
        multiply, the last varying fastest.

    Raises
    ------
    ValueError
        If brackets do not match or a range runs backwards.
    """
    entry_form = r"(?:[^,\[\]\s]|\[[^\[\]]*\])+"
    if not re.fullmatch(f"{entry_form}(?:,{entry_form})*", text):
        raise ValueError(f"{text!r} is not a Slurm node list")
    hosts: list[str] = []
    for entry in re.findall(entry_form, text):
        names = [""]
        for piece in re.split(r"(\[[^\]]*\])", entry):
            options = _expand_ranges(piece[1:-1], text) if piece.startswith("[") else [piece]
            names = [name + option for name in names for option in options]
        hosts += names
    return hosts


def _expand_ranges(ranges: str, text: str) -> list[str]:
    options: list[str] = []
    for part in ranges.split(","):
        first, dash, last = part.partition("-")
        if not (first.isdecimal() and (last.isdecimal() or not dash)) or (dash and int(first) > int(last)):
            raise ValueError(f"{text!r} is not a Slurm node list: [{ranges}]")
        options += [f"{i:0{len(first)}d}" for i in range(int(first), int(last or first) + 1)]
    return options


# ---- names of places to meet


def _digest(*parts: object) -> int:
    return int.from_bytes(hashlib.sha256("\0".join(map(str, parts)).encode()).digest()[:8], "big")


def _unix(launcher: str, job: str) -> str:
    """Name a Unix socket after the job; the user is in it so that two users' jobs never collide."""
    name = hashlib.sha256("\0".join((str(os.getuid()), launcher, job)).encode()).hexdigest()
    return f"unix:commops-{name}"


def _tcp(host: str, port: int) -> str:
    return f"tcp://[{host}]:{port}" if ":" in host else f"tcp://{host}:{port}"


def _proxy(variable: str, value: str) -> str:
    """Identify the process that started this host's ranks: the nearest ancestor that is no part of this rank.

    The parent will not do: a rank may be wrapped in a shell or in numactl, which have the rank's environment.
    """
    pid = os.getpid()
    entry = f"{variable}={value}".encode()
    while True:
        with open(f"/proc/{pid}/stat", "rb") as file:  # "pid (any name) state ppid … starttime"
            fields = file.read().rpartition(b")")[2].split()
        try:
            with open(f"/proc/{pid}/environ", "rb") as file:
                inside = entry in file.read().split(b"\0")
        except PermissionError:
            inside = False
        if pid != os.getpid() and not inside:
            return f"{pid}.{fields[19].decode()}"  # the start time: a process id is used again one day
        pid = int(fields[1])
        if pid == 0:
            raise ValueError(f"{variable}={value!r} is set in all ancestors of this process; who started it?")
