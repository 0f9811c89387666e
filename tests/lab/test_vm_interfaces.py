"""VMs' interfaces that are shaped: what a VM is sent too much waits there, by DSCP, and what may happen to it."""

from __future__ import annotations

import time
from collections.abc import Iterator
from typing import Any

import pytest

from tools.lab.rates import Stream, rates, received, sending

from .cloud import until
from .shaped import FRAME, Site, metric, namespaces_run, pings

LIMIT = 8000
"""kbit/s."""
SECONDS = 4.0
OFF = 0.05
EF, CS1 = 46, 8
KINDS = {"voice": 2, "video": 3, "best-effort": 4, "background": 5}
"""Numbers of the classes."""


@pytest.fixture(scope="module")
def site() -> Iterator[Site]:
    with Site() as site, site.agent:
        site.api.patch(f"/v1/hypervisors/{site.here['id']}", {"uplinks": []})
        yield site


class Receiver:
    """A VM on the hypervisor with the agent, its interface shaped, and VMs elsewhere that send to it, their marks trusted."""

    def __init__(self, site: Site, senders: int = 1, kbps: int = LIMIT) -> None:
        self.site, groups = site, [site.open_group()]
        self.policy = site.api.post("/v1/qos-policies", {"name": f"shaped-{time.monotonic_ns()}"})["id"]
        limit = {"type": "bandwidth_limit", "direction": "ingress", "max_kbps": kbps, "shape": True}
        self.rule = site.api.post("/v1/qos-rules", {"qos_policy_id": self.policy, **limit})["id"]
        self.vm = site.vm(site.net, 0, security_groups=groups, qos_policy_id=self.policy)
        self.senders = [site.vm(site.net, 1, security_groups=groups, trust_dscp=True) for _ in range(senders)]
        self.id = self.vm.port["id"]
        until("its interface is shaped", lambda: self.shown("novanet_agent_vm_shaped") == 1)
        until("the controller knows", lambda: self.status() == "ACTIVE")

    def shown(self, name: str, **labels: str) -> float:
        """A metric of the agent's about it."""
        return metric(self.site, name, port_id=self.id, **labels)

    def status(self) -> str:
        return str(self.site.api.get(f"/v1/ports/{self.id}")["status"])

    def gets(self, *streams: Stream) -> tuple[float, dict[str, float]]:
        """kbit/s that the VM gets in all, and of each class."""

        def count() -> list[float]:
            sent = {handle: each["sent"] for handle, each in classes(self).items()}
            return [received(self.vm), *(sent[f"4e4e:{number}"] for number in KINDS.values())]

        total, *kinds = rates(list(streams), SECONDS, count)
        return total, dict(zip(KINDS, kinds, strict=True))

    def stream(self, number: int, offered: float, dscp: int = 0, protocol: str = "udp", size: int = FRAME) -> Stream:
        """From one of the senders, ``offered`` in parts of the limit."""
        return Stream(self.senders[number], self.vm, protocol, size, round(LIMIT * offered), 5201 + number, dscp)

    def __enter__(self) -> Receiver:
        return self

    def __exit__(self, *exc: object) -> None:
        self.site.forget(*[(self.vm, sender) for sender in self.senders[:1]], *[(each,) for each in self.senders[1:]])


def classes(receiver: Receiver) -> dict[str, dict[str, Any]]:
    return receiver.site.classes(receiver.vm.interface)


@pytest.mark.parametrize("protocol", ["udp", "tcp"])
def test_a_vm_gets_its_limit(site: Site, protocol: str) -> None:
    """What is too much waits, so the meter behind drops nothing of it."""
    with Receiver(site) as receiver:
        total, _ = receiver.gets(receiver.stream(0, 1.5, protocol=protocol))
        assert LIMIT * (1 - OFF) <= total <= LIMIT * (1 + OFF)
        [seen] = site.api.get(f"/v1/ports/{receiver.id}/qos/verification", seconds=1)["checks"]
        assert (seen["rule"], seen["direction"], seen["asked"], seen["in_force"]) == (
            "bandwidth_limit",
            "ingress",
            LIMIT,
            LIMIT,
        )


def test_voice_passes_what_waits(site: Site) -> None:
    with Receiver(site, senders=3) as receiver:
        with sending([receiver.stream(0, 1.5)], 60):
            voice = pings(receiver.senders[1], receiver.vm, dscp=EF)
            bulk = pings(receiver.senders[2], receiver.vm, count=20)
            found = site.api.get(f"/v1/ports/{receiver.id}/qos/verification", seconds=2)
        assert len(voice) >= 90, "what a busy machine loses is not lost at the interface"
        assert sorted(voice)[90] < 20 < min([1000, *bulk])
        [check] = found["checks"]
        assert found["verdict"] == check["verdict"] == "kept" and check["dropped_packets"] > 0
        assert receiver.shown("novanet_agent_vm_dropped_total", **{"class": "voice"}) == 0


def test_classes_have_their_part_and_borrow_what_others_leave(site: Site) -> None:
    """Voice that sends without end leaves the others what is theirs, and among those that borrow it comes first."""
    with Receiver(site, senders=3) as receiver:
        total, kinds = receiver.gets(receiver.stream(0, 1.2, EF), receiver.stream(1, 0.4), receiver.stream(2, 0.3, CS1))
        assert LIMIT * (1 - OFF) <= total <= LIMIT * (1 + OFF)
        assert kinds["best-effort"] >= LIMIT * 0.3 * (1 - OFF), kinds
        assert kinds["background"] >= LIMIT * 0.1 * (1 - OFF), kinds
        assert kinds["voice"] >= LIMIT * 0.55 * (1 - OFF), kinds
        other = receiver.stream(2, 1.5, CS1)._replace(port=5210)  # where nothing of the first arrives that has waited
        total, kinds = receiver.gets(other)
        assert kinds["background"] >= LIMIT * (1 - OFF), "alone it has everything"


