"""Rows of what agents have counted, in a real database: they come, change, and go with their hypervisor."""

from __future__ import annotations

import json
import subprocess
from itertools import count
from pathlib import Path
from typing import Any
from uuid import uuid4

import pytest

from topology.loads import Count, operations, told
from topology.schema import DATABASE, LOAD, Operation, schema

POOL = str(uuid4())


class Database:
    """A database file, edited without a server."""

    def __init__(self, directory: Path) -> None:
        self._numbers = count(1)
        self.file = directory / "intent.db"
        (directory / "schema").write_text(json.dumps(schema()))
        subprocess.run(["ovsdb-tool", "create", self.file, directory / "schema"], check=True)

    def transact(self, *todo: Operation) -> list[Any]:
        text = json.dumps([DATABASE, *todo])
        done = subprocess.run(["ovsdb-tool", "transact", self.file, text], check=True, capture_output=True, text=True)
        results = json.loads(done.stdout)
        assert not [each for each in results if each and "error" in each], results
        return list(results)

    def hypervisor(self) -> str:
        made = {
            "op": "insert",
            "table": "Hypervisor",
            "row": {"name_key": str(uuid4()), "hypervisor_key": next(self._numbers)},
        }
        return str(self.transact(made)[0]["uuid"][1])

    def loads(self) -> list[dict[str, Any]]:
        rows = self.transact({"op": "select", "table": LOAD, "where": []})[0]["rows"]
        return list(rows)


@pytest.fixture
def database(tmp_path: Path) -> Database:
    return Database(tmp_path)


def test_a_row_comes_changes_and_goes(database: Database) -> None:
    here = database.hypervisor()
    load = told(here, POOL, Count({7: 3, 2**32 - 1: 4}, fresh=7), None)
    database.transact(*operations({(here, POOL): (None, load)}))
    (row,) = database.loads()
    assert row["connections"] == ["map", [[7, 3], [2**32 - 1, 4]]] and row["began"] == 7
    assert (row["hypervisor_id"], row["pool_id"]) == (["uuid", here], ["uuid", POOL])
    id = row["_uuid"][1]
    database.transact(*operations({(here, POOL): (id, told(here, POOL, Count({7: 9}, fresh=2), load))}))
    (row,) = database.loads()
    assert row["connections"] == ["map", [[7, 9]]] and row["began"] == 9 and row["_uuid"][1] == id
    database.transact(*operations({(here, POOL): (id, None)}))
    assert database.loads() == []


def test_rows_go_with_their_hypervisor(database: Database) -> None:
    here, there = database.hypervisor(), database.hypervisor()
    for each in (here, there):
        load = told(each, POOL, Count({7: 3}), None)
        database.transact(*operations({(each, POOL): (None, load)}))
    database.transact({"op": "delete", "table": "Hypervisor", "where": [["_uuid", "==", ["uuid", here]]]})
    assert [row["hypervisor_id"] for row in database.loads()] == [["uuid", there]]


def test_a_hypervisor_that_is_gone_gets_no_rows(database: Database) -> None:
    load = told(gone := str(uuid4()), POOL, Count({7: 3}), None)
    database.transact(*operations({(gone, POOL): (None, load)}))
    assert database.loads() == []
