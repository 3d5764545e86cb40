"""The frames of the socket stores: what goes in comes out, and nothing else gets in."""

from __future__ import annotations

import struct

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from commops.rendezvous.store import MAX_KEY, MAX_VALUE
from commops.rendezvous.tcp_protocol import MAX_KEYS, Kind, Message, ProtocolError, encode, parse

HEADER = struct.Struct("!B3sIqQ")

keys = st.binary(max_size=40)
values = st.binary(max_size=200)
timeouts = st.integers(0, 2**63 - 1)
numbers = st.integers(-(2**63), 2**63 - 1)

messages = st.one_of(
    st.builds(Message, st.just(Kind.SET), st.just(0), st.tuples(keys, values)),
    st.builds(Message, st.just(Kind.GET), timeouts, st.tuples(keys)),
    st.builds(Message, st.just(Kind.ADD), numbers, st.tuples(keys)),
    st.builds(Message, st.just(Kind.WAIT), timeouts, st.lists(keys, max_size=5).map(tuple)),
    st.builds(Message, st.just(Kind.DELETE), st.just(0), st.lists(keys, min_size=1, max_size=5).map(tuple)),
    st.builds(Message, st.sampled_from([Kind.COUNT, Kind.REFUSED]), st.just(0), st.tuples(keys)),
    st.builds(Message, st.just(Kind.BEQUEATH), st.just(0), st.tuples(keys)),
    st.builds(Message, st.just(Kind.BEQUEATH), st.just(0), st.tuples(keys, values)),
    st.builds(Message, st.just(Kind.STRANGERS), st.just(0), st.just(())),
    st.builds(Message, st.just(Kind.COMPARE_AND_SET), st.just(0), st.tuples(keys, values)),
    st.builds(Message, st.just(Kind.COMPARE_AND_SET), st.just(0), st.tuples(keys, values, values)),
    st.builds(Message, st.just(Kind.DONE), numbers, st.just(())),
    st.builds(Message, st.just(Kind.VALUE), st.just(0), st.lists(values, max_size=1).map(tuple)),
    st.builds(Message, st.just(Kind.MISSING), st.just(0), st.lists(keys, max_size=5).map(tuple)),
)

# Bytes near a frame, where a parser is likelier to go wrong than among wholly random ones.
near_frames = st.builds(
    lambda kind, zero, count, number, body, rest: HEADER.pack(kind, zero, count, number, body) + rest,
    st.one_of(st.sampled_from(list(map(int, Kind))), st.integers(0, 255)),
    st.sampled_from([b"\0\0\0", b"\0\1\0"]),
    st.one_of(st.integers(0, 4), st.sampled_from([MAX_KEYS, MAX_KEYS + 1, 2**32 - 1])),
    st.one_of(st.just(0), numbers),
    st.one_of(st.integers(0, 60), st.sampled_from([2**32, 2**63, 2**64 - 1])),
    st.lists(
        st.one_of(
            st.binary(max_size=20),
            st.integers(0, 20).map(lambda n: n.to_bytes(8, "big")),
            st.just(b"\xff" * 8),
        ),
        max_size=6,
    ).map(b"".join),
)


@given(messages, st.binary(max_size=30))
def test_round_trip_whatever_follows(message: Message, rest: bytes) -> None:
    frame = encode(message)
    assert parse(frame + rest) == (message, len(frame))


@given(messages, st.sampled_from([bytes, bytearray, memoryview]))
def test_any_buffer_parses_and_is_left_free(message: Message, kind: type[bytearray]) -> None:
    frame = encode(message)
    assert parse(kind(frame)) == (message, len(frame))
    buffer = bytearray(frame)
    parse(buffer)
    buffer.clear()  # raises BufferError were it still looked at


@given(messages)
def test_every_shorter_part_is_incomplete(message: Message) -> None:
    frame = encode(message)
    assert all(parse(frame[:length]) is None for length in range(len(frame)))


@given(st.lists(messages, max_size=4), st.data())
def test_a_stream_split_at_any_points(sent: list[Message], data: st.DataObject) -> None:
    stream = b"".join(map(encode, sent))
    cuts = data.draw(st.lists(st.integers(0, len(stream)), max_size=6).map(sorted))
    buffer = bytearray()
    received = []
    for start, end in zip([0, *cuts], [*cuts, len(stream)], strict=True):
        buffer += stream[start:end]
        while (parsed := parse(buffer)) is not None:
            received.append(parsed[0])
            del buffer[: parsed[1]]
    assert received == sent
    assert not buffer


