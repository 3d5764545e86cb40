"""A rank of a contender: `commops.cli.measure` over its library. Started by `contest.py`.

    python rank.py <library> <path of measure.py> <cases> <arguments of measure, as JSON> <seconds>

Rank 0 prints the rows as JSON. A library's own functions are called directly where their arguments come in
the same order; elsewhere through a function of one line, which costs a peer about 30 ns. A rank that takes
longer than it may ends by itself, whoever started it.
"""

from __future__ import annotations

import importlib.util
import json
import signal
import sys
from types import ModuleType
from typing import Any

_DIRECT = ("allreduce", "allgather", "broadcast", "reduce_scatter")  # gain most by comm.empty


class Mpi4py:
    """mpi4py's calls on buffers; those on objects pickle the buffers with the rest, or leave them beside."""

    def __init__(self, *, beside: bool = False) -> None:
        import mpi4py
        from mpi4py import MPI
        from mpi4py.util import pkl5

        library = MPI.Get_library_version().splitlines()[0].strip("\0").partition(", package")[0]
        self.version = " ".join(f"mpi4py {mpi4py.__version__}, {library}".split())
        comm: Any = MPI.COMM_WORLD
        self.rank, self.size = comm.rank, comm.size
        self.barrier, self.broadcast = comm.Barrier, comm.Bcast
        self.send, self.recv = comm.Send, comm.Recv
        self.isend, self.irecv, self.wait_all = comm.Isend, comm.Irecv, MPI.Request.Waitall
        self.alltoall, self.allgather = comm.Alltoall, comm.Allgather
        self._comm = comm
        objects = pkl5.Intracomm(comm) if beside else comm
        self.broadcast_object, self.gather_object = objects.bcast, objects.gather
        self.allgather_object, self.send_object = objects.allgather, objects.send
        self._recv_object = objects.recv

    def recv_object(self, source: int) -> Any:
        return self._recv_object(None, source)

    def allreduce(self, x: Any, op: str = "sum", out: Any = None) -> None:
        self._comm.Allreduce(x, out)

    def reduce_scatter(self, x: Any, op: str = "sum", out: Any = None) -> None:
        self._comm.Reduce_scatter_block(x, out)

    def scatter(self, x: Any, root: int = 0, out: Any = None) -> None:
        self._comm.Scatter(x, out, root)


class Gloo:
    """torch.distributed over gloo. Its allreduce is in place, and its arrays are made tensors once."""

    def __init__(self) -> None:
        import torch
        import torch.distributed as dist

        torch.set_num_threads(1)
        dist.init_process_group("gloo")
        self.version = f"torch {torch.__version__}"
        self.rank, self.size = dist.get_rank(), dist.get_world_size()
        self.barrier = dist.barrier
        self._dist, self._torch = dist, torch
        self._tensors: dict[int, tuple[Any, Any]] = {}

    def close(self) -> None:
        self._dist.barrier()
        self._dist.destroy_process_group()  # otherwise its threads may abort the process

    def _tensor(self, x: Any) -> Any:
        found = self._tensors.get(id(x))
        if found is None or found[0] is not x:
            if len(self._tensors) == 8:  # more than a case has; the arrays of past ones are to be freed
                self._tensors.clear()
            found = self._tensors[id(x)] = x, self._torch.from_numpy(x)
        return found[1]

    def broadcast(self, x: Any, root: int = 0) -> None:
        self._dist.broadcast(self._tensor(x), root)

    def allreduce(self, x: Any, op: str = "sum", out: Any = None) -> None:
        self._dist.all_reduce(self._tensor(x))

    def reduce_scatter(self, x: Any, op: str = "sum", out: Any = None) -> None:
        self._dist.reduce_scatter_tensor(self._tensor(out), self._tensor(x))

    def scatter(self, x: Any, root: int = 0, out: Any = None) -> None:
        blocks = None if x is None else list(self._tensor(x).chunk(self.size))
        self._dist.scatter(self._tensor(out), blocks, root)

    def allgather(self, x: Any, out: Any = None) -> None:
        self._dist.all_gather_into_tensor(self._tensor(out), self._tensor(x))

    def alltoall(self, x: Any, out: Any = None) -> None:
        self._dist.all_to_all_single(self._tensor(out), self._tensor(x))

    def send(self, x: Any, dest: int, tag: int = 0) -> None:
        self._dist.send(self._tensor(x), dest)

    def recv(self, out: Any = None, source: int = 0, tag: int = 0) -> None:
        self._dist.recv(self._tensor(out), source)

    def isend(self, x: Any, dest: int) -> Any:
        return self._dist.isend(self._tensor(x), dest)

    def irecv(self, out: Any, source: int) -> Any:
        return self._dist.irecv(self._tensor(out), source)

    def broadcast_object(self, obj: Any) -> Any:
        box = [obj]
        self._dist.broadcast_object_list(box, 0)
        return box[0]

    def gather_object(self, obj: Any) -> Any:
        found = [None] * self.size if self.rank == 0 else None
        self._dist.gather_object(obj, found, 0)
        return found

    def allgather_object(self, obj: Any) -> Any:
        found = [None] * self.size
        self._dist.all_gather_object(found, obj)
        return found

    def send_object(self, obj: Any, dest: int) -> None:
        self._dist.send_object_list([obj], dest)

    def recv_object(self, source: int) -> Any:
        box = [None]
        self._dist.recv_object_list(box, source)
        return box[0]


def load(path: str) -> ModuleType:
    """Import ``measure`` from its file, without the package around it, which peers have not."""
    spec = importlib.util.spec_from_file_location("measure", path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules["measure"] = module
    spec.loader.exec_module(module)
    return module


def join(library: str) -> tuple[Any, str]:
    """Return a communicator of all ranks, and the versions of what it is made of."""
    if library == "gloo":
        gloo = Gloo()
        return gloo, gloo.version
    if library.startswith("mpi4py"):
        mpi = Mpi4py(beside=library.endswith("pkl5"))
        return mpi, mpi.version
    import commops

    return commops.init(), f"commops {commops.__version__}"


def cases_of(library: str, name: str, comm: Any, measure: ModuleType) -> dict[str, Any]:
    """Return what is to be measured, by operation."""
    if library in ("memcpy", "raw sockets"):
        import limits

        table: dict[str, Any] = (limits.memcpy if library == "memcpy" else limits.sockets)(comm)
        return table
    import cases

    known = {"collectives": measure.OPS, "objects": cases.OBJECTS, "messages": cases.MESSAGES}[name]
    shared = library == "commops on comm.empty"
    return {op: case for op, case in known.items() if op in _DIRECT or not shared}


def main() -> None:
    library, path, name, told, seconds = sys.argv[1:]
    signal.alarm(int(seconds))
    measure, arguments = load(path), json.loads(told)
    comm, version = join(library)
    table = cases_of(library, name, comm, measure)
    arguments["ops"] = [op for op in arguments.get("ops", table) if op in table]
    if library == "commops on comm.empty":
        arguments["new"] = lambda count: comm.zeros(count, "f4")
    rows = [row._asdict() for row in measure.measure(comm, cases=table, **arguments)]
    if comm.rank == 0:
        print(json.dumps({"version": version, "rows": rows}))
    if hasattr(comm, "close"):
        comm.close()


if __name__ == "__main__":
    main()
