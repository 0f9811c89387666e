"""Quality of service on a real ovsdb-server: what survives, and who wins when several promise the same bandwidth."""

from __future__ import annotations

import json
from pathlib import Path

from topology.schema import VERSION

from .test_store import fill_old, tool
from .test_store_groups import run

CHILD = "store_qos_child"
OLD = Path(__file__).with_name("intent-1.3.0.ovsschema")


def test_policies_and_what_has_them_survive_restarts(tmp_path: Path) -> None:
    saw = run("fill", tmp_path, CHILD)
    again = run("load", tmp_path, "store_child")
    assert again["content"] == saw["content"] and again["state"]["problems"] == []
    assert saw["refused"] == [409, 409]
    content = saw["content"]
    (policy,), rules = content["qos-policy"].values(), content["qos-rule"]
    assert policy["shared"] and saw["gone"] not in rules, "rules go with their policy"
    found = sorted((rule["direction"], rule["max_kbps"], rule["max_burst_kbps"]) for rule in rules.values())
    assert found == [("egress", 3000, None), ("ingress", 2000, None)]
    port, (network,) = content["port"][saw["port"]], content["network"].values()
    assert (port["qos_policy_id"], port["trust_dscp"], network["qos_policy_id"]) == (policy["id"], True, policy["id"])
    (host,) = content["hypervisor"].values()
    assert host["uplinks"] == [{"interface": "eth0", "bandwidth_kbps": 100_000, "physical_network": ""}]
    assert (
        host["shaping"] == [{"interface": "eth0", "error": "no such device", "port_id": ""}]
        and host["revision_number"] == 1
    )


def test_two_controllers_never_promise_more_than_there_is(tmp_path: Path) -> None:
    saw = run("race", tmp_path, CHILD)
    assert saw["retries"] > 0, "they must have met"
    assert sorted(saw["attached"], key=str) == [409] * 5 + ["made"] * 9, "of 95 Mbit/s each wants 10"
    assert saw["half"] == [5000, 5000]
    assert all(left >= 0 for left in saw["end"]), "whether the rule or the ports came first"
    assert set(map(str, saw["mixed"])) == {"409", "made"}


def test_a_database_of_version_1_3_0_is_brought_up_to_date(tmp_path: Path) -> None:
    fill_old(tmp_path, json.loads(OLD.read_text()), bfd_interval=250, bfd_multiplier=7)
    saw = run("load", tmp_path, "store_child")
    assert saw["state"]["problems"] == []
    content = {kind: list(objects.values()) for kind, objects in saw["content"].items()}
    (port,), (host,), (network,) = content["port"], content["hypervisor"], content["network"]
    assert (port["qos_policy_id"], port["trust_dscp"], network["qos_policy_id"]) == (None, False, None)
    assert (host["uplinks"], host["shaping"]) == ([], [])
    assert port["host_id"] == host["id"] and not content["qos-policy"] and not content["qos-rule"]
    assert tool("db-version", tmp_path / "intent.db").strip() == VERSION
    assert tool("db-version", tmp_path / "intent.db.1.3.0").strip() == "1.3.0"
