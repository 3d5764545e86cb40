"""How the ranks of a job meet: who is where, do they agree, and what does the core need to connect them.

1. Every rank publishes a card under ``rank/<number>``.
2. Rank 0 reads all of them, checks that they fit together, and publishes the world they make, or why there
   can be none, under ``world``: so a mistake on one rank is the same error on all.
3. Ranks of one host hand each other the descriptors by which they share memory (`handover`), and each makes
   its engine.
4. Each says so under ``joined/<job>/<number>``. When all have, rank 0 publishes that it is ``over/<job>``;
   the first that fails publishes why there instead. So either all ranks get a world or none does.
5. Rank 0, which may serve the store, leaves last and tidies up.

A random number on each card tells what belongs to this job from what a killed one left behind. A store may be
used by several worlds, one after the other.
"""

from __future__ import annotations

import contextlib
import os
import socket
from collections.abc import Collection, Iterable, Sequence
from typing import Any, NamedTuple

from commops._core import native
from commops.errors import AuthenticationError, RendezvousError
from commops.rendezvous import addresses, handover
from commops.rendezvous.card import Card, disagreement, seal, unseal
from commops.rendezvous.deadline import Deadline
from commops.rendezvous.engine import doorbell, make_engine, share
from commops.rendezvous.store import Store
from commops.rendezvous.token import Token

__all__ = ["World", "alone", "meet"]

# Tunables that each rank may set for itself. All others shape what ranks send each other, or which algorithm
# they use.
_OWN_TUNABLES = frozenset({"spin_us", "socket_bytes", "user_timeout_ms", "handshake_ms"})

_EARLY = 0.9  # of the time is for waiting; the rest is for telling the others that it was in vain
_GRACE = 1.0  # seconds for a call to the store when things go wrong
_LAST_WORD = 0.2  # seconds that rank 0 stays for others to hear that it was in vain, when the time is over
_PARTING = 5.0  # seconds that rank 0 waits for the others to leave a store that it may serve
_LOOK = (0.02, 0.2)  # seconds between looks at who has come: at first, at last
_MOST_KEYS = 256  # in one wait


class World(NamedTuple):
    """A rank's engine, and what the ranks know of each other.

    Attributes
    ----------
    engine : native Engine
    hosts : tuple of str
        Name of the host of each rank.
    """

    engine: Any
    hosts: tuple[str, ...]


def alone() -> World:
    """Return the world of a single rank, which needs nobody."""
    window = native.Window(1)
    engine = make_engine(0, [0], window, [(-1, doorbell(), -1)], share=False, job=bytes(16), token=b"")
    return World(engine, (addresses.host_name(),))


def meet(
    store: Store,
    rank: int,
    size: int,
    *,
    transport: str,
    token: Token | None,
    interface: str,
    deadline: Deadline,
) -> World:
    """Meet the other ranks.

    Parameters
    ----------
    store : Store
        Where cards are exchanged; nothing else may use its keys.
    rank, size : int
    transport : {"auto", "shm", "tcp"}
    token : Token, optional
        None is accepted where strangers cannot reach the ranks; a key for this world is then made up.
    interface : str
        Where to listen, as `addresses.choose` takes it.
    deadline : Deadline
        For everything.

    Raises
    ------
    RendezvousError
        If the ranks do not fit together, or not all of them come by the deadline. The message names them.
    AuthenticationError
        If ranks have different tokens.
    """
    meeting = _Meeting(store, rank, size, token, deadline)
    try:
        with contextlib.closing(_Sockets()) as sockets:
            sockets.open(transport, interface)
            return meeting.hold(_card(rank, size, transport, sockets), sockets)
    except OSError as error:
        raise RendezvousError(f"rank {rank} cannot join: {error}") from error


# ---- what a rank brings


class _Sockets:
    """Where this rank can be reached while it joins.

    Attributes
    ----------
    local : socket or None
        Where it hands over descriptors; None where it shares no memory.
    local_name : str
        Name of that in the abstract namespace.
    listeners : list of socket
        For the other hosts.
    addresses : str
        Of those, as they stand on the card.
    loopback : bool
        Whether only this machine reaches those.
    """

    def __init__(self) -> None:
        self.local: socket.socket | None = None
        self.local_name = ""
        self.listeners: list[socket.socket] = []
        self.addresses = ""
        self.loopback = True

    def open(self, transport: str, interface: str) -> None:
        """Open what the transport needs."""
        if transport != "tcp":
            self.local_name = f"commops-{os.urandom(16).hex()}"
            self.local = handover.open_socket(self.local_name)
        if transport != "shm":
            chosen = addresses.choose(interface)
            self.loopback = all(address.is_loopback for address in chosen)
            self.listeners, self.addresses = addresses.listen(chosen)

    def close(self) -> None:
        """Close what has not been handed on."""
        for sock in (*self.listeners, *([self.local] if self.local else [])):
            sock.close()


