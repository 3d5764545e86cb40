"""``commops doctor``: what it finds, and that it notices what is wrong."""

from __future__ import annotations

import errno
import json
import os
import socket
from pathlib import Path
from typing import Any

import pytest

from commops import Comm, launch, tuned
from commops.cli import doctor, facts
from commops.cli.facts import Fact, State

from .conftest import Run

WIDE = {"COLUMNS": "200"}
RANKS = max(len(os.sched_getaffinity(0)), 2)  # that doctor speaks of


def by_name(found: list[Fact]) -> dict[str, Fact]:
    return {fact.name: fact for fact in found}


def test_a_sound_machine_ends_with_0_and_shows_every_section(commops: Run) -> None:
    result = commops("doctor", env=WIDE)
    assert result.returncode == 0, result.stdout + result.stderr
    for words in (
        "usable cores", "memory", "kernel", "unnamed shared memory", "process descriptors", "loopback IPv4",
        "addresses", "memory of other ranks", "allreduce over shm", "allreduce over tcp", "TLS", "OpenSSL 3",
        "kernels",
        "launcher", "transports", "table of tunables", "COMMOPS_SLOT_BYTES", "staging",
        "Everything that ranks need works here.",
    ):  # fmt: skip
        assert words in result.stdout
    assert "unusable" not in result.stdout


def row(text: str, name: str) -> str:
    """Return the line of a table that starts with `name`."""
    (line,) = (line for line in text.splitlines() if line.startswith(f"│ {name}"))
    return line


def test_a_tunable_shows_where_its_value_comes_from(commops: Run) -> None:
    result = commops("doctor", env=WIDE | {"COMMOPS_SLOTS": "5", "COMMOPS_SLOT_BYTES": "1048576"})
    assert result.returncode == 0, result.stdout
    line = row(result.stdout, "COMMOPS_SLOTS")
    assert " 5 " in line
    assert "environment" in line
    (slots,) = (one for one in tuned.tunables({}) if one.name == "slots")
    assert f"default {slots.default}" in line
    assert "5 slots of 1048576 bytes" in row(result.stdout, "staging")


def staging_of(comm: Comm) -> int:
    before = comm._core.window.used
    with comm.dup():
        return int(comm._core.window.used - before)


def test_staging_is_what_a_communicator_takes(commops: Run) -> None:
    (taken,) = set(launch(staging_of, RANKS))
    assert f" {taken} bytes (" in row(commops("doctor", env=WIDE).stdout, "staging")


def table(path: Path, **differing: Any) -> dict[str, str]:
    """Write a table for as many ranks as doctor speaks of; return the environment that names it."""
    crowded = len(os.sched_getaffinity(0)) < RANKS
    setting = tuned.Setting("shm", RANKS, crowded, {"slots": 64, "round_bytes": 32768})
    tuned.write(str(path), "today", [setting])
    path.write_text(json.dumps(json.loads(path.read_text()) | differing))
    return WIDE | {"COMMOPS_TABLE": str(path)}


def test_the_table_in_force_is_named_and_gives_values(commops: Run, tmp_path: Path) -> None:
    env = table(tmp_path / "mine.json") | {"COMMOPS_ROUND_BYTES": "65536"}
    result = commops("doctor", env=env)
    assert result.returncode == 0, result.stdout
    assert f"{tmp_path}/mine.json, measured on this machine on today" in row(result.stdout, "in force")
    assert "slots 64, round_bytes 32768" in row(result.stdout, f"{RANKS} ranks, shared")
    slots, rounds = row(result.stdout, "COMMOPS_SLOTS"), row(result.stdout, "COMMOPS_ROUND_BYTES")
    assert " 64 " in slots
    assert " table " in slots
    assert " 65536 " in rounds
    assert " environment " in rounds
    assert "64 slots of 4096 bytes" in row(result.stdout, "staging")


def test_without_a_table_doctor_says_how_to_make_one(commops: Run) -> None:
    out = commops("doctor", env=WIDE).stdout
    assert f"none at {os.environ['XDG_CONFIG_HOME']}/commops/table.json" in row(out, "in force")
    assert "`commops bench --tune` measures this machine" in out


def test_a_table_that_is_not_in_force_is_named_with_the_reason(commops: Run, tmp_path: Path) -> None:
    result = commops("doctor", env=table(tmp_path / "theirs.json", machine={"processor": "Z80"}))
    assert result.returncode == 0, result.stdout
    line = row(result.stdout, "in force")
    assert f"{tmp_path}/theirs.json was measured elsewhere: processor 'Z80', here " in line
    assert " default " in row(result.stdout, "COMMOPS_SLOTS")


