"""What every store does alike: one suite, run over each kind and over a prefix in each kind."""

from __future__ import annotations

import contextlib
import math
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor

import pytest

from commops.errors import RendezvousError
from commops.rendezvous import Store
from commops.rendezvous.store import MAX_KEY, MAX_VALUE

from .conftest import Shared

ROOM_FOR_PREFIX = 16

ODD_KEYS = [
    "",
    " ",
    ".",
    "..",
    "/",
    "a/b",
    "../a",
    "A",
    "a",
    "nul\0byte",
    "new\nline",
    "%2F",
    "*",
    "[a-z]?",
    "{tag}",
    "lock",
    "é",
    "e\u0301",
    "漢字",
    "🙂",
    "\ud800 alone",
    "k" * (MAX_KEY - ROOM_FOR_PREFIX),
    "k" * (MAX_KEY - ROOM_FOR_PREFIX - 1),
]

NO_COUNTERS = [b"", b" 1", b"1 ", b"+1", b"01", b"-0", b"1_0", b"1.5", b"0x1", b"ten", b"9" * 19, b"1" * 40]


@pytest.fixture
def in_thread() -> Iterator[Callable[..., Future[object]]]:
    with ThreadPoolExecutor(8) as pool:
        yield pool.submit


class TestSetAndGet:
    def test_get_returns_what_was_set(self, store: Store) -> None:
        store.set("key", b"value")
        assert store.get("key") == b"value"

    def test_set_replaces(self, store: Store) -> None:
        store.set("key", b"a longer first value")
        store.set("key", b"second")
        assert store.get("key") == b"second"

    def test_another_handle_sees_it(self, shared: Shared) -> None:
        shared.open().set("key", b"value")
        assert shared.open().get("key") == b"value"

    @pytest.mark.parametrize(
        "value",
        [b"", b"\0", b"\r\n", bytes(range(256)), b"\xff" * 7, b"0123456789abcdef" * (1 << 18)],
        ids=["empty", "nul", "newline", "all bytes", "ff", "4 MiB"],
    )
    def test_any_bytes_are_a_value(self, store: Store, value: bytes) -> None:
        store.set("key", value)
        got = store.get("key")
        assert got == value
        assert type(got) is bytes

    @pytest.mark.parametrize("kind", [bytearray, memoryview])
    def test_a_buffer_is_copied(self, store: Store, kind: Callable[[bytearray], bytes]) -> None:
        buffer = bytearray(b"before")
        store.set("key", kind(buffer))
        buffer[:] = b"after!"
        assert store.get("key") == b"before"

    def test_any_string_is_a_key(self, store: Store) -> None:
        for number, key in enumerate(ODD_KEYS):
            store.set(key, b"%d" % number)
        assert [store.get(key) for key in ODD_KEYS] == [b"%d" % number for number in range(len(ODD_KEYS))]
        assert store.count() == len(ODD_KEYS)
        store.wait(ODD_KEYS)
        assert all(store.delete(key) for key in ODD_KEYS)
        assert store.count() == 0

    def test_get_waits_for_set(self, shared: Shared, in_thread: Callable[..., Future[object]]) -> None:
        waiting = in_thread(shared.open().get, "key")
        shared.open().set("key", b"value")
        assert waiting.result(20) == b"value"

    def test_one_handle_waits_and_sets_at_once(
        self, store: Store, in_thread: Callable[..., Future[object]]
    ) -> None:
        waiting = [in_thread(store.get, f"key {number}") for number in range(4)]
        for number in range(4):
            store.set(f"key {number}", b"%d" % number)
        assert [future.result(20) for future in waiting] == [b"0", b"1", b"2", b"3"]

    @pytest.mark.parametrize("call", ["add", "compare_and_set"])
    def test_get_is_woken_by_whatever_makes_the_key(
        self, shared: Shared, call: str, in_thread: Callable[..., Future[object]]
    ) -> None:
        waiting = in_thread(shared.open().get, "key")
        other = shared.open()
        if call == "add":
            other.add("key", 3)
        else:
            other.compare_and_set("key", None, b"3")
        assert waiting.result(20) == b"3"


