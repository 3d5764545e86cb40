"""Programs as ranks: what they see, what comes out of them."""

from __future__ import annotations

import os
import subprocess
import sys
import zipfile

import pytest

from .support import Programs, read_lines

SEEN = """
import json, os, sys
import __main__
print(json.dumps({
    "argv": sys.argv, "path": sys.path[0], "file": __file__, "name": __name__, "package": __package__,
    "spec": __spec__ and __spec__.name, "loader": type(__loader__).__name__,
    "main": __main__.__dict__ is globals(), "names": sorted(globals()), "doc": __doc__,
}))
"""


def test_a_script_sees_what_python_shows_it(programs: Programs) -> None:
    folder = programs.folder / "sub"
    folder.mkdir()
    programs.script(SEEN, "sub/script.py")
    os.symlink("sub/script.py", programs.folder / "link.py")
    for path in ("sub/script.py", "link.py"):
        plain = subprocess.run(
            [sys.executable, path, "a", "-b"], cwd=programs.folder, capture_output=True, check=True
        )
        assert programs.run(1, path, "a", "-b") == (0, plain.stdout.decode(), "")


def test_a_module_sees_what_python_shows_it(programs: Programs) -> None:
    package = programs.folder / "pack"
    package.mkdir()
    for name in ("__init__.py", "__main__.py", "mod.py"):
        programs.script("" if name == "__init__.py" else SEEN, f"pack/{name}")
    for module in ("pack", "pack.mod"):
        command = [sys.executable, "-m", module, "a", "-b"]
        plain = subprocess.run(command, cwd=programs.folder, capture_output=True, check=True)
        assert programs.run(1, module, "a", "-b", module=True) == (0, plain.stdout.decode(), "")


def test_folders_and_zip_files_run(programs: Programs) -> None:
    folder = programs.folder / "app"
    folder.mkdir()
    programs.script("import helper; print(helper.value, __name__)", "app/__main__.py")
    programs.script("value = 7", "app/helper.py")
    with zipfile.ZipFile(programs.folder / "app.zip", "w") as archive:
        for name in ("__main__.py", "helper.py"):
            archive.write(folder / name, name)
    for path in ("app", "app.zip"):
        assert programs.run(1, path) == (0, "7 __main__\n", "")


@pytest.mark.parametrize(
    ("program", "module", "words"),
    [
        ("missing.py", False, "can't open file"),
        (".", False, "can't find '__main__'"),
        ("no.such", True, "No module"),
    ],
)
def test_a_program_that_is_not_there(programs: Programs, program: str, module: bool, words: str) -> None:
    code, out, err = programs.run(2, program, module=module)
    assert code != 0
    assert out == ""
    assert words in err
    assert "Traceback" not in err


def test_each_rank_knows_its_place(programs: Programs) -> None:
    script = programs.script(
        "import os\n"
        "names = 'RANK WORLD_SIZE LOCAL_RANK LOCAL_WORLD_SIZE MASTER_ADDR'\n"
        "print(*(os.environ[name] for name in names.split()))"
    )
    code, out, err = programs.run(3, script)
    assert (code, err) == (0, "")
    assert sorted(out.splitlines()) == [f"{rank} 3 {rank} 3 127.0.0.1" for rank in range(3)]


def test_ranks_meet_at_the_launchers_store(programs: Programs) -> None:
    script = programs.script(
        "import os\n"
        "from commops.launch.environment import detect\n"
        "from commops.rendezvous import open_store\n"
        "environment = detect(os.environ)\n"
        "assert environment.launcher == 'commops'\n"
        "with open_store(environment.rendezvous, is_server=False) as store:\n"
        "    store.set(str(environment.rank), b'')\n"
        "    store.wait([str(rank) for rank in range(environment.size)])\n"
        "    print('met', environment.job)\n"
    )
    code, out, err = programs.run(3, script)
    assert (code, err) == (0, "")
    assert len(out.splitlines()) == 3
    assert len(set(out.splitlines())) == 1


