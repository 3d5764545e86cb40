"""Arguments that are wrong on a rank: the error says what and why, nothing is sent, all goes on."""

from __future__ import annotations

import sys
from typing import Any

import numpy as np
import pytest

from commops import Comm

from .world import World

SIZE = 3
x = np.zeros(6)
ints = np.zeros(6, np.int64)
read_only = np.zeros(6)
read_only.flags.writeable = False
swapped = np.zeros(3, np.dtype(">f8" if sys.byteorder == "little" else "<f8"))

ARRAYS = [
    ([1, 2], TypeError, "x must be a NumPy array, not list: use np.asarray"),
    (3, TypeError, "x must be a NumPy array, not int"),
    ((1.5, 2), TypeError, "x must be a NumPy array, not tuple: use np.asarray"),
    (1j, TypeError, "x must be a NumPy array, not complex: use np.asarray"),
    ("text", TypeError, "x must be a NumPy array, not str; other objects are exchanged with the …_object"),
    ({"w": np.zeros(3)}, TypeError, "x must be a NumPy array, not dict; other objects"),
    (np.ma.zeros(6), TypeError, "x is a masked array"),
    (np.zeros(3, object), TypeError, "x has dtype object"),
    (np.zeros(3, "U3"), TypeError, "x has dtype <U3"),
    (np.zeros(3, "datetime64[s]"), TypeError, r"x has dtype datetime64\[s\]"),
    (np.zeros(3, [("a", int)]), TypeError, r"x has dtype \[\('a'"),
    (swapped, TypeError, "x has dtype .* byte order"),
]
TAKES_X = [
    "broadcast",
    "allreduce",
    "reduce",
    "reduce_scatter",
    "scan",
    "exscan",
    "scatter",
    "gather",
    "allgather",
    "alltoall",
]

