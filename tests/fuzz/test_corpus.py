"""The inputs in the tree, replayed through the targets of the rendezvous; those in C are `meson test`'s."""

from __future__ import annotations

from pathlib import Path

import pytest

from . import store_seeds
from .store import TARGETS

HERE = Path(__file__).parent


def inputs_of(target: str) -> list[Path]:
    return sorted(path for kind in ("corpus", "regressions") for path in (HERE / kind / target).glob("*"))


@pytest.mark.parametrize("target", TARGETS)
def test_every_input_of_the_corpus_is_taken(target: str) -> None:
    inputs = inputs_of(target)
    assert inputs
    for path in inputs:
        try:
            TARGETS[target](path.read_bytes())
        except BaseException as error:
            error.add_note(f"the input is {path}")
            raise


def test_seeds_can_be_made_anew(tmp_path: Path) -> None:
    store_seeds.main(tmp_path)
    for target, run in TARGETS.items():
        seeds = list((tmp_path / target).iterdir())
        assert seeds
        for seed in seeds:
            run(seed.read_bytes())
