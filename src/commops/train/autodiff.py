"""The one place that imports autograd, or an ImportError that says how to get it."""

from __future__ import annotations

from commops.train.extras import require

require()

import autograd.numpy as anp  # type: ignore[import-untyped]  # noqa: E402
from autograd import value_and_grad  # noqa: E402
from autograd.scipy.special import logsumexp  # type: ignore[import-untyped]  # noqa: E402

__all__ = ["anp", "logsumexp", "value_and_grad"]