class TestTimeout:
    @pytest.mark.parametrize("timeout", [0, 0.01, 0.25])
    def test_get_of_a_missing_key_raises(self, store: Store, timeout: float) -> None:
        with pytest.raises(RendezvousError, match=r"Store\(.*still missing key '.*absent'"):
            store.get("absent", timeout)

    def test_zero_still_finds_what_is_there(self, store: Store) -> None:
        store.set("key", b"value")
        assert store.get("key", timeout=0) == b"value"
        store.wait(["key"], timeout=0)

    def test_default_is_the_constructors(self, shared: Shared) -> None:
        store = shared.open(timeout=0.05)
        assert store.timeout == 0.05
        with pytest.raises(RendezvousError, match=r"time-out 0\.0"):
            store.get("absent")

    def test_default_may_be_set(self, store: Store) -> None:
        store.timeout = 0.05
        with pytest.raises(RendezvousError):
            store.get("absent")

    def test_forever_is_a_timeout(self, store: Store) -> None:
        store.set("key", b"value")
        assert store.get("key", timeout=math.inf) == b"value"

    def test_every_call_takes_one(self, store: Store) -> None:
        store.set("key", b"1", timeout=15.5)
        assert store.get("key", timeout=15.5) == b"1"
        assert store.add("key", timeout=15.5) == 2
        assert store.compare_and_set("key", b"2", b"3", timeout=15.5) == b"3"
        assert store.count(timeout=15.5) == 1
        store.wait(["key"], timeout=15.5)
        assert store.delete("key", timeout=15.5)

    @pytest.mark.parametrize(
        ("timeout", "error"), [(-1, ValueError), (math.nan, ValueError), ("soon", TypeError), ([], TypeError)]
    )
    def test_nonsense_is_refused(self, store: Store, timeout: float, error: type[Exception]) -> None:
        with pytest.raises(error, match="timeout must be"):
            store.get("key", timeout=timeout)

    def test_store_works_after_one(self, store: Store) -> None:
        with pytest.raises(RendezvousError):
            store.get("key", 0.01)
        store.set("key", b"value")
        assert store.get("key") == b"value"


class TestWait:
    def test_returns_when_all_exist(self, shared: Shared, in_thread: Callable[..., Future[object]]) -> None:
        keys = [f"rank {rank}" for rank in range(5)]
        setter = shared.open()
        setter.set(keys[0], b"")
        waiting = in_thread(shared.open().wait, keys)
        for key in keys[1:]:
            setter.set(key, b"")
        assert waiting.result(20) is None

    def test_names_exactly_the_missing_keys(self, store: Store) -> None:
        store.set("here", b"")
        store.set("there", b"")
        with pytest.raises(RendezvousError) as caught:
            store.wait(["here", "lost", "there", "gone"], timeout=0.05)
        message = str(caught.value)
        assert "Store(" in message
        assert "2 of 4 keys" in message
        assert "lost'" in message
        assert "gone'" in message
        assert "here'" not in message

    def test_nothing_to_wait_for(self, store: Store) -> None:
        store.wait([])
        store.wait(iter(()), timeout=0)

    def test_the_same_key_twice(self, store: Store) -> None:
        store.set("key", b"")
        store.wait(["key", "key"])
        with pytest.raises(RendezvousError, match="missing key"):
            store.wait(["absent", "absent"], timeout=0)

    def test_a_key_deleted_meanwhile_is_missing_again(
        self, shared: Shared, in_thread: Callable[..., Future[object]]
    ) -> None:
        other = shared.open()
        other.set("first", b"")
        waiting = in_thread(shared.open().wait, ["first", "second"], timeout=0.5)
        other.delete("first")
        other.set("second", b"")
        with pytest.raises(RendezvousError, match="first'"):
            waiting.result(20)

    def test_many_keys(self, store: Store) -> None:
        for number in range(200):
            store.set(f"rank {number}", b"")
        store.wait(f"rank {number}" for number in range(200))

    def test_one_string_is_refused(self, store: Store) -> None:
        with pytest.raises(TypeError, match="several strings"):
            store.wait("key")


