"""Collectives that reduce arrays."""

from __future__ import annotations

from commops._core import collectives as core
from commops._core import native
from commops.arguments import Counts
from commops.dtypes import Array
from commops.group import Group
from commops.reduction_calls import Op, reduce_scatter, reduction
from commops.work import Work

__all__ = ["Reductions"]

# Blocking calls are offered to the core's `plain` first, which makes them where the arguments are such as
# most are, because a look at them in Python takes longer than a small reduction.
_ALLREDUCE, _REDUCE, _REDUCE_SCATTER, _SCAN = (
    native.KINDS[kind] for kind in ("allreduce", "reduce", "reduce_scatter", "scan")
)


class Reductions(Group):
    """The calls of a `Comm` in which the ranks' arrays are reduced elementwise.

    All take the same `x` and `op`. Which operand comes first is fixed by ranks, size and algorithm, never
    by what arrives first: the same program gives the same bits every time. Half-precision types are
    accumulated in float32 and rounded once.
    """

    __slots__ = ()

    def allreduce(self, x: Array, op: Op = "sum", out: Array | None = None) -> Array:
        """Reduce the ranks' arrays elementwise, and give every rank the result: the same bits on all.

        Within a host every rank reads the others' arrays in shared memory: small ones whole, of large
        ones each rank reduces a slice. Between hosts, recursive doubling for small arrays (⌈log₂ size⌉
        steps of the whole array, [1]_) and a ring for large ones (2·(size − 1) steps; each rank sends and
        receives 2·(size − 1)/size of the array, [2]_). Several ranks on a host first reduce among
        themselves.

        Parameters
        ----------
        x : ndarray
            The same shape and dtype on every rank.
        op : str or callable
            ``sum prod min max mean band bor bxor land lor lxor``, or an associative function of two
            arrays, which is applied in rank order to whole arrays (these are gathered: size times the
            memory). ``mean`` takes floating and complex types, ``band bor bxor`` bool and integers, ``min
            max`` all but complex; the logical ones give 0 or 1 in x's dtype.
        out : ndarray, optional
            Receives the result; of x's shape and dtype. May be x.

        Returns
        -------
        ndarray
            `out`, or a new array of x's shape and dtype.

        Raises
        ------
        TypeError, ValueError
            If an argument is wrong on this rank. Nothing has been sent.
        CommError
            If something goes wrong between ranks: see `Comm`.

        References
        ----------
        .. [1] R. Thakur, R. Rabenseifner, W. Gropp, "Optimization of collective communication operations in
           MPICH", IJHPCA 19(1), 2005.
        .. [2] P. Patarasuk, X. Yuan, "Bandwidth optimal all-reduce algorithms for clusters of workstations",
           JPDC 69(2), 2009.
        """
        done: Array = core.plain(self._core, _ALLREDUCE, x, op, 0, out, self._timeout)
        if done is NotImplemented:
            done = self._run(reduction(self._at, "allreduce", x, op, out))
        return done

    def iallreduce(self, x: Array, op: Op = "sum", out: Array | None = None) -> Work[Array]:
        """Start an `allreduce`."""
        return self._start(reduction(self._at, "allreduce", x, op, out))

    def reduce(self, x: Array, op: Op = "sum", root: int = 0, out: Array | None = None) -> Array | None:
        """Reduce the ranks' arrays elementwise; the result is at root, and None elsewhere.

        Between hosts a binomial tree for small arrays (⌈log₂ size⌉ steps of the whole array), for large
        ones a ring reduce-scatter whose blocks root collects (each rank sends about once the array).

        Parameters
        ----------
        x : ndarray
            The same shape and dtype on every rank.
        op : str or callable
            As for `allreduce`.
        root : int
            The same on every rank.
        out : ndarray, optional
            Receives the result; of x's shape and dtype. May be x. Counts at root only.

        Returns
        -------
        ndarray or None

        Raises
        ------
        TypeError, ValueError
            If an argument is wrong on this rank. Nothing has been sent.
        CommError
            If something goes wrong between ranks: see `Comm`.
        """
        done: Array | None = core.plain(self._core, _REDUCE, x, op, root, out, self._timeout)
        if done is NotImplemented:
            done = self._run(reduction(self._at, "reduce", x, op, out, root))
        return done

    def ireduce(
        self, x: Array, op: Op = "sum", root: int = 0, out: Array | None = None
    ) -> Work[Array | None]:
        """Start a `reduce`."""
        return self._start(reduction(self._at, "reduce", x, op, out, root))

    def reduce_scatter(
        self, x: Array, op: Op = "sum", out: Array | None = None, counts: Counts | None = None
    ) -> Array:
        """Reduce the ranks' arrays elementwise, and give each rank its block of the result along axis 0.

        Between hosts a ring: size − 1 steps, in which each rank sends and receives (size − 1)/size of the
        array.

        Parameters
        ----------
        x : ndarray, shape (rows, …)
            The same shape and dtype on every rank.
        op : str or callable
            As for `allreduce`.
        out : ndarray, optional
            Receives the block; shape (rows of this rank's block, …) and x's dtype.
        counts : sequence of int, optional
            Rows of each rank's block, the same on every rank. None: equal blocks.

        Returns
        -------
        ndarray, shape (rows of this rank's block, …)

        Raises
        ------
        TypeError, ValueError
            If an argument is wrong on this rank: also if the rows cannot be shared equally, or `counts`
            do not add up to them. Nothing has been sent.
        CommError
            If something goes wrong between ranks: see `Comm`.
        """
        done: Array = NotImplemented
        if counts is None:
            done = core.plain(self._core, _REDUCE_SCATTER, x, op, 0, out, self._timeout)
        if done is NotImplemented:
            done = self._run(reduce_scatter(self._at, x, op, out, counts))
        return done

    def ireduce_scatter(
        self, x: Array, op: Op = "sum", out: Array | None = None, counts: Counts | None = None
    ) -> Work[Array]:
        """Start a `reduce_scatter`."""
        return self._start(reduce_scatter(self._at, x, op, out, counts))

    def scan(self, x: Array, op: Op = "sum", out: Array | None = None) -> Array:
        """Reduce the arrays of ranks 0 to this one, inclusive.

        Between hosts, recursive doubling for small arrays (⌈log₂ size⌉ steps of the whole array, [1]_), and a
        chain for large ones: each rank passes the array on, once, while it is still arriving.

        Parameters
        ----------
        x : ndarray
            The same shape and dtype on every rank.
        op : str or callable
            As for `allreduce`.
        out : ndarray, optional
            Receives the result; of x's shape and dtype. May be x.

        Returns
        -------
        ndarray
            `out`, or a new array of x's shape and dtype.

        Raises
        ------
        TypeError, ValueError
            If an argument is wrong on this rank. Nothing has been sent.
        CommError
            If something goes wrong between ranks: see `Comm`.

        References
        ----------
        .. [1] W. D. Hillis, G. L. Steele, "Data parallel algorithms", CACM 29(12), 1986.
        """
        done: Array = core.plain(self._core, _SCAN, x, op, 0, out, self._timeout)
        if done is NotImplemented:
            done = self._run(reduction(self._at, "scan", x, op, out))
        return done

    def iscan(self, x: Array, op: Op = "sum", out: Array | None = None) -> Work[Array]:
        """Start a `scan`."""
        return self._start(reduction(self._at, "scan", x, op, out))

    def exscan(self, x: Array, op: Op = "sum", out: Array | None = None) -> Array:
        """Reduce the arrays of ranks 0 to the one before this.

        Steps, parameters and errors are those of `scan`.

        Returns
        -------
        ndarray
            `out`, or a new array of x's shape and dtype. Rank 0 gets what a reduction of nothing is: 0
            for sum, 1 for prod, the greatest value for min, the least for max, NaN for mean, all bits for
            band, True for land; if `op` is a function, `out` as it was, which may be None.
        """
        array: Array = self._run(reduction(self._at, "exscan", x, op, out))
        return array

    def iexscan(self, x: Array, op: Op = "sum", out: Array | None = None) -> Work[Array]:
        """Start an `exscan`."""
        return self._start(reduction(self._at, "exscan", x, op, out))