def test_the_token_is_in_no_variable_and_no_argument(programs: Programs) -> None:
    script = programs.script(
        "import os\n"
        "with open(os.environ['COMMOPS_TOKEN_FILE'], 'rb') as file:\n"
        "    token = file.read()\n"
        "assert len(token) == 64\n"
        "assert not any(token in value for value in os.environb.values())\n"
        "for pid in (os.getpid(), os.getppid()):\n"
        "    for name in ('cmdline', 'environ'):\n"
        "        with open(f'/proc/{pid}/{name}', 'rb') as file:\n"
        "            assert token not in file.read()\n"
        "print(os.environ['COMMOPS_TOKEN_FILE'])\n"
    )
    code, out, err = programs.run(2, script, env={"COMMOPS_TOKEN": "of another job"})
    assert (code, err) == (0, "")
    assert all(line.startswith("/proc/self/fd/") for line in out.splitlines())


def test_the_master_port_is_free_for_the_program(programs: Programs) -> None:
    script = programs.script(
        "import os, socket\n"
        "if os.environ['RANK'] == '0':\n"
        "    address = '127.0.0.1', int(os.environ['MASTER_PORT'])\n"
        "    with socket.create_server(address): print('bound')\n"
    )
    assert programs.run(2, script) == (0, "bound\n", "")


def test_threads_are_divided_among_the_ranks(programs: Programs) -> None:
    script = programs.script("import os; print(os.environ.get('OMP_NUM_THREADS'))")
    cores = len(os.sched_getaffinity(0))
    assert programs.run(2, script)[1] == f"{max(1, cores // 2)}\n" * 2
    assert programs.run(2, script, env={"OMP_NUM_THREADS": "5"})[1] == "5\n5\n"


def test_numpy_that_was_loaded_before_the_fork_keeps_to_its_threads(programs: Programs) -> None:
    script = programs.script(
        "import os, sys; assert 'numpy' in sys.modules\n"
        "import numpy; a = numpy.ones((600, 600)); a @ a\n"
        "print(len(os.listdir('/proc/self/task')) <= int(os.environ['OMP_NUM_THREADS']))"
    )
    cores = len(os.sched_getaffinity(0))
    code = f"import numpy, sys; from commops.launch.run import run; sys.exit(run({cores}, {str(script)!r}))"
    process = programs.start(sys.executable, "-c", code)
    out, err = process.communicate(timeout=60)
    assert (process.returncode, out.decode(), err) == (0, "True\n" * cores, b"")


def test_ranks_draw_different_random_numbers(programs: Programs) -> None:
    script = programs.script("import random, numpy; print(random.random(), numpy.random.random())")
    code = f"import numpy.random, random; from commops.launch.run import run; exit(run(3, {str(script)!r}))"
    process = programs.start(sys.executable, "-c", code)
    out, err = process.communicate(timeout=60)
    assert (process.returncode, err) == (0, b"")
    assert len(set(out.split())) == 6


def test_the_interpreter_ends_as_it_always_does(programs: Programs) -> None:
    script = programs.script(
        "import atexit, sys, threading, time\n"
        "class Last:\n"
        "    def __del__(self): sys.stdout.write('deleted\\n')\n"
        "last = Last()\n"
        "atexit.register(print, 'atexit')\n"
        "threading.Thread(target=lambda: (time.sleep(0.1), print('thread'))).start()\n"
        "print('end', end='\\n')\n"
    )
    for n in (1, 2):
        code, out, err = programs.run(n, script)
        assert (code, err) == (0, "")
        lines = out.splitlines()
        assert sorted(lines) == sorted(["end", "thread", "atexit", "deleted"] * n)
        if n == 1:
            assert lines == ["end", "thread", "atexit", "deleted"]


def test_the_module_main_stays_when_the_script_has_ended(programs: Programs) -> None:
    script = programs.script(
        "import pickle, threading, time\n"
        "def task(): pass\n"
        "def late():\n"
        "    threading.main_thread().join()\n"
        "    print(pickle.loads(pickle.dumps(task)) is task)\n"
        "threading.Thread(target=late).start()\n"
    )
    assert programs.run(2, script) == (0, "True\nTrue\n", "")


def test_ranks_may_use_multiprocessing(programs: Programs) -> None:
    script = programs.script(
        "import multiprocessing\n"
        "def square(x): return x * x\n"
        "if __name__ == '__main__':\n"
        "    with multiprocessing.get_context('spawn').Pool(1) as pool: print(pool.map(square, [3]))\n"
    )
    assert programs.run(2, script) == (0, "[9]\n[9]\n", "")


