"""Ranks whose environments name different tables, or none, make a world with one set of tunables."""

from __future__ import annotations

import json
import uuid
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from commops import tuned

from .ranks import JOIN, Ranks, failures, results

# Staging memory shows how many slots there are; ranks that differed in staged_bytes would not end.
LOOK = (
    JOIN
    + """
with comm:
    whole = comm.allreduce(np.arange(3000) + comm.rank)
    result = [comm._core.window.used, bool((whole == size * np.arange(3000) + size * (size - 1) // 2).all())]
"""
)

(SLOTS,) = (one.default for one in tuned.tunables({}) if one.name == "slots")  # on this machine

Write = Callable[..., dict[str, str]]


@pytest.fixture
def url() -> str:
    return f"unix:test-{uuid.uuid4().hex}"


@pytest.fixture
def table(tmp_path: Path) -> Write:
    """Write a table for shared memory, or that transport; return the environment of a rank that finds it."""

    def write(name: str, transport: str = "shm", **values: int) -> dict[str, str]:
        home = tmp_path / name
        each = [tuned.Setting(transport, 2, crowded, values) for crowded in (False, True)]
        tuned.write(f"{home}/commops/table.json", "today", each)
        return {"XDG_CONFIG_HOME": str(home)}

    return write


def used(ranks: Ranks, *each: dict[str, str], **names: Any) -> list[int]:
    """Return the shared memory that each rank uses when its world is made."""
    looks = results(ranks.run(len(each), LOOK, [{"env": env} for env in each], **names))
    assert [right for _, right in looks] == [True] * len(each)
    return [count for count, _ in looks]


def test_the_table_of_rank_0_counts_for_all(ranks: Ranks, url: str, table: Write) -> None:
    one = table("one", slots=3, slot_bytes=4096, staged_bytes=0)
    other = table("other", slots=2048, staged_bytes=1 << 20)
    few = used(ranks, one, other, {}, url=url)
    many = used(ranks, other, one, {}, url=url)
    none = used(ranks, {}, one, other, url=url)
    assert len(set(few)) == len(set(many)) == len(set(none)) == 1
    assert many[0] - few[0] == (2048 - 3) * 4096
    assert many[0] - none[0] == (2048 - SLOTS) * 4096


def test_the_environment_goes_before_the_table(ranks: Ranks, url: str, table: Write) -> None:
    given = {"COMMOPS_SLOTS": "100"}
    with_table = used(ranks, table("one", slots=3) | given, given, url=url)
    assert with_table == used(ranks, given, given, url=url)


def test_an_environment_that_only_one_rank_has_is_an_error_even_if_it_says_the_default(
    ranks: Ranks, url: str, table: Write
) -> None:
    each = [{"env": table("one", slots=3)}, {"env": {"COMMOPS_SLOTS": str(SLOTS)}}]
    for _, text in failures(ranks.run(2, JOIN, each, url=url), within=10):
        assert f"differ in tunables: {{'slots': None}} and {{'slots': {SLOTS}}}" in text


def test_sockets_have_a_setting_of_their_own(ranks: Ranks, url: str, table: Write) -> None:
    sockets = table("sockets", "tcp", slots=3)
    assert used(ranks, sockets, {}, url=url) == used(ranks, {}, {}, url=url)
    hosts = [{"COMMOPS_HOST": host} for host in "aabb"]
    few = used(ranks, hosts[0] | sockets, *hosts[1:], url=url)
    many = used(ranks, *hosts, url=url)
    assert [more - less for more, less in zip(many, few, strict=True)] == [(SLOTS - 3) * 4096] * 4


@pytest.mark.parametrize("broken", [0, 1])
def test_a_named_table_that_cannot_be_read_is_an_error_on_all_ranks_if_it_is_that_of_rank_0(
    ranks: Ranks, url: str, tmp_path: Path, broken: int
) -> None:
    (tmp_path / "broken").write_text("{")
    each: list[dict[str, Any]] = [{}, {}]
    each[broken] = {"env": {"COMMOPS_TABLE": str(tmp_path / "broken")}}
    told = ranks.run(2, LOOK, each, url=url)
    if broken == 1:  # which nobody asks
        results(told)
        return
    errors = failures(told, within=10)
    assert [error for error, _ in errors] == ["ValueError", "RendezvousError"]
    for _, text in errors:
        assert f"COMMOPS_TABLE={tmp_path}/broken cannot be read: Expecting" in text


@pytest.mark.parametrize("content", ["{", json.dumps({"format": 99})])
def test_any_other_table_that_is_of_no_use_is_ignored(
    ranks: Ranks, url: str, tmp_path: Path, content: str
) -> None:
    (tmp_path / "commops").mkdir()
    (tmp_path / "commops" / "table.json").write_text(content)
    home = {"XDG_CONFIG_HOME": str(tmp_path)}
    assert used(ranks, home, home, url=url) == used(ranks, {}, {}, url=url)
