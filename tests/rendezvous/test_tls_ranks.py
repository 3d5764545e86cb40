"""Ranks with TLS between them, started by hand: they meet, or all say why not."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from .conftest import free_port
from .ranks import Ranks, failures, results

pytest.importorskip("cryptography")

from commops.rendezvous.certificates import new_credentials

JOIN = """
comm = commops.init(url, rank=rank, size=size, timeout=timeout, token=token, transport=transport, tls=tls)
"""
WORK = JOIN + "result = int(comm.allreduce(np.arange(100_000)).sum())\ncomm.close()"
EXPECTED = 100_000 * 99_999 // 2


@pytest.fixture
def file(tmp_path: Path) -> str:
    return write(tmp_path / "job.pem")


def write(path: Path) -> str:
    path.touch(mode=0o600)
    path.write_bytes(new_credentials())
    return str(path)


@pytest.mark.parametrize("kind", ["tcp", "file"])
@pytest.mark.parametrize("transport", ["auto", "tcp"])
@pytest.mark.parametrize("token", [None, "a token"])
def test_ranks_meet(
    kind: str, transport: str, token: str | None, ranks: Ranks, tmp_path: Path, file: str
) -> None:
    url = f"tcp://127.0.0.1:{free_port()}" if kind == "tcp" else f"file://{tmp_path}/store"
    each = [{"env": {"COMMOPS_HOST": host}} for host in ("one", "one", "two")]
    told = ranks.run(3, WORK, each, url=url, transport=transport, token=token, tls=file)
    assert results(told) == [3 * EXPECTED] * 3


def test_the_environment_names_the_file(ranks: Ranks, tmp_path: Path, file: str) -> None:
    each = [{"env": {"COMMOPS_TLS_FILE": file}, "tls": tls} for tls in (None, True)]
    told = ranks.run(2, WORK, each, url=f"file://{tmp_path}/store", transport="tcp")
    assert results(told) == [2 * EXPECTED] * 2


def test_some_without_tls(ranks: Ranks, tmp_path: Path, file: str) -> None:
    each: list[dict[str, Any]] = [{"tls": file}, {"tls": None}, {"tls": file}]
    told = ranks.run(3, WORK, each, url=f"file://{tmp_path}/store", transport="tcp")
    for kind, text in failures(told, within=10):
        assert kind == "RendezvousError"
        assert "ranks 0 and 1 differ in tls: True and False; every rank must have TLS, or none" in text


def test_certificates_of_two_authorities(ranks: Ranks, tmp_path: Path, file: str) -> None:
    each = [{"tls": file}, {"tls": write(tmp_path / "other.pem")}]
    told = ranks.run(2, WORK, each, url=f"file://{tmp_path}/store", transport="tcp")
    assert {one.error for one in told} == {"PeerLostError"}
    assert all("did not prove that it belongs to the job" in one.text for one in told)
    assert any("its certificate is not accepted" in one.text for one in told)


def test_a_file_that_does_not_do_is_an_error_on_all(ranks: Ranks, tmp_path: Path, file: str) -> None:
    bad = tmp_path / "bad.pem"
    bad.touch(mode=0o600)
    each = [{"tls": file}, {"tls": str(bad)}]
    told = ranks.run(2, WORK, each, url=f"file://{tmp_path}/store", transport="tcp")
    ends = failures(told, within=10)
    assert [kind for kind, _ in ends] == ["RendezvousError", "ValueError"]
    assert all("no certificate" in text for _, text in ends)