def test_only_rank_0_reads_standard_input(programs: Programs) -> None:
    script = programs.script("import os, sys; print(os.environ['RANK'], repr(sys.stdin.read()))")
    process = programs.launcher(3, script, popen={"stdin": subprocess.PIPE})
    out, err = process.communicate(b"text", timeout=60)
    assert (process.returncode, err) == (0, b"")
    assert sorted(out.decode().splitlines()) == ["0 'text'", "1 ''", "2 ''"]


# ---- output


def test_lines_are_passed_on_when_they_are_written(programs: Programs) -> None:
    script = programs.script("import os, sys, time\nprint('now')\ntime.sleep(600)\n")
    process = programs.launcher(2, script)
    assert read_lines(process, 2) == ["now", "now"]
    process.terminate()
    process.communicate(timeout=60)


def test_lines_of_ranks_are_never_mixed(programs: Programs) -> None:
    script = programs.script(
        "import os, sys\n"
        "for i in range(200):\n"
        "    sys.stdout.write(os.environ['RANK'] * 7000 + '\\n')\n"
        "    os.write(2, (os.environ['RANK'] * 3000).encode()); os.write(2, b'\\n')\n"
    )
    process = programs.launcher(3, script, popen={"stderr": subprocess.STDOUT})
    out, _ = process.communicate(timeout=60)
    lines = out.decode().splitlines()
    wanted = [str(rank) * count for rank in range(3) for count in (7000, 3000)]
    assert sorted(set(lines)) == sorted(wanted)
    assert all(lines.count(line) == 200 for line in wanted)


def test_labels(programs: Programs) -> None:
    script = programs.script("import os, sys; print('a\\n\\nb'); sys.stderr.write('no end')")
    code, out, err = programs.run(2, script, label=True)
    assert code == 0
    assert sorted(out.splitlines()) == ["[0] ", "[0] a", "[0] b", "[1] ", "[1] a", "[1] b"]
    assert sorted(err.splitlines()) == ["[0] no end", "[1] no end"]
    assert programs.run(1, script, label=True)[1] == "[0] a\n[0] \n[0] b\n"


def test_output_that_is_no_text_passes_unharmed(programs: Programs) -> None:
    script = programs.script(
        "import os, sys\n"
        "data = bytes(range(256)) * 5000\n"
        "if os.environ['RANK'] == '1': sys.stdout.buffer.write(data)\n"
    )
    process = programs.launcher(2, script)
    out, err = process.communicate(timeout=60)
    assert (process.returncode, err) == (0, b"")
    assert out == bytes(range(256)) * 5000


def test_a_last_line_without_an_end_stays_so(programs: Programs) -> None:
    script = programs.script("import os; print('x', end='')")
    assert programs.run(1, script)[1] == "x"
    assert programs.run(2, script)[1] == "x\nx"


def test_a_reader_that_goes_away_ends_the_ranks_like_any_pipe(programs: Programs) -> None:
    script = programs.script("while True: print('y' * 100)")
    process = programs.launcher(2, script)
    read_lines(process, 1)
    assert process.stdout is not None
    process.stdout.close()
    process.stdout = None
    _, err = process.communicate(timeout=60)
    assert process.returncode == 1
    assert "BrokenPipeError" in err.decode()


def test_a_reader_that_stands_still_does_not_keep_the_launcher_from_ending(programs: Programs) -> None:
    script = programs.script("while True: print('y' * 100)")
    process = programs.launcher(2, script)
    read_lines(process, 1)
    process.terminate()
    assert process.wait(60) == 143


def test_a_lone_rank_has_the_launchers_own_streams(programs: Programs) -> None:
    script = programs.script("import os; print(os.readlink('/proc/self/fd/1'))")
    process = programs.launcher(1, script)
    assert process.stdout is not None
    here = os.readlink(f"/proc/self/fd/{process.stdout.fileno()}")
    assert process.communicate(timeout=60)[0].decode().strip() == here


def test_a_launcher_with_threads_refuses(programs: Programs) -> None:
    code = (
        "import threading; from commops.launch.run import run\n"
        "event = threading.Event(); threading.Thread(target=event.wait).start()\n"
        "try: run(2, 'json', module=True)\n"
        "except RuntimeError as error: print(error)\n"
        "event.set()\n"
    )
    process = programs.start(sys.executable, "-c", code)
    out, _ = process.communicate(timeout=60)
    assert b"commops.launch works from any" in out
