"""Networks that part, fall silent, crawl or break: both sides say so, and one at most goes on."""

from __future__ import annotations

import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from rendezvous.ranks import JOIN, Ranks, Told

from .networks import TC, Switch, needs_root, switch

HEARTBEAT = 2.0

GO_ON = (
    JOIN
    + """
# so small that the connections are idle most of the time, and so large that something is always on its way
n = {n}
try:
    while True:
        assert (comm.allreduce(np.full(n, 1.0)) == comm.size).all()
        time.sleep({pause})
except commops.PeerLostError as error:
    noticed = time.monotonic()
    lost = error.ranks
try:
    new = comm.shrink()
    result = [noticed, lost, new.rank, float(new.allreduce(np.ones(3))[0])]
    new.barrier()
except commops.PeerLostError as error:
    result = [noticed, lost, str(error)]
comm.close()
"""
)


@pytest.fixture
def ranks(tmp_path: Path) -> Iterator[Ranks]:
    made = Ranks(tmp_path)
    yield made
    made.close()


@pytest.fixture(scope="module")
def three() -> Iterator[Switch]:
    with switch(3) as made:
        yield made


def each(net: Switch, places: str) -> list[dict[str, object]]:
    env = {"COMMOPS_HEARTBEAT_MS": f"{HEARTBEAT * 1000:.0f}", "COMMOPS_INTERFACE": "10.81.0.0/24"}
    return [{"namespace": net.names["abc".index(place)], "env": env} for place in places]


def told_of(ranks: Ranks, net: Switch, places: str, break_it: str, tmp_path: Path, source: str) -> list[Told]:
    """Run ranks on hosts, and part the host of the last rank from the others."""
    last = "abc".index(places[-1])
    job = ranks.job(
        len(places), source, each(net, places), url=f"file://{tmp_path}/store", token="t", timeout=30.0
    )
    time.sleep(1.0)
    try:
        start = time.monotonic()
        net.down(last) if break_it == "down" else net.silence(last)
        told = [rank.told(40) for rank in job]
    finally:
        net.heal(last)
    for one in told:
        assert not one.error, one.traceback
        assert (
            one.result[0] - start < HEARTBEAT + 1.5
        )  # a second, and half of one for the ranks to tell each other
    return told


@needs_root
@pytest.mark.parametrize("break_it", ["down", "silent"])
@pytest.mark.parametrize(("n", "pause"), [(1000, 0.0), (10, 0.3)])
def test_only_the_greater_side_goes_on(
    ranks: Ranks, three: Switch, break_it: str, n: int, pause: float, tmp_path: Path
) -> None:
    source = GO_ON.format(n=n, pause=pause)
    told = told_of(ranks, three, "aabbc", break_it, tmp_path, source)
    assert [one.result[2:] for one in told[:4]] == [[rank, 4.0] for rank in range(4)]
    assert all(one.result[1] == [4] for one in told[:4])
    assert "may not go on: ranks 0, 1, 2, 3 cannot be reached" in told[4].result[2]


@needs_root
@pytest.mark.parametrize("break_it", ["down", "silent"])
def test_of_two_halves_the_one_with_rank_0_goes_on(
    ranks: Ranks, three: Switch, break_it: str, tmp_path: Path
) -> None:
    told = told_of(ranks, three, "aabb", break_it, tmp_path, GO_ON.format(n=100, pause=0.01))
    assert [one.result[2:] for one in told[:2]] == [[0, 2.0], [1, 2.0]]
    assert all("may not go on: ranks 0, 1 cannot be reached" in one.result[2] for one in told[2:])


