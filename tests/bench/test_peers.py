"""How contenders are installed and started."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

import peers


@pytest.mark.parametrize("name", peers.CONTENDERS)
def test_command_starts_the_program_as_that_many_ranks_in_its_own_environment(name: str) -> None:
    words, environ = peers.command(name, 3, "shm", "rank.py", "argument")
    assert words[-2:] == ["rank.py", "argument"]
    assert "3" in words
    assert not [word for word in words if "{" in word]
    environment = peers.CONTENDERS[name].environment
    folder = peers.FOLDER / environment / "bin" if environment else Path(sys.executable).parent
    assert Path(words[0]).parent == folder
    assert environ["PATH"].startswith(f"{folder}:")
    assert environ["OMP_NUM_THREADS"] == "1"


def test_commops_takes_the_transport_of_the_setting_and_limits_never_do() -> None:
    assert peers.command("commops", 2, "tcp", "rank.py")[1]["COMMOPS_TRANSPORT"] == "tcp"
    assert peers.command("raw sockets", 2, "tcp", "rank.py")[1]["COMMOPS_TRANSPORT"] == "shm"


def test_peers_do_not_see_modules_of_this_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PYTHONPATH", "/here")
    assert "PYTHONPATH" not in peers.command("gloo", 2, "shm", "rank.py")[1]
    assert peers.command("commops", 2, "shm", "rank.py")[1]["PYTHONPATH"] == "/here"


def test_what_cannot_be_installed_is_told_and_the_rest_goes_on(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    (tmp_path / "gloo").mkdir()
    (tmp_path / "gloo" / "ready").touch()
    (tmp_path / "mpich").touch()  # where a folder is to be
    monkeypatch.setattr(peers, "FOLDER", tmp_path)
    absent = peers.prepare(["commops", "memcpy", "mpich", "mpich-tcp", "gloo"])
    assert set(absent) == {"mpich", "mpich-tcp"}
    assert absent["mpich"] == absent["mpich-tcp"]
    assert absent["mpich"].startswith("cannot be installed: ")
    assert "directory" in absent["mpich"]


def test_peers_that_were_not_asked_for_do_not_take_part(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(peers, "_wanted", None)
    monkeypatch.setattr(peers, "FOLDER", tmp_path)
    (tmp_path / "openmpi").mkdir()
    (tmp_path / "openmpi" / "ready").touch()
    peers.only(["openmpi"])
    assert set(peers.prepare(["commops", "openmpi-tcp", "mpich", "gloo"])) == {"mpich", "gloo"}


def test_last_line_is_the_last_that_says_something() -> None:
    assert peers.last_line("one\ntwo\n=====\n\n") == "two"
    assert peers.last_line("") == "no word of why"
