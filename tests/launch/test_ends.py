"""How jobs end: codes, causes, signals, and that nothing is left."""

from __future__ import annotations

import signal
import socket
import subprocess
import sys
import textwrap

import pytest

from .support import Programs, read_lines

RANK = "import os, signal, sys, time; rank = int(os.environ['RANK'])\n"
WAIT = "print('ready', flush=True); time.sleep(600)\n"


@pytest.mark.parametrize(
    ("end", "code", "words"),
    [
        ("sys.exit(3)", 3, "commops: rank 1: exited with code 3"),
        ("sys.exit('bad input')", 1, "bad input\ncommops: rank 1: exited with code 1"),
        ("os._exit(7)", 7, "commops: rank 1: exited with code 7"),
        ("os.kill(os.getpid(), signal.SIGKILL)", 137, "commops: rank 1: killed by SIGKILL"),
        ("os.kill(os.getpid(), signal.SIGSEGV)", 139, "commops: rank 1: killed by SIGSEGV"),
        ("raise KeyError('k')", 1, "KeyError: 'k'\n"),
        ("raise KeyboardInterrupt", 130, "KeyboardInterrupt"),
    ],
)
def test_the_exit_code_is_that_of_the_failure(programs: Programs, end: str, code: int, words: str) -> None:
    script = programs.script(f"{RANK}if rank == 1: {end}\n")
    result, out, err = programs.run(2, script)
    assert (result, out) == (code, "")
    assert words in err


@pytest.mark.parametrize("end", ["sys.exit()", "sys.exit(0)", "os._exit(0)", "pass"])
def test_ranks_may_end_well_in_several_ways(programs: Programs, end: str) -> None:
    script = programs.script(f"{RANK}if rank == 1: {end}\n")
    assert programs.run(2, script) == (0, "", "")


@pytest.mark.parametrize("program", ["def f(): return 1 / 0\nf()\n", "x = (\n", "import no_such_thing\n"])
def test_a_traceback_shows_the_program_and_nothing_of_ours(programs: Programs, program: str) -> None:
    script = programs.script(program)
    plain = subprocess.run([sys.executable, script], capture_output=True, text=True, check=False)
    assert programs.run(1, script) == (1, "", plain.stderr)
    code, _, err = programs.run(2, script)
    assert code == 1
    first = next(rank for rank in range(2) if f"rank {rank} failed:\n" in err)
    assert err.startswith(f"commops: rank {first} failed:\n{plain.stderr}")
    assert err.count("Traceback") == plain.stderr.count("Traceback")


def test_exceptions_that_led_to_others_are_shown_without_our_frames(programs: Programs) -> None:
    script = programs.script("try: 1 / 0\nexcept ZeroDivisionError as e: raise ValueError('x') from e\n")
    _, _, err = programs.run(2, script)
    assert "direct cause" in err
    assert "commops/launch" not in err


def test_the_cause_comes_first_whatever_arrived_first(programs: Programs) -> None:
    source = """
        from commops.errors import PeerLostError
        if rank == 1:
            print("before", file=sys.stderr)
            time.sleep(0.3)
            raise ValueError("the cause")
        raise PeerLostError([1], "it left")
        """
    script = programs.script(RANK + textwrap.dedent(source))
    code, _, err = programs.run(4, script)
    assert code == 1
    before, header, *_, cause, others = err.splitlines()
    assert (before, header, cause) == ("before", "commops: rank 1 failed:", "ValueError: the cause")
    assert others == "commops: ranks 0, 2-3: commops.errors.PeerLostError: lost rank 1: it left"


def test_only_lost_peers_make_the_first_of_them_the_cause(programs: Programs) -> None:
    script = programs.script(
        f"{RANK}from commops.errors import PeerLostError\nif rank: raise PeerLostError([0], 'it left')\n"
    )
    code, _, err = programs.run(2, script)
    assert code == 1
    assert err.startswith("commops: rank 1 failed:\nTraceback")


def test_ranks_that_do_not_notice_a_failure_are_stopped(programs: Programs) -> None:
    script = programs.script(f"{RANK}if rank == 1: raise ValueError('x')\n{WAIT}")
    code, _, err = programs.run(3, script)
    assert code == 1
    assert err.endswith("ValueError: x\ncommops: ranks 0, 2: stopped by the launcher (SIGTERM)\n")


