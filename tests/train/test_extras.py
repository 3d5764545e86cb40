"""Without the packages of the extra."""

from __future__ import annotations

import subprocess
import sys

import pytest

from commops.train import extras

BLOCK = """
import sys

class Block:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in {"autograd", "sklearn", "matplotlib"}:
            raise ModuleNotFoundError(f"No module named {name!r}", name=name)

sys.meta_path.insert(0, Block())
"""


def test_missing_packages_are_named_with_the_command_that_installs_them(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(
        extras, "find_spec", lambda name: None if name in ("sklearn", "autograd") else object()
    )
    assert extras.missing() == ["autograd", "scikit-learn"]
    with pytest.raises(
        extras.MissingExtraError, match=r"autograd, scikit-learn.*pip install 'commops\[train\]'"
    ):
        extras.require()


def test_the_trainer_itself_needs_none_of_them() -> None:
    code = BLOCK + "from commops.train import Adam, Batches, SGD, Trainer, share; import commops.train.config"
    subprocess.run([sys.executable, "-c", code], check=True, env={"PYTHONPATH": ":".join(sys.path)})
