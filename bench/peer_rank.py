"""A rank of a peer: `commops.cli.measure` over another library. Started by `bench_collectives.py`.

    python peer_rank.py mpi4py|gloo <path of measure.py> <arguments of measure, as JSON>

Rank 0 prints the rows as JSON. The library's own functions are called directly where their arguments come in
the same order; elsewhere through a function of one line, which costs the peer about 30 ns.
"""

from __future__ import annotations

import importlib.util
import json
import sys
from types import ModuleType
from typing import Any


class Mpi4py:
    """mpi4py's calls on buffers."""

    def __init__(self) -> None:
        from mpi4py import MPI

        comm: Any = MPI.COMM_WORLD
        self.rank, self.size = comm.rank, comm.size
        self.barrier, self.broadcast = comm.Barrier, comm.Bcast
        self.send, self.recv = comm.Send, comm.Recv
        self.alltoall, self.allgather = comm.Alltoall, comm.Allgather
        self._comm = comm

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
        self.rank, self.size = dist.get_rank(), dist.get_world_size()
        self.barrier = dist.barrier
        self._dist, self._torch = dist, torch
        self._tensors: dict[int, tuple[Any, Any]] = {}

    def _tensor(self, x: Any) -> Any:
        found = self._tensors.get(id(x))
        if found is None or found[0] is not x:
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


def load(path: str) -> ModuleType:
    """Import a module from its file, without the package around it, which is not installed here."""
    spec = importlib.util.spec_from_file_location("measure", path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules["measure"] = module
    spec.loader.exec_module(module)
    return module


def main() -> None:
    library, path, arguments = sys.argv[1:]
    comm: Any = {"mpi4py": Mpi4py, "gloo": Gloo}[library]()
    rows = [row._asdict() for row in load(path).measure(comm, **json.loads(arguments))]
    if comm.rank == 0:
        print(json.dumps(rows))


if __name__ == "__main__":
    main()