def test_ranks_that_ignore_sigterm_are_killed(programs: Programs) -> None:
    script = programs.script(
        f"{RANK}if rank == 1: raise ValueError('x')\nsignal.signal(signal.SIGTERM, signal.SIG_IGN)\n{WAIT}"
    )
    code, _, err = programs.run(2, script)
    assert code == 1
    assert err.endswith("commops: rank 0: stopped by the launcher (SIGKILL)\n")


def test_a_hook_of_the_program_prints_its_exceptions(programs: Programs) -> None:
    script = programs.script(
        f"{RANK}sys.excepthook = lambda kind, error, trace: print('hooked', error, file=sys.stderr)\n"
        "if rank == 1: raise ValueError('x')\n"
    )
    assert programs.run(2, script) == (1, "", "hooked x\ncommops: rank 1: ValueError: x\n")


def test_a_very_long_traceback_arrives(programs: Programs) -> None:
    script = programs.script(f"{RANK}if rank == 1: raise ValueError('x' * 10_000_000 + 'y')\n")
    code, _, err = programs.run(2, script)
    assert code == 1
    assert len(err) < 1_000_000
    assert err.endswith("xy\n")


# ---- signals


@pytest.mark.parametrize(
    ("number", "said"),
    [
        (signal.SIGINT, "commops: interrupted\n"),
        (signal.SIGTERM, "commops: SIGTERM\n"),
        (signal.SIGHUP, "commops: SIGHUP\n"),
    ],
)
def test_a_signal_to_the_launcher_ends_everything(
    programs: Programs, number: signal.Signals, said: str
) -> None:
    process = programs.launcher(2, programs.script(RANK + WAIT))
    assert read_lines(process, 2) == ["ready"] * 2
    process.send_signal(number)
    out, err = process.communicate(timeout=60)
    assert (process.returncode, out, err.decode()) == (128 + number, b"", said)


def test_ranks_clean_up_when_they_are_interrupted(programs: Programs) -> None:
    script = programs.script(
        f"{RANK}try:\n    {WAIT}finally:\n    print('cleaned', flush=True)\n".replace("; time", "\n    time")
    )
    process = programs.launcher(2, script)
    assert read_lines(process, 2) == ["ready"] * 2
    process.send_signal(signal.SIGINT)
    out, err = process.communicate(timeout=60)
    assert (process.returncode, out, err) == (130, b"cleaned\n" * 2, b"commops: interrupted\n")


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_ranks_that_ignore_signals_end_all_the_same(programs: Programs, number: signal.Signals) -> None:
    script = programs.script(
        f"{RANK}for s in (signal.SIGINT, signal.SIGTERM): signal.signal(s, signal.SIG_IGN)\n{WAIT}"
    )
    process = programs.launcher(2, script)
    assert read_lines(process, 2) == ["ready"] * 2
    process.send_signal(number)
    process.communicate(timeout=60)
    assert process.returncode == 128 + number


def test_control_c_at_a_terminal(programs: Programs) -> None:
    script = programs.script(
        # In one piece each, since rank 0 and the launcher write to the terminal at the same time.
        f"{RANK}try:\n    os.write(1, b'ready %d\\n' % os.isatty(1))\n    time.sleep(600)\n"
        "finally:\n    time.sleep(0.05)\n    os.write(1, b'cleaned\\n')\n"
    )
    code = f"import sys; from commops.launch.run import run; sys.exit(run(2, {str(script)!r}))"
    spawn = (
        "import os, pty, sys\n"
        f"status = pty.spawn([sys.executable, '-c', {code!r}])\n"
        "sys.exit(os.waitstatus_to_exitcode(status))\n"
    )
    process = programs.start(sys.executable, "-c", spawn, stdin=subprocess.PIPE)
    assert sorted(line.rstrip("\r") for line in read_lines(process, 2)) == ["ready 0", "ready 1"]
    assert process.stdin is not None
    process.stdin.write(b"\x03")
    process.stdin.flush()
    out, _ = process.communicate(timeout=60)
    assert process.returncode == 130
    text = out.decode().replace("\r", "").replace("^C", "")
    assert sorted(text.split("\n")) == ["", "cleaned", "cleaned", "commops: interrupted"]


