"""`commops run --elastic`: the others go on, and replacements take the places of ranks that fail."""

from __future__ import annotations

import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from .support import Programs, read_lines

# Steps that each count once, at all ranks, whoever dies; who comes takes over the state.
LOOP = """
import os, signal, sys, time
import commops
import numpy as np

life = int(os.environ["COMMOPS_RESTART_COUNT"])
comm = commops.init()
step, weights = 0, np.zeros(3)
changed = comm.generation > 0


def once(comm, step):
    time.sleep(0.002)


{more}

while step < int(sys.argv[1]) or comm.size < int(sys.argv[2]):
    total = None
    try:
        if not changed:
            grown = comm.grow()
            if grown is not comm:
                comm.close()
                comm, changed = grown, True
        if changed:
            step, weights = comm.broadcast_object((step, weights))
            changed = False
        once(comm, step)
        total = comm.allreduce(np.full(3, step < int(sys.argv[1])).astype(float), op="mean")
    except commops.CommError:
        pass
    if comm.agree(total is not None):
        weights += total
        step += int(total[0])
    else:
        comm, changed = comm.shrink(), True
print(comm.rank, comm.size, step, *weights, flush=True)
"""
STEPS = 400


def loop(programs: Programs, more: str = "") -> Path:
    return programs.script(LOOP.format(more=more))


def ends(size: int, steps: int = STEPS) -> list[str]:
    return [f"{rank} {size} {steps} {steps}.0 {steps}.0 {steps}.0" for rank in range(size)]


def children(process: subprocess.Popen[bytes]) -> list[int]:
    text = Path(f"/proc/{process.pid}/task/{process.pid}/children").read_text()
    return [int(pid) for pid in text.split()]


def await_children(process: subprocess.Popen[bytes], count: int) -> list[int]:
    deadline = time.monotonic() + 20
    while len(pids := children(process)) < count:
        assert time.monotonic() < deadline
        time.sleep(0.001)
    return pids


@pytest.mark.parametrize("env", [{}, {"COMMOPS_TRANSPORT": "tcp"}], ids=["shm", "tcp"])
@pytest.mark.parametrize("deaths", [1, 2])
def test_ranks_killed_at_random_instants(programs: Programs, env: dict[str, str], deaths: int) -> None:
    chance = random.Random(f"{env} {deaths}")
    for _ in range(6):
        script = loop(programs)
        process = programs.launcher(3, script, str(STEPS), "3", elastic=(1, 3), max_restarts=3, env=env)
        ranks = await_children(process, 6)[:3]
        time.sleep(0.5)  # until the first world is there; before that, see below
        for dead in chance.sample(ranks, deaths):
            time.sleep(chance.choice([0, chance.uniform(0, 0.2)]))
            os.kill(dead, signal.SIGKILL)
        out, err = process.communicate(timeout=60)
        assert process.returncode == 0, err.decode()
        assert sorted(out.decode().splitlines()) == ends(3), err.decode()
        assert err.count(b"killed by SIGKILL\n") == deaths
        assert err.count(b"is replaced") == deaths


@pytest.mark.parametrize("dead", [0, 1])
def test_two_hosts(programs: Programs, dead: int) -> None:
    where = f"os.environ['COMMOPS_HOST'] = 'ab'[int(os.environ['RANK']) // 2]\n{LOOP}"
    more = f"def once(comm, step):\n    if life == 0 and step == 50 and os.environ['RANK'] == '{dead}':" + (
        " os.kill(os.getpid(), signal.SIGKILL)"
    )
    script = programs.script("import os\n" + where.format(more=more))
    code, out, err = programs.run(4, script, "100", "4", elastic=(2, 4), max_restarts=1)
    assert (code, sorted(out.splitlines())) == (0, ends(4, 100)), err


def test_over_tls(programs: Programs) -> None:
    pytest.importorskip("cryptography")
    more = "def once(comm, step):\n    if life == 0 and step == 50 and os.environ['RANK'] == '1': os._exit(3)"
    script = loop(programs, more)
    process = programs.start(
        *(sys.executable, "-m", "commops", "run", "--tls", "--elastic", "1:2", script, "100", "2"),
        env={"COMMOPS_TRANSPORT": "tcp"},
    )
    out, err = process.communicate(timeout=60)
    assert (process.returncode, sorted(out.decode().splitlines())) == (0, ends(2, 100)), err.decode()


