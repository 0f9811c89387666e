"""Scenarios of the OVSDB session alone."""

from __future__ import annotations

from tests.switch.hypervisor_world import World  # first: it makes threads green

import eventlet  # isort: skip

from typing import Any

from ovs.db.idl import Idl, Transaction

from novanet_apps.ovsdb.session import OvsdbError, RowEvent, Session, read
from tests.switch.daemons import Ovs, wait_for

TABLES = {
    "Open_vSwitch": ["bridges", "external_ids", "no_such_column"],
    "Bridge": ["name", "fail_mode", "ports"],
    "Queue": ["other_config"],
}


class Listening:
    """A session and what it was told."""

    def __init__(self, switch: Ovs, wait: bool = True) -> None:
        self.batches: list[list[RowEvent]] = []
        self.states: list[tuple[bool, str]] = []
        self.session = Session(
            "test", switch.socket, database="Open_vSwitch", tables=TABLES, on_rows=self.batches.append,
            on_state=lambda connected, error: self.states.append((connected, error)),
        )  # fmt: skip
        self.session.start()
        if wait:
            wait_for(lambda: self.session.connected)

    def external_ids(self) -> dict[str, str]:
        (row,) = self.session.rows("Open_vSwitch").values()
        found: dict[str, str] = read(row, "external_ids")
        return found


def increment(_txn: Transaction, idl: Idl) -> int:
    """Add one to external_ids:count."""
    (row,) = idl.tables["Open_vSwitch"].rows.values()
    row.verify("external_ids")
    number = int(row.external_ids.get("count", 0)) + 1
    row.external_ids = {**row.external_ids, "count": str(number)}
    return number


def transactions_follow_each_other(world: World) -> None:
    switch = world.ovs("h1")
    one, two = Listening(switch), Listening(switch)
    pool = eventlet.GreenPool()
    turns = [pool.spawn(each.session.transact, increment) for _ in range(40) for each in (one, two)]
    counted = sorted(turn.wait() for turn in turns)
    assert counted == list(range(1, 81)), "no two callers counted the same, though two sessions wrote"
    assert one.external_ids()["count"] == "80", "a transaction is seen when it is done"
    one.session.stop()
    two.session.stop()


def errors_say_why(world: World) -> None:
    switch = world.ovs("h1")
    listening = Listening(switch)
    switch.vsctl("--no-wait", "add-br", "one")
    wait_for(lambda: listening.session.rows("Bridge"))

    def same_name(txn: Transaction, idl: Idl) -> None:
        (root,) = idl.tables["Open_vSwitch"].rows.values()
        bridge = txn.insert(idl.tables["Bridge"])
        bridge.name = "one"
        root.addvalue("bridges", bridge)

    def bad_value(_txn: Transaction, idl: Idl) -> None:
        (bridge,) = idl.tables["Bridge"].rows.values()
        bridge.fail_mode = "nonsense"

    def defect(_txn: Transaction, idl: Idl) -> None:
        (bridge,) = idl.tables["Bridge"].rows.values()
        bridge.fail_mode = "secure"
        raise LookupError("mine")

    assert "constraint violation" in failure(listening.session, same_name)
    assert "nonsense" in failure(listening.session, bad_value)
    try:
        listening.session.transact(defect)
    except LookupError as exc:
        assert str(exc) == "mine"
    assert switch.get("bridge", "one", "fail_mode") == "[]", "abandoned"
    assert listening.session.transact(lambda txn, idl: "nothing to do") == "nothing to do"
    assert listening.session.transact(increment) == 1, "the session goes on"
    listening.session.stop()


def failure(session: Session, build: Any, timeout: float = 10.0) -> str:
    """The text of the OvsdbError that the transaction ends with."""
    try:
        session.transact(build, timeout)
    except OvsdbError as exc:
        return str(exc)
    raise AssertionError("it was accepted")


def waits_for_its_server(world: World) -> None:
    switch = world.ovs("h1")
    listening = Listening(switch)
    assert [event.op for event in listening.batches[0]] == ["insert"]
    assert listening.states[-1] == (True, "")
    switch.kill_server()
    wait_for(lambda: not listening.session.connected)
    assert listening.session.synced and listening.external_ids()["system-id"] == "h1", "the content stays"
    assert failure(listening.session, increment, 0.5).startswith("not connected")
    waiting = eventlet.spawn(listening.session.transact, increment, 20.0)
    eventlet.sleep(0.1)
    batches = len(listening.batches)
    switch.start_server()
    assert waiting.wait() == 1
    wait_for(lambda: len(listening.batches) > batches)
    assert [(event.op, set(event.old or ())) for batch in listening.batches[batches:] for event in batch] == [
        ("update", {"external_ids"})
    ], "after a reconnection only what differs"
    listening.session.stop()
    listening.session.start()
    wait_for(lambda: listening.session.connected)
    assert len(listening.batches) == batches + 1, "nor after stop and start"
    listening.session.stop()


def nobody_waits_for_a_large_content(world: World) -> None:
    switch = world.ovs("h1")
    writer = Listening(switch)

    def queues(txn: Transaction, idl: Idl) -> None:
        for number in range(500):
            txn.insert(idl.tables["Queue"]).other_config = {"number": str(number)}

    for _ in range(20):
        writer.session.transact(queues)
    writer.session.stop()
    listening = Listening(switch, wait=False)
    longest = before = 0

    def others() -> None:
        nonlocal longest, before
        while True:
            eventlet.sleep(0)
            received = listening.session.rows_received
            longest, before = max(longest, received - before), received

    other = eventlet.spawn(others)
    wait_for(lambda: listening.session.connected)
    assert len(listening.batches) == 1 and len(listening.batches[0]) == 10_001
    assert 0 < longest < 5000, f"{longest} rows were read without a turn for other greenlets"
    other.kill()
    listening.session.stop()


SCENARIOS = (transactions_follow_each_other, errors_say_why, waits_for_its_server, nobody_waits_for_a_large_content)
