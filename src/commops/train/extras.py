"""What ``pip install 'commops[train]'`` adds, and what to say where it is missing."""

from __future__ import annotations

from importlib.util import find_spec

__all__ = ["MissingExtraError", "missing", "require"]

_PACKAGES = {
    "autograd": "autograd",
    "sklearn": "scikit-learn",
    "scipy": "scipy",
    "matplotlib": "matplotlib",
}


class MissingExtraError(ImportError):
    """Packages that training needs are not installed. The message names the command that installs them."""


def missing() -> list[str]:
    """Return the packages that are not installed, by the names that pip knows. Imports nothing."""
    return [package for module, package in _PACKAGES.items() if find_spec(module) is None]


def require() -> None:
    """Raise `MissingExtraError` unless all are installed."""
    if absent := missing():
        raise MissingExtraError(
            f"training needs packages that are not installed ({', '.join(absent)}):"
            " run  pip install 'commops[train]'"
        )
