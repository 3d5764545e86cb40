"""The version, as installed."""

from importlib.metadata import PackageNotFoundError, version

__all__ = ["__version__"]

try:
    __version__ = version("commops")
except PackageNotFoundError:  # used from a build folder
    __version__ = "0+unknown"
