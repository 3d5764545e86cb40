"""The table of tunables that ``commops bench --tune`` writes: which values are fast on this machine.

A value comes from the environment, or else from the table, or else it is the default. A world has one set of
values for all its ranks, since these decide what ranks send each other: that of rank 0, whose table alone is
read (`commops.rendezvous.bootstrap`).

The file is JSON: a format, the machine and the date of the measurement, and a list of settings. A setting has
the values that were better than the defaults for so many ranks on this host, with shared memory or with TCP.
"""

from __future__ import annotations

import contextlib
import itertools
import json
import math
import os
from collections.abc import Iterable, Mapping
from typing import Any, NamedTuple

from commops._core import native

__all__ = [
    "OWN",
    "Setting",
    "Table",
    "Tunable",
    "in_force",
    "machine",
    "place",
    "processor",
    "tunables",
    "write",
]

# Each rank may set these for itself. All others shape what ranks send, or which algorithm they use.
OWN = frozenset({"spin_us", "socket_bytes", "heartbeat_ms", "handshake_ms", "tls_kernel"})

_FORMAT = 1
_CACHES = "/sys/devices/system/cpu/cpu0/cache"


class Setting(NamedTuple):
    """What has been measured in one setting.

    Attributes
    ----------
    transport : str
        ``shm`` or ``tcp``.
    ranks : int
        On this host.
    crowded : bool
        Whether these were more than the cores that they could use.
    tunables : dict
        Name and value of those that are better than the defaults.
    """

    transport: str
    ranks: int
    crowded: bool
    tunables: dict[str, int]


class Table(NamedTuple):
    """A table of this machine.

    Attributes
    ----------
    path : str
    date : str
        Of the measurement.
    settings : list of Setting
    """

    path: str
    date: str
    settings: list[Setting]

    def nearest(self, transport: str, ranks: int) -> Setting | None:
        """Return the setting whose number of ranks is nearest by ratio, as crowded as they are here."""
        crowded = ranks > len(os.sched_getaffinity(0))
        fit = [one for one in self.settings if one.transport == transport and one.crowded == crowded]
        return min(fit, key=lambda one: (abs(math.log(one.ranks / ranks)), one.ranks), default=None)

    def values(self, transport: str, ranks: int) -> dict[str, int]:
        """Return what that setting says; nothing where there is none."""
        setting = self.nearest(transport, ranks)
        return setting.tunables if setting else {}


class Tunable(NamedTuple):
    """A tunable, its value, and where that comes from: ``environment``, ``table`` or ``default``."""

    name: str
    variable: str
    default: int
    value: int
    origin: str
    meaning: str


def tunables(chosen: Mapping[str, int]) -> list[Tunable]:
    """Return all tunables, where a table says `chosen`; ValueError where the environment is wrong."""
    found = []
    for name, variable, default, value, meaning in native.tunables():
        origin = "default"
        if os.environ.get(variable):
            origin = "environment"
        elif name in chosen:
            origin, value = "table", chosen[name]
        found.append(Tunable(name, variable, default, value, origin, meaning))
    return found


def place(environ: Mapping[str, str] = os.environ) -> str | None:
    """Return where the table is, or would be; None where ``COMMOPS_TABLE`` is empty."""
    named = environ.get("COMMOPS_TABLE")
    if named is not None:
        return named or None
    home = environ.get("XDG_CONFIG_HOME", "")
    if not os.path.isabs(home):  # as the XDG Base Directory Specification has it
        home = os.path.expanduser("~/.config")
    return os.path.join(home, "commops", "table.json")


