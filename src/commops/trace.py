"""The calls of all ranks as a trace that Perfetto and ``chrome://tracing`` show.

The format is Chrome's trace-event JSON: a process for each rank, in it a thread for the calls that it waits
in, and further ones for those that go on by themselves. Times are microseconds since the first call. Ranks of
a machine have one clock, CLOCK_MONOTONIC; those of several are brought together by what their machine's time
of day was when each joined, so as exactly as these agree.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

from commops.flight import Call, Recorder

__all__ = ["chrome"]

_BRIEF = 1000  # nanoseconds that a call takes which ended at once, about


def chrome(recorders: Sequence[Recorder], now: int | None = None) -> dict[str, Any]:
    """Make a trace, to be written as JSON.

    Parameters
    ----------
    recorders : sequence of Recorder
        Of the ranks of one job.
    now : int, optional
        Nanoseconds of CLOCK_MONOTONIC until which calls in progress are drawn. None: until the last time that
        their rank has recorded.

    Returns
    -------
    dict
        ``traceEvents``, sorted by time, and ``displayTimeUnit``. An event's ``args`` are the call, its number
        in the communicator, op, dtype, count, peer and tag, where it was made, and how it stands. ``timed``
        is false for calls that ended at once: their times are guesses within a tick of the system, in order.
    """
    offsets = _offsets(recorders)
    spans = [(r, *span) for r in recorders for span in _spans(r, offsets[r.host], now)]
    zero = min((start for _, _, start, _, _ in spans), default=0)
    events = [event for r in recorders for event in _names(r, {lane for s, _, _, _, lane in spans if s is r})]
    timed = [_event(r.rank, call, start - zero, end - start, lane) for r, call, start, end, lane in spans]
    return {"traceEvents": events + sorted(timed, key=lambda event: event["ts"]), "displayTimeUnit": "ns"}


def _offsets(recorders: Iterable[Recorder]) -> dict[str, int]:
    """Return what is to be added to the times of each host: one number, though each rank has measured it."""
    offsets: dict[str, int] = {}
    for r in recorders:
        offsets[r.host] = min(offsets.get(r.host, r.realtime), r.realtime)
    return offsets


def _spans(recorder: Recorder, offset: int, now: int | None) -> list[tuple[Call, int, int, int]]:
    """Return (call, start, end, lane) of each, in nanoseconds; lane 0 is for calls that are waited in."""
    last = max((max(call.start, call.end) for call in recorder.calls), default=0)
    spans, free, before = [], [0], 0
    for call in recorder.calls:
        start = call.start
        if call.state == "brief":
            start = max(start, before)
            end = start + _BRIEF
            before = end
        else:
            end = call.end or max(start, now if now is not None else last)
            before = max(before, start) if call.apart or not call.end else max(before, call.end)
        lane = 0
        if call.apart:
            lane = next((i for i in range(1, len(free)) if free[i] <= start), len(free))
            free += [0] * (lane + 1 - len(free))
            free[lane] = end
        spans.append((call, start + offset, end + offset, lane))
    return spans


def _names(recorder: Recorder, lanes: set[int]) -> list[dict[str, Any]]:
    process = f"rank {recorder.rank} ({recorder.host}, process {recorder.pid})"
    named = [("process_name", 0, {"name": process}), ("process_sort_index", 0, {"sort_index": recorder.rank})]
    named += [
        ("thread_name", lane, {"name": f"going on by itself {lane}" if lane else "calls"})
        for lane in sorted(lanes)
    ]
    return [
        {"ph": "M", "name": name, "pid": recorder.rank, "tid": tid, "args": args} for name, tid, args in named
    ]


def _event(rank: int, call: Call, start: int, length: int, lane: int) -> dict[str, Any]:
    args: dict[str, Any] = {
        "call": str(call),
        "state": call.state,
        "timed": call.state != "brief",
        "site": call.site,
    }
    if call.seq:
        args["number"] = call.seq
    if call.comm != 1:
        args["communicator"] = f"{call.comm:016x}"
    if call.dtype:
        args |= {"dtype": call.dtype, "count": call.elements}
    if call.op:
        args["op"] = call.op
    if call.peer >= 0:
        args["peer"] = call.peer
    if call.tag >= 0:
        args["tag"] = call.tag
    if call.error:
        args["error"] = call.error
    name = f"{'i' * call.apart}{call.kind}"
    return {
        "ph": "X",
        "name": name,
        "cat": "commops",
        "pid": rank,
        "tid": lane,
        "ts": start / 1e3,
        "dur": length / 1e3,
        "args": args,
    }
