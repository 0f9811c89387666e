"""What every test run promises: it leaves no lab behind."""

from __future__ import annotations

import os
from collections.abc import Iterator

import pytest
from hypothesis import settings

from tools.lab import registry

settings.register_profile("novanet", deadline=None)  # outcomes are tested, not times
settings.load_profile("novanet")


@pytest.fixture(scope="session", autouse=True)
def no_lab_stays_behind() -> Iterator[None]:
    yield
    left = [record.run_id for record in registry.records() if record.owner == os.getpid()]
    assert not left, f"labs were not closed: {', '.join(left)}"
