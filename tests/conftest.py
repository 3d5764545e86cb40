"""What all tests share: how hypothesis looks for examples."""

from __future__ import annotations

from hypothesis import HealthCheck, settings

_COMMON = {
    "deadline": None,
    "suppress_health_check": [HealthCheck.too_slow, HealthCheck.function_scoped_fixture],
}

# The same examples in every run, so that a change that breaks something is what made a test fail. A deep run
# (--hypothesis-profile=deep) looks for new ones.
settings.register_profile("same", derandomize=True, database=None, **_COMMON)
settings.register_profile("deep", max_examples=3000, **_COMMON)
settings.load_profile("same")
