"""The runner, and the benchmarks by commops alone."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from click.testing import CliRunner

import peers
import run


@pytest.fixture(autouse=True)
def all_peers(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(peers, "_wanted", None)


@pytest.mark.parametrize(
    ("name", "pictures"),
    [
        ("collectives", ["shm2", "shm2-bandwidth", "tcp2", "tcp2-bandwidth"]),
        ("objects", ["shm2", "shm2-bandwidth"]),
        ("messages", ["shm2", "tcp2"]),
    ],
)
def test_a_quick_look_leaves_record_table_and_pictures(
    name: str, pictures: list[str], tmp_path: Path
) -> None:
    result = CliRunner().invoke(run.main, ["--quick", "--peers", "", "--out", str(tmp_path), name])
    assert result.exit_code == 0, result.output
    record = json.loads((tmp_path / f"{name}.json").read_text())
    assert record["quick"] is True
    assert record["machine"]["usable_cores"] > 0
    assert all(times["commops"] for found in record["runs"] for times in found["rounds"])
    assert {path.name for path in tmp_path.glob("*.png")} == {f"{name}-{what}.png" for what in pictures}
    assert "2 ranks, shm" in result.output
    assert "left out: openmpi: was not asked for" in result.output


def benchmark(monkeypatch: pytest.MonkeyPatch, name: str, measure: Any) -> None:
    fake = SimpleNamespace(measure=measure, plot=lambda record, path: path.touch())
    monkeypatch.setitem(sys.modules, f"bench_{name}", fake)


def fail(quick: bool) -> dict[str, Any]:
    raise RuntimeError("out of order")


def forbid(quick: bool) -> dict[str, Any]:
    raise PermissionError("network namespaces need root")


def test_one_that_fails_does_not_keep_the_others_from_running(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    benchmark(monkeypatch, "hosts", fail)
    benchmark(monkeypatch, "startup", lambda quick: {})
    result = CliRunner().invoke(run.main, ["--out", str(tmp_path), "hosts", "startup"])
    assert result.exit_code == 1
    assert "failed: hosts" in result.output
    assert {path.name for path in tmp_path.iterdir()} == {"startup.json", "startup.png"}


def test_one_that_this_user_may_not_run_is_skipped(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    benchmark(monkeypatch, "hosts", forbid)
    result = CliRunner().invoke(run.main, ["--out", str(tmp_path), "hosts"])
    assert result.exit_code == 0
    assert "hosts: skipped: network namespaces need root" in result.output


def test_a_peer_that_is_not_known_is_a_wrong_argument() -> None:
    result = CliRunner().invoke(run.main, ["--peers", "openmpi,nonsense"])
    assert result.exit_code == 2
    assert "'nonsense' is none of intelmpi, mpich, openmpi, gloo" in result.output
