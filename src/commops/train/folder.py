"""The folder of a run."""

from __future__ import annotations

import contextlib
import time
from pathlib import Path

__all__ = ["new_run_folder"]


def new_run_folder(name: str, path: Path | None = None, *, runs: Path = Path("runs")) -> Path:
    """Make the folder of a run.

    Parameters
    ----------
    name : str
        Of the run.
    path : Path, optional
        The folder; it must not exist, or be empty. By default a new one, ``<runs>/<name>-<date>-<time>``.
    runs : Path
        Where default folders go.

    Raises
    ------
    FileExistsError
        If `path` holds something already: another run's results are not overwritten.
    OSError
        If it cannot be made.
    """
    if path is not None:
        path.mkdir(parents=True, exist_ok=True)
        if any(path.iterdir()):
            raise FileExistsError(f"{path} is not empty")
        return path
    stem = f"{name}-{time.strftime('%Y%m%d-%H%M%S')}"
    for number in range(1, 1000):  # several runs may start within a second
        folder = runs / (stem if number == 1 else f"{stem}-{number}")
        with contextlib.suppress(FileExistsError):
            folder.mkdir(parents=True)
            return folder
    raise FileExistsError(f"{runs / stem} and 998 more exist already")