def in_force(environ: Mapping[str, str] = os.environ) -> tuple[Table | None, str]:
    """Return the table that holds here, or None and why there is none (nothing where there is no file).

    Raises
    ------
    ValueError
        If ``COMMOPS_TABLE`` names a file that cannot be read. The message names it.
    """
    path = place(environ)
    if path is None:
        return None, "COMMOPS_TABLE is empty"
    try:
        content = _content(path)
        if foreign := _foreign(content):
            return None, f"{path} {foreign}"
        return Table(path, content["date"], [_setting(fields) for fields in content["settings"]]), ""
    except (OSError, ValueError) as error:
        why = error.strerror if isinstance(error, OSError) else str(error)
        if environ.get("COMMOPS_TABLE"):
            raise ValueError(f"COMMOPS_TABLE={path} cannot be read: {why}") from error
        return None, "" if isinstance(error, FileNotFoundError) else f"{path} cannot be read: {why}"


def write(path: str, date: str, settings: Iterable[Setting]) -> None:
    """Write a table of this machine, so that whoever reads finds the old one or all of the new one."""
    content = {
        "format": _FORMAT,
        "date": date,
        "machine": machine(),
        "settings": [setting._asdict() for setting in settings],
    }
    folder, name = os.path.split(os.path.abspath(path))
    os.makedirs(folder, exist_ok=True)
    temporary = os.path.join(folder, f".{name}.{os.getpid()}")
    try:
        with open(temporary, "x", encoding="utf-8") as file:
            file.write(json.dumps(content, indent=1) + "\n")
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, path)
    except BaseException:
        with contextlib.suppress(OSError):
            os.unlink(temporary)
        raise


def machine() -> dict[str, Any]:
    """Return by what a table knows its machine again."""
    return {
        "processor": processor(),
        "cores": os.cpu_count(),
        "caches": _caches(),
        "commops": native.VERSION,
    }


def processor() -> str:
    """Return the name of the processor, or of its architecture where it has none."""
    with contextlib.suppress(OSError), open("/proc/cpuinfo", "rb", buffering=0) as file:
        # The first core's lines: the kernel writes them as they are read, and with many cores all take long.
        for line in file.read(4096).decode(errors="replace").splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    return os.uname().machine


def _caches() -> list[str]:
    """Return the sizes of a core's caches as the kernel tells them, such as ``1024K``."""
    found = []
    with contextlib.suppress(OSError):
        for index in itertools.count():
            with open(f"{_CACHES}/index{index}/size", "rb", buffering=0) as file:
                found.append(file.read().decode().strip())
    return found


def _content(path: str) -> dict[str, Any]:
    try:
        with open(path, "rb") as file:
            content = json.loads(file.read())
    except RecursionError:
        raise ValueError("it is nested too deeply") from None
    if not isinstance(content, dict) or not isinstance(content.get("format"), int):
        raise ValueError("it is no table of tunables")
    return content


def _foreign(content: dict[str, Any]) -> str:
    """Say why a table is not for here; nothing where it is."""
    if content["format"] != _FORMAT:
        return f"has format {content['format']}, and this version reads {_FORMAT}"
    here = machine()
    there = content.get("machine")
    if not isinstance(there, dict) or not isinstance(content.get("date"), str):
        raise ValueError("machine or date is missing")
    differing = [name for name in here if there.get(name) != here[name]]
    if differing:
        what = ", ".join(f"{name} {there.get(name)!r}, here {here[name]!r}" for name in differing)
        return f"was measured elsewhere: {what}"
    if not isinstance(content.get("settings"), list):
        raise ValueError("settings are missing")
    return ""


def _setting(fields: Any) -> Setting:
    try:
        setting = Setting(**fields)
        sound = (
            setting.transport in ("shm", "tcp")
            and type(setting.ranks) is int
            and setting.ranks > 0
            and type(setting.crowded) is bool
            and all(type(value) is int for value in setting.tunables.values())
        )
    except (TypeError, AttributeError):
        sound = False
    if not sound:
        raise ValueError(f"this is no setting: {fields!r}")
    if own := OWN & setting.tunables.keys():
        raise ValueError(f"{', '.join(own)}: each rank sets this for itself")
    try:
        native.check_tunables(setting.tunables)
    except OverflowError as error:
        raise ValueError(f"{setting.tunables}: {error}") from None
    return setting
