"""`commops run --max-restarts`: all ranks again, after one has failed."""

from __future__ import annotations

import signal
import time

import pytest

from .support import Programs, read_lines

RANK = (
    "import os, signal, sys, time; rank = int(os.environ['RANK']);"
    " life = int(os.environ['COMMOPS_RESTART_COUNT'])\n"
)
AGAIN = "; starting all ranks again (restart {} of {})"


def test_all_ranks_are_started_again(programs: Programs) -> None:
    script = programs.script(
        RANK
        + "import commops\n"
        + "with commops.init() as comm:\n"
        + "    if rank == 1 and life < 2: os.kill(os.getpid(), signal.SIGKILL)\n"
        + "    jobs = comm.allgather_object(os.environ['COMMOPS_JOB'])\n"
        + "    names = [os.environ[f'TORCHELASTIC_{n}'] for n in ('RESTART_COUNT', 'MAX_RESTARTS')]\n"
        + "    os.write(1, f'{rank} {life} {names} {len(set(jobs))}\\n'.encode())\n"
    )
    code, out, err = programs.run(3, script, max_restarts=3)
    assert code == 0
    assert sorted(out.splitlines()) == [f"{rank} 2 ['2', '3'] 1" for rank in range(3)]
    said = [line for line in err.splitlines() if "again" in line]
    assert said == [f"commops: rank 1: killed by SIGKILL{AGAIN.format(count, 3)}" for count in (1, 2)]
    # The first thing that is said is the cause.
    assert err.startswith("commops: rank 1: killed by SIGKILL\n")


def test_what_a_rank_was_given_differs_from_start_to_start(programs: Programs) -> None:
    script = programs.script(
        RANK
        + "token = open(os.environ['COMMOPS_TOKEN_FILE']).read()\n"
        + "print(os.environ['COMMOPS_JOB'], token, os.environ['COMMOPS_RENDEZVOUS'])\n"
        + "sys.exit(life < 2)\n"
    )
    code, out, _ = programs.run(1, script, max_restarts=2)
    jobs, tokens, places = zip(*map(str.split, out.splitlines()), strict=True)
    assert code == 0
    assert len(set(jobs)) == len(set(tokens)) == len(set(places)) == 3


@pytest.mark.parametrize("most", [0, 2])
def test_the_exit_code_is_that_of_the_last_start(programs: Programs, most: int) -> None:
    script = programs.script(f"{RANK}if rank == 1: sys.exit(10 + life)\ntime.sleep(600)\n")
    code, out, err = programs.run(2, script, max_restarts=most)
    assert (code, out) == (10 + most, "")
    assert err.count("again") == most
    assert f"rank 1: exited with code {10 + most}\n" in err


def test_an_exception_is_shown_at_each_start_and_named_in_the_line(programs: Programs) -> None:
    script = programs.script(f"{RANK}if rank == 0: raise ValueError(f'life {{life}}')\n")
    code, _, err = programs.run(2, script, max_restarts=1)
    assert code == 1
    assert err.count("Traceback") == 2
    assert f"commops: rank 0: ValueError: life 0{AGAIN.format(1, 1)}\n" in err
    assert err.index("ValueError: life 0") < err.index("again") < err.index("ValueError: life 1")


def test_a_rank_that_was_interrupted_was_meant_to_end(programs: Programs) -> None:
    script = programs.script(f"{RANK}if rank == 1: raise KeyboardInterrupt\ntime.sleep(600)\n")
    code, _, err = programs.run(2, script, max_restarts=5)
    assert code == 130
    assert "again" not in err


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_to_the_launcher_ends_the_job_for_good(programs: Programs, number: signal.Signals) -> None:
    script = programs.script(f"{RANK}print('ready', flush=True)\ntime.sleep(600)\n")
    process = programs.launcher(2, script, max_restarts=5)
    assert read_lines(process, 2) == ["ready"] * 2
    start = time.monotonic()
    process.send_signal(number)
    _, err = process.communicate(timeout=60)
    assert time.monotonic() - start < 2
    assert process.returncode == 128 + number
    assert b"again" not in err


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
@pytest.mark.parametrize("delay", [0.0, 0.02, 0.1])
def test_a_signal_during_a_restart(programs: Programs, number: signal.Signals, delay: float) -> None:
    # The others do not notice, so the launcher is busy with ending and starting ranks most of the time.
    script = programs.script(f"{RANK}print('ready', flush=True)\nif rank: sys.exit(3)\ntime.sleep(600)\n")
    process = programs.launcher(2, script, max_restarts=1000)
    read_lines(process, 2)
    time.sleep(1.2 + delay)
    start = time.monotonic()
    process.send_signal(number)
    process.communicate(timeout=60)
    assert time.monotonic() - start < 2
    assert process.returncode == 128 + number


def test_a_launcher_that_is_killed_after_a_restart_leaves_nothing(programs: Programs) -> None:
    script = programs.script(
        f"{RANK}if life == 0 and rank: sys.exit(3)\nprint('ready', life, flush=True)\ntime.sleep(600)\n"
    )
    process = programs.launcher(2, script, max_restarts=1)
    assert sorted(read_lines(process, 3)) == ["ready 0", "ready 1", "ready 1"]
    process.kill()
    process.communicate(timeout=60)
    assert programs.settle() == []


def test_what_ranks_left_behind_is_gone_before_the_next_start(programs: Programs) -> None:
    script = programs.script(
        RANK
        + "import subprocess\n"
        + "child = subprocess.Popen(['sleep', '600'])\n"
        + "if life == 0: open('pid', 'w').write(str(child.pid)); sys.exit(1)\n"
        + "print(os.path.exists('/proc/' + open('pid').read()))\n"
    )
    code, out, _ = programs.run(1, script, max_restarts=1)
    assert (code, out) == (0, "False\n")
