"""What becomes of connections with load balancers when their member goes: real clients, security groups at both ends."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from typing import Any

import pytest

from tools.lab import VM
from tools.lab.jsonrpc import call
from topology.schema import record_operations

from .balancing import Balancer, ask, names, server
from .cloud import Cloud, until

CLIENT = r"""
import json, socket, sys
kind, host, port, patience = sys.argv[1], sys.argv[2], int(sys.argv[3]), float(sys.argv[4])
family = socket.AF_INET6 if ":" in host else socket.AF_INET
clients, members = [], []

def heard(client):
    try:
        return (client.recv(1000).decode() or "end").split()[0]
    except OSError as problem:
        return type(problem).__name__

while min(members.count(name) for name in ("going", "staying")) < 3 and len(clients) < 100:
    client = socket.socket(family, socket.SOCK_STREAM if kind == "tcp" else socket.SOCK_DGRAM)
    client.settimeout(5)
    client.connect((host, port))
    if kind == "udp":
        client.send(b"hello")
    members.append(heard(client))
    client.settimeout(patience)
    clients.append(client)
print(json.dumps(members), flush=True)
for line in sys.stdin:
    for client in clients if line == "talk\n" else ():
        try:
            client.send(b"again")
        except OSError:
            pass
    print(json.dumps([heard(client) for client in clients]), flush=True)
"""
RESET, SILENCE = "ConnectionResetError", "TimeoutError"
COUNT = 12


class Talk:
    """A client with several connections to one service; ``members`` says who had each first."""

    def __init__(self, stack: ExitStack, vm: VM, kind: str, host: str, port: int, patience: float = 5.0) -> None:
        argv = [sys.executable, "-c", CLIENT, kind, host, str(port), str(patience)]
        self.kind = kind
        self.process = vm.popen(argv, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        stack.callback(self.end)
        self.members = self.heard()
        assert set(self.members) == {"going", "staying"}, self.members

    def heard(self) -> list[str]:
        assert self.process.stdout is not None
        return json.loads(self.process.stdout.readline())

    def begin(self, what: str = "talk") -> None:
        assert self.process.stdin is not None
        self.process.stdin.write(f"{what}\n")
        self.process.stdin.flush()

    def talk(self) -> list[str]:
        """Send something on each, and say what was heard then, or the name of the error."""
        self.begin()
        return self.heard()

    def listen(self) -> list[str]:
        """The same without having sent."""
        self.begin("listen")
        return self.heard()

    def expected(self, lost: str) -> list[str]:
        """What is heard when those of the member that goes hear ``lost``; servers echo TCP, and say their name to datagrams."""
        goes_on = "again" if self.kind == "tcp" else "staying"
        return [lost if member == "going" else goes_on for member in self.members]

    def end(self) -> None:
        self.process.kill()
        self.process.communicate()


class Site:
    """A client beside a member and one behind a router on the first hypervisor; members that go are on the second."""

    def __init__(self, cloud: Cloud, stack: ExitStack) -> None:
        self.cloud, self.api, self.stack = cloud, cloud.api, stack
        self.network = cloud.network("10.1.0.0/24", "fd01::/64")
        self.other = cloud.network("10.2.0.0/24", "fd02::/64")
        cloud.router(self.network, self.other)
        self.clients, self.servers = (self.api.post("/v1/security-groups", {"name": name})["id"] for name in "cs")
        for group in (self.clients, self.servers):  # which begin with rules that let everything out
            for rule in self.api.get("/v1/security-group-rules", security_group_id=group, limit=100)["items"]:
                self.api.delete(f"/v1/security-group-rules/{rule['id']}")
        for ethertype in ("IPv4", "IPv6"):
            for protocol in ("tcp", "udp"):
                service = {"protocol": protocol, "port_range_min": 8080, "port_range_max": 8080, "ethertype": ethertype}
                self.rule(self.clients, "egress", self.servers, service)
                self.rule(self.servers, "ingress", self.clients, service)
        self.client = cloud.vm(self.network, 0, security_groups=[self.clients])
        self.guest = cloud.vm(self.other, 0, security_groups=[self.clients])
        self.staying = self.member("staying", 0)

    def rule(self, group: str, direction: str, remote: str, service: dict[str, Any]) -> None:
        body = {"security_group_id": group, "direction": direction, "remote_group_id": remote, **service}
        self.api.post("/v1/security-group-rules", body)

    def member(self, name: str, hypervisor: int) -> VM:
        vm = self.cloud.vm(self.network, hypervisor, security_groups=[self.servers])
        self.stack.enter_context(server(vm, name, tcp=[8080], udp=[8080]))
        return vm

    def punted(self, reason: str) -> float:
        """How many packets the controller had to look at for this reason."""
        lines = [line for line in self.api.get("/metrics").splitlines() if f'punts_total{{reason="{reason}"' in line]
        return sum(float(line.split()[-1]) for line in lines)


@pytest.fixture(scope="module")
def site() -> Iterator[Site]:
    with Cloud(2) as cloud, ExitStack() as stack:
        yield Site(cloud, stack)


class Service:
    """A load balancer with a TCP and a UDP service, of one member that stays and one that goes."""

    def __init__(self, site: Site, six: bool = False, **pool: Any) -> None:
        self.site, self.cloud, self.api, self.six = site, site.cloud, site.api, six
        self.going = site.member("going", 1)
        [subnet] = [each for each in site.network["subnets"] if each["ip_version"] == (6 if six else 4)]
        self.balancer = Balancer(site.cloud, vip_subnet_id=subnet["id"])
        self.pools = [
            self.balancer.serve(port, site.staying, self.going, protocol=protocol, six=six, **pool)
            for port, protocol in ((80, "TCP"), (53, "UDP"))
        ]
        self.members = [pool["members"][1] for pool in self.pools]

    def talks(self, stack: ExitStack, patience: float = 5.0) -> list[Talk]:
        return [
            Talk(stack, vm, kind, self.balancer.vip, port, patience)
            for vm in (self.site.client, self.site.guest)
            for kind, port in (("tcp", 80), ("udp", 53))
        ]

    def leads_to(self, member: dict[str, Any]) -> list[str]:
        """The flows on the clients' hypervisor by which connections get to a member."""
        mark = f"ct_mark={member['member_key']:#x}"
        return [flow for flow in self.cloud.lab.hypervisors[0].dump_flows() if mark in flow and "dec_ttl" in flow]

    def connected(self) -> list[str]:
        """TCP connections that the member that goes has, or that some switch believes it has."""
        sockets = self.going.exec(["ss", "-Htn", "state", "established"]).stdout.splitlines()
        lines = [
            line for each in self.cloud.lab.hypervisors for line in each.appctl("dpctl/dump-conntrack").splitlines()
        ]
        address = self.going.ip6 if self.six else self.going.ip
        return sockets + [line for line in lines if f"reply=(src={address}," in line and "ESTABLISHED" in line]

    def wait_gone(self) -> None:
        for member in self.members:
            until("the member has no flow", lambda member=member: not self.leads_to(member))

    def change(self, **fields: Any) -> None:
        for member in self.members:
            self.api.patch(f"/v1/members/{member['id']}", fields)

    def remove(self) -> None:
        for member in self.members:
            self.api.delete(f"/v1/members/{member['id']}")

    def disable(self) -> None:
        self.change(admin_state_up=False)

    def drain(self) -> None:
        for pool in self.pools:
            self.api.patch(f"/v1/pools/{pool['id']}", {"drain_timeout": 1})
        self.change(weight=0)

    def delete_vm(self) -> None:
        self.api.delete(f"/v1/ports/{self.going.port['id']}")

    def fail(self) -> None:
        """As a hypervisor's agent finds out, and records."""
        for pool in self.pools:
            self.api.post("/v1/health-monitors", {"pool_id": pool["id"], "type": "PING", "delay": 5, "timeout": 5})
        self.record("down")

    def record(self, health: str) -> None:
        facts = {member["id"]: {"health": health} for member in self.members}
        operations = record_operations("member", facts)
        path = self.cloud.controller.store.removeprefix("unix:")
        for result in call(path, "transact", ["NovaNet", *operations]):
            assert result["count"] == 1


