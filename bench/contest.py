"""Contenders that take turns, a few operations at a time: in each round every one of them measures all once.

A machine's speed may change by half within minutes, where a hypervisor moves its cores. So turns are short,
and ratios are taken between times of one round. A contender that cannot be installed, fails, or takes too
long is left out from then on, and its record says why; commops may not be.
"""

from __future__ import annotations

import json
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import peers
import report
from commops.cli import measure as method

__all__ = ["ContenderError", "Setting", "compete", "run_once"]

_RANK = str(Path(__file__).with_name("rank.py"))
_SECONDS = 600  # that one contender may take for one turn
_GRACE = 30  # seconds until a launcher must have noticed that its ranks have ended


class Setting(NamedTuple):
    """Ranks, a transport, and who competes there: keys of `peers.CONTENDERS`."""

    ranks: int
    transport: str
    contenders: tuple[str, ...]

    @property
    def name(self) -> str:
        return f"{self.transport}{self.ranks}"


class ContenderError(Exception):
    """A contender has not measured; says why, in a line."""


def run_once(
    name: str, setting: Setting, cases: str, arguments: dict[str, Any], seconds: int = _SECONDS
) -> dict[str, Any]:
    """Let one contender measure once.

    Parameters
    ----------
    name : str
    setting : Setting
    cases : str
        What is measured: ``collectives``, ``objects`` or ``messages``.
    arguments : dict
        For `commops.cli.measure.measure`.
    seconds : int
        How long its ranks may take; then they end themselves.

    Returns
    -------
    dict
        ``version``, and ``microseconds`` by operation and size.

    Raises
    ------
    ContenderError
        If it does not come to an end, or not to a good one. What it wrote goes to stderr.
    """
    told = (method.__file__, cases, json.dumps(arguments), str(seconds))
    command, environ = peers.command(
        name, setting.ranks, setting.transport, _RANK, peers.CONTENDERS[name].library, *told
    )
    begin = time.monotonic()
    try:
        done = subprocess.run(
            command,
            env=environ,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            errors="replace",
            timeout=seconds + _GRACE,
            check=False,
        )
    except subprocess.TimeoutExpired:
        raise ContenderError(f"not ready within {seconds + _GRACE} s") from None
    except OSError as error:
        raise ContenderError(f"cannot be started: {error.strerror}") from None
    line = next((line for line in done.stdout.splitlines() if line.startswith('{"version"')), None)
    if done.returncode or line is None:
        print(done.stderr[-4000:], file=sys.stderr)
        if time.monotonic() - begin > seconds:
            raise ContenderError(f"not ready within {seconds} s")
        raise ContenderError(f"ended with {done.returncode}: {peers.last_line(done.stderr)}")
    found = json.loads(line)
    points = {report.point(row["op"], row["bytes"]): round(row["microseconds"], 3) for row in found["rows"]}
    return {"version": found["version"], "microseconds": points}


def compete(
    setting: Setting,
    cases: str,
    *,
    rounds: int,
    sizes: Sequence[int],
    turns: Sequence[Sequence[str]] = (),
    batches: int = 3,
    seconds: float = 0.06,
) -> dict[str, Any]:
    """Let contenders alternate.

    Parameters
    ----------
    setting : Setting
    cases : str
        As for `run_once`.
    rounds : int
    turns : sequence of sequences of str
        Operations that a contender measures before the next one measures them. By default all.
    sizes, batches, seconds
        For `commops.cli.measure.measure`.

    Returns
    -------
    dict
        ``setting``, ``versions``, ``left_out``, and ``rounds``: of each the `report.Times`.
    """
    arguments = {"sizes": list(sizes), "batches": batches, "seconds": seconds}
    left_out = peers.prepare(setting.contenders)
    versions: dict[str, str] = {}
    found: list[report.Times] = []
    for number in range(rounds):
        found.append({name: {} for name in setting.contenders if name not in left_out})
        for turn, ops in enumerate(turns or [None]):
            of_turn = arguments if ops is None else arguments | {"ops": list(ops)}
            # Each goes first in turn.
            first = (number + turn) % len(setting.contenders)
            for name in setting.contenders[first:] + setting.contenders[:first]:
                if name in left_out:
                    continue
                what = f"{cases}, {setting.name}: round {number + 1} of {rounds}, {', '.join(ops or ['all'])}"
                print(f"{what}: {name}", file=sys.stderr)
                try:
                    run = run_once(name, setting, cases, of_turn)
                except ContenderError as failure:
                    if name in peers.OWN:
                        raise
                    left_out[name] = f"round {number + 1}: {failure}"
                    print(f"{name} is left out: {failure}", file=sys.stderr)
                else:
                    versions[name] = run["version"]
                    found[-1][name] |= run["microseconds"]
    return {"setting": setting._asdict(), "versions": versions, "left_out": left_out, "rounds": found}
