"""A program as `__main__`, the way ``python script.py`` and ``python -m module`` run it."""

from __future__ import annotations

import importlib.machinery
import importlib.util
import os
import sys
import types
from collections.abc import Sequence

__all__ = ["find_script", "run_module", "run_script"]


def find_script(path: str) -> str | None:
    """Say why `path` cannot be run as a script, in the interpreter's words, or return None."""
    if os.path.isdir(path):
        has_main = any(os.path.exists(os.path.join(path, f"__main__.{kind}")) for kind in ("py", "pyc"))
        return None if has_main else f"can't find '__main__' module in {path!r}"
    try:
        with open(path, "rb"):
            return None
    except OSError as error:
        return f"can't open file {path!r}: [Errno {error.errno}] {error.strerror}"


def run_script(path: str, arguments: Sequence[str]) -> None:
    """Run a file of source or bytecode, or a folder or zip file that contains ``__main__.py``."""
    if os.path.isdir(path) or _is_zip(path):
        _set_first_path(path)
        spec = importlib.machinery.PathFinder.find_spec("__main__", [path])
        if spec is None:
            raise ImportError(f"can't find '__main__' module in {path!r}")
        _run(spec, path, arguments)
        return
    _set_first_path(os.path.dirname(os.path.realpath(path)))
    full = os.path.abspath(path)
    main = _new_main(file=full)
    if path.endswith(".pyc"):
        loader = importlib.machinery.SourcelessFileLoader("__main__", full)
        code = loader.get_code("__main__")
    else:
        source = importlib.machinery.SourceFileLoader("__main__", full)
        main.__loader__ = source
        code = source.source_to_code(source.get_data(full), full)  # a script leaves no bytecode behind
    sys.argv[:] = [path, *arguments]
    if code is None:
        raise ImportError(f"no code in {path!r}")
    exec(code, main.__dict__)


def run_module(name: str, arguments: Sequence[str]) -> None:
    """Run a module, or the `__main__` of a package, found as from the current folder."""
    _set_first_path(os.getcwd())
    sys.argv[:] = ["-m", *arguments]  # what the packages around it see while they are imported
    spec = _find_module(name)
    _run(spec, spec.origin or name, arguments)


def _find_module(name: str) -> importlib.machinery.ModuleSpec:
    try:
        spec = importlib.util.find_spec(name)
        if spec is not None and spec.submodule_search_locations is not None:
            return _find_module(f"{name}.__main__")
    except ModuleNotFoundError as error:
        # A package on the way to the module; anything that it imports in turn is its own trouble.
        if error.name is None or not f"{name}.".startswith(f"{error.name}."):
            raise
        spec = None
    if spec is None or spec.loader is None:
        raise SystemExit(f"{sys.executable}: No module named {name}")
    return spec


def _run(spec: importlib.machinery.ModuleSpec, file: str, arguments: Sequence[str]) -> None:
    loader = spec.loader
    code = getattr(loader, "get_code", lambda _: None)(spec.name)
    if code is None:
        raise SystemExit(f"{sys.executable}: No code object available for {spec.name}")
    main = _new_main(file=spec.origin)
    main.__spec__, main.__loader__, main.__package__ = spec, loader, spec.parent
    sys.argv[:] = [file, *arguments]
    exec(code, main.__dict__)


def _new_main(file: str | None) -> types.ModuleType:
    """Put a fresh module in the place of the launcher's `__main__`, for good: threads outlive scripts."""
    main = types.ModuleType("__main__")
    main.__dict__.update(__builtins__=sys.modules["builtins"], __annotations__={})
    if file is not None:
        main.__file__ = file
        main.__dict__["__cached__"] = None
    sys.modules["__main__"] = main
    return main


def _set_first_path(folder: str) -> None:
    """Exchange what the interpreter put first for the launcher's sake, unless it was told to put nothing."""
    if not sys.flags.safe_path:
        sys.path[0] = folder


def _is_zip(path: str) -> bool:
    import zipimport

    try:
        zipimport.zipimporter(path)
    except zipimport.ZipImportError:
        return False
    return True
