"""A warm process that forks ranks for the tests, so that each does not have to import everything anew.

It reads one request a line, answers with the process id, and ends with its ranks when its input ends. A
request is JSON: ``source`` is run with ``names``, in the environment ``env``, in the network namespace
``namespace`` if one is named. What becomes of it (the variable `result`, or the exception) is written to the
file ``out``, with what the process had open more than before.
"""

from __future__ import annotations

import contextlib
import ctypes
import json
import os
import sys
import time
import traceback
from typing import Any

import numpy as np

import commops
import commops.rendezvous.bootstrap
import commops.rendezvous.file_store
import commops.rendezvous.tcp_store
from commops.launch import process

_CLONE_NEWNET = 0x40000000


def _open() -> list[str]:
    """Return what this process has open, threads included."""
    found = [f"thread {task}" for task in os.listdir("/proc/self/task")]
    for name in os.listdir("/proc/self/fd"):
        with contextlib.suppress(OSError):  # the listing's own
            found.append(f"{name} {os.readlink(f'/proc/self/fd/{name}')}")
    return found


def _enter(namespace: str) -> None:
    descriptor = os.open(f"/run/netns/{namespace}", os.O_RDONLY | os.O_CLOEXEC)
    if ctypes.CDLL(None, use_errno=True).setns(descriptor, _CLONE_NEWNET):
        raise OSError(ctypes.get_errno(), f"setns {namespace}")
    os.close(descriptor)


def _be(request: dict[str, Any]) -> None:
    out = open(request["out"], "w")  # noqa: SIM115
    os.environ.update(request["env"])
    if request["namespace"]:
        _enter(request["namespace"])
    scope: dict[str, Any] = {"commops": commops, "np": np, "os": os, "time": time, **request["names"]}
    before = set(_open())
    start = time.monotonic()
    told: dict[str, Any] = {"result": None, "error": None}
    try:
        exec(request["source"], scope)
        told["result"] = scope.get("result")
    except BaseException as error:
        told["error"] = [type(error).__name__, str(error), traceback.format_exc()]
        error.__traceback__ = None  # what it refers to is to go now
    told["seconds"] = time.monotonic() - start
    scope.clear()
    patience = time.monotonic() + 1.0  # the kernel lists a thread that has been joined for a moment longer
    while (left := set(_open()) - before) and time.monotonic() < patience:
        time.sleep(0.01)
    told["left"] = sorted(left)
    json.dump(told, out)
    out.close()


def _bury() -> None:
    with contextlib.suppress(ChildProcessError):
        while os.waitpid(-1, os.WNOHANG)[0]:
            pass


def main() -> None:
    nursery = os.getpid()
    for line in sys.stdin:
        _bury()  # only now, so that whoever was told a process id could open a descriptor for it
        request = json.loads(line)
        pid = os.fork()
        if pid == 0:
            code = 0
            try:
                process.die_with(nursery)
                _be(request)
            except BaseException:
                traceback.print_exc()
                code = 70
            finally:
                os._exit(code)
        print(pid, flush=True)


if __name__ == "__main__":
    main()
