"""What dies comes back and packets do not notice: controller, store, switch, hypervisor."""

from __future__ import annotations

import os
import signal
import time

import pytest

from tests.lab.cloud import Cloud, flows, until


@pytest.fixture(scope="module")
def cloud():
    with Cloud(3, options={"audit_interval": 3}) as cloud:
        yield cloud


@pytest.fixture(scope="module")
def trio(cloud):
    network = cloud.network("10.0.0.0/24", "fd00:1::/64")
    vms = [cloud.vm(network, n) for n in range(3)]
    for vm in vms[1:]:
        assert vms[0].ping(vm.ip, count=2).received == 2
    return network, vms


def test_controller_killed_and_restarted_loses_no_packet_and_sends_no_flow(cloud, trio) -> None:
    _, vms = trio
    before = {hv.name: flows(hv) for hv in cloud.lab.hypervisors}
    ping, ping6 = vms[0].background_ping(vms[1].ip, interval=0.01), vms[0].background_ping(vms[2].ip6, interval=0.01)
    time.sleep(0.5)
    cloud.kill_and_start_controller()
    time.sleep(0.5)
    for result in (ping.stop(), ping6.stop()):
        assert result.sent > 150
        assert result.lost == 0
    after = {hv.name: flows(hv) for hv in cloud.lab.hypervisors}
    assert after == before
    assert cloud.counter("novanet_flows_sent_total") == 0
    assert cloud.counter("novanet_flows_deleted_total") == 0


def test_neighbours_are_resolved_while_no_controller_runs(cloud, trio) -> None:
    _, vms = trio
    cloud.controller.kill()
    try:
        vms[1].exec("ip neigh flush dev eth0")
        assert vms[1].ping(vms[2].ip, count=2).received == 2
        assert vms[1].ping(vms[2].ip6, count=2).received == 2
    finally:
        cloud.controller.start()
        cloud.controller.wait_ready()


def test_store_server_killed_loses_no_packet_and_nothing_accepted(cloud, trio) -> None:
    network, vms = trio
    made = [cloud.port(network) for _ in range(5)]
    ping = vms[0].background_ping(vms[1].ip, interval=0.01)
    old = cloud.store_process()
    os.kill(old, signal.SIGKILL)
    until("another store server", lambda: (pid := cloud.store_process()) and pid != old)
    late = cloud.port(network)
    result = ping.stop()
    assert result.lost == 0
    ids = {port["id"] for port in cloud.api.get("/v1/ports?limit=1000")["items"]}
    assert {port["id"] for port in (*made, late)} <= ids
    newcomer = cloud.plug(network, late, 2)
    assert newcomer.ping(vms[0].ip, count=2).received == 2


def test_vswitchd_restart_heals_by_itself(cloud, trio) -> None:
    _, vms = trio
    hypervisor = cloud.lab.hypervisors[1]
    before = flows(hypervisor)
    hypervisor.kill_vswitchd()
    assert vms[0].ping(vms[1].ip, count=2, interval=0.1).received == 0
    hypervisor.start_vswitchd()
    until("ping again", lambda: vms[0].ping(vms[1].ip, count=1).received, timeout=30)
    until("every flow is back", lambda: flows(hypervisor) == before, timeout=30)


def test_a_hypervisor_that_goes_away_is_reported_and_heals(cloud, trio) -> None:
    network, vms = trio
    gone = cloud.lab.hypervisors[2]
    id = next(hv["id"] for hv in cloud.hypervisors() if hv["name"] == gone.name)
    gone.stop()
    until("reported as away", lambda: cloud.api.get(f"/v1/hypervisors/{id}")["status"] == "DEGRADED", timeout=30)
    shown = cloud.api.get(f"/v1/networks/{network['id']}")
    assert shown["status"] == "DEGRADED"
    assert any(gone.name in reason for reason in shown["status_reason"])
    assert vms[0].ping(vms[1].ip, count=2).received == 2
    gone.start()
    cloud.wait_active("hypervisors", id)
    until("ping again", lambda: vms[0].ping(vms[2].ip, count=1).received, timeout=30)
    cloud.wait_active("networks", network["id"])


def test_flows_deleted_by_hand_come_back(cloud, trio) -> None:
    _, vms = trio
    hypervisor = cloud.lab.hypervisors[0]
    before, repaired = hypervisor.dump_flows(), cloud.counter("novanet_drift_repaired_total")
    hypervisor.ofctl("del-flows", "br-int")
    until("ping again", lambda: vms[0].ping(vms[1].ip, count=1).received, timeout=30)
    until("all flows are there again", lambda: len(hypervisor.dump_flows()) == len(before))
    assert cloud.counter("novanet_drift_repaired_total") >= repaired + len(before)


def test_a_bridge_deleted_by_hand_comes_back(cloud, trio) -> None:
    _, vms = trio
    hypervisor = cloud.lab.hypervisors[2]
    hypervisor.vsctl("set-fail-mode", "br-int", "standalone")
    until("fail mode repaired", lambda: hypervisor.vsctl("get-fail-mode", "br-int").strip() == "secure")
    hypervisor.vsctl("del-controller", "br-int")
    until("controller repaired", lambda: hypervisor.vsctl("get-controller", "br-int").strip())
    until("ping again", lambda: vms[0].ping(vms[2].ip, count=1).received, timeout=30)


def test_a_vm_that_moves_is_reached_at_its_new_hypervisor(cloud, trio) -> None:
    network, vms = trio
    mover = cloud.vm(network, 1)
    assert vms[0].ping(mover.ip, count=2).received == 2
    cloud.lab.hypervisors[1].unplug(mover.port["id"])
    until("DOWN", lambda: cloud.api.get(f"/v1/ports/{mover.port['id']}")["status"] == "DOWN")
    moved = cloud.plug(network, mover.port, 2)
    assert vms[0].ping(moved.ip, count=2).received == 2
    assert vms[2].ping(moved.ip, count=2).received == 2
