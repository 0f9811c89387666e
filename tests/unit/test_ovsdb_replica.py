"""The replica against python-ovs' own IDL: the same rows from the same updates, and events that say what changed."""

from __future__ import annotations

import copy
import uuid
from typing import Any

from hypothesis import given
from hypothesis import strategies as st
from ovs.db.idl import Idl, SchemaHelper

from novanet_apps.hypervisors.pace import AT_ONCE, FORGOTTEN_AFTER, LONGEST, Pace
from novanet_apps.ovsdb.link import Link
from novanet_apps.ovsdb.replica import Replica, RowEvent, members, read

SCHEMA = {
    "name": "Test",
    "version": "1.0.0",
    "tables": {
        "T": {
            "columns": {
                "name": {"type": "string"},
                "maybe": {"type": {"key": "integer", "min": 0, "max": 1}},
                "map": {"type": {"key": "string", "value": "string", "min": 0, "max": "unlimited"}},
                "set": {"type": {"key": "string", "min": 0, "max": "unlimited"}},
                "refs": {"type": {"key": {"type": "uuid", "refTable": "T"}, "min": 0, "max": "unlimited"}},
            },
            "isRoot": True,
        }
    },
}
IDS = [str(uuid.UUID(int=n)) for n in range(4)]
WORDS = st.sampled_from("abcdef")
ROW = st.fixed_dictionaries(
    {},
    optional={
        "name": WORDS,
        "maybe": st.just(["set", []]) | st.integers(0, 3),
        "map": st.dictionaries(WORDS, WORDS, max_size=3).map(lambda found: ["map", list(map(list, found.items()))]),
        "set": st.sets(WORDS, max_size=4).map(lambda found: ["set", sorted(found)]),
        "refs": st.sets(st.sampled_from(IDS), max_size=3).map(
            lambda found: ["set", [["uuid", one] for one in sorted(found)]]
        ),
    },
)
CONTENT = st.dictionaries(st.sampled_from(IDS), ROW, max_size=4)


def helper() -> SchemaHelper:
    found = SchemaHelper(schema_json=copy.deepcopy(SCHEMA))
    found.register_all()
    return found


class Pair:
    """A replica and python-ovs' IDL that are fed the same."""

    def __init__(self) -> None:
        self.replica = Replica(helper(), Link([], 0), False)
        self.idl = Idl("unix:none", helper())

    def load(self, content: dict[str, Any]) -> list[RowEvent]:
        """All rows, as after a connection."""
        for one in (self.idl, self.replica):
            one._Idl__clear()
            updates = {key: {"initial": copy.deepcopy(row)} for key, row in content.items()}
            one._Idl__do_parse_update({"T": updates}, "update3", one.tables)
        former, self.replica._former = self.replica._former, None
        self.replica._compare(former or {})
        return self.replica.take_events()

    def update(self, updates: dict[str, Any]) -> None:
        for one in (self.idl, self.replica):
            one._Idl__do_parse_update({"T": copy.deepcopy(updates)}, "update3", one.tables)


def content(idl: Idl) -> dict[str, dict[str, Any]]:
    return {str(key): values(row) for key, row in idl.tables["T"].rows.items()}


def values(row: Any) -> dict[str, Any]:
    return {column: row._data[column].to_python(lambda atom, _: atom) for column in SCHEMA["tables"]["T"]["columns"]}  # type: ignore[index]


def replay(before: dict[str, dict[str, Any]], events: list[RowEvent]) -> dict[str, dict[str, Any]]:
    """What was there before, found by undoing the events, last first."""
    then = dict(before)
    for event in reversed(events):
        if event.op == "insert":
            del then[event.uuid]
        elif event.op == "delete":
            then[event.uuid] = values(event.row)
        else:
            assert event.old
            then[event.uuid] = {**then[event.uuid], **event.old}
    return then


@given(CONTENT, st.lists(st.tuples(st.sampled_from(IDS), ROW), max_size=6))
def test_updates_give_the_same_rows_and_their_events_can_be_undone(first: dict[str, Any], updates: list[Any]) -> None:
    pair = Pair()
    pair.load(first)
    before = content(pair.replica)
    assert before == content(pair.idl)
    for key, row in updates:
        present = uuid.UUID(key) in pair.replica.tables["T"].rows
        change = {"modify": row} if present and row else {"delete": None} if present else {"insert": row}
        pair.update({key: change})
        assert content(pair.replica) == content(pair.idl)
    events = pair.replica.take_events()
    assert replay(content(pair.replica), events) == before


@given(CONTENT, CONTENT)
def test_after_a_reconnection_only_differences_are_events(first: dict[str, Any], second: dict[str, Any]) -> None:
    pair = Pair()
    assert {event.op for event in pair.load(first)} <= {"insert"}
    before = content(pair.replica)
    events = pair.load(second)
    after = content(pair.replica)
    assert replay(after, events) == before
    assert {event.uuid for event in events} == {
        key for key in before.keys() | after.keys() if before.get(key) != after.get(key)
    }
    assert pair.load(second) == []


def test_the_difference_of_a_set_is_known_without_looking_at_the_rest() -> None:
    pair = Pair()
    pair.load({IDS[0]: {"set": ["set", [f"m{n}" for n in range(5000)]]}})
    row = pair.replica.tables["T"].rows[uuid.UUID(IDS[0])]
    kept = row._data["set"]
    pair.update({IDS[0]: {"modify": {"set": ["set", ["m7", "new"]]}}})
    (event,) = pair.replica.take_events()
    assert event.old is not None
    assert event.old.difference("set") == (["new"], ["m7"])
    assert row._data["set"] is kept, "changed in place"
    assert "new" in members(row, "set") and len(event.old["set"]) == 5000
    assert read(row, "set") == sorted(set(event.old["set"]) - {"m7"} | {"new"})


def test_the_same_repair_is_made_ever_more_rarely() -> None:
    now = 0.0
    pace = Pace(lambda: now)
    waits = []
    for _ in range(12):
        wait = pace.wait("fail_mode")
        waits.append(wait)
        now += wait + 1
    assert waits[:AT_ONCE] == [0.0] * AT_ONCE
    assert waits[AT_ONCE : AT_ONCE + 4] == [1, 2, 4, 8]
    assert waits[-1] == LONGEST
    assert pace.wait("another") == 0.0
    assert pace.wait("fail_mode") == LONGEST, "two programs that take turns do not make each other forgotten"
    now += FORGOTTEN_AFTER + 1
    for _ in range(AT_ONCE):
        assert pace.wait("another") == 0.0
