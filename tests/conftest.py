"""What all tests share: how hypothesis looks for examples, and that no table of tunables is in force."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
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


@pytest.fixture(scope="session", autouse=True)
def _home_without_a_table(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("XDG_CONFIG_HOME", str(tmp_path_factory.mktemp("config")))
        yield
