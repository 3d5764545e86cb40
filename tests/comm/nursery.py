"""The process that makes ranks for the tests: it has imported everything, and forks.

A request on the socket of ``argv[1]`` is JSON, ``{"env": [{…} of each rank]}``, with one socket for each
rank; the answer is the list of the ranks' process ids. A rank then serves its socket: it receives functions,
calls them with its communicator, and answers with what they return or raise.
"""

from __future__ import annotations

import faulthandler
import io
import json
import os
import pickle
import signal
import socket
import sys
import traceback
import warnings
from multiprocessing.connection import Connection
from typing import Any, NoReturn

import cloudpickle
import numpy as np
import pytest

import commops

WHERE = signal.SIGUSR1  # a rank that gets it writes where it is to its standard error


def main(sock: socket.socket) -> None:
    """Fork ranks until the tests are over."""
    signal.signal(signal.SIGCHLD, signal.SIG_IGN)  # the tests watch the ranks; nobody waits for them here
    while True:
        request, sockets, _, _ = socket.recv_fds(sock, 1 << 20, 64)
        if not request:
            return
        environments = json.loads(request)["env"]
        pids = []
        for number, environment in enumerate(environments):
            pid = os.fork()
            if pid == 0:
                sock.close()
                for other, descriptor in enumerate(sockets):
                    if other != number:
                        os.close(descriptor)
                be_rank(Connection(sockets[number]), environment)
            pids.append(pid)
        for descriptor in sockets:
            os.close(descriptor)
        sock.send(json.dumps(pids).encode())


def be_rank(tests: Connection, environment: dict[str, str]) -> NoReturn:
    """Serve one rank's socket to its end, and end the process as a program would."""
    signal.signal(signal.SIGCHLD, signal.SIG_DFL)
    signal.signal(signal.SIGINT, signal.default_int_handler)
    faulthandler.register(WHERE, all_threads=True)
    os.environ.update(environment)
    warnings.simplefilter("error")
    status = 1
    try:
        serve(tests)
        status = 0
    except BaseException:
        traceback.print_exc()
    finally:
        sys.stderr.flush()
        os._exit(status)


def serve(tests: Connection) -> None:
    """Join the world of the environment, then call what comes."""
    comm = commops.init(timeout=float(os.environ["COMM_TEST_TIMEOUT"]))
    tests.send_bytes(pickle.dumps(True))
    programs: dict[bytes, Any] = {}
    while True:
        try:
            code, arguments = tests.recv_bytes(), tests.recv_bytes()
        except EOFError:
            break
        try:
            if code not in programs:
                programs[code] = pickle.loads(code)
            answer = programs[code](comm, *pickle.loads(arguments))
            packed = dumps((True, answer))
        except BaseException as error:
            trace = traceback.format_exc()
            packed = dumps((False, (described(error), trace)))
        try:
            tests.send_bytes(packed)
        except OSError:
            break
    comm.close()


def dumps(value: object) -> bytes:
    file = io.BytesIO()
    cloudpickle.CloudPickler(file, protocol=5).dump(value)
    return file.getvalue()


def described(error: BaseException) -> BaseException:
    """Return the exception alone, or one that can be pickled in its place."""
    error = error.with_traceback(None)
    error.__cause__ = error.__context__ = None
    try:
        pickle.loads(dumps(error))
    except Exception:
        error = RuntimeError(f"{type(error).__name__}: {error}")
    return error


if __name__ == "__main__":
    np.seterr(all="ignore")
    assert pytest is not None  # imported for the ranks, which have it then
    main(socket.socket(fileno=int(sys.argv[1])))
