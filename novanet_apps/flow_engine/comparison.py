"""A bridge against its ledger: what has to change in it, in pieces that leave the event loop free."""

from __future__ import annotations

from collections.abc import Iterator

import eventlet

from pipelines.ledger import Ledger
from pipelines.wire import Delta

from . import reading
from .session import Session


def differences(session: Session, ledger: Ledger, size: int) -> Iterator[Delta]:
    """What leads from what the bridge has to what it is to have, in pieces of about ``size`` changes.

    Raises SwitchError, ValueError.
    """
    return _gathered(_differences(session, ledger), size)


def _differences(session: Session, ledger: Ledger) -> Iterator[Delta]:
    """All of the switch's answer is taken before the first piece is given, since it answers nothing else in between."""
    groups, meters = reading.read_groups(session), reading.read_meters(session)
    read_all = False

    def flows() -> Iterator[tuple[bytes, bytes]]:
        nonlocal read_all
        yield from reading.read_flows(session)
        read_all = True

    early = Delta()
    for delta in ledger.differences(flows(), groups, meters):
        if not read_all:
            early.then(delta)
            eventlet.sleep(0)
            continue
        if len(early):
            early.then(delta)
            delta, early = early, Delta()
        yield delta
    yield early


def _gathered(deltas: Iterator[Delta], size: int) -> Iterator[Delta]:
    """The same changes, small pieces joined, so that bundles are well filled."""
    whole = Delta()
    for delta in deltas:
        if len(whole) and len(whole) + len(delta) > size:
            yield whole
            whole = Delta()
        whole.then(delta)
        eventlet.sleep(0)
    if len(whole):
        yield whole
