"""The errors as values: what they keep when they go to another process."""

from __future__ import annotations

import copy
import pickle

import pytest

from commops import (
    AuthenticationError,
    CommError,
    CommTimeoutError,
    MismatchError,
    PeerLostError,
    RendezvousError,
    RevokedError,
)

ERRORS: list[CommError] = [
    *(
        kind("what went wrong")
        for kind in (CommError, CommTimeoutError, MismatchError, RevokedError)
    ),
    RendezvousError("what went wrong"),
    AuthenticationError("what went wrong"),
    PeerLostError((2, 3), "its process has ended"),
]  # fmt: skip


@pytest.mark.parametrize("error", ERRORS, ids=lambda error: type(error).__name__)
def test_a_pickled_error_is_the_same_with_its_notes(error: CommError) -> None:
    error.add_note("in step 7")
    for other in (pickle.loads(pickle.dumps(error)), copy.copy(error)):
        assert type(other) is type(error)
        assert str(other) == str(error)
        assert other.args == error.args
        assert other.__notes__ == error.__notes__
        if isinstance(error, PeerLostError):
            assert (other.ranks, other.cause) == ((2, 3), "its process has ended")


def test_a_lost_peer_says_who_and_why() -> None:
    assert str(PeerLostError([2], "why")) == "lost rank 2: why"
    assert str(PeerLostError([2, 3], "why")) == "lost ranks 2, 3: why"
    assert str(PeerLostError([], "why")) == "lost rank unknown: why"