def test_another_limit_costs_no_packet(site: Site) -> None:
    with Receiver(site) as receiver:
        pinging = receiver.senders[0].popen(
            ["ping", "-c", "150", "-i", "0.01", "-W", "1", str(receiver.vm.ip)], stdout=-1, text=True
        )
        roots = receiver.shown("novanet_agent_vm_changes_total", what="root")
        for kbps in (9000, 5000, 6000):
            site.api.patch(f"/v1/qos-rules/{receiver.rule}", {"max_kbps": kbps})
            until("it has it", lambda kbps=kbps: {each["ceil"] for each in classes(receiver).values()} == {kbps})  # type: ignore[misc]
        assert "150 received" in pinging.communicate()[0]
        assert receiver.shown("novanet_agent_vm_changes_total", what="root") == roots


def test_it_goes_with_the_rule_and_comes_with_it(site: Site) -> None:
    with Receiver(site) as receiver:
        hypervisor = site.lab.hypervisors[0]

        def rows() -> int:
            return hypervisor.vsctl("--bare", "--columns=_uuid", "find", "QoS", "type=linux-noop").split().__len__()

        assert len(classes(receiver)) == 5 and rows() == 1
        site.api.patch(f"/v1/qos-rules/{receiver.rule}", {"shape": False})
        until("gone", lambda: not classes(receiver) and not rows() and not site.shaping())
        until("a limit still", lambda: receiver.status() == "ACTIVE")
        site.api.patch(f"/v1/qos-rules/{receiver.rule}", {"shape": True})
        until("there again", lambda: len(classes(receiver)) == 5 and rows() == 1)
    until("gone with the VM", lambda: not rows() and not site.shaping())


def test_a_networks_policy_shapes_the_interfaces_of_its_vms_plugged_in_again_too(site: Site) -> None:
    policy = site.api.post("/v1/qos-policies", {"name": "of a network"})["id"]
    limit = {"type": "bandwidth_limit", "direction": "ingress", "max_kbps": LIMIT, "shape": True}
    site.api.post("/v1/qos-rules", {"qos_policy_id": policy, **limit})
    network = site.network("10.9.0.0/24")
    port = site.port(network, security_groups=[site.open_group()])
    hypervisor = site.lab.hypervisors[0]

    def plugged() -> str:
        return str(hypervisor.plug(port["id"], port["mac_address"]).interface)

    first = plugged()
    until("active", lambda: site.api.get(f"/v1/ports/{port['id']}")["status"] == "ACTIVE")
    assert not site.classes(first)
    site.api.patch(f"/v1/networks/{network['id']}", {"qos_policy_id": policy})
    until("shaped", lambda: len(site.classes(first)) == 5)
    hypervisor.unplug(port["id"])
    until("gone", lambda: not site.shaping())
    again = plugged()
    until("shaped again", lambda: len(site.classes(again)) == 5)
    site.api.patch(f"/v1/networks/{network['id']}", {"qos_policy_id": None})
    until("given back", lambda: not site.classes(again))
    hypervisor.unplug(port["id"])
    site.api.delete(f"/v1/ports/{port['id']}")


def test_open_vswitch_and_agents_that_restart_change_nothing(site: Site) -> None:
    with Receiver(site) as receiver:
        before = classes(receiver).keys()
        hypervisor = site.lab.hypervisors[0]
        hypervisor.stop_vswitchd()
        hypervisor.start_vswitchd()
        until("packets again", lambda: len(pings(receiver.senders[0], receiver.vm, count=2)) == 2)
        assert classes(receiver).keys() == before
        site.agent.terminate()
        assert classes(receiver).keys() == before
        site.agent.start()
        until("found", lambda: receiver.shown("novanet_agent_vm_shaped") == 1)
        assert receiver.shown("novanet_agent_vm_changes_total", what="root") == 0, "it was there"


def test_without_an_agent_it_is_told(site: Site) -> None:
    site.agent.terminate()
    policy = site.api.post("/v1/qos-policies", {"name": "alone"})["id"]
    limit = {"type": "bandwidth_limit", "direction": "ingress", "max_kbps": LIMIT, "shape": True}
    site.api.post("/v1/qos-rules", {"qos_policy_id": policy, **limit})
    groups = [site.open_group()]
    port = site.port(site.net, security_groups=groups, qos_policy_id=policy)
    vm = site.lab.hypervisors[0].plug(port["id"], port["mac_address"])

    def shown() -> dict[str, Any]:
        return dict(site.api.get(f"/v1/ports/{port['id']}"))

    until("degraded", lambda: shown()["status"] == "DEGRADED")
    assert "novanet-host-agent" in str(shown()["status_reason"])
    site.agent.start()
    until("active", lambda: shown()["status"] == "ACTIVE")
    assert "4e4e:" in namespaces_run(site, ["tc", "qdisc", "show", "dev", vm.interface])
    site.lab.hypervisors[0].unplug(port["id"])
    site.api.delete(f"/v1/ports/{port['id']}")
