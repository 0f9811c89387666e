"""``make run``: the whole of NovaNet on this machine, with a proof that VMs on three hypervisors reach each other.

Brings up a lab, a controller, two networks that use the same addresses and a router with a way outside, pings between
all VMs and from there to the outside and back, asks what was sent, and stays until Ctrl-C (``ONCE=1``: ends after the proof).
Exit code 0 when everything reached what it should and nothing else, and the flows tell of it.
"""

from __future__ import annotations

import os
import sys
import threading
from concurrent.futures import ThreadPoolExecutor
from typing import Any

from tools.lab import VM, Api, Controller, HostAgent, Lab, LabError, processes

HYPERVISORS = 3
NETWORKS = ("blue", "red")
SUBNETS = ("10.0.0.0/24", "fd00:a::/64")
REST = 8080
OUTSIDE, WORLD = "203.0.113.0/24", "203.0.113.1"
"""The network outside, and a host there (TEST-NET-3, RFC 5737)."""
RESOLVER = "169.254.169.253"


def say(text: str = "") -> None:
    """Print at once, also into a pipe."""
    print(text, flush=True)


class Sample:
    """A sample network: what was asked for over REST, and the VMs that were plugged for it."""

    def __init__(self, api: Api, name: str) -> None:
        self.name = name
        self.network = api.post("/v1/networks", {"name": name})
        subnets = [api.post("/v1/subnets", {"network_id": self.network["id"], "cidr": cidr}) for cidr in SUBNETS]
        wanted = [
            {
                "name": f"{name}-{number + 1}",
                "network_id": self.network["id"],
                "dns_name": f"{name}-{number + 1}",
                "fixed_ips": [{"subnet_id": subnet["id"]} for subnet in subnets],
            }
            for number in range(HYPERVISORS)
        ]
        self.ports: list[dict[str, Any]] = api.post("/v1/ports", wanted)
        self.vms: list[VM] = []

    def boot(self, lab: Lab, controller: Controller) -> None:
        """Plug one VM into each hypervisor, and wait until the switches have confirmed its port."""
        self.vms = [
            lab.boot(controller, hypervisor, port["id"], port["name"])
            for hypervisor, port in zip(lab.hypervisors, self.ports, strict=True)
        ]
        for port in self.ports:
            controller.wait_status(f"/v1/ports/{port['id']}")

    def address(self, number: int, version: int) -> str:
        """The address of a VM."""
        addresses = [fixed["ip_address"] for fixed in self.ports[number]["fixed_ips"]]
        return next(text for text in addresses if (":" in text) == (version == 6))


def show_pings(sample: Sample, version: int) -> bool:
    """Ping from every VM to every other and print the round-trip times; whether all arrived."""
    numbers = range(len(sample.vms))
    names = [port["name"] for port in sample.ports]

    def row(source: int) -> list[str]:
        found = []
        for target in numbers:
            result = sample.vms[source].ping(sample.address(target, version), count=3, interval=0.05)
            best = f"{min(result.rtts) * 1000:.2f} ms" if result.received == result.sent else "LOST"
            found.append("-" if source == target else best)
        return found

    with ThreadPoolExecutor(len(numbers)) as pool:
        rows = list(pool.map(row, numbers))
    corner = f"IPv{version}, from \\ to"
    say(f"  {corner:<18}" + "".join(f"{name:>11}" for name in names))
    for name, cells in zip(names, rows, strict=True):
        say(f"  {name:<18}" + "".join(f"{cell:>11}" for cell in cells))
    return not any("LOST" in cells for cells in rows)


def prove(samples: list[Sample], controller: Controller) -> bool:
    """Show that VMs of a network reach each other, and that networks with the same addresses do not meet."""
    good = True
    for sample in samples:
        network = controller.api.get(f"/v1/networks/{sample.network['id']}")
        say(f"\nnetwork {sample.name} (VNI {network['vni']}, MTU {network['mtu']}, {network['status']})")
        for version in (4, 6):
            good &= show_pings(sample, version)
    good &= show_isolation(samples)
    return good


def show_isolation(samples: list[Sample]) -> bool:
    """The same address in two networks is two VMs: a ping in one is seen by that network's VM only."""
    here, there = samples
    target = here.address(1, 4)
    with here.vms[1].sniff() as mine, there.vms[1].sniff() as theirs:
        reached = here.vms[0].ping(target, count=3, interval=0.05).received == 3
    source = bytes.fromhex(here.vms[0].mac.replace(":", ""))
    seen = [sum(frame[6:12] == source for frame in sniffer.frames) for sniffer in (mine, theirs)]
    say(
        f"\n{here.name} and {there.name} use the same addresses: a ping to {target} in {here.name} was seen "
        f"{seen[0]} times by {here.ports[1]['name']}, {seen[1]} times by {there.ports[1]['name']}"
    )
    return reached and seen[0] > 0 and seen[1] == 0