@needs_root
@pytest.mark.parametrize(("places", "left_out"), [("aabbc", [4]), ("abbcc", [3, 4]), ("abcc", [1])])
def test_of_two_hosts_that_do_not_reach_each_other_one_is_left_out(
    ranks: Ranks, places: str, left_out: list[int], tmp_path: Path
) -> None:
    """Of b and c; a reaches both, and all take part in the agreement."""
    source = (
        JOIN
        + """
try:
    while True:
        assert (comm.allreduce(np.full(300, 1.0)) == comm.size).all()
except commops.PeerLostError:
    pass
try:
    new = comm.shrink()
    result = [new.size, float(new.allreduce(np.ones(3))[0])]
    new.barrier()
except commops.RevokedError as error:
    result = str(error)
"""
    )
    with switch(3) as net:
        job = ranks.job(
            len(places), source, each(net, places), url=f"file://{tmp_path}/store", token="t", timeout=30.0
        )
        time.sleep(1.0)
        net.part(1, 2)
        start = time.monotonic()
        told = [rank.told(40) for rank in job]
    assert time.monotonic() - start < 20  # not in the time-out's half, after which the silent are left behind
    for one in told:
        assert not one.error, one.traceback
    left = len(places) - len(left_out)
    for rank, one in enumerate(told):
        if rank in left_out:
            assert "have gone on without this one" in one.result
        else:
            assert one.result == [left, left]


@needs_root
def test_a_host_that_ends_while_nobody_hears_it(ranks: Ranks, three: Switch, tmp_path: Path) -> None:
    """Its connections are half open: the others think that they are there."""
    source = GO_ON.format(n=10, pause=0.05)
    job = ranks.job(3, source, each(three, "abc"), url=f"file://{tmp_path}/store", token="t", timeout=30.0)
    time.sleep(1.0)
    start = time.monotonic()
    three.silence(2)
    job[2].kill()
    assert job[2].ended(5)
    three.heal(2)  # now its system answers that it knows of no connection
    for rank in job[:2]:
        told = rank.told(40)
        assert not told.error, told.traceback
        assert told.result[0] - start < HEARTBEAT + 1.5
        assert told.result[1] == [2]
        assert told.result[3] == 2.0


@needs_root
@pytest.mark.skipif(TC is None, reason="links are limited by tc of iproute2")
def test_a_slow_link_carries_the_right_bytes(ranks: Ranks, tmp_path: Path) -> None:
    source = (
        JOIN
        + """
with comm:
    x = np.arange(20_000.0) * (comm.rank + 1)
    total = comm.allreduce(x)
    got = comm.sendrecv(x, (comm.rank + 1) % comm.size, (comm.rank - 1) % comm.size)
    result = [bool((total == np.arange(20_000.0) * 3).all()), float(got[-1])]
"""
    )
    with switch(2) as net:
        net.limit("1mbit", [0, 1])
        job = ranks.job(2, source, each(net, "ab"), url=f"file://{tmp_path}/store", token="t", timeout=60.0)
        told = [rank.told(90) for rank in job]
    assert [one.result for one in told] == [[True, 19_999.0 * 2], [True, 19_999.0]], told


SPOILT = """
from faults.proxy import bytewise, interpose, resetting
interpose({spoil})
""" + (
    JOIN
    + """
x = np.arange({n}.0)
try:
    for _ in range({calls}):
        assert (comm.allreduce(x) == comm.size * x).all()
        got = comm.sendrecv(x + comm.rank, (comm.rank + 1) % comm.size, (comm.rank - 1) % comm.size)
        assert (got == x + (comm.rank - 1) % comm.size).all()
    result = "fine"
except commops.PeerLostError as error:
    result = str(error)
comm.close()
"""
)


def hosts(size: int) -> list[dict[str, object]]:
    return [{"env": {"COMMOPS_HOST": f"host-{rank}"}} for rank in range(size)]


def test_what_comes_byte_by_byte_is_right(ranks: Ranks, tmp_path: Path) -> None:
    source = SPOILT.format(spoil="bytewise", n=700, calls=3)
    told = ranks.run(3, source, hosts(3), url=f"file://{tmp_path}/store", timeout=60.0)
    assert [one.result for one in told] == ["fine"] * 3, told


@pytest.mark.parametrize("after", [1, 79, 100, 200, 270, 1000, 5_000, 30_001, 200_003])
def test_a_connection_that_is_reset_in_the_middle_of_a_frame(
    ranks: Ranks, tmp_path: Path, after: int
) -> None:
    """In the handshake it is tried again; later, it is a lost peer: never wrong bytes."""
    source = SPOILT.format(spoil=f"resetting({after})", n=3000, calls=6)
    told = ranks.run(3, source, hosts(3), url=f"file://{tmp_path}/store", timeout=15.0)
    for one in told:
        assert not one.error, one.traceback
        assert one.result == "fine" or one.result.startswith("lost rank"), one
    assert any(one.result != "fine" for one in told)
