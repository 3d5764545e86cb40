"""A rank of `bench_hosts.py`: times an allreduce."""

from __future__ import annotations

import json
import sys

import commops
from commops.cli.measure import measure


def main() -> None:
    size, where, arguments, rank = sys.argv[1:]
    sizes, batches, transport = json.loads(arguments)
    with commops.init(where, rank=int(rank), size=int(size), transport=transport) as comm:
        rows = list(measure(comm, ["allreduce"], sizes, batches=batches, seconds=0.0))
        if comm.rank == 0:
            print(json.dumps({row.bytes: row.microseconds for row in rows}))


if __name__ == "__main__":
    main()
