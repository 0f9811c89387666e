"""The intent store on a real ovsdb-server: durable, unique whoever writes, and back after every death."""

from __future__ import annotations

import json
import os
import signal
import stat
import subprocess
import sys
import time
from collections import Counter
from pathlib import Path
from typing import Any

import pytest

from novanet_apps.intent.settings import StoreError, StoreSettings
from topology.migration import between
from topology.schema import VERSION, schema

ROOT = Path(__file__).parents[2]


def command(scenario: str, directory: Path, *arguments: object) -> list[str]:
    return [
        sys.executable,
        "-W",
        "ignore",
        "-m",
        "tests.switch.store_child",
        scenario,
        str(directory),
        *map(str, arguments),
    ]


def run(scenario: str, directory: Path, *arguments: object) -> Any:
    """What a scenario saw."""
    done = subprocess.run(
        command(scenario, directory, *arguments), capture_output=True, text=True, cwd=ROOT, timeout=120
    )
    assert done.returncode == 0, done.stderr[-4000:]
    return json.loads(done.stdout.splitlines()[-1])


def is_gone(pid: int) -> bool:
    """Whether a process has ended; one that nobody has waited for counts."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] == "Z"
    except FileNotFoundError:
        return True


def tool(*arguments: object) -> str:
    program = StoreSettings().program("ovsdb-tool")
    return subprocess.run([program, *map(str, arguments)], capture_output=True, text=True, check=True).stdout


def test_content_survives_restarts(tmp_path: Path) -> None:
    written = run("fill", tmp_path)
    first, second = run("load", tmp_path), run("load", tmp_path)
    assert first["content"] == written == second["content"]
    assert len(written["port"]) == 4 and len(written["tunnel-mesh"]) == 1
    assert second["state"]["writes"] == 0, "nothing is to be written to a store that is complete"
    (mesh,) = written["tunnel-mesh"].values()
    assert (mesh["name"], mesh["external_vteps"]) == ("default", ["10.7.7.7", "10.8.8.8"])
    db = next(port for port in written["port"].values() if port["name"] == "db")
    assert [":" in fixed["ip_address"] for fixed in db["fixed_ips"]] == [True, False], "the order asked for is kept"


def test_routers_and_what_is_outside_survive_too(tmp_path: Path) -> None:
    saw = run("fill_outside", tmp_path)
    assert run("load", tmp_path)["content"] == saw["content"]
    content = saw["content"]
    assert {kind: len(objects) for kind, objects in content.items() if objects} == {
        "network": 2, "subnet": 2, "router": 1, "port": 4, "floating-ip": 3, "port-forwarding": 1, "neighbour": 1,
        "hypervisor": 1, "tunnel-mesh": 1, "security-group": 1, "security-group-rule": 4, "identity": 1,
    }  # fmt: skip
    detached = saw["detached"]
    assert (detached["port_id"], detached["fixed_ip_address"], detached["revision_number"]) == (None, None, 2)
    assert saw["refused"] == [409] * 4
    servers = next(subnet["dns_nameservers"] for subnet in content["subnet"].values() if subnet["dns_nameservers"])
    assert servers == ["192.0.2.53", "192.0.2.5"], "in the order asked for"


def test_hosts_outside_are_learned(tmp_path: Path) -> None:
    saw = run("learn", tmp_path)
    assert saw["found"] == {
        "192.0.2.9": ["02:00:00:00:00:09", False, 1],
        "192.0.2.1": ["02:00:00:00:01:c4", True, 1],
        "192.0.2.2": ["02:00:00:00:02:00", True, 2],
        "192.0.2.4": ["02:00:00:00:01:c7", True, 1],
    }
    assert saw["writes"] == 6, "of 200 words on four hosts the last on each is written, then one change and one end"
    assert saw["in_use"][0] == 409 and "neighbour" in saw["in_use"][2], (
        "what an administrator has set keeps its network"
    )
    assert saw["taken"] == [False, "02:00:00:00:00:bb"], "what an administrator has changed is not learned any more"
    assert saw["left"] == 0


def test_two_controllers_never_make_contradictions_outside(tmp_path: Path) -> None:
    saw = run("race_outside", tmp_path)
    assert saw["address"] == ["made", "made"], "two addresses"
    for what, field in (
        ("wires", "segmentation_id"), ("names", "dns_name"), ("gateways", "router_id"), ("overlaps", "fixed_ips"),
    ):  # fmt: skip
        outcomes = saw[what]
        assert outcomes.count("made") == 1, (what, outcomes)
        assert next(o for o in outcomes if o != "made")[:2] == [409, field]
    for outcomes in saw["mixed"]:
        assert outcomes.count("made") == 1 and len(outcomes) == 2, "a port and a floating IP never share an address"


def test_nobody_else_may_read_it(tmp_path: Path) -> None:
    run("load", tmp_path / "state")
    for path in (tmp_path / "state", tmp_path / "state" / "run"):
        assert stat.S_IMODE(path.stat().st_mode) == 0o700


def check_nothing_lost_nothing_twice(saw: dict[str, Any]) -> None:
    stored, acknowledged = saw["stored"], saw["acknowledged"]
    assert not saw["refused"], "the server was back in time for every write"
    assert set(acknowledged.values()) <= set(stored), "what was acknowledged is there"
    assert max(Counter(stored.values()).values()) == 1, "nothing is there twice"
    assert saw["seen"] == stored
    assert saw["most_of_one_address"] == 1


def test_server_killed_while_500_writes_are_under_way(tmp_path: Path) -> None:
    saw = run("crash", tmp_path, 500, 5)
    check_nothing_lost_nothing_twice(saw)
    assert len(saw["stored"]) == len(saw["acknowledged"]) == 500
    assert saw["starts"] == 6 and saw["retries"] > 0


def test_answers_that_are_lost(tmp_path: Path) -> None:
    saw = run("lost_answers", tmp_path)
    assert saw["left_to_lose"] == 0 and saw["lost"] == 4, "each answer was lost once"
    check_nothing_lost_nothing_twice(saw)
    assert len(saw["stored"]) == 2
    assert saw["patched"] == 2 and saw["deleted"] is None


def test_two_controllers_never_allocate_the_same(tmp_path: Path) -> None:
    saw = run("race", tmp_path)
    ports, networks, last, hosts, names = saw["outcomes"]
    content = saw["content"]
    assert all(isinstance(id, str) for id in ports + networks)
    assert sum(saw["retries"]) > 0, "with the same guesses they must have met"
    vnis = [network["vni"] for network in content["network"].values()]
    keys = [port["port_key"] for port in content["port"].values()]
    macs = [(port["network_id"], port["mac_address"]) for port in content["port"].values()]
    addresses = [(f["subnet_id"], f["ip_address"]) for port in content["port"].values() for f in port["fixed_ips"]]
    for values in (vnis, keys, macs, addresses):
        assert len(values) == len(set(values))
    assert len(addresses) == 300 + 13
    full = [outcome for outcome in last if not isinstance(outcome, str)]
    assert len(full) == 7 and {(status, field) for status, field, _ in full} == {(409, "fixed_ips")}
    for outcomes in saw["overlaps"]:
        assert sorted(outcomes, key=str) == [False, [409, "cidr"]], "of two overlapping subnets one is made"
    assert [o[:2] for o in hosts if isinstance(o, list)] == [[409, "tunnel_ip"]]
    assert [o[:2] for o in names if isinstance(o, list)] == [[409, "name"]]
    assert sorted(saw["patched"]) == [2, 3], "neither change is lost"
    assert len(content["tunnel-mesh"]) == 1


def test_group_commit(tmp_path: Path) -> None:
    saw = run("group", tmp_path)
    refused = [outcome for outcome in saw["outcomes"] if outcome != "made"]
    assert len(refused) == 20 and {tuple(o[:2]) for o in refused} == {(404, "network_id")}, "the bad ones fail alone"
    default = 1 + 4 + 1  # the group that ports get, its rules, and the identity that goes with it
    assert saw["counters"]["writes"] == 180 + default and saw["counters"]["refused"] == 20
    assert saw["counters"]["transactions"] <= 3, "many submissions share a transaction"
    assert saw["visible"], "what was acknowledged is in the graph"
    assert saw["refused"] == [409, 3] and saw["nothing"] is None, "a submission is made whole or not at all"
    assert saw["address"] == "10.4.0.2" and saw["unmade"] == [None, None, None]


def test_locations(tmp_path: Path) -> None:
    saw = run("bind", tmp_path)
    assert saw["written"] == 20, "each port's last location is written once"
    assert set(saw["revisions"]) == {1} and saw["patched"] == [True, 2]


def test_rows_edited_by_hand(tmp_path: Path) -> None:
    saw = run("tampered", tmp_path)
    (problem,) = saw["problems"]
    assert "Port row" in problem and "cannot be understood" in problem
    assert saw["kept"] and saw["fixed"] == "by hand"
    cidr, reference = saw["answers"]
    assert "constraint violation" in cidr, "the server refuses to change what is immutable"
    assert "constraint violation" in reference or "referential integrity violation" in reference


def test_a_write_that_waits_too_long_says_so(tmp_path: Path) -> None:
    saw = run("outage", tmp_path)
    assert saw["late"][0] == 503 and "timed out" in saw["late"][2]
    assert saw["ports"] in (1, 2), "the late write may have been made, once"
    assert saw["state"]["failed"] == 1 and saw["state"]["server_starts"] == 2
    assert saw["stopped"][0] == 503


def test_the_server_dies_with_its_controller(tmp_path: Path) -> None:
    controller = subprocess.Popen(command("serve", tmp_path), stdout=subprocess.PIPE, text=True, cwd=ROOT)
    try:
        assert controller.stdout is not None
        said = json.loads(controller.stdout.readline())
        assert not is_gone(said["server"])
    finally:
        controller.send_signal(signal.SIGKILL)
        controller.wait()
        controller.stdout.close()
    deadline = time.monotonic() + 20
    while not is_gone(said["server"]):
        assert time.monotonic() < deadline, "ovsdb-server outlived its controller"
        time.sleep(0.02)
    assert run("load", tmp_path)["content"] == said["content"]


def test_a_second_controller_takes_over(tmp_path: Path) -> None:
    saw = run("take_over", tmp_path)
    assert saw["shared"] and "in use by another ovsdb-server" in saw["error"]
    assert saw["network"] == "after" and saw["starts"] >= 2


def test_backup_and_restore(tmp_path: Path) -> None:
    assert run("restore", tmp_path) == [True, True]


def test_a_cluster_of_the_operators(tmp_path: Path) -> None:
    """As docs/intent-store.md says, with a cluster of one member."""
    (tmp_path / "novanet.ovsschema").write_text(
        subprocess.run(
            [sys.executable, "-m", "topology.schema"], capture_output=True, check=True, cwd=ROOT, text=True
        ).stdout
    )
    database, socket = tmp_path / "novanet.db", tmp_path / "db.sock"
    tool("create-cluster", database, tmp_path / "novanet.ovsschema", f"unix:{tmp_path / 'raft'}")
    program = StoreSettings().program("ovsdb-server")
    options = ["-vconsole:off", f"--unixctl={tmp_path / 'ctl'}", f"--remote=punix:{socket}"]
    server = subprocess.Popen([program, *options, str(database)])
    try:
        saw = run("remote", tmp_path / "unused", f"unix:{socket}")
    finally:
        server.terminate()
        server.wait()
    assert len(set(saw["addresses"])) == 40
    assert not saw["state"]["embedded"] and saw["state"]["server_starts"] is None
    assert not (tmp_path / "unused").exists(), "no server of our own was started"


def test_the_servers_log_is_limited(tmp_path: Path) -> None:
    now, before = run("rotate", tmp_path)
    assert before > 10 << 20 > now


def test_missing_programs_are_named(tmp_path: Path) -> None:
    with pytest.raises(StoreError, match=r"ovsdb-server was not found in .*apt install openvswitch-switch"):
        StoreSettings(ovs_bindir=str(tmp_path)).program("ovsdb-server")


def test_a_directory_that_cannot_be_made_is_named(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    done = subprocess.run(command("load", tmp_path / "file" / "state"), capture_output=True, text=True, cwd=ROOT)
    assert done.returncode != 0 and "set state_dir to a directory" in done.stderr


def older(version: str) -> dict[str, Any]:
    """Our schema as another version had it: without one column, and with another one."""
    found = schema() | {"version": version}
    del found["tables"]["Network"]["columns"]["description"]
    found["tables"]["Network"]["columns"]["shape"] = {"type": "string"}
    return found


def create(directory: Path, description: dict[str, Any]) -> None:
    (directory / "old.ovsschema").write_text(json.dumps(description))
    tool("create", directory / "intent.db", directory / "old.ovsschema")


def test_an_older_database_is_converted_and_kept_aside(tmp_path: Path) -> None:
    create(tmp_path, older("0.9.0"))
    row = {"name": "old", "name_key": "/old", "vni": 5, "revision_number": 4, "shape": "round"}
    tool("transact", tmp_path / "intent.db", json.dumps(["NovaNet", {"op": "insert", "table": "Network", "row": row}]))
    (network,) = run("load", tmp_path)["content"]["network"].values()
    assert (network["name"], network["vni"], network["revision_number"], network["description"]) == ("old", 5, 4, "")
    assert tool("db-version", tmp_path / "intent.db").strip() == VERSION
    assert tool("db-version", tmp_path / "intent.db.0.9.0").strip() == "0.9.0"


OLD = Path(__file__).with_name("intent-1.0.0.ovsschema")


def fill_old(directory: Path, description: dict[str, Any], **mesh: Any) -> None:
    """A database as version 1.0.0 left it, with something of every kind; a later one had these fields of the mesh too."""
    create(directory, description)
    rows: list[dict[str, Any]] = [
        {"table": "Network", "uuid-name": "net", "row": {"name": "old", "name_key": "/old", "vni": 5, "mtu": 1400}},
        {"table": "Hypervisor", "uuid-name": "host", "row": {
            "name": "h1", "name_key": "/h1", "hypervisor_key": 3, "tunnel_ip": "10.1.1.1", "ovsdb": "passive",
            "bridge": "br-int", "datapath_type": "auto"}},
        {"table": "Tunnel_Mesh", "row": {"name": "default", "name_key": "/default", "tunnel_type": "vxlan",
                                         "underlay_mtu": 9000, **mesh}},
    ]  # fmt: skip
    for name, version, cidr in (("four", 4, "10.0.0.0/24"), ("six", 6, "2001:db8::/64")):
        row = {
            "name": name,
            "name_key": f"/{name}",
            "ip_version": version,
            "cidr": cidr,
            "network_id": ["named-uuid", "net"],
        }
        rows.append({"table": "Subnet", "uuid-name": name, "row": row})
    for number, (subnet, address) in enumerate((("six", "2001:db8::5"), ("four", "10.0.0.5"))):
        row = {"subnet": ["named-uuid", subnet], "ip_address": address, "position": number}
        rows.append({"table": "Address", "uuid-name": f"a{number}", "row": row})
    rows.append({"table": "Port", "row": {
        "name": "web", "name_key": "/web", "network_id": ["named-uuid", "net"], "port_key": 77, "admin_state_up": True,
        "mac_address": "02:00:00:00:00:01", "port_security_enabled": True, "host_id": ["named-uuid", "host"],
        "fixed_ips": ["set", [["named-uuid", "a0"], ["named-uuid", "a1"]]],
        "allowed_address_pairs": json.dumps([{"ip_address": "10.9.0.0/16"}])}})  # fmt: skip
    for row in rows:
        row["row"] |= {} if row["table"] == "Address" else {"revision_number": 4}
    inserts = [{"op": "insert", **row} for row in rows]
    tool("transact", directory / "intent.db", json.dumps(["NovaNet", *inserts]))


@pytest.mark.parametrize("interrupted", [False, True])
def test_a_database_of_version_1_0_0_is_brought_up_to_date(tmp_path: Path, interrupted: bool) -> None:
    fill_old(tmp_path, json.loads(OLD.read_text()))
    if interrupted:
        (tmp_path / "between.ovsschema").write_text(json.dumps(between("1.0.0")))
        tool("convert", tmp_path / "intent.db", tmp_path / "between.ovsschema")
    saw = run("upgraded", tmp_path)
    assert saw["problems"] == []
    content = {kind: list(objects.values()) for kind, objects in saw["content"].items()}
    (network,), (host,), (mesh,), (port,) = (content[kind] for kind in ("network", "hypervisor", "tunnel-mesh", "port"))
    assert (network["name"], network["vni"], network["mtu"], network["external"]) == ("old", 5, 1400, False)
    assert (host["hypervisor_key"], host["gateway"], host["bridge_mappings"]) == (3, True, [])
    assert (mesh["tunnel_type"], mesh["bfd_interval"], mesh["bfd_multiplier"]) == ("vxlan", 100, 3)
    assert [fixed["ip_address"] for fixed in port["fixed_ips"]] == ["2001:db8::5", "10.0.0.5"]
    assert (port["port_key"], port["host_id"], port["router_id"], port["dns_name"]) == (77, host["id"], None, "")
    assert port["allowed_address_pairs"] == [{"ip_address": "10.9.0.0/16", "mac_address": None}]
    subnets = {subnet["name"]: (subnet["enable_dhcp"], subnet["ipv6_address_mode"]) for subnet in content["subnet"]}
    assert subnets == {"four": (True, None), "six": (True, "dhcpv6-stateful")}
    assert {row["revision_number"] for kind in content for row in content[kind]} == {4}
    again = run("load", tmp_path)["content"]
    assert {row["description"] for objects in again.values() for row in objects.values()} == {"changed"}
    assert tool("db-version", tmp_path / "intent.db").strip() == VERSION
    assert tool("db-version", tmp_path / "intent.db.1.0.0").strip() == "1.0.0"


def test_a_newer_database_is_left_alone(tmp_path: Path) -> None:
    create(tmp_path, older("99.0.0"))
    ready, error = run("unusable", tmp_path, "written by a newer NovaNet")
    assert not ready and "99.0.0" in error
    assert tool("db-version", tmp_path / "intent.db").strip() == "99.0.0"


def test_a_damaged_database_is_reported_not_replaced(tmp_path: Path) -> None:
    (tmp_path / "intent.db").write_text("this is no database\n")
    os.chmod(tmp_path / "intent.db", 0o600)
    ready, error = run("unusable", tmp_path, "unexpected file format")
    assert not ready and str(tmp_path / "ovsdb-server.log") in error
    assert (tmp_path / "intent.db").read_text() == "this is no database\n"
