"""Several hosts for real: network namespaces with addresses of their own, joined by a cable."""

from __future__ import annotations

import os
import shutil
import subprocess
import textwrap
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from .ranks import JOIN, Ranks, failures, results

pytestmark = pytest.mark.skipif(
    os.geteuid() != 0 or shutil.which("ip") is None, reason="network namespaces need root, and ip of iproute2"
)

EXCHANGE = (
    JOIN
    + """
with comm:
    start = time.monotonic()
    big = comm.allreduce(np.full(200_000, float(comm.rank + 1)))
    right, left = (comm.rank + 1) % comm.size, (comm.rank - 1) % comm.size
    got = comm.sendrecv(np.arange(1000) + comm.rank, right, left)
    half = comm.split(comm.rank % 2)
    result = [float(big[0]), bool((big == big[0]).all()), int(got[0]),
              int(half.allreduce(np.array(comm.rank))), comm.local_size]
    assert time.monotonic() - start < 5
"""
)


def ip(*arguments: str) -> None:
    done = subprocess.run(["ip", *arguments], capture_output=True, text=True, check=False)
    if done.returncode:
        raise OSError(f"ip {' '.join(arguments)}: {done.stderr.strip()}")


@pytest.fixture(scope="module")
def hosts() -> Iterator[tuple[str, str]]:
    """Names of two namespaces.

    The first has 10.77.0.1, fd77::1 and, to be tried before these, 10.78.0.1; the second has 10.77.0.2 and
    fd77::2, and what it sends to 10.78.0.1 is lost.
    """
    one, two = names = tuple(f"commops-{os.getpid()}-{side}" for side in "ab")
    try:
        try:
            for name in names:
                ip("netns", "add", name)
            ip("link", "add", "cable", "netns", one, "type", "veth", "peer", "name", "cable", "netns", two)
        except OSError as error:
            pytest.skip(f"no network namespaces here: {error}")
        for name, number in ((one, "1"), (two, "2")):
            ip("-n", name, "address", "add", f"10.77.0.{number}/24", "dev", "cable")
            ip("-n", name, "address", "add", f"fd77::{number}/64", "dev", "cable", "nodad")
            for device in ("lo", "cable"):
                ip("-n", name, "link", "set", device, "up")
        ip("-n", one, "address", "add", "10.78.0.1/32", "dev", "lo")
        # What is sent to an address that nobody has is lost without a word, as behind a firewall.
        ip("-n", two, "route", "add", "10.78.0.0/24", "via", "10.77.0.99", "dev", "cable", "onlink")
        yield one, two
    finally:
        for name in names:
            subprocess.run(["ip", "netns", "delete", name], capture_output=True, check=False)


@pytest.mark.parametrize("address", ["10.77.0.1", "[fd77::1]"])
@pytest.mark.parametrize("places", ["ab", "aabb", "abab", "baaa"])
def test_ranks_of_two_hosts_meet(ranks: Ranks, hosts: tuple[str, str], address: str, places: str) -> None:
    home = hosts if places[0] == "a" else hosts[::-1]
    address = address if places[0] == "a" else address.replace("1]", "2]").replace("0.1", "0.2")
    each = [
        {"namespace": home["ab".index(place)] if places[0] == "a" else home["ba".index(place)]}
        for place in places
    ]
    told = ranks.run(len(places), EXCHANGE, each, url=f"tcp://{address}:4077", token="secret")
    size = len(places)
    for rank, result in enumerate(results(told)):
        alike = sum(other for other in range(size) if other % 2 == rank % 2)
        assert result == [size * (size + 1) / 2, True, (rank - 1) % size, alike, places.count(places[rank])]


@pytest.mark.parametrize("interface", ["cable", "10.77.0.0/16", "fd77::/64"])
def test_an_interface_of_choice(ranks: Ranks, hosts: tuple[str, str], tmp_path: Path, interface: str) -> None:
    listening = (
        "\nimport subprocess; result = subprocess.run(['ss', '-tlnH'], capture_output=True, text=True).stdout"
    )
    source = JOIN + "comm.allreduce(np.ones(1))" + listening + "\ncomm.close()"
    each = [{"namespace": name, "env": {"COMMOPS_INTERFACE": interface}} for name in hosts]
    if shutil.which("ss") is None:
        pytest.skip("no ss of iproute2")
    told = results(ranks.run(2, source, each, url=f"file://{tmp_path}/store", token="secret"))
    wanted = {"cable": {"10.77.0", "[fd77::"}, "10.77.0.0/16": {"10.77.0"}, "fd77::/64": {"[fd77::"}}[
        interface
    ]
    for text in told:
        assert {line.split()[3].rpartition(":")[0][:7] for line in text.splitlines()} == wanted


