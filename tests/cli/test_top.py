"""``commops top``: what it says of a job in which one rank is stuck, and of ranks that stop and end."""

from __future__ import annotations

import contextlib
import json
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from commops import flight

from .conftest import Run, only_line

SCRIPT = Path(__file__).with_name("stuck.py")
WAITS = 1 + next(i for i, line in enumerate(SCRIPT.read_text().splitlines()) if "np.ones(1000)" in line)
SLEEPS = 1 + next(i for i, line in enumerate(SCRIPT.read_text().splitlines()) if "time.sleep" in line)


def until(holds: Callable[[], object]) -> None:
    end = time.monotonic() + 20
    while not holds():
        assert time.monotonic() < end
        time.sleep(0.01)


def session(pid: int) -> int:
    with contextlib.suppress(ProcessLookupError):  # of a rank that has ended, or does since
        return os.getsid(pid) if pid else 0
    return 0


@pytest.fixture
def job(tmp_path: Path) -> Iterator[str]:
    """Start two ranks, wait until they are stuck, and return what the job is known by."""
    environ = {name: value for name, value in os.environ.items() if not name.startswith("COMMOPS_")}
    environ |= {"PYTHONPATH": os.pathsep.join(filter(None, sys.path))}
    command = [sys.executable, "-m", "commops", "run", "-n", "2", str(SCRIPT), str(tmp_path)]
    launcher = subprocess.Popen(command, cwd=tmp_path, env=environ, start_new_session=True)
    try:
        until(lambda: list(tmp_path.glob("asleep-*")))
        (name,) = {rank.recorder.job for rank in flight.running() if session(rank.pid) == launcher.pid}
        until(lambda: pids(name).keys() == {0, 1} and state(name, 0) == "in")
        yield name
    finally:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(launcher.pid, signal.SIGKILL)
        launcher.wait()


def pids(job: str) -> dict[int, int]:
    return {rank.recorder.rank: rank.pid for rank in flight.running() if rank.recorder.job == job}


def state(job: str, number: int) -> str:
    ranks = [r for r in flight.running() if r.recorder.job == job and r.recorder.rank == number]
    return ranks[0].state


def rows(text: str) -> list[list[str]]:
    """Return the cells of each rank's line."""
    found = [re.split(r"\s{2,}", line.strip()) for line in text.splitlines()]
    return [cells for cells in found if cells[0].isdecimal()]


def test_the_rank_that_is_stuck_and_its_line_are_shown(commops: Run, job: str) -> None:
    result = commops("top", "--once", "--job", job)
    assert result.returncode == 0, result.stderr
    assert result.stdout.startswith(f"job {job[:8]}: 2 ranks on ")
    waiting, stuck = rows(result.stdout)
    assert waiting[:2] == ["0", str(pids(job)[0])]
    assert re.fullmatch(r"in [\d.]+ m?s", waiting[2])
    assert waiting[3:6] == ["allreduce(1000 × float64, op=sum)", f"stuck.py:{WAITS}", "4"]
    assert stuck[1] == str(pids(job)[1])
    assert re.fullmatch(r"computing [\d.]+ m?s", stuck[2])
    assert stuck[3].startswith("allreduce(10 × float64, op=mean)")
    assert stuck[5:7] == ["3", "1"]  # and one behind


def test_the_stacks_of_a_stuck_rank(commops: Run, job: str) -> None:
    for _ in range(2):  # it may be asked again
        result = commops("top", "--stack", "1", "--job", job)
        assert result.returncode == 0, result.stderr
        assert f'File "{SCRIPT}", line {SLEEPS} in load_batch' in result.stdout
        assert "most recent call first" in result.stdout
    waiting = commops("top", "--stack", "0", "--job", job).stdout
    assert f'File "{SCRIPT}", line {WAITS} in <module>' in waiting
    assert state(job, 0) == "in"  # it goes on waiting
    assert state(job, 1) == "computing"


def test_stopped_ranks_are_shown_and_cannot_answer(commops: Run, job: str) -> None:
    os.kill(pids(job)[1], signal.SIGSTOP)
    until(lambda: state(job, 1) == "stopped")
    assert rows(commops("top", "--once", "--job", job).stdout)[1][2] == "stopped"
    result = commops("top", "--stack", "1", "--job", job)
    assert result.returncode == 1
    assert "is stopped, and cannot answer" in only_line(result.stderr)


def test_killed_ranks_are_shown_while_another_lives_and_then_nothing_is_left(
    commops: Run, job: str, tmp_path: Path
) -> None:
    rank = pids(job)
    launcher = next(r for r in flight.running() if r.recorder.job == job)
    parent = int(flight.status(launcher.pid)["PPid"])
    os.kill(parent, signal.SIGSTOP)  # it would end the others
    os.kill(rank[1], signal.SIGKILL)
    until(lambda: len(list(tmp_path.glob("asleep-*"))) == 2)  # the survivor is stuck too
    killed = rows(commops("top", "--once", "--job", job).stdout)[1]
    assert killed[:3] == ["1", str(rank[1]), "ended"]
    assert killed[3].startswith("allreduce(10 ")
    for pid in (rank[0], parent):
        os.kill(pid, signal.SIGKILL)
    until(lambda: not pids(job))
    result = commops("top", "--once", "--job", job)
    assert result.returncode == 1
    assert f"no rank of a job {job}… runs on this machine" in only_line(result.stderr)


