"""The table of tunables: where it is, when it holds, and what goes before it."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import pytest

from commops import tuned
from commops.tuned import Setting, Table

SETTINGS = [Setting("shm", 2, False, {"staged_bytes": 4096}), Setting("tcp", 2, False, {})]


@pytest.fixture
def path(tmp_path: Path) -> Path:
    """Write a table of this machine."""
    path = tmp_path / "commops" / "table.json"
    tuned.write(str(path), "today", SETTINGS)
    return path


def change(path: Path, **fields: Any) -> None:
    path.write_text(json.dumps(json.loads(path.read_text()) | fields))


def test_a_table_that_was_written_is_in_force(path: Path) -> None:
    expected = Table(str(path), "today", SETTINGS), ""
    assert tuned.in_force({"COMMOPS_TABLE": str(path)}) == expected
    assert tuned.in_force({"XDG_CONFIG_HOME": str(path.parents[1])}) == expected


@pytest.mark.parametrize(
    ("environ", "place"),
    [
        ({"COMMOPS_TABLE": "some/table", "XDG_CONFIG_HOME": "/etc"}, "some/table"),
        ({"COMMOPS_TABLE": "", "XDG_CONFIG_HOME": "/etc"}, None),
        ({"XDG_CONFIG_HOME": "/etc/xdg"}, "/etc/xdg/commops/table.json"),
        ({"XDG_CONFIG_HOME": "not/absolute"}, "/home/me/.config/commops/table.json"),
        ({}, "/home/me/.config/commops/table.json"),
    ],
)
def test_where_the_table_is(
    monkeypatch: pytest.MonkeyPatch, environ: dict[str, str], place: str | None
) -> None:
    monkeypatch.setenv("HOME", "/home/me")
    assert tuned.place(environ) == place


def test_without_a_file_there_is_no_table_and_nothing_to_say(tmp_path: Path) -> None:
    assert tuned.in_force({"XDG_CONFIG_HOME": str(tmp_path)}) == (None, "")


def test_an_empty_name_is_none(path: Path) -> None:
    environ = {"COMMOPS_TABLE": "", "XDG_CONFIG_HOME": str(path.parents[1])}
    assert tuned.in_force(environ) == (None, "COMMOPS_TABLE is empty")


GOOD = {"transport": "shm", "ranks": 2, "crowded": False, "tunables": {}}


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (b"", "Expecting value"),
        (b"\xff\xfe\x00", "decode"),
        (b"[" * 100_000, "nested too deeply"),
        (b"[]", "no table of tunables"),
        (b"{}", "no table of tunables"),
        (b'{"format": 1}', "machine or date is missing"),
        ({"settings": 3}, "settings are missing"),
        ({"settings": [[]]}, "this is no setting: []"),
        ({"settings": [{}]}, "this is no setting: {}"),
        ({"settings": [GOOD | {"more": 1}]}, "this is no setting"),
        ({"settings": [GOOD | {"transport": "pigeon"}]}, "this is no setting"),
        ({"settings": [GOOD | {"ranks": 0}]}, "this is no setting"),
        ({"settings": [GOOD | {"ranks": True}]}, "this is no setting"),
        ({"settings": [GOOD | {"crowded": 0}]}, "this is no setting"),
        ({"settings": [GOOD | {"tunables": []}]}, "this is no setting"),
        ({"settings": [GOOD | {"tunables": {"slots": 8.0}}]}, "this is no setting"),
        ({"settings": [GOOD | {"tunables": {"slots": 1}}]}, "slots=1: a whole number from 3 to"),
        ({"settings": [GOOD | {"tunables": {"slots": 1 << 70}}]}, "too large"),
        ({"settings": [GOOD | {"tunables": {"magic": 1}}]}, "there is no tunable magic"),
        ({"settings": [GOOD | {"tunables": {"spin_us": 1}}]}, "spin_us: each rank sets this for itself"),
    ],
)
def test_what_makes_no_sense_is_an_error_where_it_was_named_and_ignored_elsewhere(
    path: Path, content: bytes | dict[str, Any], words: str
) -> None:
    if isinstance(content, bytes):
        path.write_bytes(content)
    else:
        change(path, **content)
    table, why = tuned.in_force({"XDG_CONFIG_HOME": str(path.parents[1])})
    assert table is None
    assert why.startswith(f"{path} cannot be read: ")
    assert words in why
    with pytest.raises(ValueError, match=f"^COMMOPS_TABLE={path} cannot be read: ") as caught:
        tuned.in_force({"COMMOPS_TABLE": str(path)})
    assert words in str(caught.value)


@pytest.mark.parametrize("missing", ["nothing", ""])
def test_a_named_file_that_cannot_be_opened_is_an_error(tmp_path: Path, missing: str) -> None:
    name = f"{tmp_path}/{missing}"
    with pytest.raises(ValueError, match=f"COMMOPS_TABLE={name} cannot be read: (No such|Is a)"):
        tuned.in_force({"COMMOPS_TABLE": name})


@pytest.mark.parametrize(
    ("fields", "words"),
    [
        ({"format": 2, "settings": "in another form"}, "has format 2, and this version reads 1"),
        ({"machine": tuned.machine() | {"processor": "Z80"}}, "elsewhere: processor 'Z80', here "),
        ({"machine": tuned.machine() | {"cores": 4097}}, "cores 4097, here "),
        ({"machine": tuned.machine() | {"caches": ["3K"]}}, "caches ['3K'], here "),
        ({"machine": tuned.machine() | {"commops": "9.9"}, "settings": ["new"]}, "commops '9.9', here "),
    ],
)
def test_a_table_for_others_is_never_used_and_never_an_error(
    path: Path, fields: dict[str, Any], words: str
) -> None:
    change(path, **fields)
    for environ in ({"COMMOPS_TABLE": str(path)}, {"XDG_CONFIG_HOME": str(path.parents[1])}):
        table, why = tuned.in_force(environ)
        assert table is None
        assert why.startswith(f"{path} ")
        assert words in why


def test_the_environment_goes_before_the_table_and_that_before_defaults(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("COMMOPS_SLOTS", "7")
    monkeypatch.setenv("COMMOPS_EAGER_BYTES", "")
    rows = {row.name: row for row in tuned.tunables({"slots": 8, "eager_bytes": 9})}
    assert (rows["slots"].value, rows["slots"].origin) == (7, "environment")
    assert (rows["eager_bytes"].value, rows["eager_bytes"].origin) == (9, "table")
    assert (rows["pipe_bytes"].value, rows["pipe_bytes"].origin) == (rows["pipe_bytes"].default, "default")


def cache(level: int, most: int) -> int:
    """Return the size of a cache as a power of two up to `most`, which it is where nothing tells."""
    try:
        text = Path(f"/sys/devices/system/cpu/cpu0/cache/index{level}/size").read_text().strip()
    except OSError:
        return most
    return min(most, 1 << ((int(text.removesuffix("K")) << 10).bit_length() - 1))


def test_some_defaults_follow_the_caches_of_the_machine() -> None:
    rows = {row.name: row for row in tuned.tunables({})}
    own, shared = cache(2, 1 << 20), cache(3, 32 << 20)
    assert rows["slots"].default * rows["slot_bytes"].default == 2 * own
    assert rows["pipe_bytes"].default == 2 * own
    assert rows["around_bytes"].default == rows["attach_bytes"].default == shared // 2


def test_the_nearest_number_of_ranks_counts_and_a_crowd_is_another_thing() -> None:
    cores = len(os.sched_getaffinity(0))
    numbers = (2 * cores, 16 * cores)
    settings = [Setting("shm", number, True, {"slots": number}) for number in numbers]
    settings += [Setting("shm", 1, False, {"slots": 4}), Setting("tcp", cores, False, {"slots": 5})]
    table = Table("", "", settings)
    assert table.values("shm", cores) == {"slots": 4}
    assert table.values("shm", cores + 1) == {"slots": 2 * cores}
    assert table.values("shm", 5 * cores) == {"slots": 2 * cores}
    assert table.values("shm", 6 * cores) == {"slots": 16 * cores}
    assert table.values("tcp", cores) == {"slots": 5}
    assert table.values("tcp", cores + 1) == {}


def test_a_table_that_cannot_be_written_leaves_the_old_one(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = path.read_text()

    def refuse(descriptor: int) -> None:
        raise OSError("full")

    monkeypatch.setattr(os, "fsync", refuse)
    with pytest.raises(OSError, match="full"):
        tuned.write(str(path), "tomorrow", [])
    assert path.read_text() == before
    assert os.listdir(path.parent) == [path.name]