OTHERS: list[tuple[str, tuple[Any, ...], dict[str, Any], type[Exception], str]] = [
    *(
        (call, (None,), {}, TypeError, "x must be (a NumPy|an) array.* not None")
        for call in TAKES_X
        if call not in ("broadcast", "scatter")
    ),
    *(
        ("allreduce", (x,), {"op": op}, error, text)
        for op, error, text in [
            ("plus", ValueError, "op must be one of sum, .*, not 'plus'"),
            (None, TypeError, "op must be a name or a function of two arrays, not NoneType"),
            (3, TypeError, "op must be a name or a function of two arrays, not int"),
            ("band", TypeError, "op 'band' has no meaning for dtype float64 of x"),
            ("SUM", ValueError, "op must be one of sum, .*, not 'SUM'"),
            (sum, TypeError, "op must not be Python's built-in sum: pass 'sum', its name"),
            (max, TypeError, "op must not be Python's built-in max: pass 'max', its name"),
            ([sum], TypeError, "op must be a name or a function of two arrays, not list"),
        ]
    ),
    ("reduce_scatter", (x, min), {}, TypeError, "op must not be Python's built-in min"),
    ("scan", (ints,), {"op": "mean"}, TypeError, "op 'mean' has no meaning for dtype int64 of x"),
    (
        "reduce",
        (np.zeros(2, complex),),
        {"op": "max"},
        TypeError,
        "op 'max' has no meaning for dtype complex128 of x",
    ),
    (
        "reduce_scatter",
        (np.zeros(3, bool),),
        {"op": "mean"},
        TypeError,
        "op 'mean' has no meaning for dtype bool of x",
    ),
    *(
        (call, (x,), {"root": root}, error, text)
        for call in ("broadcast", "reduce", "scatter", "gather")
        for root, error, text in [
            (3, ValueError, "root must be a rank from 0 to 2, not 3"),
            (-1, ValueError, "root must be a rank from 0 to 2, not -1"),
            (1.0, TypeError, "root must be a rank, a whole number, not 1.0"),
            (None, TypeError, "root must be a rank, a whole number, not None"),
            (True, TypeError, "root must be a rank, a whole number, not True"),
        ]
    ),
    *(
        (call, (x,), {"out": out}, error, text)
        for call in ("allreduce", "scan", "exscan", "alltoall")
        for out, error, text in [
            (np.zeros(5), ValueError, r"out must have shape \(6,\), not \(5,\)"),
            (np.zeros((6, 1)), ValueError, r"out must have shape \(6,\), not \(6, 1\)"),
            (np.zeros(6, np.float32), TypeError, "out must have dtype float64, not float32"),
            ([0.0] * 6, TypeError, "out must be a NumPy array, not list"),
            (np.ma.zeros(6), TypeError, "out must be a NumPy array, not MaskedArray"),
            (read_only, ValueError, "out is read-only"),
        ]
    ),
    (
        "allreduce",
        (x, lambda a, b: a + b),
        {"out": np.zeros(5)},
        ValueError,
        r"out must have shape \(6,\), not \(5,\)",
    ),
    (
        "reduce_scatter",
        (x, lambda a, b: a + b),
        {"out": np.zeros(6)},
        ValueError,
        r"out must have shape \(2,\), not \(6,\)",
    ),
    ("reduce_scatter", (x,), {"out": np.zeros(6)}, ValueError, r"out must have shape \(2,\), not \(6,\)"),
    ("allgather", (x,), {"out": np.zeros(6)}, ValueError, r"out must have shape \(18,\), not \(6,\)"),
    (
        "allgather",
        (np.array(1.0),),
        {"out": np.zeros(1)},
        ValueError,
        r"out must have shape \(3,\), not \(1,\)",
    ),
    *(
        (
            call,
            (np.zeros((7, 2)),),
            {},
            ValueError,
            "axis 0 of x has 7 rows, which 3 ranks cannot share equally",
        )
        for call in ("reduce_scatter", "alltoall")
    ),
    *(
        (
            call,
            (np.array(1.0),),
            {},
            ValueError,
            r"x must have an axis 0.* shape \(\): pass an array of shape",
        )
        for call in ("reduce_scatter", "alltoall")
    ),
    *(
        ("reduce_scatter", (x,), {"counts": counts}, error, text)
        for counts, error, text in [
            ([2, 2, 1], ValueError, "counts add up to 5 rows and axis 0 of x has 6"),
            ([3, 3], ValueError, r"counts must have one number for each of the 3 ranks, not \[3, 3\]"),
            ([[1, 2, 3]], ValueError, "counts must have one number for each of the 3 ranks"),
            ([[1], [2, 3], 4], TypeError, r"counts must be whole numbers, not \[1\]"),
            (6, TypeError, "counts must be a sequence with a number for each of the 3 ranks, not 6"),
            (np.array(6), TypeError, "counts must be a sequence with a number .* not 6"),
            ({1, 2, 3}, TypeError, "counts must be a sequence"),
            ([7, -1, 0], ValueError, r"counts must not be negative: \[7, -1, 0\]"),
            ([2.0, 2.0, 2.0], TypeError, r"counts must be whole numbers, not 2\.0"),
            (np.array([2.0, 2.0, 2.0]), TypeError, r"counts must be whole numbers, not 2\.0"),
            ([True, True, True], TypeError, "counts must be whole numbers, not True"),
            (["a", "b", "c"], TypeError, "counts must be whole numbers, not 'a'"),
            ("222", TypeError, "counts must be a sequence .* not '222'"),
            ([2**70, 0, 0], ValueError, f"counts add up to more rows .*{2**70}, 0, 0"),
            ([2**63, -1, 0], ValueError, f"counts must not be negative: .{2**63}, -1, 0"),
            ([-(2**70), 3, 3], ValueError, f"counts must not be negative: .-{2**70}, 3, 3"),
            (
                np.array([2**64 - 1, 7, 0], np.uint64),
                ValueError,
                "counts add up to more rows than an array can have",
            ),
        ]
    ),
    (
        "allgather",
        (x,),
        {"counts": [5, 5, 5]},
        ValueError,
        "counts say 5 rows for rank . and axis 0 of x has 6",
    ),
    ("gather", (np.array(1),), {"counts": [1, 1, 1]}, ValueError, "x must have an axis 0"),
    (
        "alltoall",
        (x,),
        {"recv_counts": [2, 2, 2]},
        ValueError,
        "recv_counts is given, so send_counts must be too",
    ),
    (
        "alltoall",
        (x,),
        {"send_counts": [1, 1, 1]},
        ValueError,
        "send_counts add up to 3 rows and axis 0 of x has 6",
    ),
    (
        "alltoall",
        (x,),
        {"send_counts": [2, 2, 2], "recv_counts": [2, 2]},
        ValueError,
        "recv_counts must have one number",
    ),
    (
        "alltoall",
        (x,),
        {"send_counts": [2, 2, 2], "recv_counts": [2, 2, 2], "out": np.zeros(5)},
        ValueError,
        r"out must have shape \(6,\), not \(5,\)",
    ),
    *(
        (call, (x, dest), {}, error, text)
        for call in ("send", "isend")
        for dest, error, text in [
            (3, ValueError, "dest must be a rank from 0 to 2, not 3"),
            (-1, ValueError, "dest must be a rank from 0 to 2, not -1"),
            ("0", TypeError, "dest must be a rank, a whole number, not '0'"),
        ]
    ),
    *(("send", (value, 0), {}, error, text) for value, error, text in ARRAYS),
    *(
        ("send", (x, 0), {"tag": tag}, error, text)
        for tag, error, text in [
            (-1, ValueError, "tag must be from 0 to"),
            (2**62, ValueError, "tag must be from 0 to"),
            (1.5, TypeError, "tag must be a whole number, not 1.5"),
            (None, TypeError, "tag must be a whole number, not None"),
        ]
    ),
    *(
        (call, (), kwargs, error, text)
        for call in ("recv", "irecv", "probe", "iprobe", "recv_object")
        for kwargs, error, text in [
            ({"source": 3}, ValueError, "source must be a rank from 0 to 2 or ANY, not 3"),
            ({"source": -2}, ValueError, "source must be a rank from 0 to 2 or ANY, not -2"),
            ({"source": None}, TypeError, "source must be a rank, a whole number, not None"),
            ({"tag": -2}, ValueError, "tag must be from 0 to .* or ANY, not -2"),
            ({"tag": "a"}, TypeError, "tag must be a whole number, not 'a'"),
        ]
    ),
    *(
        ("recv", (out,), {}, error, text)
        for out, error, text in [
            ([1], TypeError, "out must be a NumPy array, not list"),
            (read_only, ValueError, "out is read-only"),
            (np.zeros(3, object), TypeError, "out has dtype object"),
        ]
    ),
    ("sendrecv", (x, 3, 0), {}, ValueError, "dest must be a rank from 0 to 2, not 3"),
    ("sendrecv", (x, 0, 3), {}, ValueError, "source must be a rank from 0 to 2 or ANY, not 3"),
    ("sendrecv", (x, 0, 0), {"out": [0.0]}, TypeError, "out must be a NumPy array, not list"),
    ("sendrecv", (x, 0, 0), {"tag": -1}, ValueError, "tag must be"),
    ("sendrecv", (x, 0, 0), {"out": read_only}, ValueError, "out is read-only"),
    ("sendrecv", ([1], 0, 0), {}, TypeError, "x must be a NumPy array"),
]