def test_what_a_replacement_is_told(programs: Programs) -> None:
    script = programs.script(
        "import os, sys, commops\n"
        "names = ['RANK', 'WORLD_SIZE', 'COMMOPS_JOIN', 'COMMOPS_RESTART_COUNT',"
        " 'TORCHELASTIC_RESTART_COUNT', 'TORCHELASTIC_MAX_RESTARTS']\n"
        "told = [os.environ.get(name) for name in names]\n"
        "comm = commops.init()\n"
        "if comm.generation == 0 and comm.rank == 1: sys.exit(3)\n"
        "while comm.generation < 2:\n"
        "    try: comm.grow().barrier(); comm = comm.grow()\n"
        "    except commops.PeerLostError: comm = comm.shrink()\n"
        "print(comm.rank, comm.generation, *told, sys.stdin.read() == '')\n"
    )
    # `grow` may find that a rank is gone only at the barrier, so both go the same way.
    script.write_text(
        script.read_text().replace("comm.grow().barrier(); comm = comm.grow()", "comm = step(comm)")
    )
    script.write_text(
        "def step(comm):\n    comm.barrier()\n    return comm.grow()\n\n\n" + script.read_text()
    )
    code, out, err = programs.run(3, script, elastic=(2, 3), max_restarts=2, label=True)
    assert code == 0, err
    assert sorted(out.splitlines()) == [
        "[0] 0 2 0 3 None 0 0 2 True",
        "[1] 2 2 1 3 1 1 1 2 True",
        "[2] 1 2 2 3 None 0 0 2 True",
    ]
    assert "commops: rank 1: exited with code 3\ncommops: going on; rank 1 is replaced (1 of 2)\n" in err


KILL = "os.kill(os.getpid(), signal.SIGKILL)"


@pytest.mark.parametrize(
    "when",
    [
        f"if life == 1: {KILL}",  # before it asks to join
        "import commops.rendezvous.waiting as w; w.Newcomer._queue = lambda self: " + KILL,
        f"import commops.rendezvous.entrance as e\nif life == 1: e.meet = lambda *a, **k: {KILL}",
        f"import commops.rendezvous.bootstrap as b; make = b._engine\n"
        f"b._engine = lambda *a: {KILL} if life == 1 else make(*a)",
    ],
    ids=["before", "waiting", "admitted", "joining"],
)
def test_a_replacement_that_dies_is_replaced(programs: Programs, when: str) -> None:
    head = "import os, signal\nlife = int(os.environ['COMMOPS_RESTART_COUNT'])\n"
    if "Newcomer" in when:
        when = f"if life == 1:\n    {when}"
    more = "def once(comm, step):\n    if life == 0 and step == 50 and os.environ['RANK'] == '1': os._exit(3)"
    script = programs.script(head + when + LOOP.format(more=more))
    start = time.monotonic()
    code, out, err = programs.run(3, script, "100", "3", elastic=(2, 3), max_restarts=2)
    assert (code, sorted(out.splitlines())) == (0, ends(3, 100)), err
    assert "rank 1 is replaced (2 of 2)" in err
    assert time.monotonic() - start < 10


def test_no_replacement_is_left_but_ranks_enough(programs: Programs) -> None:
    more = "def once(comm, step):\n    if step == 50 and life == 0 and comm.rank: os._exit(3)"
    code, out, err = programs.run(3, loop(programs, more), "100", "1", elastic=(1, 3), max_restarts=0)
    assert (code, out.splitlines()) == (0, ends(1, 100)), err
    assert "commops: going on with 1 rank\n" in err


def test_too_few_are_left(programs: Programs) -> None:
    more = "def once(comm, step):\n    if step == 50 and comm.rank: os._exit(3 + comm.rank)"
    start = time.monotonic()
    code, out, err = programs.run(3, loop(programs, more), "100", "3", elastic=(2, 3), max_restarts=0)
    assert code in (4, 5)
    assert out == ""
    assert "commops: 1 rank left, with 2 at least to go on, and no replacement\n" in err
    assert time.monotonic() - start < 10


def test_a_rank_that_fails_in_every_life(programs: Programs) -> None:
    more = "def once(comm, step):\n    if os.environ['RANK'] == '1': raise ValueError(f'in life {life}')"
    code, out, err = programs.run(2, loop(programs, more), "100", "2", elastic=(2, 2), max_restarts=3)
    assert (code, out) == (1, "")
    assert [f"in life {life}\n" in err for life in range(5)] == [True] * 4 + [False]
    assert err.count("is replaced") == 3


def test_a_program_that_fails_at_once_everywhere(programs: Programs) -> None:
    script = programs.script("raise ValueError('always')\n")
    start = time.monotonic()
    code, _, err = programs.run(3, script, elastic=(1, 3), max_restarts=5)
    assert code == 1
    assert "ValueError: always" in err
    assert time.monotonic() - start < 10


