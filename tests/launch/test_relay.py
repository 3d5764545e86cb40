"""Lines from several pipes to one stream."""

from __future__ import annotations

import os
from collections.abc import Iterator

import pytest

from commops.launch.relay import Lines, Sink


@pytest.fixture
def pipe() -> Iterator[tuple[int, int]]:
    reader, writer = os.pipe()
    os.set_blocking(reader, False)
    yield reader, writer
    for descriptor in (reader, writer):
        try:
            os.close(descriptor)
        except OSError:
            continue


def feed(lines: Lines, writer: int, *texts: bytes) -> None:
    for text in texts:
        os.write(writer, text)
        lines.read_all()


def test_parts_of_lines_are_joined(pipe: tuple[int, int]) -> None:
    sink = Sink(pipe[1])
    ends = [os.pipe(), os.pipe()]
    one, two = (Lines(reader, sink, label) for (reader, _), label in zip(ends, (b"", b"[1] "), strict=True))
    feed(one, ends[0][1], b"a", b"b")
    feed(two, ends[1][1], b"x\ny", b"", b"z\n")
    feed(one, ends[0][1], b"c\nd")
    for lines, (_, writer) in zip((one, two), ends, strict=True):
        os.close(writer)
        lines.close()
        lines.close()
    sink.drain(None)
    assert os.read(pipe[0], 1 << 16) == b"[1] x\n[1] yz\nabc\nd"


def test_an_open_line_is_ended_before_the_next_begins(pipe: tuple[int, int]) -> None:
    sink = Sink(pipe[1])
    for text in (b"open", b"", b"next\n", b"last"):
        sink.put(text)
    sink.drain(None)
    assert os.read(pipe[0], 1 << 16) == b"open\nnext\nlast"


def test_a_sink_waits_for_a_reader_only_as_long_as_told(pipe: tuple[int, int]) -> None:
    sink = Sink(pipe[1])
    sink.put(b"x" * 2_000_000)
    assert sink.full
    sink.drain(0.01)
    assert sink.pending
    read = 0
    while sink.pending:
        read += len(os.read(pipe[0], 1 << 16))
        sink.drain(0.01)
    read += len(os.read(pipe[0], 1 << 20))
    assert read == 2_000_000
    assert not sink.full


def test_a_broken_sink_takes_everything_and_closes_its_sources(pipe: tuple[int, int]) -> None:
    sink = Sink(pipe[1])
    reader, writer = os.pipe()
    lines = Lines(reader, sink)
    os.close(pipe[0])
    feed(lines, writer, b"one\n")
    sink.drain(None)
    assert sink.broken
    assert not sink.pending
    feed(lines, writer, b"two\n")
    assert lines.closed
    with pytest.raises(BrokenPipeError):
        os.write(writer, b"three\n")
    os.close(writer)


def test_a_stream_that_was_never_open_is_broken() -> None:
    reader, writer = os.pipe()
    os.close(reader)
    os.close(writer)
    assert Sink(writer).broken


def test_a_line_without_an_end_does_not_grow_for_ever(pipe: tuple[int, int]) -> None:
    sink = Sink(pipe[1])
    reader, writer = os.pipe()
    lines = Lines(reader, sink)
    for _ in range(40):
        feed(lines, writer, b"x" * 60_000)
    assert sink.pending
    os.close(writer)
    lines.close()
