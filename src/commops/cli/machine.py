"""What a measurement was made on."""

from __future__ import annotations

import os
import platform
from typing import Any

__all__ = ["machine"]


def machine() -> dict[str, Any]:
    """Return processor, cores, kernel and versions; no names of hosts or users."""
    import numpy as np

    import commops
    from commops._core import native
    from commops.tuned import processor

    return {
        "processor": processor(),
        "usable_cores": len(os.sched_getaffinity(0)),
        "kernel": f"{platform.system()} {platform.release()}",
        "python": platform.python_version(),
        "numpy": np.__version__,
        "commops": commops.__version__,
        "kernels": native.isa(),
    }