def refused(
    comm: Comm, call: str, arguments: Any, options: Any, error: type[Exception], text: str, who: list[int]
) -> None:
    """Make the call on some ranks, then use the communicator in every way."""
    if comm.rank in who:
        with pytest.raises(error, match=text):
            getattr(comm, call)(*arguments, **options)
    assert comm.allreduce(np.array(1)) == comm.size
    right, left = (comm.rank + 1) % comm.size, (comm.rank - 1) % comm.size
    assert comm.sendrecv(np.array(comm.rank), right, left) == left
    assert comm.iprobe() is None


@pytest.mark.parametrize(("value", "error", "text"), ARRAYS)
@pytest.mark.parametrize("call", TAKES_X)
def test_no_array(world: World, call: str, value: Any, error: type[Exception], text: str) -> None:
    root = {"root": 1} if call in ("broadcast", "scatter") else {}
    world.run(refused, call, (value,), root, error, text, [1])


@pytest.mark.parametrize(("call", "arguments", "options", "error", "text"), OTHERS)
def test_bad_arguments(
    world: World, call: str, arguments: Any, options: Any, error: type[Exception], text: str
) -> None:
    world.run(refused, call, arguments, options, error, text, [0, 1, 2])
    world.run(refused, call, arguments, options, error, text, [2])


def test_bad_arguments_of_calls_that_go_on(world: World) -> None:
    for call, arguments, options, error, text in OTHERS:
        if not call.startswith(("i", "probe")):
            world.run(refused, "i" + call, arguments, options, error, text, [0])


def test_root_must_bring_an_array(world: World) -> None:
    for call in ("broadcast", "scatter"):
        world.run(refused, call, (None,), {"root": 1}, TypeError, "x must be an array at root, not None", [1])


