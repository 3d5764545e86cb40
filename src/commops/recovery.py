"""Going on after a failure: revoke, agree, shrink, grow."""

from __future__ import annotations

import time
from typing import Any, Self

import numpy as np

from commops._core import recovery as core
from commops.arguments import whole_number
from commops.errors import CommTimeoutError, PeerLostError, RevokedError
from commops.group import Group

__all__ = ["Recovery"]

# What the ranks of a new communicator say of it. It is the AND that counts, and 0 if one was lost meanwhile.
_WHOLE, _HEALTHY, _IN_TIME = 1, 2, 4


class Recovery(Group):
    """What the ranks that are left do together when some are lost, and how others take their places.

    The meaning is that of MPI's user-level failure mitigation (MPIX_Comm_revoke, _agree, _shrink; Bland et
    al., "Post-failure recovery of MPI communication capability", 2013).
    """

    __slots__ = ()

    def revoke(self) -> None:
        """Break this communicator for all its ranks: their calls, now and later, raise `RevokedError`.

        For a rank that has found out that it makes no sense to go on, while others wait in a call that will
        not end. It waits for nobody. `agree` and `shrink` still work.

        Raises
        ------
        RevokedError
            If it was closed here.
        """
        self._core.revoke()

    def agree(self, flag: int) -> int:
        """Return the bitwise AND of the flags of all ranks that are left, the same on each of them.

        All ranks that are left must call it; those that are lost are not waited for, and more may be lost
        meanwhile. Also on a communicator that has failed or was revoked: so ranks find out together whether
        all of them got through what came before.

        Parameters
        ----------
        flag : bool or int
            From 0 to 2**64 - 1.

        Returns
        -------
        bool or int
            What `flag` is.

        Raises
        ------
        TypeError, ValueError
            If `flag` is neither, on this rank alone. Nothing has been sent.
        CommTimeoutError
            If a rank that is not lost has not called it within `timeout`. The message names it. It may be
            called again, and then means the same agreement; others may have this rank's flag already, so it
            should be the same one.
        PeerLostError
            Where this rank is on the smaller side of a partition: see `shrink`.
        RevokedError
            If this communicator was closed here, or the others have gone on without this rank.
        MismatchError
            If others called `shrink`.

        Notes
        -----
        Where nobody dies, four messages follow each other (vote, proposal, acceptance, decision), of some 10
        bytes a rank, between the lowest rank and each other one. A proposal counts when all who are left have
        accepted it, so whoever is left knows what may have been decided, however many die.
        """
        logical = isinstance(flag, bool | np.bool_)
        number = int(flag) if logical else whole_number(flag, "flag", "a bool or a whole number")
        if not 0 <= number < 2**64:
            raise ValueError(f"flag must be from 0 to 2**64 - 1, not {number}")
        agreed: int = core.agree(self._core, number, self._timeout)
        return bool(agreed) if logical else agreed

    def shrink(self) -> Self:
        """Make a communicator of the ranks that are left, renumbered in their order here.

        All ranks that are left must call it, also and mostly on one that has failed or was revoked; more may
        be lost meanwhile. It has the next `generation`. This one may be closed afterwards, if it was not the
        first: closing that one ends all.

        Who has not called it after half of `timeout` is left behind. Where ranks cannot reach each other, as
        in a partition of the network, only that side may go on which has more than half of the ranks that are
        not known to have ended, or half of them with the lowest such rank among them. Of ranks that do not
        reach each other, though others reach them, as few as may be are left behind.

        Returns
        -------
        Comm
            Of the same `timeout` as this one.

        Raises
        ------
        PeerLostError
            On the side that may not go on; it says which ranks cannot be reached.
        RevokedError
            If this communicator was closed here, or the others have gone on without this rank.
        CommTimeoutError
            If there is no agreement within `timeout`; after half of it, where those who have called may not
            go on without others that live. It names these, and may be called again. On all ranks, if
            `timeout` has passed and some of them still cannot reach each other, though others reach both.
        MemoryError
            On all ranks, if any of them cannot reserve the shared memory of the new communicator.
        MismatchError
            If others called `agree`.

        Notes
        -----
        It is two agreements, as in `agree`, the second one on that nobody of the new communicator was lost
        meanwhile; else it is done again.
        """
        # A call that timed out, or was interrupted, goes on where it was: others count on this rank's words.
        old, new = self._half or (self, None)
        if self._closed and self._half:  # by another thread, while a call was further than the first half
            for made in (old, new):
                if made is not None and made is not self:
                    made._core.close()
            self._half = None
            raise RevokedError("the communicator is closed")
        start = time.monotonic()
        while True:
            if new is None:
                new = type(self)(
                    core.shrink(old._core, self._timeout),
                    self._world_hosts,
                    self._timeout,
                    old._generation + 1,
                )
                new._entrance, new._owner = old._entrance, old._owner
                new.allow_pickle = self.allow_pickle
            self._half = old, new
            flag = _WHOLE
            if not new._core.failed:
                flag |= _HEALTHY
            if self._timeout < 0 or time.monotonic() - start < self._timeout:
                flag |= _IN_TIME
            try:
                agreed = core.agree(new._core, flag, self._timeout, True)
            except (PeerLostError, RevokedError):  # for good
                self._half = None
                new._core.close()
                raise
            if old is not self:
                old._core.close()
            if agreed & _HEALTHY:
                self._half = None
                return new
            if agreed == _WHOLE:  # nobody was lost, it is broken none the less, and somebody's time is up
                self._half = None
                new._core.close()
                raise CommTimeoutError(
                    f"shrink: within {self._timeout:g} s no communicator was made that works: ranks that all "
                    "have taken part cannot reach each other"
                )
            old, new = new, None
            self._half = old, None

    def grow(self) -> Self:
        """Admit the processes that wait to join, and make a communicator of them and the ranks of this one.

        All ranks must call it, at a point at which they would go on together: between two steps of a loop,
        say. Where nobody waits it returns this communicator itself, and costs rank 0 a look into the store
        and all of them a broadcast of 8 bytes, so it may be called often.

        Those who wait are processes that were started with ``COMMOPS_JOIN=1`` and the rendezvous and token of
        this group. They are in `commops.init`, which returns the new communicator to them.

        The ranks that were there before keep their order and come first. All ranks have the next
        `generation`, newcomers too: so a program knows by a generation above 0 that it has to take over the
        state of the others, and by the number of ranks who they are.

        This communicator stays as it is, and may be closed when all that was begun on it has ended. That
        closes its world, also if it was made by `shrink`, and never the new one.

        Returns
        -------
        Comm
            Of the same `timeout` as this one; this one itself where nobody waits, or there is no room.

        Raises
        ------
        RendezvousError
            On all ranks, if the new world does not come about: a newcomer has ended while it joined, or does
            not fit, or the store cannot be reached. This communicator is still what it was, and `grow` may be
            called again. Also where newcomers have nowhere to ask: on communicators made by `split` and
            `dup`, without a rendezvous, or where rank 0 itself had served the store.
        PeerLostError, RevokedError, MismatchError, CommTimeoutError
            As of any collective.

        Notes
        -----
        1. Rank 0 counts in the store who waits. If somebody does, it calls them, and those who live answer.
        2. It broadcasts how many there will be and where they meet, and tells the newcomers so, and their
           ranks.
        3. All of them meet, as in `commops.init`, and make a world of their own: new connections, new shared
           memory, a new name. Nothing of the old world can be taken for its own. Either all ranks have it or
           none.
        """
        from commops.growth import grow

        self_: Any = self
        grown: Any = grow(self_)
        return grown  # type: ignore[no-any-return]
