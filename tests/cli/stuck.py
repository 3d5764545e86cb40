"""A job that gets stuck: rank 1 sleeps in `load_batch`, and the others wait for it in an allreduce."""

import os
import pathlib
import sys
import time

import numpy as np

import commops


def load_batch() -> None:
    pathlib.Path(sys.argv[1], f"asleep-{os.getpid()}").touch()
    time.sleep(100)


with commops.init() as comm:
    for _ in range(3):
        comm.allreduce(np.ones(10), op="mean")
    try:
        if comm.rank == 1:
            load_batch()
        comm.allreduce(np.ones(1000))
    except commops.PeerLostError:
        load_batch()
