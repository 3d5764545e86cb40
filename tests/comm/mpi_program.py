"""One program of collectives on integers, for commops and mpi4py: rank 0 writes what all have got, as JSON.

python mpi_program.py commops|mpi4py results.json
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import numpy as np

N = 1000
OPS = ("sum", "prod", "min", "max", "band", "bor", "bxor")


class OverCommops:
    """The calls as commops has them."""

    def __init__(self) -> None:
        import commops

        self.comm = commops.init()
        self.rank, self.size = self.comm.rank, self.comm.size

    def reduction(self, call: str, x: Any, op: str, root: int) -> Any:
        return getattr(self.comm, call)(x, op, root) if call == "reduce" else getattr(self.comm, call)(x, op)

    def broadcast(self, x: Any, root: int) -> Any:
        return self.comm.broadcast(x, root)

    def scatter(self, x: Any, counts: list[int], root: int) -> Any:
        return self.comm.scatter(x, root, counts=counts)

    def gather(self, x: Any, counts: list[int], root: int) -> Any:
        return self.comm.gather(x, root, counts=counts)

    def allgather(self, x: Any, counts: list[int]) -> Any:
        return self.comm.allgather(x, counts=counts)

    def alltoall(self, x: Any, send: list[int], recv: list[int]) -> Any:
        return self.comm.alltoall(x, send_counts=send, recv_counts=recv)

    def reduce_scatter(self, x: Any, counts: list[int]) -> Any:
        return self.comm.reduce_scatter(x, "sum", counts=counts)

    def sendrecv(self, x: Any, dest: int, source: int) -> Any:
        return self.comm.sendrecv(x, dest, source)

    def objects(self, obj: Any) -> Any:
        return [
            self.comm.allgather_object(obj),
            self.comm.alltoall_object([[obj, r] for r in range(self.size)]),
        ]

    def group(self, color: int, key: int) -> list[int]:
        child = self.comm.split(color, key)
        assert child is not None
        return [child.rank, child.size, *child.allgather(np.array(self.rank)).tolist()]

    def close(self) -> None:
        self.comm.close()


class OverMPI:
    """The same in MPI."""

    def __init__(self) -> None:
        from mpi4py import MPI

        self.comm = MPI.COMM_WORLD
        self.rank, self.size = self.comm.rank, self.comm.size
        self.ops = {op: getattr(MPI, op.upper()) for op in OPS}

    def reduction(self, call: str, x: Any, op: str, root: int) -> Any:
        out = np.empty_like(x)
        name = call.capitalize()
        if call == "reduce":
            self.comm.Reduce(x, out, self.ops[op], root)
            return out if self.rank == root else None
        getattr(self.comm, name)(x, out, self.ops[op])
        return None if call == "exscan" and self.rank == 0 else out

    def broadcast(self, x: Any, root: int) -> Any:
        out = np.empty(N, np.int64) if x is None else x
        self.comm.Bcast(out, root)
        return out

    def scatter(self, x: Any, counts: list[int], root: int) -> Any:
        out = np.empty(counts[self.rank], np.int64)
        self.comm.Scatterv([x, counts] if self.rank == root else None, out, root)
        return out

    def gather(self, x: Any, counts: list[int], root: int) -> Any:
        out = np.empty(sum(counts), np.int64)
        self.comm.Gatherv(x, [out, counts] if self.rank == root else None, root)
        return out if self.rank == root else None

    def allgather(self, x: Any, counts: list[int]) -> Any:
        out = np.empty(sum(counts), np.int64)
        self.comm.Allgatherv(x, [out, counts])
        return out

    def alltoall(self, x: Any, send: list[int], recv: list[int]) -> Any:
        out = np.empty(sum(recv), np.int64)
        self.comm.Alltoallv([x, send], [out, recv])
        return out

    def reduce_scatter(self, x: Any, counts: list[int]) -> Any:
        out = np.empty(counts[self.rank], np.int64)
        self.comm.Reduce_scatter(x, out, counts, self.ops["sum"])
        return out

    def sendrecv(self, x: Any, dest: int, source: int) -> Any:
        out = np.empty_like(x)
        self.comm.Sendrecv(x, dest, 0, out, source, 0)
        return out

    def objects(self, obj: Any) -> Any:
        return [self.comm.allgather(obj), self.comm.alltoall([[obj, r] for r in range(self.size)])]

    def group(self, color: int, key: int) -> list[int]:
        child = self.comm.Split(color, key)
        return [child.rank, child.size, *child.allgather(self.rank)]

    def close(self) -> None:
        pass


def program(over: Any) -> list[Any]:
    """Make every call, and return what came."""
    rank, size = over.rank, over.size
    rng = np.random.default_rng(rank)
    x = rng.integers(-(2**63), 2**63 - 1, N, np.int64)
    results: list[Any] = []
    for op in OPS:
        for call in ("allreduce", "reduce", "scan", "exscan"):
            got = over.reduction(call, x, op, size - 1)
            results.append(None if call == "exscan" and rank == 0 else got)
    counts = [(7 * r) % 5 for r in range(size)]
    blocks = np.arange(sum(counts), dtype=np.int64) * (rank + 1)
    for root in range(size):
        results.append(over.broadcast(x if rank == root else None, root))
        results.append(over.scatter(blocks if rank == root else None, counts, root))
        results.append(over.gather(np.arange(counts[rank], dtype=np.int64) + rank, counts, root))
    results.append(over.allgather(np.arange(counts[rank], dtype=np.int64) - rank, counts))
    results.append(over.reduce_scatter(blocks, counts))
    send, recv = [(rank + r) % 4 for r in range(size)], [(r + rank) % 4 for r in range(size)]
    results.append(over.alltoall(np.arange(sum(send), dtype=np.int64) + 100 * rank, send, recv))
    results.append(over.sendrecv(x, (rank + 1) % size, (rank - 1) % size))
    results.append(over.objects({"rank": rank, "text": "ä" * rank}))
    results.append(over.group(rank % 2, -rank))
    return [got.tolist() if isinstance(got, np.ndarray) else got for got in results]


def main() -> None:
    over: Any = OverCommops() if sys.argv[1] == "commops" else OverMPI()
    everything = over.objects(program(over))[0]
    if over.rank == 0:
        Path(sys.argv[2]).write_text(json.dumps(everything))
    over.close()


if __name__ == "__main__":
    main()