class TestAdd:
    def test_counts_from_zero(self, store: Store) -> None:
        assert store.add("n") == 1
        assert store.add("n", 41) == 42
        assert store.add("n", -50) == -8
        assert store.add("n", 0) == -8
        assert store.get("n") == b"-8"

    def test_counts_on_from_what_was_set(self, store: Store) -> None:
        store.set("n", b"100")
        assert store.add("n", 11) == 111

    def test_zero_makes_the_key(self, store: Store) -> None:
        assert store.add("n", 0) == 0
        assert store.get("n", timeout=0) == b"0"

    @pytest.mark.parametrize("value", NO_COUNTERS)
    def test_refuses_what_is_no_counter_and_leaves_it(self, store: Store, value: bytes) -> None:
        store.set("n", value)
        with pytest.raises(ValueError, match="add"):
            store.add("n")
        assert store.get("n") == value

    def test_stays_within_64_bits(self, store: Store) -> None:
        top, bottom = (1 << 63) - 1, -(1 << 63)
        assert store.add("n", top) == top
        with pytest.raises(ValueError, match="add"):
            store.add("n")
        assert store.add("n", bottom) == -1
        assert store.add("n", bottom + 1) == bottom
        with pytest.raises(ValueError, match="add"):
            store.add("n", -1)
        assert store.get("n") == b"%d" % bottom
        with pytest.raises(ValueError, match="64-bit"):
            store.add("n", top + 1)

    def test_threads_lose_no_count(self, shared: Shared, in_thread: Callable[..., Future[object]]) -> None:
        stores = [shared.open() for _ in range(4)] * 2
        together = threading.Barrier(len(stores))

        totals: list[int] = []

        def count(store: Store) -> None:
            together.wait()
            totals.extend(store.add("n") for _ in range(10))

        for future in [in_thread(count, store) for store in stores]:
            future.result(60)
        assert sorted(totals) == list(range(1, 81))


class TestDeleteAndCount:
    def test_delete_says_whether_the_key_was_there(self, store: Store) -> None:
        store.set("key", b"")
        assert store.delete("key") is True
        assert store.delete("key") is False
        with pytest.raises(RendezvousError):
            store.get("key", timeout=0)

    def test_a_deleted_key_may_come_back(self, store: Store) -> None:
        store.add("key", 5)
        store.delete("key")
        assert store.add("key") == 1

    def test_count(self, store: Store) -> None:
        assert store.count() == 0
        store.set("a", b"")
        store.set("a", b"again")
        store.add("b")
        store.compare_and_set("c", None, b"")
        assert store.count() == 3
        store.delete("a")
        assert store.count() == 2

    def test_count_of_a_prefix(self, store: Store) -> None:
        for key in ("rank/0", "rank/1", "rank", "ran*", "漢/1"):
            store.set(key, b"")
        assert store.count("rank/") == 2
        assert store.count("rank") == 3
        assert store.count("ran*") == 1
        assert store.count("漢") == 1
        assert store.count("none") == 0


class TestDiscard:
    def test_removes_what_is_there_and_says_how_much(self, store: Store) -> None:
        for key in ("one", "two", "three"):
            store.set(key, b"")
        assert store.discard(["one", "absent", "three", "one"]) == 2
        assert store.count() == 1
        assert store.get("two", timeout=0) == b""

    def test_of_nothing(self, store: Store) -> None:
        store.set("key", b"")
        assert store.discard([]) == 0
        assert store.count() == 1

    def test_one_string_is_refused(self, store: Store) -> None:
        with pytest.raises(TypeError, match="several strings"):
            store.discard("key")