@given(st.one_of(st.binary(max_size=100), near_frames))
@example(b"")
@example(b"GET / HTTP/1.1\r\nHost: localhost\r\n\r\n")
def test_random_bytes_raise_nothing_but_the_protocol_error(data: bytes) -> None:
    try:
        parsed = parse(data)
    except ProtocolError:
        return
    if parsed is not None:
        message, consumed = parsed
        assert encode(message) == data[:consumed]  # a message has one spelling


@given(messages, st.data())
def test_a_changed_byte_raises_nothing_but_the_protocol_error(message: Message, data: st.DataObject) -> None:
    frame = bytearray(encode(message))
    frame[data.draw(st.integers(0, len(frame) - 1))] ^= data.draw(st.integers(1, 255))
    try:
        parsed = parse(frame)
    except ProtocolError:
        return
    assert parsed is None or encode(parsed[0]) == frame[: parsed[1]]


@pytest.mark.parametrize(
    ("header", "complaint"),
    [
        ((0, b"\0\0\0", 0, 0, 0), "no kind"),
        ((200, b"\0\0\0", 0, 0, 0), "no kind"),
        ((Kind.DONE, b"\0\0\1", 0, 0, 0), "not zero"),
        ((Kind.SET, b"\0\0\0", 1, 0, 8), "1 fields"),
        ((Kind.SET, b"\0\0\0", 3, 0, 24), "3 fields"),
        ((Kind.SET, b"\0\0\0", 2, 1, 16), "out of range"),
        ((Kind.GET, b"\0\0\0", 1, -1, 8), "out of range"),
        ((Kind.SET, b"\0\0\0", 2, 0, 15), "a body of 15 bytes"),
        ((Kind.SET, b"\0\0\0", 2, 0, MAX_KEY + MAX_VALUE + 17), "a body of"),
        ((Kind.GET, b"\0\0\0", 1, 0, MAX_KEY + 9), "a body of"),
        ((Kind.GET, b"\0\0\0", 1, 0, 2**64 - 1), "a body of"),
        ((Kind.WAIT, b"\0\0\0", MAX_KEYS + 1, 0, 8 * MAX_KEYS + 8), "fields"),
        ((Kind.DONE, b"\0\0\0", 0, 0, 1), "a body of 1"),
    ],
)
def test_a_bad_header_is_refused_before_its_body_comes(
    header: tuple[int, bytes, int, int, int], complaint: str
) -> None:
    with pytest.raises(ProtocolError, match=complaint):
        parse(HEADER.pack(*header))


@pytest.mark.parametrize(
    ("count", "body", "complaint"),
    [
        (1, struct.pack("!Q", 5) + b"four", "ends beyond"),
        (1, struct.pack("!Q", 2**64 - 1) + b"four", "the most is"),
        (1, struct.pack("!Q", 3) + b"four", "belong to no field"),
        (2, struct.pack("!Q", 8) + b"eight by" + b"", "begins beyond"),
    ],
)
def test_fields_must_fill_the_body(count: int, body: bytes, complaint: str) -> None:
    with pytest.raises(ProtocolError, match=complaint):
        parse(HEADER.pack(Kind.WAIT, b"\0\0\0", count, 0, len(body)) + body)


def test_a_key_may_not_use_the_room_of_the_value() -> None:
    body = struct.pack("!Q", MAX_KEY + 1) + bytes(MAX_KEY + 1) + struct.pack("!Q", 0)
    with pytest.raises(ProtocolError, match=f"the most is {MAX_KEY}"):
        parse(HEADER.pack(Kind.SET, b"\0\0\0", 2, 0, len(body)) + body)


@pytest.mark.parametrize(
    "message",
    [
        Message(Kind.SET, 0, (b"key",)),
        Message(Kind.GET, -1, (b"key",)),
        Message(Kind.ADD, 2**63, (b"key",)),
        Message(Kind.SET, 0, (bytes(MAX_KEY + 1), b"")),
        Message(Kind.WAIT, 0, (b"",) * (MAX_KEYS + 1)),
    ],
)
def test_encode_refuses_what_parse_would(message: Message) -> None:
    with pytest.raises(ValueError, match=message.kind.name):
        encode(message)
