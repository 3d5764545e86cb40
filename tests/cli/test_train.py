"""``commops train iris``: files, table and errors."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from .conftest import Run, only_line

SHORT = ("--epochs", "3", "--batch-size", "40")


def test_two_ranks_train_and_leave_everything_in_the_folder(commops: Run, tmp_path: Path) -> None:
    result = commops(
        "train", "iris", "-n", "2", *SHORT, "--seed", "4", "--learning-rate", "0.2", "--out", "here/run"
    )
    assert result.returncode == 0, result.stderr
    folder = tmp_path / "here" / "run"
    assert sorted(os.listdir(folder)) == ["accuracy.png", "config.json", "loss.png", "metrics.jsonl"]
    rows = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    assert [row["epoch"] for row in rows] == [1, 2, 3]
    assert all(0 <= row["test_accuracy"] <= 1 and 0 <= row["communication_share"] <= 1 for row in rows)
    assert rows[-1]["train_loss"] < rows[0]["train_loss"]
    config = json.loads((folder / "config.json").read_text())
    assert config == {
        "epochs": 3, "batch_size": 40, "learning_rate": 0.2, "momentum": 0.9, "held_out": 0.2, "seed": 4,
        "ranks": 2,
    }  # fmt: skip
    for name in ("loss.png", "accuracy.png"):
        assert (folder / name).read_bytes().startswith(b"\x89PNG\r\n")
    assert [line.partition(",")[0] for line in result.stderr.splitlines()] == [
        f"iris: epoch {number}/3" for number in (1, 2, 3)
    ]
    for words in ("iris, 2 ranks", "held out", "samples per second", "time in communication", "here/run"):
        assert result.stdout.count(words) >= 1
    assert result.stdout.count("iris, 2 ranks") == 1  # only rank 0 speaks


def test_the_default_folder_is_new(commops: Run, tmp_path: Path) -> None:
    for _ in range(2):
        assert commops("train", "iris", "-n", "1", *SHORT).returncode == 0
    folders = list((tmp_path / "runs").iterdir())
    assert len(folders) == 2
    assert all(folder.name.startswith("iris-") for folder in folders)


def test_results_are_not_overwritten(commops: Run, tmp_path: Path) -> None:
    (tmp_path / "results").mkdir()
    (tmp_path / "results" / "precious").touch()
    result = commops("train", "iris", "-n", "2", *SHORT, "--out", "results")
    assert result.returncode == 1
    assert only_line(result.stderr) == "commops: cannot write results: results is not empty"
    assert os.listdir(tmp_path / "results") == ["precious"]


def test_a_folder_that_cannot_be_made_is_one_line(commops: Run, tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    result = commops("train", "iris", *SHORT, "--out", "file/run")
    assert result.returncode == 1
    assert "file/run" in only_line(result.stderr)


def test_under_a_launcher_the_command_is_a_rank(commops: Run, tmp_path: Path) -> None:
    result = commops("run", "-n", "2", "-m", "commops", "train", "iris", *SHORT, "--out", "joined")
    assert result.returncode == 0, result.stderr
    assert result.stdout.count("iris, 2 ranks") == 1
    assert json.loads((tmp_path / "joined" / "config.json").read_text())["ranks"] == 2


def test_a_number_of_ranks_that_is_not_the_launchers_is_refused(commops: Run) -> None:
    place = {"RANK": "0", "WORLD_SIZE": "2", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": "1"}
    result = commops("train", "iris", "-n", "3", *SHORT, env=place)
    assert result.returncode == 2
    assert "-n 3, but env started 2 ranks" in only_line(result.stderr)


@pytest.mark.parametrize("module", ["autograd", "sklearn", "matplotlib"])
def test_a_missing_extra_is_one_line_with_the_command_that_installs_it(tmp_path: Path, module: str) -> None:
    code = f"""
import importlib.util, sys
find = importlib.util.find_spec
importlib.util.find_spec = lambda name, package=None: None if name == {module!r} else find(name, package)
from commops.cli import main
main(["train", "iris", "-n", "2"])
"""
    result = subprocess.run(
        [sys.executable, "-c", code],
        cwd=tmp_path,
        env={"PYTHONPATH": os.pathsep.join(sys.path)},
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert result.returncode == 1
    assert "pip install 'commops[train]'" in only_line(result.stderr)
    assert os.listdir(tmp_path) == []
