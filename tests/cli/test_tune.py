"""``commops bench --tune``: what it measures, writes and refuses."""

from __future__ import annotations

import json
import os
from pathlib import Path

import click
import numpy as np
import pytest

import commops as package
from commops import tuned
from commops.cli import tune
from commops.cli.bench import command
from commops.cli.knobs import KNOBS

from .conftest import Run, only_line

QUICK = ("bench", "--tune", "--seconds", "0", "--max-bytes", "16384")
WIDE = {"COLUMNS": "200"}


@pytest.mark.parametrize("transport", ["shm", "tcp"])
def test_what_was_measured_is_shown_written_and_in_force(
    commops: Run, tmp_path: Path, transport: str
) -> None:
    env = WIDE | {"COMMOPS_TABLE": str(tmp_path / "made" / "table")}
    result = commops(*QUICK, "-n", "3", "--transport", transport, env=env)
    assert result.returncode == 0, result.stderr
    assert result.stderr == ""
    name = {"shm": "staged_bytes", "tcp": "doubling_bytes"}[transport]
    assert any(line.startswith(f"│ {name}") and "allreduce" in line for line in result.stdout.splitlines())
    assert result.stdout.endswith(f"{tmp_path}/made/table\n")
    assert os.listdir(tmp_path) == ["made"]  # and no folder of results

    table, why = tuned.in_force(env)
    assert why == ""
    assert table is not None
    (setting,) = table.settings
    assert (setting.transport, setting.ranks) == (transport, 3)
    assert setting.crowded == (len(os.sched_getaffinity(0)) < 3)
    assert setting.tunables.keys() <= {knob.name for knob in KNOBS[transport]}
    assert f"{tmp_path}/made/table, measured on this machine" in commops("doctor", env=env).stdout


def context() -> click.Context:
    return click.Context(command, info_name="bench")


def used(comm: package.Comm) -> tuple[int, bool]:
    whole = comm.allreduce(np.arange(3000) + comm.rank)
    return comm._core.window.used, bool((whole == 2 * np.arange(3000) + 1).all())


def test_later_runs_use_what_is_faster(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    def measure(job: tune.Job, seconds: float) -> list[list[float]]:
        values = job.knob.measured(job.tunable.default)
        return [[2.0] * (len(values) - 1) + [1.0]] * len(job.points)  # the last is the best

    # Slots show in how much memory is used.
    (default,) = (one.default for one in tuned.tunables({}) if one.name == "slots")
    slots = KNOBS["shm"][4]._replace(name="slots", values=(256, 512, 1024))
    monkeypatch.setitem(KNOBS, "shm", (KNOBS["shm"][0], slots))
    monkeypatch.setattr(tune, "_measure", measure)
    monkeypatch.setenv("COMMOPS_TABLE", "")
    before = package.launch(used, 2)
    monkeypatch.setenv("COMMOPS_TABLE", str(tmp_path / "table"))
    tune.tune(context(), 2, "shm", 0.0, 1 << 30)
    assert os.environ["COMMOPS_TABLE"] == str(tmp_path / "table")
    table, _ = tuned.in_force()
    assert table is not None
    assert table.values("shm", 2) == {"staged_bytes": 128 << 10, "slots": 1024}
    after = package.launch(used, 2)
    assert [right for _, right in before + after] == [True] * 4
    assert [more[0] - less[0] for more, less in zip(after, before, strict=True)] == [
        (1024 - default) * 4096
    ] * 2


def test_settings_of_other_runs_are_kept(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(tune, "_choices", lambda *_: [])
    monkeypatch.setenv("COMMOPS_TABLE", str(tmp_path / "table"))
    monkeypatch.setattr(tune, "usable_cores", lambda: 4)
    old = [tuned.Setting("shm", count, False, {"slots": 9}) for count in (2, 4)]
    tuned.write(str(tmp_path / "table"), "then", old)
    tune.tune(context(), None, "auto", 0.0, 1 << 30)
    table, _ = tuned.in_force()
    assert table is not None
    assert table.settings == [
        ("shm", 2, False, {"slots": 9}), ("shm", 4, False, {}), ("shm", 8, True, {}), ("tcp", 4, False, {})
    ]  # fmt: skip


def test_a_table_of_another_machine_is_replaced_with_a_word(commops: Run, tmp_path: Path) -> None:
    path = tmp_path / "table"
    tuned.write(str(path), "then", [])
    path.write_text(json.dumps(json.loads(path.read_text()) | {"format": 7}))
    env = {"COMMOPS_TABLE": str(path)}
    result = commops(*QUICK, "-n", "2", "--transport", "tcp", env=env)
    assert result.returncode == 0
    assert f"will be replaced: {path} has format 7" in only_line(result.stderr)
    assert tuned.in_force(env)[0] is not None


@pytest.mark.parametrize(
    ("options", "environ", "words"),
    [
        (("--ops", "barrier"), {}, "--ops does not go with --tune"),
        (("--shared",), {}, "--shared does not go with --tune"),
        (("--out", "here"), {}, "--out does not go with --tune"),
        (("-n", "1"), {}, "a rank that is alone has nothing to tune"),
        ((), {"COMMOPS_TABLE": ""}, "COMMOPS_TABLE is empty"),
        ((), {"COMMOPS_SLOTS": "9"}, "unset COMMOPS_SLOTS"),
        ((), {"COMMOPS_SLOTS": "many"}, "COMMOPS_SLOTS=many"),
        (
            (),
            {"RANK": "0", "WORLD_SIZE": "2", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": "9"},
            "cannot be a rank of ",
        ),
    ],
)
def test_what_makes_no_sense_is_a_wrong_argument(
    commops: Run, options: tuple[str, ...], environ: dict[str, str], words: str
) -> None:
    result = commops("bench", "--tune", *options, env=environ)
    assert result.returncode == 2
    assert words in only_line(result.stderr)


def test_a_file_that_is_no_table_is_not_overwritten(commops: Run, tmp_path: Path) -> None:
    precious = tmp_path / "thesis.txt"
    precious.write_text("precious")
    result = commops(*QUICK, env={"COMMOPS_TABLE": str(precious)})
    assert result.returncode == 1
    assert f"COMMOPS_TABLE={precious} cannot be read" in only_line(result.stderr)
    assert precious.read_text() == "precious"


def test_a_place_that_cannot_be_written_is_told_before_anything_is_measured(
    commops: Run, tmp_path: Path
) -> None:
    (tmp_path / "file").touch()
    result = commops("bench", "--tune", env={"COMMOPS_TABLE": str(tmp_path / "file" / "table")})
    assert result.returncode == 1
    assert "cannot make the folder" in only_line(result.stderr)
