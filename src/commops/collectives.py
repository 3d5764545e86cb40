"""Collectives that move arrays, and the barrier."""

from __future__ import annotations

from commops._core import collectives as core
from commops._core import native
from commops.arguments import Counts
from commops.calls import BARRIER, alltoall, broadcast, gather, scatter
from commops.dtypes import Array
from commops.group import Group
from commops.work import Work

__all__ = ["Collectives"]

# Blocking calls are offered to `plain` first, for the reason that commops.reductions gives.
_BROADCAST, _SCATTER, _GATHER, _ALLGATHER, _ALLTOALL = (
    native.KINDS[kind] for kind in ("broadcast", "scatter", "gather", "allgather", "alltoall")
)


class Collectives(Group):
    """The calls of a `Comm` in which arrays go from some ranks to others as they are.

    Blocks are counted along axis 0, in rows, and joined in rank order: ``allgather(scatter(x))`` is x.
    """

    __slots__ = ()

    def barrier(self) -> None:
        """Wait until every rank has called this.

        Within a host every rank sets a flag and reads the others'; between hosts, dissemination: ⌈log₂ size⌉
        rounds of an empty message each [1]_.

        Raises
        ------
        CommError
            If something goes wrong between ranks: see `Comm`.

        References
        ----------
        .. [1] D. Hensgen, R. Finkel, U. Manber, "Two algorithms for barrier synchronization", IJPP 17(1),
           1988.
        """
        core.barrier(self._core, self._timeout)

    def ibarrier(self) -> Work[None]:
        """Start a `barrier`."""
        return self._start(BARRIER)

    def broadcast(self, x: Array | None, root: int = 0) -> Array:
        """Give every rank root's array.

        Within a host root writes it once and the others read it; between hosts a binomial tree forwards
        it while it is still arriving, in ⌈log₂ size⌉ steps: a rank receives the array once, root sends it
        ⌈log₂ size⌉ times.

        Parameters
        ----------
        x : ndarray
            At root the array to send; elsewhere the array that receives it, of the same dtype and shape, or
            None for a new one.
        root : int
            The same on every rank.

        Returns
        -------
        ndarray
            x, or the new array, of root's dtype and shape.

        Raises
        ------
        TypeError, ValueError
            If an argument is wrong on this rank. Nothing has been sent.
        CommError
            If something goes wrong between ranks, such as an `x` that root's array does not fit: see `Comm`.
        """
        done: Array = core.plain_from_root(self._core, _BROADCAST, x, root, None, self._timeout)
        if done is NotImplemented:
            done = self._run(broadcast(self._at, x, root))
        return done

    def ibroadcast(self, x: Array | None, root: int = 0) -> Work[Array]:
        """Start a `broadcast`."""
        return self._start(broadcast(self._at, x, root))

    def scatter(
        self, x: Array | None, root: int = 0, out: Array | None = None, counts: Counts | None = None
    ) -> Array:
        """Cut root's array in blocks along axis 0, and give rank r block r.

        Between hosts a binomial tree: ⌈log₂ size⌉ steps; root sends (size − 1)/size of the array.

        Parameters
        ----------
        x : ndarray, shape (rows, …)
            At root; elsewhere ignored, None by custom.
        root : int
            The same on every rank.
        out : ndarray, optional
            Receives the block; shape (rows of this rank's block, …) and x's dtype.
        counts : sequence of int, optional
            Rows of each block; needed at root only. None: equal blocks.

        Returns
        -------
        ndarray, shape (rows of this rank's block, …)
            `out`, or a new array.

        Raises
        ------
        TypeError, ValueError
            If an argument is wrong on this rank: also, at root, if the rows cannot be shared equally, or
            `counts` do not add up to them. Nothing has been sent.
        CommError
            If something goes wrong between ranks, such as an `out` that its block does not fit: see `Comm`.
        """
        done: Array = NotImplemented
        if counts is None:
            done = core.plain_from_root(self._core, _SCATTER, x, root, out, self._timeout)
        if done is NotImplemented:
            done = self._run(scatter(self._at, x, root, out, counts))
        return done

    def iscatter(
        self, x: Array | None, root: int = 0, out: Array | None = None, counts: Counts | None = None
    ) -> Work[Array]:
        """Start a `scatter`."""
        return self._start(scatter(self._at, x, root, out, counts))

    def gather(
        self, x: Array, root: int = 0, out: Array | None = None, counts: Counts | None = None
    ) -> Array | None:
        """Join the ranks' arrays along axis 0, in rank order, at root; None elsewhere.

        Between hosts a binomial tree: ⌈log₂ size⌉ steps; root receives (size − 1)/size of the result.

        Parameters
        ----------
        x : ndarray, shape (rows, …) or ()
            Of one dtype, and alike on every rank but for the rows, if `counts` are given.
        root : int
            The same on every rank.
        out : ndarray, optional
            Receives the result, at root; elsewhere ignored.
        counts : sequence of int, optional
            Rows of each rank's array, the same on every rank. None: all have as many as this one.

        Returns
        -------
        ndarray, shape (rows of all ranks, …), or None
            Shape (size,) if the arrays are 0-d.

        Raises
        ------
        TypeError, ValueError
            If an argument is wrong on this rank. Nothing has been sent.
        CommError
            If something goes wrong between ranks: see `Comm`.
        """
        done: Array | None = NotImplemented
        if counts is None:
            done = core.plain(self._core, _GATHER, x, None, root, out, self._timeout)
        if done is NotImplemented:
            done = self._run(gather(self._at, "gather", x, root, out, counts))
        return done

    def igather(
        self, x: Array, root: int = 0, out: Array | None = None, counts: Counts | None = None
    ) -> Work[Array | None]:
        """Start a `gather`."""
        return self._start(gather(self._at, "gather", x, root, out, counts))

    def allgather(self, x: Array, out: Array | None = None, counts: Counts | None = None) -> Array:
        """Join the ranks' arrays along axis 0, in rank order, at every rank.

        Between hosts Bruck's algorithm for small arrays (⌈log₂ size⌉ steps, [1]_) and a ring for large ones
        (size − 1 steps); in both, each rank sends and receives (size − 1)/size of the result.

        Parameters
        ----------
        x : ndarray, shape (rows, …) or ()
            Of one dtype, and alike on every rank but for the rows, if `counts` are given.
        out : ndarray, optional
            Receives the result. May contain x, as the block of this rank for instance.
        counts : sequence of int, optional
            Rows of each rank's array, the same on every rank. None: all have as many as this one.

        Returns
        -------
        ndarray, shape (rows of all ranks, …)
            Shape (size,) if the arrays are 0-d.

        Raises
        ------
        TypeError, ValueError
            If an argument is wrong on this rank. Nothing has been sent.
        CommError
            If something goes wrong between ranks: see `Comm`.

        References
        ----------
        .. [1] J. Bruck et al., "Efficient algorithms for all-to-all communications in multiport
           message-passing systems", IEEE TPDS 8(11), 1997.
        """
        done: Array = NotImplemented
        if counts is None:
            done = core.plain(self._core, _ALLGATHER, x, None, 0, out, self._timeout)
        if done is NotImplemented:
            done = self._run(gather(self._at, "allgather", x, 0, out, counts))
        return done

    def iallgather(self, x: Array, out: Array | None = None, counts: Counts | None = None) -> Work[Array]:
        """Start an `allgather`."""
        return self._start(gather(self._at, "allgather", x, 0, out, counts))

    def alltoall(
        self,
        x: Array,
        out: Array | None = None,
        send_counts: Counts | None = None,
        recv_counts: Counts | None = None,
    ) -> Array:
        """Send block j of this rank's array to rank j, and join the blocks that come, in rank order.

        Between hosts pairwise: size − 1 steps, in each of which a rank sends one block and receives one;
        every block but a rank's own moves once.

        Parameters
        ----------
        x : ndarray, shape (rows, …)
            Of one dtype, and of the same shape but for the rows, on every rank.
        out : ndarray, optional
            Receives the result. May be x.
        send_counts : sequence of int, optional
            Rows for each rank; given on all ranks or on none. None: equal blocks.
        recv_counts : sequence of int, optional
            Rows that come from each rank, if this rank knows; checked against what does come.

        Returns
        -------
        ndarray, shape (rows that come, …)
            `out`, or a new array.

        Raises
        ------
        TypeError, ValueError
            If an argument is wrong on this rank. Nothing has been sent; but what has come has been
            dropped, if it is found not to fit `recv_counts` or `out`. The communicator stays usable.
        CommError
            If something goes wrong between ranks: see `Comm`.
        """
        done: Array = NotImplemented
        if send_counts is None and recv_counts is None:
            done = core.plain(self._core, _ALLTOALL, x, None, 0, out, self._timeout)
        if done is NotImplemented:
            done = self._run(alltoall(self._at, x, out, send_counts, recv_counts))
        return done

    def ialltoall(
        self,
        x: Array,
        out: Array | None = None,
        send_counts: Counts | None = None,
        recv_counts: Counts | None = None,
    ) -> Work[Array]:
        """Start an `alltoall`."""
        return self._start(alltoall(self._at, x, out, send_counts, recv_counts))
