"""Queues of uplinks by way of REST, the intent store and OVSDB to the switch: where the datapath is the kernel's, as far as an Open
vSwitch without that datapath can say. Which classes Linux makes of them is tested with the hypervisors part.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from pipelines import tables as t
from tests.switch.daemons import Ovs, wait_for
from tests.switch.queue_rows import rates
from tools.lab import Controller, Lab

AFTER = f"goto_table:{t.MARK.number}"
UPLINK = {"interface": "eth0", "bandwidth_kbps": 100_000}


@pytest.fixture
def ovs(tmp_path: Path) -> Iterator[Ovs]:
    """Dummy datapaths that say they are the kernel's; ``eth0`` is a port of the operator's bridge."""
    running = Ovs(tmp_path / "h1", "h1")
    running.vsctl(
        "add-br", "br-phy", "--", "add-port", "br-phy", "eth0", "--", "set", "interface", "eth0", "type=dummy"
    )
    yield running
    running.stop()


@pytest.fixture
def controller(ovs: Ovs) -> Iterator[Controller]:
    socket = ovs.directory / "novanet.sock"  # vswitchd connects to sockets in its own directory only
    options = {"controller_target": f"unix:{socket}", "openflow_listen": f"punix:{socket}"}
    with Lab(hypervisors=0) as lab, Controller(lab, options=options) as running:
        yield running


def queues_of_flows(ovs: Ovs) -> list[str]:
    """The actions of ``limit`` that give packets a queue."""
    lines = ovs.run("ovs-ofctl", "-O", "OpenFlow15", "dump-flows", f"unix:{ovs.directory}/br-int.mgmt").splitlines()
    return sorted(line.split("actions=")[1] for line in lines if "set_queue" in line)


def test_a_guarantee_becomes_a_queue_and_goes_with_its_rule(controller: Controller, ovs: Ovs) -> None:
    api = controller.api
    hypervisor = api.post(
        "/v1/hypervisors", {"name": "h1", "ovsdb": ovs.socket, "tunnel_ip": "192.0.2.1", "uplinks": [UPLINK]}
    )
    network = api.post("/v1/networks", {"name": "a"})
    api.post("/v1/subnets", {"network_id": network["id"], "cidr": "10.0.0.0/24"})
    policy = api.post("/v1/qos-policies", {"name": "gold"})
    rule = api.post("/v1/qos-rules", {"qos_policy_id": policy["id"], "type": "minimum_bandwidth", "min_kbps": 30_000})
    port = api.post("/v1/ports", {"network_id": network["id"], "name": "db", "qos_policy_id": policy["id"]})
    wait_for(lambda: rates(ovs).keys() == {0})
    ovs.plug("v1", port["id"])
    path = f"/v1/ports/{port['id']}"
    controller.wait_status(path)
    number = int(ovs.get("interface", "v1", "ofport"))
    assert rates(ovs)[number] == (30, 100, 7), "what is ACTIVE has its queue"
    assert queues_of_flows(ovs) == [f"set_queue:{each},{AFTER}" for each in (0, number)]

    api.patch(f"/v1/qos-rules/{rule['id']}", {"min_kbps": 50_000})
    wait_for(lambda: rates(ovs)[number] == (50, 100, 7))
    [uplink] = api.get(f"/v1/hypervisors/{hypervisor['id']}/bandwidth")["uplinks"]
    assert (uplink["shaper"], uplink["shaped"], uplink["left_kbps"]) == ("ovsdb", True, 45_000)
    api.delete(f"/v1/qos-rules/{rule['id']}")
    wait_for(lambda: rates(ovs).keys() == {0} and queues_of_flows(ovs) == [f"set_queue:0,{AFTER}"])
    api.patch(f"/v1/hypervisors/{hypervisor['id']}", {"uplinks": []})
    wait_for(
        lambda: not rates(ovs) and queues_of_flows(ovs) == [],
        "without an uplink nothing is different from other bridges",
    )
    controller.wait_status(path)
