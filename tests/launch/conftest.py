from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from .support import Programs


def _files() -> set[str]:
    return {
        f"{folder}/{name}"
        for folder in ("/tmp", "/dev/shm")
        if os.path.isdir(folder)
        for name in os.listdir(folder)
        if "commops" in name.lower()
    }


@pytest.fixture
def programs(tmp_path: Path) -> Iterator[Programs]:
    """Programs of a test, none of which may leave a process or a file behind."""
    before = _files()
    programs = Programs(tmp_path)
    try:
        yield programs
        assert programs.settle() == []
        assert _files() <= before
    finally:
        programs.close()