class TestCompareAndSet:
    def test_makes_a_key_only_once(self, store: Store) -> None:
        assert store.compare_and_set("key", None, b"first") == b"first"
        assert store.compare_and_set("key", None, b"second") == b"first"
        assert store.get("key") == b"first"

    def test_replaces_only_what_was_expected(self, store: Store) -> None:
        store.set("key", b"old")
        assert store.compare_and_set("key", b"other", b"new") == b"old"
        assert store.compare_and_set("key", b"old", b"new") == b"new"
        assert store.get("key") == b"new"

    def test_makes_no_key_where_a_value_was_expected(self, store: Store) -> None:
        assert store.compare_and_set("key", b"old", b"new") is None
        assert store.compare_and_set("key", b"", b"new") is None
        assert store.count() == 0

    def test_an_empty_value_is_not_an_absent_key(self, store: Store) -> None:
        store.set("key", b"")
        assert store.compare_and_set("key", None, b"new") == b""
        assert store.compare_and_set("key", b"", b"\0new") == b"\0new"
        assert store.compare_and_set("key", b"\0new", b"") == b""

    def test_one_of_many_threads_wins(self, shared: Shared, in_thread: Callable[..., Future[object]]) -> None:
        stores = [shared.open() for _ in range(4)]
        values = [b"%d" % number for number in range(4)]
        futures = [
            in_thread(store.compare_and_set, "leader", None, value)
            for store, value in zip(stores, values, strict=True)
        ]
        results = {future.result(20) for future in futures}
        assert len(results) == 1
        assert results <= set(values)


class TestBadArguments:
    def test_key_of_another_type(self, store: Store) -> None:
        with pytest.raises(TypeError, match="key must be a str, not bytes"):
            store.set(b"key", b"")  # type: ignore[arg-type]
        with pytest.raises(TypeError, match="key must be a str, not int"):
            store.wait(["key", 3])  # type: ignore[list-item]

    def test_value_of_another_type(self, store: Store) -> None:
        with pytest.raises(TypeError, match="value must be bytes, not str"):
            store.set("key", "value")  # type: ignore[arg-type]
        with pytest.raises(TypeError, match="expected must be bytes, not int"):
            store.compare_and_set("key", 1, b"")  # type: ignore[call-overload]

    def test_amount_of_another_type(self, store: Store) -> None:
        with pytest.raises(TypeError):
            store.add("key", 1.5)  # type: ignore[arg-type]

    def test_the_longest_key(self, shared: Shared) -> None:
        store, longest = shared.open(), "k" * MAX_KEY
        if shared.prefix is None:
            store.set(longest, b"value")
            assert store.get(longest) == b"value"
        else:
            with pytest.raises(ValueError, match=f"at most {MAX_KEY} bytes"):
                store.set(longest, b"value")

    def test_too_long(self, store: Store) -> None:
        with pytest.raises(ValueError, match=f"at most {MAX_KEY} bytes"):
            store.set("é" * (MAX_KEY // 2 + 1), b"")
        with pytest.raises(ValueError, match=f"at most {MAX_VALUE} bytes"):
            store.set("key", bytes(MAX_VALUE + 1))
        assert store.count() == 0


class TestClose:
    def test_twice_is_fine(self, store: Store) -> None:
        store.close()
        store.close()

    def test_calls_after_it_raise(self, store: Store) -> None:
        store.close()
        with pytest.raises(RendezvousError, match="closed"):
            store.set("key", b"")
        with pytest.raises(RendezvousError, match="closed"):
            store.wait([])

    def test_with_closes(self, shared: Shared) -> None:
        with shared.open() as store:
            store.set("key", b"")
        with pytest.raises(RendezvousError, match="closed"):
            store.get("key")

    def test_ends_a_call_that_waits(self, shared: Shared, in_thread: Callable[..., Future[object]]) -> None:
        store = shared.open()
        waiting = in_thread(store.get, "absent")
        store.close()
        if shared.prefix is None:
            with pytest.raises(RendezvousError):
                waiting.result(15)  # sooner than the store's own time-out
        else:  # the store beneath is not the prefix's to close
            shared.open().set("absent", b"come late")
            with contextlib.suppress(RendezvousError):  # had the call not begun before the close
                assert waiting.result(15) == b"come late"