def test_a_death_before_there_is_a_group_ends_the_job(programs: Programs) -> None:
    for dead in (0, 1, 2):
        script = programs.script(
            f"import os, sys, time, commops\nif os.environ['RANK'] == '{dead}': os._exit(7)\ncommops.init()\n"
        )
        start = time.monotonic()
        code, _, err = programs.run(3, script, elastic=(1, 3), max_restarts=1)
        assert code == 7, err
        assert "commops: the ranks had not met yet, so none of them can go on\n" in err
        assert time.monotonic() - start < 10


def test_a_program_that_does_not_recover(programs: Programs) -> None:
    script = programs.script(
        "import os, signal, commops\n"
        "with commops.init() as comm:\n"
        f"    if comm.rank == 1: {KILL}\n"
        "    while True: comm.barrier()\n"
    )
    code, _, err = programs.run(3, script, elastic=(1, 3), max_restarts=1)
    assert code == 137
    assert err.startswith("commops: rank 1: killed by SIGKILL\n")


def test_a_replacement_that_nobody_admits(programs: Programs) -> None:
    script = programs.script(
        "import os, time, commops\n"
        "comm = commops.init()\n"
        "if comm.rank == 1: os._exit(3)\n"
        "time.sleep(0.5)\n"
        "print('done')\n"
    )
    code, out, err = programs.run(2, script, elastic=(1, 2), max_restarts=1)
    assert (code, out) == (0, "done\n")
    assert err.endswith("commops: the replacement of rank 1 was not admitted before the others ended\n")


def test_nobody_fails(programs: Programs) -> None:
    script = programs.script("import commops\nwith commops.init() as comm: print(comm.grow() is comm)\n")
    assert programs.run(2, script, elastic=(1, 2), max_restarts=3) == (0, "True\n" * 2, "")


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGKILL])
@pytest.mark.parametrize("broken", [False, True], ids=["whole", "replacing"])
def test_signals_end_spare_processes_too(programs: Programs, number: signal.Signals, broken: bool) -> None:
    script = programs.script(
        "import os, sys, time, commops\n"
        "comm = commops.init()\n"
        f"if {broken} and comm.rank == 1: os._exit(3)\n"
        "print('ready', flush=True)\n"
        "time.sleep(600)\n"
    )
    process = programs.launcher(3, script, elastic=(1, 3), max_restarts=3)
    read_lines(process, 3 - broken)
    start = time.monotonic()
    process.send_signal(number)
    _, err = process.communicate(timeout=60)
    assert programs.settle() == []
    assert time.monotonic() - start < 2
    assert process.returncode == (-number if number == signal.SIGKILL else 128 + number)
    assert b"Traceback" not in err


def test_control_c_at_a_terminal_reaches_spare_processes(programs: Programs) -> None:
    script = programs.script("import time\nprint('ready', flush=True)\ntime.sleep(600)\n")
    code = (
        "import sys; from commops.launch.run import run;"
        f" sys.exit(run(2, {str(script)!r}, elastic=(1, 2), max_restarts=3))"
    )
    spawn = (
        "import os, pty, sys\n"
        f"status = pty.spawn([sys.executable, '-c', {code!r}])\n"
        "sys.exit(os.waitstatus_to_exitcode(status))\n"
    )
    process = programs.start(sys.executable, "-c", spawn, stdin=subprocess.PIPE)
    read_lines(process, 2)
    assert process.stdin is not None
    process.stdin.write(b"\x03")
    process.stdin.flush()
    out, _ = process.communicate(timeout=60)
    assert process.returncode == 130
    assert b"interrupted" in out


def test_a_spare_process_that_somebody_has_killed(programs: Programs) -> None:
    more = (
        "def once(comm, step):\n    if life == 0 and step == 300 and os.environ['RANK'] == '1': os._exit(3)"
    )
    process = programs.launcher(2, loop(programs, more), "400", "2", elastic=(1, 2), max_restarts=2)
    os.kill(await_children(process, 4)[2], signal.SIGKILL)
    out, err = process.communicate(timeout=60)
    assert (process.returncode, sorted(out.decode().splitlines())) == (0, ends(2)), err.decode()


@pytest.mark.parametrize("bounds", [(0, 2), (3, 2), (1, 1), (3, 4)])
def test_numbers_that_do_not_fit(programs: Programs, bounds: tuple[int, int]) -> None:
    code, _, err = programs.run(2, programs.script("pass"), elastic=bounds)
    assert code == 1
    assert "n must be within the numbers of elastic" in err