def test_hosts_that_only_a_folder_joins_say_what_to_set(
    ranks: Ranks, hosts: tuple[str, str], tmp_path: Path
) -> None:
    each = [{"namespace": name, "env": {"COMMOPS_HOST": name[-1]}} for name in hosts]
    told = ranks.run(2, JOIN, each, url=f"file://{tmp_path}/store", token="secret", timeout=20.0)
    for kind, text in failures(told, within=10):
        assert kind == "RendezvousError"
        assert text.startswith(
            "the ranks are on 2 machines (a, b) and rank 0 listens for its own alone: set COMMOPS_INT"
        )


@pytest.mark.parametrize("server", [0, 1])
def test_a_host_that_knows_its_own_name_as_loopback(
    ranks: Ranks, hosts: tuple[str, str], server: int
) -> None:
    # As Debian has it in /etc/hosts; the others find its real address in the DNS.
    source = """
    import socket
    real = socket.getaddrinfo
    def lookup(host, *rest, **more):
        if host in (b"node", "node"):
            host = "127.0.1.1" if serves else address
        return real(host, *rest, **more)
    socket.getaddrinfo = lookup
    socket.gethostname = lambda: "node" if serves else "other"
    """
    places = [hosts[server], hosts[1 - server], hosts[server]]
    each = [{"namespace": place, "serves": place == hosts[server]} for place in places]
    names = {"url": "tcp://node:4078", "token": "secret", "address": f"10.77.0.{server + 1}"}
    told = ranks.run(3, textwrap.dedent(source) + EXCHANGE, each, **names)
    assert [result[0] for result in results(told)] == [6.0] * 3


def test_the_end_of_a_rank_on_another_host_is_noticed(ranks: Ranks, hosts: tuple[str, str]) -> None:
    die = """
    import signal
    from commops.rendezvous.meeting import Meeting
    if rank == 1:
        Meeting._agree = lambda *_: os.kill(os.getpid(), signal.SIGKILL)
    """
    each = [{"namespace": hosts[rank % 2]} for rank in range(4)]
    names = {"url": "tcp://10.77.0.1:4079", "token": "secret", "timeout": 15.0}
    job = ranks.job(4, textwrap.dedent(die) + JOIN, each, **names)
    for kind, text in failures([job[rank].told() for rank in (0, 2, 3)], within=5):
        assert kind == "RendezvousError"
        assert text.startswith(f"rank 1 (process {job[1].pid} on ")


def test_a_token_that_does_not_fit(ranks: Ranks, hosts: tuple[str, str]) -> None:
    each = [{"namespace": name, "token": name} for name in hosts]
    told = failures(ranks.run(2, JOIN, each, url="tcp://10.77.0.1:4077", timeout=1.0), within=3.5)
    assert [kind for kind, _ in told] == ["RendezvousError", "AuthenticationError"]


def test_a_cable_that_breaks(ranks: Ranks, hosts: tuple[str, str]) -> None:
    source = """
    try:
        with comm: comm.allreduce(np.ones(4)); comm.barrier(); comm.recv(source=1 - comm.rank)
    except commops.CommError as error:
        result = type(error).__name__
    """
    each = [{"namespace": name, "env": {"COMMOPS_HEARTBEAT_MS": "1000"}} for name in hosts]
    job = ranks.job(
        2, JOIN + textwrap.dedent(source), each, url="tcp://10.77.0.1:4077", token="t", timeout=6.0
    )
    time.sleep(1.0)
    ip("-n", hosts[0], "link", "set", "cable", "down")
    try:
        told = [rank.told(20) for rank in job]
    finally:
        ip("-n", hosts[0], "link", "set", "cable", "up")
        ip("-n", hosts[0], "address", "replace", "fd77::1/64", "dev", "cable", "nodad")
    assert set(results(told)) <= {"PeerLostError", "CommTimeoutError"}
