"""What importing the stores costs: nothing that the one in use does not need."""

from __future__ import annotations

import subprocess
import sys

import pytest

import commops.rendezvous


def modules_after(statement: str) -> set[str]:
    output = subprocess.run(
        [
            sys.executable,
            "-c",
            f"import sys, commops.rendezvous as rendezvous\n{statement}\nprint(*sys.modules)",
        ],
        check=True,
        capture_output=True,
        text=True,
    )
    return set(output.stdout.split())


def test_every_public_name_is_there() -> None:
    assert set(commops.rendezvous.__all__) <= set(dir(commops.rendezvous))
    assert all(callable(getattr(commops.rendezvous, name)) for name in commops.rendezvous.__all__)


def test_no_other_name_is() -> None:
    with pytest.raises(AttributeError, match="no attribute 'EtcdStore'"):
        commops.rendezvous.EtcdStore  # noqa: B018


def test_the_redis_package_is_not_imported_without_a_redis_store() -> None:
    loaded = modules_after("rendezvous.RedisStore; rendezvous.open_store; rendezvous.TCPStore")
    assert "redis" not in loaded


def test_opening_one_kind_imports_no_other() -> None:
    loaded = modules_after("rendezvous.open_store('unix:test-imports', is_server=True).close()")
    assert "commops.rendezvous.tcp_store" in loaded
    assert not loaded & {"commops.rendezvous.file_store", "commops.rendezvous.redis_store"}
