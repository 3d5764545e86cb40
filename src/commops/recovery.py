"""Going on after a failure: revoke, agree, shrink."""

from __future__ import annotations

from typing import Self

import numpy as np

from commops._core import recovery as core
from commops.arguments import whole_number
from commops.group import Group

__all__ = ["Recovery"]


class Recovery(Group):
    """What the ranks that are left do together when some are lost.

    The meaning is that of MPI's user-level failure mitigation (MPIX_Comm_revoke, _agree, _shrink; Bland et
    al., "Post-failure recovery of MPI communication capability", 2013).
    """

    __slots__ = ()

    def revoke(self) -> None:
        """Break this communicator for all its ranks: calls in progress, and later ones, raise `RevokedError`.

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
            called again, and then means the same agreement.
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
        not known to have ended, or half of them with the lowest such rank among them.

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
            If there is no agreement within `timeout`. It may be called again.
        MemoryError
            On all ranks, if any of them cannot reserve the shared memory of the new communicator.
        MismatchError
            If others called `agree`.

        Notes
        -----
        It is two agreements, as in `agree`, the second one on that nobody of the new communicator was lost
        meanwhile; else it is done again.
        """
        old = self
        while True:
            new = type(self)(
                core.shrink(old._core, self._timeout), self._world_hosts, self._timeout, old._generation + 1
            )
            whole = new.agree(not new._core.failed)
            if old is not self:
                old._core.close()
            if whole:
                return new
            old = new
