"""A rank of `bench_overlap.py`: times an allreduce, a computation as long, and the one behind the other."""

from __future__ import annotations

import json
import os
import sys
import time
from collections.abc import Callable
from functools import partial
from typing import Any

import numpy as np

import commops


def _matmul() -> Callable[[], object]:
    a = np.ones((128, 128), np.float32)
    out = np.empty_like(a)
    return lambda: np.matmul(a, a, out=out)


def _ufunc() -> Callable[[], object]:
    x = np.ones(1 << 14, np.float32)
    out = np.empty_like(x)
    return lambda: np.exp(x, out=out)


def _small() -> Callable[[], object]:
    x = np.zeros(64, np.float32)

    def many() -> None:
        for _ in range(100):
            np.add(x, x, out=x)

    return many


# The first two let go of the interpreter's lock while they compute, the third hardly ever does.
COMPUTATIONS: dict[str, Callable[[], Callable[[], object]]] = {
    "matmul": _matmul,
    "ufunc": _ufunc,
    "small calls": _small,
}


def _stand_aside(computes: bool) -> None:
    """Give the first core to the thread that computes, and the second to all that communicate."""
    first, second = sorted(os.sched_getaffinity(0))[:2]
    for thread in map(int, os.listdir("/proc/self/task")):
        os.sched_setaffinity(thread, {first if computes and thread == os.getpid() else second})


def _await(work: commops.Work[Any]) -> None:
    """Wait while the progress thread does it all: `wait` would take it over."""
    while not work.done():
        os.sched_yield()


class _Rank:
    """The three times, each the slowest rank's, from a barrier on and with fresh data."""

    def __init__(self, comm: commops.Comm, size: int, computes: bool, aside: bool) -> None:
        self.comm = comm
        self.x = np.empty(size // 4, np.float32)
        self.out = np.empty_like(self.x)
        self.computes = computes
        self.wait = _await if aside and computes else commops.Work.wait
        self.calls = 0

    def seconds(self, run: Callable[[], object]) -> float:
        self.calls += 1
        self.x.fill(self.calls % 7)
        self.comm.barrier()
        begin = time.perf_counter()
        run()
        return float(self.comm.allreduce(np.array([time.perf_counter() - begin]), op="max")[0])

    def communicate(self) -> None:
        self.wait(self.comm.iallreduce(self.x, out=self.out))

    def compute(self, once: Callable[[], object], times: int) -> None:
        for _ in range(times if self.computes else 0):
            once()

    def both(self, once: Callable[[], object], times: int) -> None:
        work = self.comm.iallreduce(self.x, out=self.out)
        self.compute(once, times)
        work.wait()

    def row(self, name: str, repeats: int) -> dict[str, Any]:
        once = COMPUTATIONS[name]()
        alone = np.median([self.seconds(self.communicate) for _ in range(3 + repeats)][3:])
        unit = min(self.seconds(partial(self.compute, once, 20)) / 20 for _ in range(5))
        times = max(round(alone / unit), 1)
        runs = (self.communicate, partial(self.compute, once, times), partial(self.both, once, times))
        found = np.median([[self.seconds(run) for run in runs] for _ in range(repeats)], axis=0)
        communicate, compute, both = map(float, found)
        return {
            "bytes": self.x.nbytes,
            "computation": name,
            "communicate": communicate,
            "compute": compute,
            "both": both,
            "hidden": (communicate + compute - both) / min(communicate, compute),
        }


def measure(
    comm: commops.Comm, sizes: list[int], repeats: int, computing: int, aside: bool
) -> list[dict[str, Any]]:
    """Measure at each of the sizes with each of the computations.

    Parameters
    ----------
    comm : Comm
    sizes : list of int
        Bytes.
    repeats : int
        The three follow each other so often; the medians count.
    computing : int
        So many ranks compute; the others only wait for the allreduce.
    aside : bool
        All threads that compute on one core, all that communicate on another.

    Returns
    -------
    list of dict
    """
    if aside:
        _stand_aside(comm.rank < computing)
    ranks = (_Rank(comm, size, comm.rank < computing, aside) for size in sizes)
    return [rank.row(name, repeats) for rank in ranks for name in COMPUTATIONS]


def main() -> None:
    size, where, arguments, rank = sys.argv[1:]
    with commops.init(where, rank=int(rank), size=int(size)) as comm:
        rows = measure(comm, *json.loads(arguments))
        if comm.rank == 0:
            print(json.dumps(rows))


if __name__ == "__main__":
    main()
