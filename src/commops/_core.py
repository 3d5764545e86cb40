"""The compiled core, several modules in one shared library; or an ImportError that says how to get it."""

from __future__ import annotations

import sys
from importlib.machinery import ExtensionFileLoader, ModuleSpec

try:
    from commops import _native as native
except ImportError as error:
    raise ImportError(
        f"commops' compiled core cannot be imported ({error}). Install the package (`pip install .` in a"
        " checkout needs a C compiler), and do not import it from the source folder."
    ) from error

__all__ = ["collectives", "engine", "messages", "native", "recovery", "work"]


def _load(name: str) -> None:
    """Load a module that shares the library of `native`; Python would look for it in a file of its own.

    By hand, because importing `importlib.util` takes longer than all of them.
    """
    loader = ExtensionFileLoader(name, native.__file__)
    spec = ModuleSpec(name, loader, origin=native.__file__)
    sys.modules[name] = module = loader.create_module(spec)
    module.__spec__ = spec
    loader.exec_module(module)


for _name in ("_engine", "_work", "_collectives", "_messages", "_recovery"):  # each uses those before it
    _load(f"commops.{_name}")

from commops import _collectives as collectives  # noqa: E402
from commops import _engine as engine  # noqa: E402
from commops import _messages as messages  # noqa: E402
from commops import _recovery as recovery  # noqa: E402
from commops import _work as work  # noqa: E402
