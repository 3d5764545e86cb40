from __future__ import annotations

import sys
from pathlib import Path

# The benchmarks are programs beside the package, which import each other by name.
sys.path.insert(0, str(Path(__file__).parents[2] / "bench"))