# Stands for ssh: runs the command, as if it were on another machine, whose ranks have other numbers.
OTHER_MACHINE = """
import json, subprocess, sys
command = sys.argv[1:]
if "--json" not in command:
    sys.exit(subprocess.run(command).returncode)
print("more than a pipe holds\\n" * 10000, file=sys.stderr, flush=True)
with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as top:
    for line in top.stdout:
        ranks = json.loads(line)
        for rank in ranks:
            rank["recorder"] |= {"host": "elsewhere", "rank": rank["recorder"]["rank"] + 2, "size": 4}
        print(json.dumps(ranks), flush=True)
"""


def test_ranks_of_another_machine_are_shown_beside_those_of_this_one(
    commops: Run, job: str, tmp_path: Path
) -> None:
    other = tmp_path / "other.py"
    other.write_text(OTHER_MACHINE)
    result = commops("top", "--once", "--job", job, "--on", f"{sys.executable} {other}", "--interval", "0.2")
    assert result.returncode == 0, result.stderr
    assert result.stdout.splitlines()[0].strip() == f"job {job[:8]}: 4 ranks"
    shown = rows(result.stdout)
    assert [cells[0] for cells in shown] == ["0", "1", "2", "3"]
    assert [cells[2] == "elsewhere" for cells in shown] == [False, False, True, True]
    for here, there in ((0, 2), (1, 3)):
        assert shown[here][1] == shown[there][1]  # the process
        assert shown[here][4:7] == shown[there][4:7]  # call, line, number
    # Named twice, its own machine is shown once.
    own = commops("top", "--once", "--job", job, "--on", "env", "--on", "env", "--interval", "0.2")
    assert [cells[0] for cells in rows(own.stdout)] == ["0", "1"]


def test_the_stacks_of_a_rank_of_another_machine(commops: Run, job: str, tmp_path: Path) -> None:
    other = tmp_path / "other.py"
    other.write_text("import subprocess, sys; print('from elsewhere'); subprocess.run(['true', *sys.argv])")
    result = commops("top", "--stack", "7", "--job", job, "--on", f"{sys.executable} {other}")
    assert result.returncode == 0, result.stderr
    assert result.stdout == "from elsewhere\n"
    refused = commops("top", "--stack", "7", "--job", job, "--on", "there-is-no-such-program")
    assert refused.returncode == 2
    assert "cannot be run" in refused.stderr


@pytest.mark.parametrize(
    ("machine", "words"),
    [
        ("false", "false: exit code 1"),
        ("echo hello", "echo hello: no look of commops top of this version"),
        ("there-is-no-such-program", "cannot be run"),
        ("'", "No closing quotation"),
    ],
)
def test_another_machine_that_does_not_answer(commops: Run, job: str, machine: str, words: str) -> None:
    result = commops("top", "--once", "--job", job, "--on", machine, "--interval", "0.2")
    assert words in result.stderr
    if result.returncode == 0:  # those of this machine are shown all the same
        assert [cells[0] for cells in rows(result.stdout)] == ["0", "1"]
    else:
        assert "cannot be run" in words or "quotation" in words


def test_looks_as_json(commops: Run, job: str) -> None:
    (ranks,) = (
        json.loads(line) for line in commops("top", "--once", "--json", "--job", job).stdout.splitlines()
    )
    assert [rank["recorder"]["rank"] for rank in ranks] == [0, 1]
    assert ranks[1]["recorder"]["calls"][-1]["kind"] == "allreduce"


def test_a_rank_that_there_is_none_of(commops: Run, job: str) -> None:
    result = commops("top", "--stack", "7", "--job", job)
    assert result.returncode == 1
    assert only_line(result.stderr) == "commops: no rank 7 runs on this machine"


def test_a_process_that_uses_the_signal_itself_is_not_asked(tmp_path: Path) -> None:
    program = """
import signal, sys
from commops import stacks
signal.signal(stacks.SIGNAL, lambda *_: print("its own"))
import commops, os
with commops.init() as comm:
    try:
        stacks.ask(os.getpid())
    except ValueError as error:
        print(error)
"""
    result = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert "offers no stacks: it has another use for signal" in only_line(result.stdout)


def test_a_fork_offers_its_own(tmp_path: Path) -> None:
    program = """
import os, commops
from commops import stacks
with commops.init() as comm:
    child = os.fork()
    if child == 0:
        with commops.init() as own:
            def in_the_child():
                return stacks.ask(os.getpid())
            os._exit(0 if "in_the_child" in in_the_child() else 1)
    assert os.waitpid(child, 0)[1] == 0
    assert "in_the_child" not in stacks.ask(os.getpid())
"""
    subprocess.run([sys.executable, "-c", program], check=True, timeout=60)
