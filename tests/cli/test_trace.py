"""``commops trace``: of a job that runs, and of one that has saved its calls."""

from __future__ import annotations

import itertools
import json
from pathlib import Path
from typing import Any

import pytest

from commops import flight

from .conftest import Run, only_line
from .test_top import SCRIPT, WAITS, job

__all__ = ["job"]

MESSAGES = """
import numpy as np
import commops

with commops.init() as comm:
    x = np.ones(100)
    for _ in range(50):
        comm.allreduce(x)
    works = [comm.isend(x, (comm.rank + 1) % comm.size, tag=tag) for tag in range(3)]
    works += [comm.irecv(np.empty(100), tag=tag) for tag in range(3)]
    for work in works:
        work.wait()
    comm.split(comm.rank % 2).barrier()
    comm.reduce(np.ones(1000, np.int32), "max", root=1)
"""


def events_of(path: Path, ranks: int) -> list[dict[str, Any]]:
    """Check what holds for every trace, and return its calls."""
    trace = json.loads(path.read_text())
    assert trace.keys() == {"traceEvents", "displayTimeUnit"}
    names = [event for event in trace["traceEvents"] if event["ph"] == "M"]
    calls = [event for event in trace["traceEvents"] if event["ph"] == "X"]
    assert len(names) + len(calls) == len(trace["traceEvents"])
    titles = {event["pid"]: event["args"]["name"] for event in names if event["name"] == "process_name"}
    assert titles.keys() == set(range(ranks))
    assert all(title.startswith(f"rank {rank} (") for rank, title in titles.items())
    threads = {(event["pid"], event["tid"]) for event in names if event["name"] == "thread_name"}
    assert {(event["pid"], event["tid"]) for event in calls} == threads
    for event in calls:
        assert {"name", "cat", "ph", "pid", "tid", "ts", "dur", "args"} == event.keys()
        assert event["dur"] >= 0
        assert {"call", "state", "timed", "site"} <= event["args"].keys()
        assert event["args"]["call"].startswith(event["name"])
    times = [event["ts"] for event in calls]
    assert times == sorted(times)
    assert times[0] == 0
    for rank, thread in threads:  # none begins before the one before it has ended
        own = [event for event in calls if (event["pid"], event["tid"]) == (rank, thread)]
        for one, other in itertools.pairwise(own):
            assert one["ts"] + one["dur"] <= other["ts"] + 0.002, (one, other)
    return calls


def test_calls_of_a_job_that_runs(commops: Run, job: str, tmp_path: Path) -> None:
    result = commops("trace", "--job", job, "-o", "job.json")
    assert result.returncode == 0, result.stderr
    assert only_line(result.stdout).startswith("7 calls of 2 ranks are in job.json")
    calls = events_of(tmp_path / "job.json", 2)
    last = calls[-1]
    assert (last["pid"], last["name"], last["args"]["state"]) == (0, "allreduce", "running")
    assert last["args"]["site"] == f"{SCRIPT}:{WAITS}:<module>"
    assert {name: last["args"][name] for name in ("op", "dtype", "count", "number")} == {
        "op": "sum", "dtype": "float64", "count": 1000, "number": 4
    }  # fmt: skip
    assert last["dur"] > 0


@pytest.mark.parametrize("transport", ["auto", "tcp"])
def test_calls_that_a_job_has_saved(commops: Run, tmp_path: Path, transport: str) -> None:
    (tmp_path / "messages.py").write_text(MESSAGES)
    env = {"COMMOPS_TRACE": "saved", "COMMOPS_TRANSPORT": transport}
    assert commops("run", "-n", "3", "messages.py", env=env).returncode == 0
    result = commops("trace", "saved")
    assert result.returncode == 0, result.stderr
    calls = events_of(tmp_path / "trace.json", 3)
    assert all(event["args"]["timed"] for event in calls)  # exactly, since that was asked for
    assert all(event["dur"] > 0 for event in calls)
    for rank in range(3):
        own = [event["name"] for event in calls if event["pid"] == rank]
        assert own.count("allreduce") == 50
        assert own.count("isend") == own.count("irecv") == 3
        assert own.count("barrier") == own.count("reduce") == 1
    # One clock: nobody is out of a reduction before everybody is in it.
    for number in range(1, 51):
        same = [e for e in calls if e["name"] == "allreduce" and e["args"]["number"] == number]
        assert len(same) == 3
        assert max(e["ts"] for e in same) < min(e["ts"] + e["dur"] for e in same) + 0.002
    sends = [event["args"] for event in calls if event["name"] == "isend" and event["pid"] == 2]
    assert [(args["peer"], args["tag"], args["count"]) for args in sends] == [
        (0, tag, 100) for tag in range(3)
    ]


def test_folders_of_several_jobs(commops: Run, tmp_path: Path) -> None:
    (tmp_path / "messages.py").write_text(
        "import commops\nwith commops.init() as comm:\n    comm.barrier()\n"
    )
    for _ in range(2):
        assert commops("run", "-n", "2", "messages.py", env={"COMMOPS_TRACE": "all"}).returncode == 0
    jobs = {recorder.job for recorder in flight.load([tmp_path / "all"])}
    assert len(jobs) == 2
    result = commops("trace", "all")
    assert result.returncode == 1
    assert "there are several jobs: choose one with --job: " in only_line(result.stderr)
    assert commops("trace", "all", "--job", jobs.pop()).returncode == 0
    events_of(tmp_path / "trace.json", 2)


def test_what_cannot_be_traced(commops: Run, tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    (tmp_path / "wrong").mkdir()
    (tmp_path / "wrong" / "rank-0.flight").write_bytes(b"x" * 1000)
    for arguments, told in (
        (["empty"], "no rank has saved its calls in empty: was COMMOPS_TRACE set to it?"),
        (["wrong"], "wrong/rank-0.flight: no flight recorder"),
        (["--job", "there is none"], "no rank of a job there is none… runs on this machine"),
    ):
        result = commops("trace", *arguments)
        assert result.returncode == 1
        assert told in only_line(result.stderr)
    assert commops("trace", "nowhere").returncode == 2
