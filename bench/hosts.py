"""Several hosts on one machine: network namespaces joined by links of a given rate, and ranks in them.

Needs root, and `ip` and `tc` of iproute2.
"""

from __future__ import annotations

import contextlib
import json
import os
import secrets
import subprocess
import sys
from collections.abc import Iterator, Sequence
from typing import Any

__all__ = ["hosts", "run"]

_BRIDGE = "commops-bridge"
_BURST = "128kb"  # what a link takes at once; more would let short messages go faster than the rate


def _ip(*arguments: str) -> None:
    subprocess.run(["ip", *arguments], check=True)


def _limit(rate: str, device: str, *prefix: str) -> None:
    command = ["tc", "qdisc", "add", "dev", device, "root", "tbf", "rate", rate, "burst", _BURST]
    subprocess.run([*prefix, *command, "latency", "50ms"], check=True)


@contextlib.contextmanager
def hosts(count: int, rate: str) -> Iterator[list[str]]:
    """Make `count` namespaces on one switch, each by a link of `rate` (``"1gbit"``) in each direction.

    Yields
    ------
    list of str
        Their names. Number i has the address 10.79.0.<i + 1>.
    """
    names = [f"commops-bench-{os.getpid()}-{number}" for number in range(count)]
    try:
        _ip("link", "add", _BRIDGE, "type", "bridge")
        _ip("link", "set", _BRIDGE, "up")
        for number, name in enumerate(names):
            port = f"commops-port{number}"
            _ip("netns", "add", name)
            _ip("link", "add", port, "type", "veth", "peer", "name", "uplink", "netns", name)
            _ip("link", "set", port, "master", _BRIDGE, "up")
            _ip("-n", name, "address", "add", f"10.79.0.{number + 1}/24", "dev", "uplink")
            for device in ("lo", "uplink"):
                _ip("-n", name, "link", "set", device, "up")
            _limit(rate, port)  # towards the host
            _limit(rate, "uplink", "ip", "netns", "exec", name)  # and from it
        yield names
    finally:
        # The links by their names too: a namespace is taken down behind the command's end.
        for link in (*(f"commops-port{number}" for number in range(count)), _BRIDGE):
            subprocess.run(["ip", "link", "delete", link], capture_output=True, check=False)
        for name in names:
            subprocess.run(["ip", "netns", "delete", name], capture_output=True, check=False)


def run(names: Sequence[str], places: Sequence[int], program: str, *arguments: Any, **variables: str) -> Any:
    """Run a Python file as ranks in the namespaces, and return what rank 0 prints, read as JSON.

    Parameters
    ----------
    names : sequence of str
        Of `hosts`.
    places : sequence of int
        The namespace of each rank.
    program : str
        Its ``sys.argv`` is: its path, size, address of the rendezvous, `arguments` as JSON, and rank.
    **variables
        Added to the environment.
    """
    url = f"tcp://10.79.0.{places[0] + 1}:4079"
    environ = {**os.environ, "COMMOPS_TOKEN": secrets.token_hex(16), "OMP_NUM_THREADS": "1", **variables}
    told = [str(len(places)), url, json.dumps(arguments)]
    ranks = [
        subprocess.Popen(
            ["ip", "netns", "exec", names[place], sys.executable, program, *told, str(rank)],
            env=environ,
            stdout=subprocess.PIPE if rank == 0 else None,
        )
        for rank, place in enumerate(places)
    ]
    try:
        printed = ranks[0].communicate(timeout=600)[0]
        if any(rank.wait(timeout=60) for rank in ranks):
            raise RuntimeError(f"{program} failed on {names}")
        return json.loads(printed)
    finally:
        for rank in ranks:
            rank.kill()
            rank.wait()
