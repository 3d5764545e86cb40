"""How the ranks of a job agree in a store on the world that they make, or on why there can be none.

1. Every rank publishes a card under ``rank/<number>``; one that already knows that it cannot join, why not.
2. Rank 0 reads all of them, checks that they fit together, and publishes the plan of the world that they
   make, or why there is none, under ``world``: so a mistake on one rank is the same error on all, and all
   have the same tunables.
3. Each rank makes its engine, and says so under ``joined/<job>/<number>``.
4. When all have, rank 0 publishes that it is ``over/<job>``; the first that fails publishes why there
   instead. So either all ranks get a world or none does.
5. Rank 0, which may serve the store, leaves when all others have, and tidies up.

A random nonce on each card tells what belongs to this job from what a killed one left behind. Whoever knows
that the holder of a card is in trouble says so under ``trouble/<nonce>``: a process that finds its rank
taken, and the store itself for a rank that ends meanwhile (if it can tell: `Store.bequeath`). Rank 0 looks
there while it waits. Where the store outlives rank 0, it also says for a rank 0 that ends that
there is no world.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Callable, Collection, Iterable, Sequence
from typing import Any, TypeVar

from commops.errors import AuthenticationError, RendezvousError
from commops.rendezvous.card import Card, ForfeitError, disagreement, forfeit, seal, unseal
from commops.rendezvous.deadline import Deadline
from commops.rendezvous.descriptors import Spare, exhausted, limit
from commops.rendezvous.handover import BrokenOffError
from commops.rendezvous.plan import ENDED, Plan
from commops.rendezvous.store import Store
from commops.rendezvous.token import Token

__all__ = ["Meeting", "Plan", "described"]

_EARLY = 0.9  # of the time is for waiting; the rest is for telling the others that it was in vain
_GRACE = 1.0  # seconds for a call to the store when things go wrong
_LAST_WORD = 0.2  # seconds that rank 0 stays for others to hear that it was in vain, when the time is over
_PARTING = 5.0  # seconds that rank 0 waits for the others to leave a store that it may serve
_SECOND_TRY = 0.3  # seconds in which a rank that could not join may come back with arguments that will do
_LOOK = (0.02, 0.2)  # seconds between looks at who has come: at first, at last
_MOST_KEYS = 256  # in one wait

_Engine = TypeVar("_Engine")


class Meeting:
    """One rank's part in the steps that the module describes.

    Parameters
    ----------
    store : Store
        Nothing else may use its keys.
    rank, size : int
    token : Token, optional
    deadline : Deadline
        For everything.
    outlives : bool
        Whether the store goes on when rank 0 ends.
    watch : callable, optional
        Says what this rank knows of trouble by other means than the store; empty while there is none.
    """

    def __init__(
        self,
        store: Store,
        rank: int,
        size: int,
        token: Token | None,
        deadline: Deadline,
        *,
        outlives: bool = False,
        watch: Callable[[], str] | None = None,
    ) -> None:
        self._store, self._rank, self._size = store, rank, size
        self._token, self._deadline = token, deadline
        self._outlives, self._watch = outlives, watch
        self._spare = Spare()  # to tell the others with
        # The keys of what the store says for us should we end before the others have a world.
        self._wills: list[str] = []

    def hold(
        self,
        card: Card,
        tune: Callable[[Sequence[Card]], dict[str, int]],
        make: Callable[[Plan, Deadline, Callable[[], None]], _Engine],
    ) -> tuple[Plan, _Engine]:
        """Take all the steps.

        Parameters
        ----------
        card : Card
            This rank's.
        tune : callable
            ``tune(cards)`` decides on the tunables of the world. Called by rank 0.
        make : callable
            ``make(plan, deadline, check)`` makes the engine of this rank. While it waits it may call `check`,
            which raises if that makes no sense any more.

        Raises
        ------
        RendezvousError
            If the ranks do not fit together, or not all of them join by the deadline. The message names them.
        AuthenticationError
            If ranks have different tokens.
        """
        with contextlib.closing(self._spare):
            return self._hold(card, tune, make)

    def _hold(
        self,
        card: Card,
        tune: Callable[[Sequence[Card]], dict[str, int]],
        make: Callable[[Plan, Deadline, Callable[[], None]], _Engine],
    ) -> tuple[Plan, _Engine]:
        try:
            self._publish(card)
            try:
                plan = self._decide(card, tune) if self._rank == 0 else self._await_plan(card)
            finally:
                self._withdraw()
        except BaseException as error:
            self._renounce()
            if exhausted(error):
                self.forfeit(error)
                raise RendezvousError(self._excuse(error)) from error
            raise
        try:
            if plan.error:
                raise (AuthenticationError if plan.authentication else RendezvousError)(plan.error)
            engine = self._join(plan, make)
        except Exception:
            self._part(plan, min(max(self._deadline.remaining(), _LAST_WORD), _GRACE))
            raise
        self._part(plan, _PARTING)
        return plan, engine

    def forfeit(self, error: BaseException) -> None:
        """Tell the others, as far as they are here, that this rank cannot join, and why."""
        self._spare.close()
        text = self._excuse(error)
        with contextlib.suppress(RendezvousError):
            if self._rank != 0:
                # Rank 0 takes it away when it has read it; or this rank, when it tries again.
                self._replace_forfeit(forfeit(self._token, text))
                return
            plan = Plan.without_world(text)
            self._announce(plan)
            self._part(plan, min(self._left(), _GRACE))

    # ---- 1: cards

    def _publish(self, card: Card) -> None:
        text = f"rank {self._rank} ({card.who}) {ENDED}"
        if self._rank != 0:
            self._bequeath(_trouble(card.nonce), self._complaint(text))
        elif self._outlives:  # or else others notice by the store's end
            self._bequeath("world", Plan.without_world(text).pack(self._token))
        value = card.pack(self._token)
        stored = self._replace_forfeit(value)
        if stored == value:
            return
        try:
            other = Card.unpack(self._token, stored, self._rank)
        except AuthenticationError as error:
            raise AuthenticationError(f"there already is a rank {self._rank}, and {error}") from None
        text = f"{other.who} and {card.who} are both rank {self._rank}: give every process a rank of its own"
        with contextlib.suppress(RendezvousError):
            self._store.set(_trouble(other.nonce), self._complaint(text), timeout=_GRACE)
        raise RendezvousError(
            f"{text}; or if {other.who} is of an earlier job that was killed, use a fresh folder, prefix or"
            " port"
        )

    def _replace_forfeit(self, value: bytes) -> bytes:
        """Put `value` where our card belongs, unless another's is there; return what is there then."""
        key = f"rank/{self._rank}"
        stored = self._store.compare_and_set(key, None, value, timeout=self._left(_GRACE))
        if stored != value:
            try:
                Card.unpack(self._token, stored, self._rank)
            except ForfeitError:  # a failure of ours, or of an earlier job's
                self._store.set(key, value, timeout=self._left(_GRACE))
                return value
            except RendezvousError:
                pass
        return stored

    def _withdraw(self) -> None:
        """Take our card away, so that this rank may come here again."""
        with contextlib.suppress(RendezvousError):
            self._store.delete(f"rank/{self._rank}", timeout=_GRACE)

    def _renounce(self) -> None:
        """From here on our end is no trouble to anybody here."""
        for key in self._wills:
            with contextlib.suppress(RendezvousError):
                self._store.bequeath(key, None, timeout=_LAST_WORD)
        self._wills = []

    def _bequeath(self, key: str, value: bytes) -> None:
        if self._store.bequeath(key, value, timeout=self._left()):
            self._wills.append(key)

    # ---- 2: the plan

    def _decide(self, own: Card, tune: Callable[[Sequence[Card]], dict[str, int]]) -> Plan:
        """As rank 0: read all cards, and publish what they make."""
        cards = {0: own}
        error, authentication = "", False
        try:
            self._gather(cards)
        except RendezvousError as failure:
            error, authentication = str(failure), isinstance(failure, AuthenticationError)
        everyone = [] if error else [cards[rank] for rank in range(self._size)]
        plan = Plan(
            job=os.urandom(16).hex(),
            nonces={str(rank): card.nonce for rank, card in cards.items()},
            cards=everyone,
            tunables=tune(everyone) if everyone else {},
            key="" if self._token or error else os.urandom(32).hex(),
            error=error,
            authentication=authentication,
        )
        if self._outlives:
            self._bequeath(f"over/{plan.job}", f"rank 0 ({own.who}) {ENDED}".encode())
        self._announce(plan)
        return plan

    def _announce(self, plan: Plan) -> None:
        self._store.set("world", plan.pack(self._token), timeout=self._left(_GRACE))

    def _gather(self, cards: dict[int, Card]) -> None:
        """Fill `cards` with those of all ranks, as far as they come and agree."""
        waiting = Deadline(self._deadline.remaining() * _EARLY)
        pause, longest = _LOOK
        while missing := [rank for rank in range(self._size) if rank not in cards]:
            arrived = self._wait([f"rank/{rank}" for rank in missing], min(pause, waiting.remaining()))
            if not arrived:
                if waiting.remaining() == 0.0:
                    raise RendezvousError(self._absent(missing, waiting.timeout) + self._strangers())
                pause = min(2 * pause, longest)
                arrived = self._store.count("rank/", timeout=self._left(_GRACE)) > len(cards)
            if arrived:
                self._read(cards, missing)
            if len(cards) < self._size and (text := self._trouble([card.nonce for card in cards.values()])):
                raise RendezvousError(text)

    def _read(self, cards: dict[int, Card], missing: Iterable[int]) -> None:
        """Take in the cards that have come."""
        bad: RendezvousError | None = None
        patience = Deadline(min(self._left(), _SECOND_TRY))
        for rank in missing:
            try:
                if (value := self._look_up(f"rank/{rank}")) is not None:
                    cards[rank] = self._unpacked(value, rank, patience)
            except RendezvousError as error:
                bad = bad or error  # the answer is for those too whose cards can be read
        if bad is not None:
            raise bad
        if text := disagreement([cards[rank] for rank in sorted(cards)]):
            raise RendezvousError(text)

    def _unpacked(self, value: bytes, rank: int, patience: Deadline) -> Card:
        try:
            return Card.unpack(self._token, value, rank)
        except ForfeitError:
            # It may have been told long ago: whoever tries again puts a card in its place.
            for _ in patience.polls():
                again = self._look_up(f"rank/{rank}")
                if again is not None and again != value:
                    return Card.unpack(self._token, again, rank)
            self._store.delete(f"rank/{rank}", timeout=_GRACE)
            raise

    def _await_plan(self, card: Card) -> Plan:
        """As another rank than 0: read what rank 0 has decided."""
        for _ in self._deadline.polls():
            fields = self._await_answer()
            nonces = fields["nonces"]
            if nonces.get(str(self._rank)) == card.nonce:
                return Plan.of(fields)
            # Rank 0 may have given up before it saw us. An error that names another process of our rank is
            # old.
            if fields["error"] and str(self._rank) not in nonces:
                return Plan.of(fields | {"cards": []})
        raise RendezvousError(
            f"rank 0 has met {len(nonces)} other processes at {self._store!r}, but not this one, which is"
            f" rank {self._rank} of {self._size}: in an earlier job, or were they given another size?"
        )

    def _await_answer(self) -> dict[str, Any]:
        """Wait for any answer of rank 0's, be it to others."""
        return Plan.fields_of(self._token, self._await_bytes())

    def _await_bytes(self) -> bytes:
        waiting = Deadline(self._left() * _EARLY)
        try:
            return self._await("world", waiting.remaining())
        except RendezvousError:
            if waiting.remaining() > 0:  # not in vain, but without a store
                raise
        # Others who wait in vain take their cards away when their time is over, so look before that.
        missing = [rank for rank in range(self._size) if self._look_up(f"rank/{rank}") is None]
        try:
            return self._store.get("world", timeout=self._left())
        except RendezvousError as error:
            waited = self._deadline.timeout
            who = self._absent(missing, waited) if missing else f"rank 0 did not answer within {waited:.3g} s"
            raise RendezvousError(f"{who} ({error})") from error

    # ---- 3 and 4: joining

    def _join(self, plan: Plan, make: Callable[[Plan, Deadline, Callable[[], None]], Any]) -> Any:
        """Return this rank's engine when all ranks have theirs."""
        try:
            engine = make(plan, Deadline(self._deadline.remaining() * _EARLY), lambda: self._check(plan))
            try:
                self._agree(plan)
            except BaseException:
                engine.close()
                raise
        except BrokenOffError as error:
            raise RendezvousError(self._told(plan) or self._fail(plan, error)) from error
        except Exception as error:
            text = self._fail(plan, error)
            if isinstance(error, RendezvousError):
                raise RendezvousError(text) from error
            raise
        return engine

    def _check(self, plan: Plan) -> None:
        """Raise if another rank cannot join."""
        if self._store.count(f"over/{plan.job}", timeout=_GRACE):
            raise BrokenOffError("another rank cannot join")
        if self._rank == 0 and (text := self._trouble(plan.nonces.values())):
            raise RendezvousError(text)

    def _agree(self, plan: Plan) -> None:
        """Wait until all ranks have joined, or one says that it cannot."""
        over = f"over/{plan.job}"
        if self._rank == 0:
            self._await_joined(plan)
            failure = self._store.compare_and_set(over, None, b"", timeout=self._left(_GRACE))
        else:
            self._store.set(_joined(plan, self._rank), b"", timeout=self._left())
            try:
                failure = self._await(over, self._left())
            except RendezvousError as error:
                # Rank 0 may have found just then that all have joined: what came first counts for everybody.
                text = f"rank {self._rank} cannot join: {error}"
                failure = self._store.compare_and_set(over, None, text.encode(), timeout=_GRACE)
        if failure:
            raise RendezvousError(failure.decode(errors="replace"))

    def _await_joined(self, plan: Plan) -> None:
        """As rank 0: wait for all the others, until there is news of a failure."""
        keys = {rank: _joined(plan, rank) for rank in range(1, self._size)}
        waiting = Deadline(self._deadline.remaining() * _EARLY)
        pause, longest = _LOOK
        while keys:
            some = list(keys)[:_MOST_KEYS]
            if self._wait([keys[rank] for rank in some], min(pause, waiting.remaining())):
                for rank in some:
                    del keys[rank]
                continue
            self._check(plan)
            if waiting.remaining() == 0.0:
                missing = [rank for rank, key in keys.items() if self._look_up(key) is None]
                raise RendezvousError(
                    f"{_ranks(missing)} came but did not join within {waiting.timeout:.3g} s; has it ended?"
                )
            pause = min(2 * pause, longest)

    def _fail(self, plan: Plan, error: Exception) -> str:
        """Tell the others why there will be no world, unless one has told before; return what counts."""
        self._spare.close()
        text = self._excuse(error)
        with contextlib.suppress(RendezvousError):
            text = self._trouble(plan.nonces.values()) or text
            told = self._store.compare_and_set(f"over/{plan.job}", None, text.encode(), timeout=_GRACE)
            text = told.decode(errors="replace") or text
        return text

    def _told(self, plan: Plan) -> str:
        """Return what another rank has told, or is about to tell; empty where there is nothing."""
        self._spare.close()
        with contextlib.suppress(RendezvousError):
            return self._store.get(f"over/{plan.job}", timeout=_GRACE).decode(errors="replace")
        return ""

    # ---- 5: leaving

    def _part(self, plan: Plan, patience: float) -> None:
        """Be done with the store; as rank 0, when everybody else is."""
        self._spare.close()
        self._renounce()
        with contextlib.suppress(RendezvousError):
            if self._rank != 0:
                if self._store.add(f"left/{plan.job}", 1, timeout=patience) == self._size - 1:
                    self._store.set(f"done/{plan.job}", b"", timeout=patience)
                return
            with contextlib.suppress(RendezvousError):  # some may never have come
                self._await(f"done/{plan.job}", patience)
            if self._watch:  # one of them may never leave; the others may not have read what was decided
                with contextlib.suppress(RendezvousError):
                    self._store.get(f"done/{plan.job}", timeout=min(patience, _GRACE))
            ours = ["world", *(f"{name}/{plan.job}" for name in ("over", "left", "done"))]
            ours += [_joined(plan, rank) for rank in range(1, self._size)]
            ours += [_trouble(nonce) for nonce in plan.nonces.values()]
            self._store.discard(ours, timeout=patience)

    # ---- small things

    def _excuse(self, error: BaseException) -> str:
        return f"rank {self._rank} cannot join: {described(error)}"

    def _left(self, least: float = 0.0) -> float:
        return max(self._deadline.remaining(), least)

    def _wait(self, keys: Sequence[str], seconds: float) -> bool:
        """Wait a while for keys (the first of them, where they are many); say whether they are there."""
        try:
            self._store.wait(keys[:_MOST_KEYS], timeout=seconds)
        except RendezvousError:
            return False
        return True

    def _await(self, key: str, seconds: float) -> bytes:
        """Return the value under a key when there is one, or raise what this rank hears by other means."""
        if self._watch is None:
            return self._store.get(key, timeout=seconds)
        waiting = Deadline(seconds)
        while True:
            try:
                return self._store.get(key, timeout=min(_LOOK[1], waiting.remaining()))
            except RendezvousError:
                if text := self._watch():
                    raise RendezvousError(text) from None
                if waiting.remaining() == 0.0:
                    raise

    def _look_up(self, key: str) -> bytes | None:
        """Return the value under a key, or None where there is none (or no store any more)."""
        try:
            return self._store.get(key, timeout=0)
        except RendezvousError:
            return None

    def _complaint(self, text: str) -> bytes:
        return seal(self._token, "trouble", text)

    def _trouble(self, nonces: Collection[str]) -> str:
        """Return what somebody knows of trouble with the holders of these; empty where there is none."""
        if self._watch and (text := self._watch()):
            return text
        if self._store.count("trouble/", timeout=self._left(_GRACE)):
            for nonce in nonces:
                if (value := self._look_up(_trouble(nonce))) is not None:
                    return str(unseal(self._token, "trouble", value, "a process that knows of trouble"))
        return ""

    def _absent(self, missing: Sequence[int], seconds: float) -> str:
        return f"{_ranks(missing)} of {self._size} did not come within {seconds:.3g} s"

    def _strangers(self) -> str:
        """Return a hint at connections that the store has refused; empty where there were none."""
        refused = ""
        with contextlib.suppress(RendezvousError):
            refused = self._store.refused(timeout=_GRACE)
        return f"; connections refused because of another token: {refused}" if refused else ""


def _joined(plan: Plan, rank: int) -> str:
    return f"joined/{plan.job}/{rank}"


def _trouble(nonce: str) -> str:
    return f"trouble/{nonce}"


def described(error: BaseException) -> str:
    """Return what the others are told of an error of this rank's."""
    if exhausted(error):
        return f"{error}: {limit()}"
    return str(error) if isinstance(error, RendezvousError) else f"{type(error).__name__}: {error}"


def _ranks(ranks: Sequence[int]) -> str:
    return f"rank{'s' if len(ranks) > 1 else ''} {', '.join(map(str, ranks))}"
