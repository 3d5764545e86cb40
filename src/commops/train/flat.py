"""A dict of arrays as one flat vector, and back, without copies.

A collective over one long vector costs one latency; over a model's dozens of arrays it costs dozens. So the
parameters and their gradients each live in one buffer, and the dicts hold views of it.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

__all__ = ["Layout"]


class Layout:
    """Where each array of a dict stands in a flat vector.

    Parameters
    ----------
    params : mapping of str to array
        One or more arrays of any shapes, all float32 or all float64. They are laid out in the mapping's
        order.

    Attributes
    ----------
    size : int
        Elements of the vector.
    dtype : numpy.dtype

    Raises
    ------
    TypeError
        If the dtypes differ or are others. The message names the arrays.
    ValueError
        If the mapping is empty.
    """

    size: int
    dtype: np.dtype[Any]

    def __init__(self, params: Mapping[str, NDArray[Any]]) -> None:
        if not params:
            raise ValueError("params holds no arrays")
        dtypes = {name: np.asarray(array).dtype for name, array in params.items()}
        first = next(iter(dtypes))
        for name, dtype in dtypes.items():
            if dtype not in (np.float32, np.float64):
                raise TypeError(f"params[{name!r}] must be float32 or float64, not {dtype}")
            if dtype != dtypes[first]:
                raise TypeError(
                    f"params must share one dtype, but {first!r} is {dtypes[first]} and {name!r} is {dtype}"
                )
        self.dtype = dtypes[first]
        self._shapes = {name: np.shape(array) for name, array in params.items()}
        self.size = sum(map(math.prod, self._shapes.values()))

    def views(self, vector: NDArray[Any]) -> dict[str, NDArray[Any]]:
        """Return the dict whose arrays are views of `vector`, of shape (size,) or longer and contiguous."""
        views, start = {}, 0
        for name, shape in self._shapes.items():
            stop = start + math.prod(shape)
            views[name] = vector[start:stop].reshape(shape)
            start = stop
        return views

    def pack(self, arrays: Mapping[str, Any], vector: NDArray[Any]) -> None:
        """Copy a dict of arrays into `vector`, of shape (size,) or longer and contiguous.

        Raises
        ------
        ValueError
            If a name or a shape is not that of this layout.
        """
        if arrays.keys() != self._shapes.keys():
            odd = sorted(arrays.keys() ^ self._shapes.keys())
            raise ValueError(f"gradients and params differ in their names: {', '.join(odd)}")
        for name, view in self.views(vector).items():
            array = np.asarray(arrays[name])
            if array.shape != view.shape:
                raise ValueError(
                    f"the gradient of {name!r} has shape {array.shape}, the parameter {view.shape}"
                )
            view[...] = array