ENDS: dict[str, Callable[[Service], None]] = {
    "removed": Service.remove,
    "disabled": Service.disable,
    "down": Service.fail,
    "drained": Service.drain,
    "deleted": Service.delete_vm,
}


@pytest.mark.parametrize("six", [False, True], ids=["IPv4", "IPv6"])
@pytest.mark.parametrize("end", ENDS)
def test_clients_are_reset_and_datagrams_go_to_others(site: Site, end: str, six: bool) -> None:
    service = Service(site, six)
    with ExitStack() as stack:
        talks = service.talks(stack)
        before = site.punted("member_gone")
        ENDS[end](service)
        service.wait_gone()
        for talk in talks:
            assert talk.talk() == talk.expected(RESET if talk.kind == "tcp" else "staying"), (end, talk.kind)
        lost = sum(talk.members.count("going") for talk in talks if talk.kind == "tcp")
        assert site.punted("member_gone") >= before + lost
        if end != "deleted":
            until("the member knows of it, and all policies", lambda: not service.connected())
        for kind, port in (("tcp", 80), ("udp", 53)):  # and so do new ones
            seen = site.client.ip6 if six else site.client.ip
            assert names(ask(site.client, service.balancer.vip, port, count=10, kind=kind), seen) == {"staying": 10}


