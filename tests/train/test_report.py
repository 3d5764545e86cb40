"""Files, folders and progress of a run."""

from __future__ import annotations

import io
import json
from pathlib import Path

import pytest

from commops.train.folder import new_run_folder
from commops.train.metrics import Epoch, Summary
from commops.train.report import print_summary, progress, write_metrics, write_plots


def rows(count: int) -> list[Epoch]:
    return [
        Epoch(
            number,
            1 / number,
            0.5,
            1.1 / number,
            0.4,
            seconds=2.0,
            samples_per_second=60.0,
            communication_share=0.25,
        )
        for number in range(1, count + 1)
    ]


def test_default_folders_are_new_each_time(tmp_path: Path) -> None:
    folders = {new_run_folder("iris", runs=tmp_path / "runs") for _ in range(3)}
    assert len(folders) == 3
    assert all(folder.is_dir() and folder.name.startswith("iris-") for folder in folders)


def test_results_of_another_run_are_not_overwritten(tmp_path: Path) -> None:
    folder = new_run_folder("iris", tmp_path / "a" / "b")
    assert new_run_folder("iris", folder) == folder
    (folder / "loss.png").touch()
    with pytest.raises(FileExistsError, match="not empty"):
        new_run_folder("iris", folder)


def test_metrics_can_be_read_while_they_are_written(tmp_path: Path) -> None:
    with write_metrics(tmp_path, {"seed": 3}) as write:
        for number, row in enumerate(rows(3), start=1):
            write(row)
            lines = (tmp_path / "metrics.jsonl").read_text().splitlines()
            assert [json.loads(line)["epoch"] for line in lines] == list(range(1, number + 1))
    assert json.loads((tmp_path / "config.json").read_text()) == {"seed": 3}


@pytest.mark.parametrize("epochs", [1, 2, 40])
def test_plots_are_pictures(tmp_path: Path, epochs: int) -> None:
    write_plots(tmp_path, rows(epochs))
    for name in ("loss.png", "accuracy.png"):
        assert (tmp_path / name).read_bytes().startswith(b"\x89PNG\r\n")


def test_without_a_terminal_progress_is_about_ten_lines() -> None:
    stream = io.StringIO()
    with progress("iris", 37, stream) as show:
        for row in rows(37):
            show(row)
    lines = stream.getvalue().splitlines()
    assert 9 <= len(lines) <= 11
    assert lines[-1].startswith("iris: epoch 37/37, loss 0.0270, held-out accuracy 0.400")


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


def test_on_a_terminal_progress_is_a_bar(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TERM", "xterm")
    stream = Terminal()
    with progress("iris", 3, stream) as show:
        for row in rows(3):
            show(row)
    assert "3/3" in stream.getvalue()
    assert "0.3333" in stream.getvalue()


def test_the_table_holds_the_summary() -> None:
    summary = Summary.of(rows(4), ranks=2, train_samples=120, test_samples=30)
    assert summary.seconds == 8.0
    assert summary.samples_per_second == 60.0
    assert summary.communication_share == 0.25
    stream = io.StringIO()
    print_summary("iris", summary, Path("runs/here"), stream)
    for text in ("iris, 2 ranks", "0.2500 / 0.2750", "0.400", "60", "25.0%", "runs/here"):
        assert text in stream.getvalue()
