"""The version that was built. It stands in pyproject.toml; the build puts it into the core."""

from commops._core import native

__all__ = ["__version__"]

__version__: str = native.VERSION
