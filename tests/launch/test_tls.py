"""Ranks of a launcher with TLS: they get key and certificates through memory, and nothing else shows them."""

from __future__ import annotations

import os
import sys
from pathlib import Path

import pytest

import commops
from commops import Comm
from commops.errors import RendezvousError

from .support import Programs

pytest.importorskip("cryptography")

from commops.rendezvous.certificates import new_credentials

PROGRAM = """
import os, sys
import commops
import numpy as np

pem = open(os.environ["COMMOPS_TLS_FILE"], "rb").read()
shown = open("/proc/self/environ", "rb").read() + open("/proc/self/cmdline", "rb").read()
assert b"PRIVATE KEY" in pem and pem.splitlines()[1] not in shown
assert os.environ["COMMOPS_TLS_FILE"].startswith("/proc/self/fd/")
with commops.init(transport="tcp") as comm:
    print(int(comm.allreduce(np.arange(100_000)).sum()), hash(pem) and len(set(comm.allgather_object(pem))))
"""
LINE = f"{2 * 100_000 * 99_999 // 2} 1"


@pytest.fixture(autouse=True)
def no_variables(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("COMMOPS_TLS", "COMMOPS_TLS_FILE"):
        monkeypatch.delenv(name, raising=False)


def command(programs: Programs, *arguments: str, env: dict[str, str] | None = None) -> tuple[int, str, str]:
    process = programs.start(sys.executable, "-m", "commops", "run", "-n", "2", *arguments, env=env)
    out, err = process.communicate(timeout=60)
    return process.returncode, out.decode(), err.decode()


@pytest.mark.parametrize("how", ["option", "variable"])
def test_each_job_has_certificates_of_its_own(how: str, programs: Programs) -> None:
    programs.script(PROGRAM)
    option, env = (["--tls"], {}) if how == "option" else ([], {"COMMOPS_TLS": "1"})
    code, out, err = command(programs, *option, "script.py", env=env)
    assert (code, err) == (0, "")
    assert out.splitlines() == [LINE] * 2
    assert sorted(path.name for path in programs.folder.iterdir()) == ["script.py"]


def test_a_file_of_the_user_s_is_taken(programs: Programs) -> None:
    programs.script(PROGRAM + "    assert pem == open('job.pem', 'rb').read()\n")
    path = programs.folder / "job.pem"
    path.touch(mode=0o600)
    path.write_bytes(new_credentials())
    code, out, err = command(programs, "script.py", env={"COMMOPS_TLS_FILE": str(path)})
    assert (code, err) == (0, "")
    assert out.splitlines() == [LINE] * 2


def test_none_unless_asked_for(programs: Programs) -> None:
    programs.script("import os; print([name for name in os.environ if name.startswith('COMMOPS_TLS')])")
    assert command(programs, "script.py")[:2] == (0, "[]\n[]\n")
    code, out, _ = command(programs, "script.py", env={"COMMOPS_TLS": "0", "COMMOPS_TLS_FILE": "/nowhere"})
    assert code == 0
    assert out.count("COMMOPS_TLS_FILE") == 2


def test_what_is_missing_is_said_before_anything_starts(programs: Programs) -> None:
    programs.script("print('never')")
    code, out, err = command(programs, "script.py", env={"COMMOPS_TLS_FILE": "/nowhere"})
    assert code == 1
    assert out == ""
    assert "COMMOPS_TLS_FILE: cannot read '/nowhere'" in err
    assert "Traceback" not in err
    # Without the package that makes certificates.
    (programs.folder / "cryptography.py").write_text("raise ImportError('not here')")
    env = {"PYTHONPATH": os.pathsep.join([str(programs.folder), *filter(None, sys.path)])}
    code, out, err = command(programs, "--tls", "script.py", env=env)
    assert code == 1
    assert "pip install 'commops[tls]'" in err
    assert "Traceback" not in err


def work(comm: Comm) -> tuple[int, str]:
    return comm.allreduce_object(comm.rank), os.environ["COMMOPS_TLS_FILE"]


def nested(comm: Comm) -> list[int]:
    return [total for total, _ in commops.launch(work, 2, transport="tcp")] if comm.rank == 0 else []


class TestFunctions:
    def test_the_environment_asks_for_it(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setenv("COMMOPS_TLS", "1")
        ends = commops.launch(work, 3, transport="tcp")
        assert [total for total, _ in ends] == [3, 3, 3]
        assert all(path.startswith("/proc/self/fd/") for _, path in ends)

    def test_a_job_in_a_job(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setenv("COMMOPS_TLS", "1")
        assert commops.launch(nested, 2) == [[1, 1], []]

    def test_a_mistake_is_the_caller_s(self, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
        monkeypatch.setenv("COMMOPS_TLS_FILE", str(tmp_path / "missing"))
        with pytest.raises(RendezvousError, match="COMMOPS_TLS_FILE: cannot read"):
            commops.launch(work, 2)
