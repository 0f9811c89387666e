"""Labs for tests of real packets. They take a fraction of a second, so a module may have its own."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tools.lab import Controller, Lab


@pytest.fixture(scope="module")
def lab() -> Iterator[Lab]:
    """Three hypervisors without NovaNet."""
    with Lab(hypervisors=3) as running:
        yield running


@pytest.fixture(scope="module")
def controller(lab: Lab) -> Iterator[Controller]:
    """NovaNet, ready, with the lab's hypervisors connected."""
    with Controller(lab) as running:
        lab.deploy(running)
        yield running
