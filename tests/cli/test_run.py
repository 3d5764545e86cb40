"""``commops run``: the command in front of `commops.launch.run`."""

from __future__ import annotations

from pathlib import Path

import pytest

from .conftest import Run, only_line

SUM = """
import sys
import commops
import numpy as np

with commops.init() as comm:
    total = comm.allreduce(np.array([comm.rank + 1]))
    print(comm.size, total[0], sys.argv[1:])
"""


def test_a_script_runs_as_ranks_and_keeps_its_own_options(commops: Run, tmp_path: Path) -> None:
    (tmp_path / "sum.py").write_text(SUM)
    result = commops("run", "-n", "3", "sum.py", "-n", "--label", "x", "--", "--help")
    assert result.stderr == ""
    assert result.returncode == 0
    assert result.stdout.splitlines() == ["3 6 ['-n', '--label', 'x', '--', '--help']"] * 3


def test_a_module_runs_as_ranks_with_labels(commops: Run, tmp_path: Path) -> None:
    (tmp_path / "pack").mkdir()
    (tmp_path / "pack" / "sum.py").write_text(SUM)
    result = commops("run", "-n", "2", "--label", "-m", "pack.sum", "-m", "y")
    assert result.returncode == 0
    assert sorted(result.stdout.splitlines()) == [f"[{rank}] 2 3 ['-m', 'y']" for rank in range(2)]


def test_the_number_of_ranks_defaults_to_the_usable_cores(commops: Run, tmp_path: Path) -> None:
    (tmp_path / "size.py").write_text(
        "import os, commops\n"
        "with commops.init() as comm:\n"
        "    assert comm.size == len(os.sched_getaffinity(0))\n"
    )
    assert commops("run", "size.py").returncode == 0


def test_the_exit_code_is_the_programs(commops: Run, tmp_path: Path) -> None:
    (tmp_path / "exit.py").write_text("import os, sys; sys.exit(7 if os.environ['RANK'] == '1' else 0)")
    assert commops("run", "-n", "2", "exit.py").returncode == 7


def test_a_script_that_is_not_there_is_one_line_and_2(commops: Run) -> None:
    result = commops("run", "-n", "2", "missing.py")
    assert result.returncode == 2
    assert "missing.py" in only_line(result.stderr)


def test_a_failure_shows_the_ranks_traceback_and_not_the_commands(commops: Run, tmp_path: Path) -> None:
    (tmp_path / "fail.py").write_text("raise LookupError('lost')")
    result = commops("run", "-n", "2", "fail.py")
    assert result.returncode == 1
    assert "LookupError: lost" in result.stderr
    assert "click" not in result.stderr


def test_all_ranks_are_started_again(commops: Run, tmp_path: Path) -> None:
    (tmp_path / "again.py").write_text("import os, sys; sys.exit(os.environ['COMMOPS_RESTART_COUNT'] == '0')")
    result = commops("run", "-n", "2", "--max-restarts", "1", "again.py")
    assert result.returncode == 0
    assert result.stderr.count("starting all ranks again (restart 1 of 1)") == 1


def test_an_elastic_job_has_as_many_ranks_as_it_may_have(commops: Run, tmp_path: Path) -> None:
    (tmp_path / "size.py").write_text(
        "import os, commops\n"
        "with commops.init() as comm: print(comm.size, os.environ['COMMOPS_ELASTIC'],"
        " os.environ['TORCHELASTIC_MAX_RESTARTS'])\n"
    )
    assert commops("run", "--elastic", "1:3", "size.py").stdout == "3 1:3 3\n" * 3
    result = commops("run", "--elastic", "1:3", "-n", "2", "--max-restarts", "0", "size.py")
    assert result.stdout == "2 1:3 0\n" * 2


@pytest.mark.parametrize("text", ["3", "2:1", "0:2", ":", "1:x", "-1:2"])
def test_what_is_no_pair_of_numbers(commops: Run, text: str) -> None:
    result = commops("run", f"--elastic={text}", "x.py")
    assert result.returncode == 2
    assert "is not MIN:MAX" in result.stderr


def test_a_number_of_ranks_outside_of_the_two(commops: Run) -> None:
    result = commops("run", "--elastic", "2:3", "-n", "4", "x.py")
    assert result.returncode == 2
    assert "-n 4 is not within --elastic 2:3" in result.stderr