@pytest.mark.parametrize(
    ("environ", "words"),
    [
        ({"COMMOPS_SLOTS": "many"}, "COMMOPS_SLOTS=many"),
        ({"COMMOPS_ISA": "avx3"}, "COMMOPS_ISA=avx3"),
        ({"COMMOPS_TRANSPORT": "pigeon"}, "COMMOPS_TRANSPORT=pigeon"),
        ({"COMMOPS_TLS": "maybe"}, "COMMOPS_TLS=maybe"),
        ({"COMMOPS_TLS_FILE": "/nowhere"}, "COMMOPS_TLS_FILE: cannot read '/nowhere'"),
        ({"RANK": "3", "WORLD_SIZE": "2"}, "RANK=3"),
        ({"COMMOPS_TABLE": "/nowhere/table"}, "COMMOPS_TABLE=/nowhere/table cannot be read: No such file"),
    ],
)
def test_what_is_wrong_in_the_environment_is_named_and_ends_with_1(
    commops: Run, environ: dict[str, str], words: str
) -> None:
    result = commops("doctor", env=WIDE | environ)
    assert result.returncode == 1
    assert "Traceback" not in result.stderr
    assert any(line.startswith("unusable: ") and words in line for line in result.stdout.splitlines())


@pytest.mark.parametrize(
    ("owner", "call", "name"),
    [(os, "memfd_create", "unnamed shared memory"), (os, "pidfd_open", "process descriptors")],
)
def test_forbidden_system_calls_are_found(
    monkeypatch: pytest.MonkeyPatch, owner: object, call: str, name: str
) -> None:
    def refuse(*arguments: object) -> int:
        raise PermissionError(errno.EPERM, "not permitted")

    monkeypatch.setattr(owner, call, refuse)
    fact = by_name(facts.shared_memory())[name]
    assert fact.state is State.BAD
    assert "not permitted" in fact.value
    assert "seccomp" in fact.advice


def test_ipv6_may_be_missing_but_not_both(monkeypatch: pytest.MonkeyPatch) -> None:
    real = socket.create_server

    def without(*families: int) -> None:
        def create_server(address: tuple[str, int], *, family: int) -> socket.socket:
            if family in families:
                raise OSError(errno.EAFNOSUPPORT, "no such family")
            return real(address, family=family)

        monkeypatch.setattr(socket, "create_server", create_server)

    without(socket.AF_INET6)
    assert by_name(facts.network())["loopback IPv6"].state is State.NOTE
    without(socket.AF_INET, socket.AF_INET6)
    assert {by_name(facts.network())[f"loopback IPv{v}"].state for v in (4, 6)} == {State.BAD}


def groups(root: Path, cgroup: str, files: dict[str, str]) -> list[Fact]:
    (root / "proc" / "self").mkdir(parents=True)
    (root / "proc" / "self" / "cgroup").write_text(cgroup)
    for name, text in files.items():
        path = root / "cgroups" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    return facts.container_limits(root / "proc", root / "cgroups")


def test_the_tightest_limit_of_version_2_counts(tmp_path: Path) -> None:
    found = groups(
        tmp_path,
        "0::/pod/box\n",
        {
            "cpu.max": "max 100000",
            "pod/cpu.max": "50000 100000",
            "pod/box/cpu.max": "max 100000",
            "pod/memory.max": "max",
            "pod/box/memory.max": "2147483648",
        },
    )
    named = by_name(found)
    assert named["processor quota"].value == "0.5 cores"
    assert named["processor quota"].state is State.NOTE
    assert named["memory limit"].value.startswith("2.0 GiB")


def test_limits_of_version_1_are_read_too(tmp_path: Path) -> None:
    found = groups(
        tmp_path,
        "4:cpu,cpuacct:/box\n3:memory:/box\n",
        {
            "cpu,cpuacct/box/cpu.cfs_quota_us": "-1",
            "cpu,cpuacct/box/cpu.cfs_period_us": "100000",
            "memory/box/memory.limit_in_bytes": "1073741824",
            "memory/memory.limit_in_bytes": "9223372036854771712",
        },
    )
    assert [(fact.name, fact.value.partition(";")[0]) for fact in found] == [("memory limit", "1.0 GiB")]


def test_no_limits_are_said_to_be_none(tmp_path: Path) -> None:
    assert [fact.value for fact in groups(tmp_path, "0::/\n", {})] == ["none"]


def test_ranges_of_cores_are_short() -> None:
    assert facts._ranges([0, 1, 2, 5, 7, 8]) == "0-2,5,7-8"


def test_the_launcher_is_recognised() -> None:
    place = {"RANK": "1", "WORLD_SIZE": "4", "MASTER_ADDR": "10.0.0.1", "MASTER_PORT": "29500"}
    fact = doctor._launcher(place)
    assert fact.state is State.OK
    assert "rank 1 of 4, meeting at tcp://10.0.0.1:29500" in fact.value


@pytest.mark.parametrize(("chosen", "state"), [("", State.OK), ("tcp", State.NOTE), ("shm", State.NOTE)])
def test_a_transport_forced_by_the_environment_is_noted(chosen: str, state: State) -> None:
    assert doctor._choice({"COMMOPS_TRANSPORT": chosen}).state is state


@pytest.mark.parametrize("works", [True, False])
def test_it_says_whether_ranks_may_read_each_others_memory(works: bool) -> None:
    fact = doctor._attached(works)
    assert fact.name == "memory of other ranks"
    assert fact.state is (State.OK if works else State.NOTE)
    assert "process_vm_readv" in fact.value
    assert bool(fact.advice) is not works
