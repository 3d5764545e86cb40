"""A dict of arrays in one vector."""

from __future__ import annotations

import numpy as np
import pytest

from commops.train import Layout


def params() -> dict[str, np.ndarray]:
    rng = np.random.default_rng(0)
    return {
        "weight": rng.normal(size=(3, 4)),
        "scale": np.array(2.5),
        "none": np.empty((0, 5)),
        "bias": rng.normal(size=4),
    }


def test_packed_arrays_are_seen_through_the_views() -> None:
    arrays = params()
    layout = Layout(arrays)
    vector = np.full(layout.size + 2, np.nan)
    layout.pack(arrays, vector)
    views = layout.views(vector)
    assert layout.size == 12 + 1 + 0 + 4
    assert list(views) == list(arrays)
    for name, array in arrays.items():
        np.testing.assert_array_equal(views[name], array)
    assert np.isnan(vector[layout.size :]).all()
    views["scale"][...] = 7
    assert vector[12] == 7


def test_order_of_the_gradients_does_not_matter() -> None:
    arrays = params()
    layout = Layout(arrays)
    one, other = np.zeros(layout.size), np.zeros(layout.size)
    layout.pack(arrays, one)
    layout.pack(dict(reversed(arrays.items())), other)
    np.testing.assert_array_equal(one, other)


def test_strange_arrays_are_refused_by_name() -> None:
    with pytest.raises(ValueError, match="no arrays"):
        Layout({})
    with pytest.raises(TypeError, match=r"'steps'.*int64"):
        Layout({"weight": np.zeros(2), "steps": np.zeros(2, np.int64)})
    with pytest.raises(TypeError, match="'a' is float64 and 'b' is float32"):
        Layout({"a": np.zeros(2), "b": np.zeros(2, np.float32)})


def test_gradients_must_look_like_the_params() -> None:
    arrays = params()
    layout = Layout(arrays)
    vector = np.zeros(layout.size)
    with pytest.raises(ValueError, match="names: other, scale"):
        layout.pack({"other" if name == "scale" else name: array for name, array in arrays.items()}, vector)
    with pytest.raises(ValueError, match=r"'weight' has shape \(4, 3\).*\(3, 4\)"):
        layout.pack(arrays | {"weight": arrays["weight"].T}, vector)
