"""Security groups and identities on a real ovsdb-server: what survives, and who wins when several write."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

from topology.membership import identity_id
from topology.schema import VERSION

from .test_store import ROOT, fill_old, tool

OLD, OLDER_POLICY = (Path(__file__).with_name(f"intent-{version}.ovsschema") for version in ("1.1.0", "1.2.0"))


def run(scenario: str, directory: Path, module: str = "store_groups_child") -> Any:
    """What a scenario saw."""
    command = [sys.executable, "-W", "ignore", "-m", f"tests.switch.{module}", scenario, str(directory)]
    done = subprocess.run(command, capture_output=True, text=True, cwd=ROOT, timeout=120)
    assert done.returncode == 0, done.stderr[-4000:]
    return json.loads(done.stdout.splitlines()[-1])


def test_groups_rules_labels_and_identities_survive_restarts(tmp_path: Path) -> None:
    saw = run("fill_groups", tmp_path)
    again = run("load", tmp_path, "store_child")
    assert again["content"] == saw["content"] and again["state"]["problems"] == []
    assert saw["refused"] == [409] * 4
    content = saw["content"]
    sizes = {
        kind: len(content[kind]) for kind in ("security-group", "security-group-rule", "address-group", "identity")
    }
    assert sizes == {"security-group": 2, "security-group-rule": 2, "address-group": 1, "identity": 3}
    assert saw["gone"] not in content["security-group-rule"], "rules go with their group"
    groups = {group["name"]: group for group in content["security-group"].values()}
    assert (groups["named"]["stateful"], groups[""]["selector"]) == (False, None)
    found = [(port["labels"], len(port["security_groups"])) for port in content["port"].values()]
    assert sorted(found, key=str) == sorted([({"zone": "a"}, 1), ({}, 0), ({"tier": "web"}, 1)], key=str)
    numbers = {identity["number"]: identity for identity in content["identity"].values()}
    for port in content["port"].values():
        identity = numbers[port["identity"]]
        assert (identity["labels"], identity["security_groups"]) == (port["labels"], port["security_groups"])


def test_two_controllers_make_one_identity_and_never_the_same_number(tmp_path: Path) -> None:
    saw = run("race_groups", tmp_path)
    assert saw["retries"] > 0, "with the same guesses they must have met"
    assert all(isinstance(number, int) for number in saw["same"] + saw["different"])
    assert len(set(saw["same"])) == 1 and len(saw["same"]) == 60
    pairs = list(zip(saw["different"][::2], saw["different"][1::2], strict=True))
    assert all(one == two for one, two in pairs), "the same labels, whichever controller wrote them"
    assert len(set(saw["different"])) == 30 and not set(saw["same"]) & set(saw["different"])
    numbers = sorted(identity["number"] for identity in saw["content"]["identity"].values())
    assert numbers == sorted({*saw["same"], *saw["different"]})
    assert sorted(saw["twins"], key=str) == [409, "made"], "of two rules that say the same one is made"


def test_two_controllers_make_one_default_group_of_a_project_and_every_port(tmp_path: Path) -> None:
    saw = run("race_default", tmp_path)
    assert saw["retries"] > 0, "they must have met"
    groups, rules = saw["content"]["security-group"], saw["content"]["security-group-rule"]
    assert sorted(group["project_id"] for group in groups.values()) == sorted(f"p{n}" for n in range(15))
    assert len(saw["content"]["port"]) == 4 * 15 and len(rules) == 4 * 15
    for number, ports in enumerate(saw["ports"]):
        (group,) = (id for id, group in groups.items() if group["project_id"] == f"p{number}")
        assert ports == [[group]] * 4
        assert len([rule for rule in rules.values() if rule["security_group_id"] == group]) == 4


def test_a_port_and_the_collector_never_contradict(tmp_path: Path) -> None:
    saw = run("race_collecting", tmp_path)
    assert len(saw) == 20 and all(each["sound"] for each in saw)
    assert all(each["collected"] or each["same"] for each in saw), "an identity that is kept has its number"


def test_identities_are_collected_when_hypervisors_have_confirmed(tmp_path: Path) -> None:
    saw = run("collect", tmp_path)
    assert saw["away"] == 3, "nothing goes while a hypervisor is away"
    assert "port" in saw["refused"], "what keeps the group is its port, not its identities"
    (left,) = saw["left"].values()
    assert (left["number"], left["retired"]) == (saw["kept"], False)
    assert (saw["retired"], saw["deleted"]) == (2, 2)


def test_a_database_of_version_1_1_0_is_brought_up_to_date(tmp_path: Path) -> None:
    fill_old(tmp_path, json.loads(OLD.read_text()), bfd_interval=250, bfd_multiplier=7)
    saw = run("load", tmp_path, "store_child")
    assert saw["state"]["problems"] == []
    content = {kind: list(objects.values()) for kind, objects in saw["content"].items()}
    (port,), (host,) = content["port"], content["hypervisor"]
    assert (port["security_groups"], port["labels"], port["identity"]) == ([], {}, None)
    assert (port["port_key"], port["host_id"]) == (77, host["id"])
    assert {subnet["enable_dhcp"] for subnet in content["subnet"]} == {False}, "what was said before stays as it is"
    assert host["gateway"] is False and content["tunnel-mesh"][0]["bfd_interval"] == 250
    kinds = ("security-group", "security-group-rule", "address-group", "identity")
    assert not any(content[kind] for kind in kinds)
    (member,) = run("join", tmp_path)["port"].values()
    new = ("security_groups", "labels", "identity", "revision_number")
    assert member | {name: port[name] for name in new} == port, "nothing but what was asked for"
    assert member["labels"] == {"tier": "web"} and member["identity"] and len(member["security_groups"]) == 1
    assert tool("db-version", tmp_path / "intent.db").strip() == VERSION
    assert tool("db-version", tmp_path / "intent.db.1.1.0").strip() == "1.1.0"


def test_a_database_of_version_1_2_0_is_brought_up_to_date(tmp_path: Path) -> None:
    """Identities were then of ports with port security only; ports without groups and labels had none, and stay open."""
    fill_old(tmp_path, json.loads(OLDER_POLICY.read_text()), bfd_interval=250, bfd_multiplier=7)
    id = identity_id("", [], {"tier": "web"})
    labels, named = ["map", [["tier", "web"]]], {"name": "labelled", "name_key": "/labelled"}
    inserted = [
        {"op": "insert", "table": "Identity", "uuid": id, "row": {"name_key": id, "number": 9, "labels": labels}},
        {"op": "update", "table": "Port", "where": [], "row": {"identity": 9, "labels": labels, **named}},
    ]
    tool("transact", tmp_path / "intent.db", json.dumps(["NovaNet", *inserted]))
    saw = run("load", tmp_path, "store_child")
    assert saw["state"]["problems"] == []
    (identity,) = saw["content"]["identity"].values()
    assert (identity["id"], identity["number"], identity["port_security_enabled"]) == (id, 9, True)
    (port,) = saw["content"]["port"].values()
    assert (port["identity"], port["security_groups"]) == (9, [])
    (member,) = run("join", tmp_path)["port"].values()
    assert member["identity"] != 9 and len(member["security_groups"]) == 1
    assert tool("db-version", tmp_path / "intent.db.1.2.0").strip() == "1.2.0"
