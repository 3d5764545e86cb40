"""Data-parallel training: every rank holds the whole model, and learns from its part of every batch."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Mapping
from typing import TYPE_CHECKING, Any

from numpy.typing import NDArray

from commops.train.flat import Layout
from commops.train.optimizers import Optimizer

if TYPE_CHECKING:
    from commops.comm import Comm

__all__ = ["LossAndGrad", "Trainer"]

# (params, *batch) → the mean loss over the batch's samples, and its gradient by each of the params.
LossAndGrad = Callable[..., tuple[Any, Mapping[str, Any]]]


class Trainer:
    """Minimises a loss over ranks that each see a part of the data.

    The gradient of a step is that of the mean loss over the samples of all ranks: each rank contributes its
    gradient times its number of samples, and the sum is divided by the number of all samples. Ranks may thus
    bring different numbers of samples, or none, and the result is that of one process with the whole batch,
    up to the rounding of sums. The gradients, the loss and the number of samples travel as one vector in one
    allreduce per step.

    Parameters
    ----------
    loss_and_grad : callable
        ``loss_and_grad(params, *batch)`` returns the *mean* loss over the batch's samples and a mapping of
        its gradients, named and shaped as `params`. ``autograd.value_and_grad(loss)`` is one; a function that
        calls torch or JAX inside is as good. It is never called with an empty batch.
    params : mapping of str to array
        Where to begin: all float32 or all float64. Rank 0's are used, on all ranks.
    optimizer : Optimizer
        Each rank has its own; they must be alike.
    comm : Comm
        Every rank of it must make the same calls.

    Attributes
    ----------
    params : dict of str to array
        The current parameters, views of one vector. They change with every step; copy what you want to keep.
    seconds : float
        Spent in steps so far.
    communication_seconds : float
        Of those, spent in allreduce, waiting for slower ranks included.

    Raises
    ------
    TypeError, ValueError
        If `params` is empty or of other dtypes (see `Layout`).
    """

    def __init__(
        self,
        loss_and_grad: LossAndGrad,
        params: Mapping[str, NDArray[Any]],
        optimizer: Optimizer,
        *,
        comm: Comm,
    ) -> None:
        self._loss_and_grad, self._optimizer, self._comm = loss_and_grad, optimizer, comm
        self._layout = Layout(params)
        size, dtype = self._layout.size, self._layout.dtype
        # In memory that the other ranks can address: what is reduced there is not copied first.
        self._message = comm.zeros((size + 2,), dtype)  # Σ gradients, Σ losses, samples
        self._layout.pack(params, self._message)
        comm.broadcast(self._message)
        self._vector = self._message[:size].copy()
        self.params = self._layout.views(self._vector)
        self.seconds = 0.0
        self.communication_seconds = 0.0

    def step(self, *batch: Any) -> float:
        """Take one step along the gradient of all ranks' samples.

        Parameters
        ----------
        *batch : array, shape (samples, …)
            This rank's samples; of length 0 where it has none.

        Returns
        -------
        float
            The mean loss over the samples of all ranks, before the step.

        Raises
        ------
        ValueError
            If gradients are not named and shaped as `params`, or no rank has a sample.
        CommError
            If a rank is lost or late.
        """
        begin = time.perf_counter()
        message, size = self._message, self._layout.size
        samples = len(batch[0])
        if samples:
            loss, grads = self._loss_and_grad(self.params, *batch)
            self._layout.pack(grads, message)
            message[size] = loss
            message[: size + 1] *= samples
        else:
            message[:] = 0
        message[size + 1] = samples
        sent = time.perf_counter()
        self._comm.allreduce(message, out=message)
        received = time.perf_counter()
        total = message[size + 1]
        if not total:
            raise ValueError("no rank has a sample in this step")
        message[: size + 1] /= total
        self._optimizer.step(self._vector, message[:size])
        mean_loss = float(message[size])
        self.communication_seconds += received - sent
        self.seconds += time.perf_counter() - begin
        return mean_loss

    def run(self, batches: Iterable[tuple[Any, ...]]) -> int:
        """Take a step for each batch and return their number, which must be the same on all ranks."""
        steps = 0
        for batch in batches:
            self.step(*batch)
            steps += 1
        return steps
