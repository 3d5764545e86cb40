"""Eight processes use one store at the same time."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from .conftest import KINDS, PREFIX_KINDS, Shared

WORKERS = 8
ROUNDS = 5


@pytest.mark.parametrize(
    "shared", [kind for kind in [*KINDS, *PREFIX_KINDS] if "hash" not in kind], indirect=True
)
def test_eight_processes_at_once(shared: Shared) -> None:
    store = shared.open(timeout=60)
    store.set("steps", b"0 by nobody")
    environment = os.environ | ({"TEST_TOKEN": bytes(shared.token).decode()} if shared.token else {})
    script = str(Path(__file__).with_name("worker.py"))
    workers = [
        subprocess.Popen(
            [sys.executable, script, shared.url, shared.prefix or "", f"worker-{number}", str(ROUNDS)],
            stdout=subprocess.PIPE,
            env=environment,
        )
        for number in range(WORKERS)
    ]
    try:
        # All are there before any of them starts.
        ready = b"0"
        while ready != b"%d" % WORKERS:
            store.wait(["ready"])
            ready = store.get("ready")
        store.set("go", b"")
        answers = [json.loads(worker.communicate(timeout=60)[0]) for worker in workers]
    finally:
        for worker in workers:
            worker.kill()
            worker.communicate()
    assert [worker.returncode for worker in workers] == [0] * WORKERS
    counts = sorted(count for answer in answers for count in answer["counts"])
    assert counts == list(range(1, WORKERS * ROUNDS + 1))
    assert len({answer["leader"] for answer in answers}) == 1
    assert int(store.get("steps").split()[0]) == WORKERS * ROUNDS
    assert store.count("done/") == WORKERS