def test_where_the_pool_says_so_tcp_connections_just_end(site: Site) -> None:
    service = Service(site, on_member_down="drop")
    with ExitStack() as stack:
        tcp = Talk(stack, site.client, "tcp", service.balancer.vip, 80, patience=0.5)
        udp = Talk(stack, site.client, "udp", service.balancer.vip, 53)
        before = site.punted("member_gone")
        service.disable()
        service.wait_gone()
        assert tcp.talk() == tcp.expected(SILENCE)
        assert udp.talk() == udp.expected("staying")
        assert site.punted("member_gone") == before
        service.change(admin_state_up=True)  # what was sent meanwhile is sent again
        found: list[list[str]] = []
        until("connections go on", lambda: found.append(tcp.talk()) or "TimeoutError" not in found[-1])
        assert all("again" in each for each in found[-1])


def test_who_waits_in_silence_learns_of_it_when_something_is_sent(site: Site) -> None:
    service = Service(site)
    with ExitStack() as stack:
        tcp = Talk(stack, site.client, "tcp", service.balancer.vip, 80, patience=0.2)
        service.disable()
        service.wait_gone()
        assert set(tcp.listen()) == {SILENCE}
        service.change(admin_state_up=True)
        service.balancer.wait(members=service.members)
        assert set(tcp.talk()) == {"again"}, "a member that is back in time has lost none"


def test_connections_that_just_begin_get_another_member(site: Site) -> None:
    service = Service(site)
    service.going.exec(["ip", "address", "flush", "dev", "eth0"])  # it takes no packets any more
    with ExitStack() as stack:
        clients = [
            site.client.popen(
                [sys.executable, "-c", f"import socket; s = socket.create_connection(('{service.balancer.vip}', 80), 20); "
                 "print(s.recv(100).decode().split()[0])"],
                stdout=subprocess.PIPE, text=True,
            )
            for _ in range(COUNT)
        ]  # fmt: skip
        for client in clients:
            stack.callback(client.communicate)
        until("some wait", lambda: 0 < sum(client.poll() is None for client in clients) < COUNT)
        assert {service_ended(client) for client in clients if client.poll() is not None} == {"staying"}
        before = site.punted("another_member")
        service.disable()
        for client in clients:
            assert service_ended(client) == "staying"
        assert site.punted("another_member") > before


def service_ended(client: subprocess.Popen[str]) -> str:
    """Who has answered a client."""
    if client.returncode is None or not hasattr(client, "said"):
        client.said = client.communicate(timeout=30)[0].strip()  # type: ignore[attr-defined]
    return client.said  # type: ignore[attr-defined]


def entries(site: Site, vip: str, member: str) -> int:
    """Flows of UDP to a load balancer that its member answers, on the clients' hypervisor."""
    lines = site.cloud.lab.hypervisors[0].appctl("dpctl/dump-conntrack").splitlines()
    return sum(
        line.startswith("udp") and f"dst={vip},sport" in line and f"reply=(src={member}," in line for line in lines
    )


def test_flows_of_datagrams_are_forgotten_without_another_packet(site: Site) -> None:
    service = Service(site)
    vip, going, staying = service.balancer.vip, service.going.ip, site.staying.ip
    with ExitStack() as stack:
        talk = Talk(stack, site.client, "udp", vip, 53)
        assert entries(site, vip, going) == talk.members.count("going")
        service.remove()
        until("they are forgotten", lambda: entries(site, vip, going) == 0)
        assert entries(site, vip, staying) == talk.members.count("staying"), "those of others are not"


def test_other_tenants_with_the_same_addresses_notice_nothing(site: Site) -> None:
    service = Service(site)
    vip = service.balancer.vip
    network = site.cloud.network("10.1.0.0/24")
    client = site.cloud.vm(network, 0)
    twin = site.cloud.vm(network, 1, service.going.ip)
    beside = site.cloud.vm(network, 0, site.staying.ip)
    theirs = Balancer(site.cloud, vip_network_id=network["id"], vip_address=vip)
    for vm, name in ((twin, "going"), (beside, "staying")):
        site.stack.enter_context(server(vm, name, tcp=[8080], udp=[8080]))
    theirs.serve(53, beside, twin, protocol="UDP")
    theirs.serve(80, beside, twin)
    with ExitStack() as stack:
        ours = service.talks(stack)
        talks = [Talk(stack, client, kind, vip, port) for kind, port in (("udp", 53), ("tcp", 80))]
        service.remove()
        service.wait_gone()
        for talk in ours:
            assert talk.talk() == talk.expected(RESET if talk.kind == "tcp" else "staying")
        assert talks[0].talk() == talks[0].members
        assert set(talks[1].talk()) == {"again"}


def test_clients_learn_of_it_from_a_controller_that_knows_the_member_no_more(site: Site) -> None:
    service = Service(site)
    with ExitStack() as stack:
        talks = service.talks(stack, patience=15.0)
        service.remove()
        service.wait_gone()
        site.cloud.controller.kill()
        for talk in talks:
            talk.begin()  # nobody is there to answer the first segment
        site.cloud.controller.start()
        site.cloud.controller.wait_ready()
        for talk in talks:
            assert talk.heard() == talk.expected(RESET if talk.kind == "tcp" else "staying")
