"""How a rank's end is described, and which of several failures is the cause."""

from __future__ import annotations

import os
import signal
import sys
import traceback
from collections.abc import Iterable, Sequence
from types import TracebackType
from typing import NamedTuple

from commops.errors import PeerLostError, RendezvousError, RevokedError

__all__ = ["Failure", "cause_text", "from_exception", "from_status", "in_order", "others_text"]

_OWN_FRAMES = (os.path.dirname(__file__), "<frozen ")
_LONGEST = 50_000  # characters of a traceback; it must fit one message


class Failure(NamedTuple):
    """One rank's failure.

    Attributes
    ----------
    rank : int
    code : int
        The exit code that it stands for: 128 + the signal's number for a death by signal.
    summary : str
        What became of the rank, in one line: ``ValueError: …``, ``killed by SIGKILL``.
    traceback : str
        What Python prints for an uncaught exception; empty where there was none.
    consequence : bool
        Whether it tells of another rank's failure or was the launcher's doing, and thus is no cause.
    """

    rank: int
    code: int
    summary: str
    traceback: str = ""
    consequence: bool = False


def _trim(error: BaseException | None) -> None:
    """Take the launcher's own frames, which come first, from an exception and those that led to it."""
    seen: set[int] = set()
    while error is not None and id(error) not in seen:
        seen.add(id(error))
        trace: TracebackType | None = error.__traceback__
        while trace is not None and trace.tb_frame.f_code.co_filename.startswith(_OWN_FRAMES):
            trace = trace.tb_next
        error.__traceback__ = trace
        error = error.__cause__ or error.__context__


def from_exception(rank: int, error: BaseException) -> Failure:
    """Describe an uncaught exception, as the rank that raised it."""
    _trim(error)
    text = "".join(traceback.format_exception(error))
    if len(text) > _LONGEST:
        text = f"{text[: _LONGEST // 2]}\n[…]\n{text[-_LONGEST // 2 :]}"
    if sys.excepthook is not sys.__excepthook__:  # the program prints its exceptions in a way of its own
        try:
            sys.excepthook(type(error), error, error.__traceback__)
            text = ""
        except Exception:
            traceback.print_exc()
    code = 128 + signal.SIGINT if isinstance(error, KeyboardInterrupt) else 1
    consequence = isinstance(error, PeerLostError | RevokedError) or _tells_of_an_end(error)
    return Failure(rank, code, _one_line(error), text, consequence)


def _tells_of_an_end(error: BaseException) -> bool:
    """Whether a rank could not join because another has ended."""
    from commops.rendezvous.plan import ENDED

    return isinstance(error, RendezvousError) and ENDED in str(error)


def _one_line(error: BaseException) -> str:
    if isinstance(error, SyntaxError):  # its own text begins with the source line
        return f"{type(error).__name__}: {error}"
    return traceback.format_exception_only(error)[0].split("\n")[0][:500]


def from_status(rank: int, code: int, *, stopped: bool) -> Failure:
    """Describe an end that the rank itself could not report.

    Parameters
    ----------
    rank : int
    code : int
        As `subprocess` has it: the exit code, or minus the signal's number.
    stopped : bool
        Whether the launcher had told it to end.
    """
    if code >= 0:
        return Failure(rank, code, f"exited with code {code}", consequence=stopped)
    try:
        name = signal.Signals(-code).name
    except ValueError:
        name = f"signal {-code}"
    summary = f"stopped by the launcher ({name})" if stopped else f"killed by {name}"
    return Failure(rank, 128 - code, summary, consequence=stopped)


def in_order(failures: Iterable[Failure]) -> list[Failure]:
    """Put the cause first: the earliest failure that is no mere consequence, or else the earliest."""
    rest = list(failures)
    cause = next((failure for failure in rest if not failure.consequence), rest[0] if rest else None)
    return [] if cause is None else [cause, *(failure for failure in rest if failure is not cause)]


def cause_text(cause: Failure, size: int) -> str:
    """Tell a person what went wrong first.

    A single rank's traceback stands for itself, as in ``python script.py``, and so does its exit code.
    """
    if size == 1 and cause.code < 128:
        return cause.traceback
    if cause.traceback:
        return f"commops: rank {cause.rank} failed:\n{cause.traceback}"
    return f"commops: rank {cause.rank}: {cause.summary}\n"


def others_text(others: Sequence[Failure]) -> str:
    """Tell what became of the other ranks, one line for all that say the same."""
    groups: dict[str, list[int]] = {}
    for failure in others:
        groups.setdefault(failure.summary, []).append(failure.rank)
    return "".join(
        f"commops: rank{'s' if len(ranks) > 1 else ''} {_ranges(ranks)}: {summary}\n"
        for summary, ranks in groups.items()
    )


def _ranges(ranks: list[int]) -> str:
    """Write ``[0, 1, 2, 5]`` as ``0-2, 5``."""
    runs: list[list[int]] = []
    for rank in sorted(ranks):
        if runs and rank == runs[-1][-1] + 1:
            runs[-1].append(rank)
        else:
            runs.append([rank])
    return ", ".join(f"{run[0]}-{run[-1]}" if len(run) > 1 else str(run[0]) for run in runs)