def test_what_only_root_can_see(world: World) -> None:
    world.run(
        refused, "scatter", (np.zeros(7),), {"root": 0}, ValueError, "7 rows, which 3 ranks cannot share", [0]
    )
    world.run(
        refused, "scatter", (np.zeros(6),), {"counts": [1, 1, 1]}, ValueError, "counts add up to 3 rows", [0]
    )
    world.run(
        refused,
        "scatter",
        (np.zeros(6),),
        {"out": np.zeros(6)},
        ValueError,
        r"out must have shape \(2,\), not \(6,\)",
        [0],
    )
    world.run(
        refused,
        "gather",
        (np.zeros(2),),
        {"out": np.zeros(2)},
        ValueError,
        r"out must have shape \(6,\), not \(2,\)",
        [0],
    )
    world.run(
        refused,
        "reduce",
        (np.zeros(2),),
        {"out": np.zeros(3)},
        ValueError,
        r"out must have shape \(2,\), not \(3,\)",
        [0],
    )
    for x, error, text in [
        (read_only, ValueError, "x is read-only"),
        (
            np.float64(1),
            TypeError,
            r"x must be an array that can receive root's, or None, not np.float64\(1.0\)",
        ),
    ]:
        world.run(refused, "broadcast", (x,), {"root": 0}, error, text, [1, 2])
    for out, error, text in [
        ([0.0], TypeError, "out must be a NumPy array, not list"),
        (np.ma.zeros(2), TypeError, "out must be a NumPy array, not MaskedArray"),
        (read_only, ValueError, "out is read-only"),
        (np.zeros(2, object), TypeError, "out has dtype object"),
    ]:
        world.run(refused, "scatter", (None,), {"root": 0, "out": out}, error, text, [1, 2])


def test_an_out_that_overlaps_itself_is_refused(world: World) -> None:
    def program(comm: Comm) -> None:
        out = np.lib.stride_tricks.as_strided(np.zeros(3), (3,), (0,))
        x, size = np.zeros(3), comm.size
        root = (comm.rank + 1) % size
        calls: list[Any] = [
            *(lambda call=call: call(x, out=out) for call in (comm.allreduce, comm.scan, comm.exscan)),
            lambda: comm.allreduce(x, lambda a, b: a + b, out),
            lambda: comm.reduce(x, root=comm.rank, out=out),
            lambda: comm.reduce_scatter(np.zeros(9), out=out),
            lambda: comm.allgather(np.array(1.0), out=out),
            lambda: comm.gather(np.array(1.0), comm.rank, out),
            lambda: comm.alltoall(x, out),
            lambda: comm.alltoall(x, out, [1, 1, 1]),
            lambda: comm.scatter(None, root, out),
            lambda: comm.scatter(np.zeros(9), comm.rank, out),
            lambda: comm.broadcast(out, root),
            lambda: comm.recv(out),
            lambda: comm.sendrecv(x, root, root, out),
        ]
        for call in calls:
            with pytest.raises(ValueError, match=r"(out|x) must not overlap itself: .* strides \(0,\)"):
                call()
        assert comm.allreduce(np.array(1)) == size
        assert comm.iprobe() is None

    world.run(program)


def test_recv_counts_that_do_not_fit_leave_the_communicator_usable(world: World) -> None:
    def program(comm: Comm) -> None:
        rows = [comm.rank] * comm.size
        with pytest.raises(
            ValueError, match=r"recv_counts are \[9, 9, 9\] and the ranks sent \[0, 1, 2\] rows"
        ):
            comm.alltoall(np.zeros(3 * comm.rank), send_counts=rows, recv_counts=[9] * 3)
        with pytest.raises(ValueError, match="out must have 3 rows along axis 0, not 4"):
            comm.alltoall(np.zeros(3 * comm.rank), send_counts=rows, out=np.zeros(4))
        assert comm.allreduce(np.array(1)) == comm.size

    world.run(program)


def test_the_timeout_must_make_sense(world: World) -> None:
    def program(comm: Comm) -> None:
        before = comm.timeout
        for wrong, error in (
            (0, ValueError),
            (-1, ValueError),
            ("a", TypeError),
            (None, TypeError),
            (float("nan"), ValueError),
        ):
            with pytest.raises(error, match="timeout must be"):
                comm.timeout = wrong
        assert comm.timeout == before
        assert comm.allreduce(np.array(1)) == comm.size

    world.run(program)