class Edge:
    """A router from a sample network to the outside, and a floating IP of one of its VMs, which may be pinged there."""

    def __init__(self, api: Api, sample: Sample) -> None:
        self.sample = sample
        outside = api.post("/v1/networks", {"name": "outside", "external": True, "physical_network": "physnet1"})
        api.post("/v1/subnets", {"network_id": outside["id"], "cidr": OUTSIDE})
        self.router = api.post("/v1/routers", {"name": "edge"})
        for network in (sample.network, outside):
            api.post("/v1/ports", {"network_id": network["id"], "router_id": self.router["id"]})
        port = sample.ports[1]
        wanted = {"floating_network_id": outside["id"], "port_id": port["id"]}
        self.floating = api.post("/v1/floating-ips", wanted)["floating_ip_address"]
        group = api.post("/v1/security-groups", {"name": "pingable"})
        api.post(
            "/v1/security-group-rules",
            {"security_group_id": group["id"], "direction": "ingress", "protocol": "icmp", "remote_ip_prefix": OUTSIDE},
        )
        api.patch(f"/v1/ports/{port['id']}", {"security_groups": [*port["security_groups"], group["id"]]})

    def prove(self, lab: Lab, controller: Controller) -> bool:
        """Show that VMs reach the outside, that the outside reaches the floating IP, and that names are found."""
        world = lab.outside("world", f"{WORLD}/{OUTSIDE.partition('/')[2]}")
        router = controller.wait_status(f"/v1/routers/{self.router['id']}")
        vms, names = self.sample.vms, [port["name"] for port in self.sample.ports]
        say(f"\nrouter edge ({', '.join(router['external_addresses'])} outside, {router['status']})")
        say(f"  {names[1]} is in the security groups default and pingable, the others are in default alone")
        good = True
        for source, who, target, what in (
            (vms[0], names[0], WORLD, "a host outside"),
            (world, "that host", self.floating, f"the floating IP of {names[1]}"),
        ):
            source.ping(target, count=1)  # the first has the neighbours found
            result = source.ping(target, count=3, interval=0.05)
            best = f"{min(result.rtts) * 1000:.2f} ms" if result.received == result.sent else "LOST"
            good &= best != "LOST"
            say(f"  {who} to {what}, {target}: {best}")
        found = vms[0].dig(f"{names[2]}.internal", "A", RESOLVER)
        say(f"  {names[0]} asks for {names[2]}.internal: {', '.join(found) or 'not found'}")
        return good and list(found) == [self.sample.address(2, 4)]


def export(api: Api, target: str) -> None:
    """Have all hypervisors tell the controller's collectors of every packet, which only a lab can afford."""
    wanted = {"name": "everywhere", "type": "sflow", "targets": [f"{target}:6343"], "sampling": 1, "polling": 10}
    api.post("/v1/flow-exporters?wait=20", wanted)


def show_flows(controller: Controller) -> bool:
    """Show who has talked most, by what hypervisors exported; whether every VM is among them."""
    names = {f"{name}-{number + 1}" for name in NETWORKS for number in range(HYPERVISORS)}
    rows: dict[str, dict[str, Any]] = {}
    try:
        processes.until(lambda: names <= talkers(controller, rows), "flows of every VM are told", 20)
    except LabError as problem:
        say(f"\n{problem}; there are those of {', '.join(sorted(names & set(rows))) or 'none'}")
        return False
    say("\nwho talked most, as sFlow tells it (`novanet top` shows it live):")
    say(f"  {'port':<10}{'sent':>12}{'received':>12}")
    for name in sorted(names, key=lambda name: -rows[name]["bytes"])[:3]:
        say(f"  {name:<10}{rows[name]['bytes_out']:>10} B{rows[name]['bytes_in']:>10} B")
    return True


def talkers(controller: Controller, rows: dict[str, dict[str, Any]]) -> set[str]:
    """Names of the ports that flows tell of, whose sums go into ``rows``."""
    rows |= {row["name"]: row for row in controller.api.get("/v1/telemetry/top", by="port", limit=100)["items"]}
    return set(rows)


def explain(controller: Controller) -> None:
    """Where everything is, for another terminal."""
    say(f"\ndashboard    {controller.url}/#token={controller.token}")
    say("command line, in another terminal:")
    say(f"  export NOVANET_ENDPOINT={controller.url} NOVANET_TOKEN_FILE={controller.state_dir / 'admin.token'}")
    say("  .venv/bin/novanet status")
    say(f"log          {controller.log}")


def run(once: bool) -> int:
    """Bring everything up, prove it, and stay. Returns the exit code."""
    say(f"starting {HYPERVISORS} hypervisors with Open vSwitch …")
    with Lab(HYPERVISORS, provider=True) as lab:
        say("starting the controller: ryu-manager novanet_apps.all …")
        with Controller(lab, telemetry=True) as controller:
            say("telling it of the hypervisors, asking for networks and ports over REST …")
            lab.deploy(controller)
            export(controller.api, controller.exports_go_to)
            for hypervisor in lab.hypervisors:
                HostAgent(hypervisor, controller).start()
            samples = [Sample(controller.api, name) for name in NETWORKS]
            edge = Edge(controller.api, samples[0])
            say("plugging VMs …")
            for sample in samples:
                sample.boot(lab, controller)
            good = prove(samples, controller)
            good &= edge.prove(lab, controller)
            good &= show_flows(controller)
            say("\nEverything works." if good else "\nNOT everything works, see above.")
            if not good or once:
                return 0 if good else 1
            explain(controller)
            say("\nCtrl-C ends it and removes everything.")
            threading.Event().wait()
    return 0


def main() -> int:
    """Entry point."""
    try:
        return run(once=os.environ.get("ONCE", "") not in ("", "0"))
    except KeyboardInterrupt:
        say("\nremoved.")
        return 0
    except LabError as error:
        print(f"error: {error}", file=sys.stderr)
        return 1


if __name__ == "__main__":
    sys.exit(main())