def _card(rank: int, size: int, transport: str, sockets: _Sockets) -> Card:
    from commops import __version__

    machine = addresses.machine_key()
    return Card(
        rank=rank,
        size=size,
        transport=transport,
        version=__version__,
        machine=machine,
        host=f"{machine} {os.environ.get('COMMOPS_HOST', '')}",
        host_name=addresses.host_name(),
        process=os.getpid(),
        unix=sockets.local_name,
        addresses=sockets.addresses,
        loopback=sockets.loopback,
        tunables={name: value for name, _, _, value, _ in native.tunables() if name not in _OWN_TUNABLES},
        nonce=os.urandom(16).hex(),
    )


# ---- the meeting


class _Plan(NamedTuple):
    """What rank 0 has decided.

    Attributes
    ----------
    job : str
        A random name for this world, 32 hexadecimal digits.
    nonces : dict of str
        Of the cards that were read, by the rank (as JSON has it, in digits).
    cards : list of Card
        Of all ranks; empty where there is an error.
    key : str
        The secret of a job without a token.
    error, authentication : str, bool
        Why there is no world, and whether it is for the token; empty where there is one.
    """

    job: str
    nonces: dict[str, str]
    cards: list[Card]
    key: str = ""
    error: str = ""
    authentication: bool = False