def test_ranks_die_with_a_launcher_that_is_killed(programs: Programs) -> None:
    process = programs.launcher(2, programs.script(RANK + WAIT))
    assert read_lines(process, 2) == ["ready"] * 2
    process.kill()
    process.communicate(timeout=60)
    assert programs.settle() == []


CHILDREN = """
import subprocess
subprocess.Popen(["sleep", "600"])
subprocess.Popen(["setsid", "sleep", "600"])
subprocess.run(["sh", "-c", "setsid sh -c 'trap : TERM INT HUP; sleep 600; sleep 600' & exit"])
"""


@pytest.mark.parametrize("how", ["well", "badly", "interrupted"])
def test_what_ranks_started_ends_with_them(programs: Programs, how: str) -> None:
    ends = {"well": "", "badly": "raise ValueError", "interrupted": WAIT}
    process = programs.launcher(2, programs.script(RANK + CHILDREN + ends[how]))
    if how == "interrupted":
        assert read_lines(process, 2) == ["ready"] * 2
        process.send_signal(signal.SIGINT)
    process.communicate(timeout=60)
    assert process.returncode == {"well": 0, "badly": 1, "interrupted": 130}[how]
    assert programs.living() == []


def test_children_of_the_callers_own_are_spared(programs: Programs) -> None:
    script = programs.script("pass")
    code = (
        "import subprocess; from commops.launch.run import run\n"
        "mine = subprocess.Popen(['sleep', '600'])\n"
        f"print(run(2, {str(script)!r}), mine.poll())\n"
        "mine.kill(); mine.wait()\n"
    )
    process = programs.start(sys.executable, "-c", code)
    assert process.communicate(timeout=60)[0] == b"0 None\n"


def test_the_launcher_gives_back_what_it_took(programs: Programs) -> None:
    script = programs.script("print('x', flush=True)")
    code = (
        "import os, signal, resource; from commops.launch.run import run\n"
        "def state():\n"
        "    handlers = [signal.getsignal(n) for n in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)]\n"
        "    mask = signal.pthread_sigmask(signal.SIG_BLOCK, [])\n"
        "    limit = resource.getrlimit(resource.RLIMIT_NOFILE)\n"
        "    return sorted(os.listdir('/proc/self/fd')), handlers, mask, limit\n"
        f"run(1, {str(script)!r}); before = state()\n"
        f"run(3, {str(script)!r}); run(1, {str(script)!r})\n"
        "print(before == state())\n"
    )
    process = programs.start(sys.executable, "-W", "error", "-c", code)
    out, err = process.communicate(timeout=60)
    assert out.split() == [b"x"] * 5 + [b"True"]
    assert err == b""


def test_many_ranks_with_few_descriptors_allowed(programs: Programs) -> None:
    script = programs.script("import resource; print(resource.getrlimit(resource.RLIMIT_NOFILE)[0])")
    process = programs.start(
        "sh", "-c", 'ulimit -S -n 64; exec "$0" -c "$1"', sys.executable,
        f"import sys; from commops.launch.run import run; sys.exit(run(24, {str(script)!r}))",
    )  # fmt: skip
    out, err = process.communicate(timeout=60)
    assert (process.returncode, out, err) == (0, b"64\n" * 24, b"")


def test_a_rank_that_ends_long_before_the_others_is_no_failure(programs: Programs) -> None:
    script = programs.script(f"{RANK}time.sleep(0.3 * rank); print(rank)\n")
    assert programs.run(3, script) == (0, "0\n1\n2\n", "")


def test_no_port_stays_open(programs: Programs) -> None:
    script = programs.script("import os; print(os.environ['COMMOPS_RENDEZVOUS'].rpartition(':')[2])")
    _, out, _ = programs.run(2, script)
    with pytest.raises(ConnectionRefusedError):
        socket.create_connection(("127.0.0.1", int(out.split()[0])))