class _Meeting:
    """One rank's part in the steps that the module describes."""

    def __init__(self, store: Store, rank: int, size: int, token: Token | None, deadline: Deadline) -> None:
        self._store, self._rank, self._size = store, rank, size
        self._token, self._deadline = token, deadline

    def hold(self, card: Card, sockets: _Sockets) -> World:
        """Take all the steps."""
        self._publish(card)
        try:
            plan = self._decide() if self._rank == 0 else self._await_plan(card)
        finally:
            self._withdraw()
        try:
            if plan.error:
                raise (AuthenticationError if plan.authentication else RendezvousError)(plan.error)
            engine = self._join(plan, sockets)
        except Exception:
            self._part(plan, min(max(self._deadline.remaining(), _LAST_WORD), _GRACE))
            raise
        self._part(plan, _PARTING)
        return World(engine, tuple(card.host_name for card in plan.cards))

    # ---- 1: cards

    def _publish(self, card: Card) -> None:
        value = card.pack(self._token)
        stored = self._store.compare_and_set(f"rank/{self._rank}", None, value, timeout=self._left())
        if stored == value:
            return
        try:
            other = Card.unpack(self._token, stored, self._rank)
        except AuthenticationError as error:
            raise AuthenticationError(f"there already is a rank {self._rank}, and {error}") from None
        text = f"{other.who} and {card.who} are both rank {self._rank}: give every process a rank of its own"
        with contextlib.suppress(RendezvousError):
            trouble = seal(self._token, "trouble", {"nonce": other.nonce, "text": text})
            self._store.set("trouble", trouble, timeout=_GRACE)
        raise RendezvousError(
            f"{text}; or if {other.who} is of an earlier job that was killed, use a fresh folder, prefix or"
            " port"
        )

    def _withdraw(self) -> None:
        """Take our card away, so that this rank may come here again."""
        with contextlib.suppress(RendezvousError):
            self._store.delete(f"rank/{self._rank}", timeout=_GRACE)

    # ---- 2: the plan

    def _decide(self) -> _Plan:
        """As rank 0: read all cards, and publish what they make."""
        cards: dict[int, Card] = {}
        error, authentication = "", False
        try:
            self._gather(cards)
        except RendezvousError as failure:
            error, authentication = str(failure), isinstance(failure, AuthenticationError)
        plan = _Plan(
            job=os.urandom(16).hex(),
            nonces={str(rank): card.nonce for rank, card in cards.items()},
            cards=[] if error else [cards[rank] for rank in range(self._size)],
            key="" if self._token or error else os.urandom(32).hex(),
            error=error,
            authentication=authentication,
        )
        self._store.set(
            "world",
            seal(self._token, "world", plan._asdict() | {"cards": [card.fields() for card in plan.cards]}),
            timeout=self._left(_GRACE),
        )
        return plan

    def _gather(self, cards: dict[int, Card]) -> None:
        """Fill `cards` with those of all ranks, as far as they come and agree."""
        waiting = Deadline(self._deadline.remaining() * _EARLY)
        pause, longest = _LOOK
        while missing := [rank for rank in range(self._size) if rank not in cards]:
            if waiting.remaining() == 0.0:
                raise RendezvousError(self._absent(missing, waiting.timeout))
            keys = [f"rank/{rank}" for rank in missing[:_MOST_KEYS]]
            with contextlib.suppress(RendezvousError):
                self._store.wait(keys, timeout=min(pause, waiting.remaining()))
            pause = min(2 * pause, longest)
            if self._store.count("rank/", timeout=self._left(_GRACE)) > len(cards):
                self._look(cards, missing)
            if len(cards) < self._size and (text := self._trouble([card.nonce for card in cards.values()])):
                raise RendezvousError(text)

    def _look(self, cards: dict[int, Card], missing: Iterable[int]) -> None:
        """Take in the cards that have come."""
        bad: RendezvousError | None = None
        for rank in missing:
            value = self._look_up(f"rank/{rank}")
            try:
                if value is not None:
                    cards[rank] = Card.unpack(self._token, value, rank)
            except RendezvousError as error:
                bad = bad or error  # the answer is for those too whose cards can be read
        if bad is not None:
            raise bad
        if 0 in cards and (text := disagreement([cards[rank] for rank in sorted(cards)])):
            raise RendezvousError(text)

    def _trouble(self, nonces: Collection[str]) -> str:
        """Return the complaint of a process that has found its rank taken by one of these."""
        value = self._look_up("trouble")
        if value is None:
            return ""
        trouble = unseal(self._token, "trouble", value, "a process that found its rank taken")
        return str(trouble["text"]) if trouble["nonce"] in nonces else ""

    def _await_plan(self, card: Card) -> _Plan:
        """As another rank than 0: read what rank 0 has decided."""
        for _ in self._deadline.polls():
            fields = self._await_answer()
            nonces = fields["nonces"]
            if nonces.get(str(self._rank)) == card.nonce:
                fields["cards"] = [Card.of(one, rank) for rank, one in enumerate(fields["cards"])]
                return _Plan(**fields)
            # Rank 0 may have given up before it saw us. An error that names another process of our rank is
            # old.
            if fields["error"] and str(self._rank) not in nonces:
                fields["cards"] = []
                return _Plan(**fields)
        raise RendezvousError(
            f"rank 0 has met {len(nonces)} other processes at {self._store!r}, but not this one, which is"
            f" rank {self._rank} of {self._size}: in an earlier job, or were they given another size?"
        )

    def _await_answer(self) -> dict[str, Any]:
        """Wait for any answer of rank 0's, be it to others."""
        answer = unseal(self._token, "world", self._await_bytes(), "rank 0")
        if not isinstance(answer, dict) or answer.keys() != set(_Plan._fields):
            raise RendezvousError(
                "the answer of rank 0 makes no sense; does it run another version of commops?"
            )
        return answer

    def _await_bytes(self) -> bytes:
        try:
            return self._store.get("world", timeout=self._left() * _EARLY)
        except RendezvousError:
            self._store.count(timeout=_GRACE)  # is the store still there?
        # Others who wait in vain take their cards away when their time is over, so look before that.
        missing = [rank for rank in range(self._size) if self._look_up(f"rank/{rank}") is None]
        try:
            return self._store.get("world", timeout=self._left())
        except RendezvousError as error:
            waited = self._deadline.timeout
            who = self._absent(missing, waited) if missing else f"rank 0 did not answer within {waited:.3g} s"
            raise RendezvousError(f"{who} ({error})") from error

    # ---- 3 and 4: joining

    def _join(self, plan: _Plan, sockets: _Sockets) -> Any:
        """Return this rank's engine when all ranks have theirs."""
        try:
            engine = self._connect(plan, sockets)
            try:
                self._agree(plan)
            except BaseException:
                engine.close()
                raise
        except handover.BrokenOffError as error:
            raise RendezvousError(self._told(plan) or self._fail(plan, error)) from error
        except Exception as error:
            text = self._fail(plan, error)
            if isinstance(error, RendezvousError):
                raise RendezvousError(text) from error
            raise
        return engine

    def _agree(self, plan: _Plan) -> None:
        """Wait until all ranks have joined, or one says that it cannot."""
        self._store.set(f"joined/{plan.job}/{self._rank}", b"", timeout=self._left())
        if self._rank == 0:
            self._await_joined(plan)
            self._store.compare_and_set(f"over/{plan.job}", None, b"", timeout=self._left(_GRACE))
        failure = self._store.get(f"over/{plan.job}", timeout=self._left()).decode()
        if failure:
            raise RendezvousError(failure)

    def _await_joined(self, plan: _Plan) -> None:
        """As rank 0: wait for all, until there is news of a failure."""
        keys = {rank: f"joined/{plan.job}/{rank}" for rank in range(self._size)}
        waiting = Deadline(self._deadline.remaining() * _EARLY)
        pause, longest = _LOOK
        while keys:
            some = list(keys)[:_MOST_KEYS]
            try:
                self._store.wait([keys[rank] for rank in some], timeout=min(pause, waiting.remaining()))
            except RendezvousError:
                if self._store.count(f"over/{plan.job}", timeout=self._left(_GRACE)):
                    return
                if waiting.remaining() == 0.0:
                    missing = [rank for rank, key in keys.items() if self._look_up(key) is None]
                    text = f"{_ranks(missing)} came but did not join within {waiting.timeout:.3g} s"
                    raise RendezvousError(f"{text}; has it ended?") from None
                pause = min(2 * pause, longest)
                continue
            for rank in some:
                del keys[rank]

    def _fail(self, plan: _Plan, error: Exception) -> str:
        """Tell the others why there will be no world, unless one has told before; return what counts."""
        text = str(error) if isinstance(error, RendezvousError) else f"{type(error).__name__}: {error}"
        text = f"rank {self._rank} cannot join: {text}"
        with contextlib.suppress(RendezvousError):
            text = self._trouble(plan.nonces.values()) or text
            told = self._store.compare_and_set(f"over/{plan.job}", None, text.encode(), timeout=_GRACE)
            text = told.decode() or text
        return text

    def _told(self, plan: _Plan) -> str:
        """Return what another rank has told, or is about to tell; empty where there is nothing."""
        with contextlib.suppress(RendezvousError):
            return self._store.get(f"over/{plan.job}", timeout=_GRACE).decode()
        return ""

    def _connect(self, plan: _Plan, sockets: _Sockets) -> Any:
        """Share memory with the ranks of this host, and make the engine."""
        shares = bool(sockets.local)
        names = [card.host if shares else str(card.rank) for card in plan.cards]
        numbers = {name: number for number, name in enumerate(dict.fromkeys(names))}
        hosts = [numbers[name] for name in names]
        neighbours = [rank for rank in range(self._size) if hosts[rank] == hosts[self._rank]]
        remote = len(neighbours) < self._size
        window = native.Window(len(neighbours))
        key = self._token or Token(plan.key.encode())
        waiting = Deadline(self._deadline.remaining() * _EARLY)

        def check() -> None:
            if self._store.count(f"over/{plan.job}", timeout=_GRACE):
                raise handover.BrokenOffError("another rank cannot join")

        return make_engine(
            self._rank,
            hosts,
            window,
            share(self._rank, neighbours, plan.cards, window, key, sockets.local, waiting, check),
            share=shares,
            listeners=sockets.listeners if remote else [],
            places=[card.addresses for card in plan.cards] if remote else [],
            job=bytes.fromhex(plan.job),
            token=key,
        )

    # ---- 5: leaving

    def _part(self, plan: _Plan, patience: float) -> None:
        """Be done with the store; as rank 0, when everybody else is."""
        with contextlib.suppress(RendezvousError):
            self._store.delete(f"joined/{plan.job}/{self._rank}", timeout=patience)
            if self._rank != 0:
                if self._store.add(f"left/{plan.job}", 1, timeout=patience) == self._size - 1:
                    self._store.set(f"done/{plan.job}", b"", timeout=patience)
                return
            with contextlib.suppress(RendezvousError):  # some may never have come
                self._store.get(f"done/{plan.job}", timeout=patience)
            for key in ("trouble", "world", *(f"{name}/{plan.job}" for name in ("over", "left", "done"))):
                self._store.delete(key, timeout=patience)

    # ---- small things

    def _left(self, least: float = 0.0) -> float:
        return max(self._deadline.remaining(), least)

    def _look_up(self, key: str) -> bytes | None:
        """Return the value under a key, or None where there is none (or no store any more)."""
        try:
            return self._store.get(key, timeout=0)
        except RendezvousError:
            return None

    def _absent(self, missing: Sequence[int], seconds: float) -> str:
        return f"{_ranks(missing)} of {self._size} did not come within {seconds:.3g} s"


def _ranks(ranks: Sequence[int]) -> str:
    return f"rank{'s' if len(ranks) > 1 else ''} {', '.join(map(str, ranks))}"
