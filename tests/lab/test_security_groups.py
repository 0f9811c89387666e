"""Security groups, with real packets: default deny, rules by group and by address, replies, and the end of a rule."""

from __future__ import annotations

import subprocess
from collections.abc import Iterator
from itertools import count
from typing import Any

import pytest

from tests.lab.cloud import Cloud, until
from tests.lab.frames import geneve, seen, udp
from tests.lab.test_antispoofing import udp_socket
from tools.lab import VM, namespaces

NAMES = count(1)
SIX = pytest.mark.parametrize("six", [False, True], ids=["IPv4", "IPv6"])
PLACES = pytest.mark.parametrize("here", [True, False], ids=["here", "away"])


@pytest.fixture(scope="module", params=["geneve", "vxlan"])
def cloud(request: pytest.FixtureRequest) -> Iterator[Cloud]:
    with Cloud(2, mesh={"tunnel_type": request.param}) as running:
        yield running


@pytest.fixture(scope="module")
def network(cloud: Cloud) -> dict[str, Any]:
    return cloud.network("10.0.0.0/24", "fd00:a::/64")


class Groups:
    """Makes groups and rules."""

    def __init__(self, cloud: Cloud) -> None:
        self.cloud = cloud

    def group(self, **fields: Any) -> str:
        return self.cloud.api.post("/v1/security-groups", {"name": f"g{next(NAMES)}", **fields})["id"]

    def rule(self, group: str, direction: str = "ingress", **fields: Any) -> dict[str, Any]:
        made = self.cloud.api.post(
            "/v1/security-group-rules", {"security_group_id": group, "direction": direction, **fields}
        )
        self.cloud.wait_active("security-group-rules", made["id"])
        return made

    def open(self, direction: str) -> str:
        """A group whose members are allowed everything in a direction."""
        group = self.group()
        for ethertype in ("IPv4", "IPv6"):
            self.rule(group, direction, ethertype=ethertype)
        return group


@pytest.fixture(scope="module")
def groups(cloud: Cloud) -> Groups:
    return Groups(cloud)


def address(vm: VM, six: bool) -> str:
    found = vm.ip6 if six else vm.ip
    assert found is not None
    return found


def reaches(sender: VM, receiver: VM, six: bool) -> bool:
    return sender.ping(address(receiver, six), count=1, timeout=2).received == 1


def connects(sender: VM, receiver: VM, port: int, six: bool = False, protocol: str = "TCP") -> bool:
    """Whether a server on a port gets what a client sends, and the client its echo."""
    kind = "SOCK_STREAM" if protocol == "TCP" else "SOCK_DGRAM"
    family = "AF_INET6" if six else "AF_INET"
    server = (
        f"import socket; s = socket.socket(socket.{family}, socket.{kind}); s.settimeout(20)\n"
        f"s.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1); s.bind(('', {port}))\n"
    )
    if protocol == "TCP":
        server += "s.listen(); print('ready', flush=True); c, _ = s.accept(); c.sendall(c.recv(9))"
    else:
        server += "print('ready', flush=True); d, a = s.recvfrom(9); s.sendto(d, a)"
    client = (
        f"import socket; s = socket.socket(socket.{family}, socket.{kind}); s.settimeout(2)\n"
        f"s.connect(('{address(receiver, six)}', {port})); s.send(b'hello'); assert s.recv(9) == b'hello'"
    )
    listening = receiver.popen(["python3", "-c", server], stdout=subprocess.PIPE, text=True)
    try:
        assert listening.stdout is not None and listening.stdout.readline() == "ready\n"
        return sender.exec(["python3", "-c", client], check=False).returncode == 0
    finally:
        listening.kill()
        listening.wait()


@SIX
@PLACES
def test_nothing_reaches_a_member_unless_a_rule_allows_it(
    cloud: Cloud, network: Any, groups: Groups, six: bool, here: bool
) -> None:
    group = groups.group()
    stranger = cloud.vm(network, 0)
    member = cloud.vm(network, 0 if here else 1, security_groups=[group])
    assert not reaches(stranger, member, six) and not reaches(member, stranger, six)
    family = "IPv6" if six else "IPv4"
    allowed = groups.rule(group, ethertype=family, protocol="icmpv6" if six else "icmp")
    assert reaches(stranger, member, six), "and its replies leave"
    assert not reaches(member, stranger, six)
    cloud.api.delete(f"/v1/security-group-rules/{allowed['id']}")
    until("it ends", lambda: not reaches(stranger, member, six))


@SIX
@PLACES
@pytest.mark.parametrize("protocol", ["TCP", "UDP"])
def test_ports_and_peers(cloud: Cloud, network: Any, groups: Groups, six: bool, here: bool, protocol: str) -> None:
    servers, clients = groups.group(), groups.open("egress")
    client, stranger = cloud.vm(network, 0, security_groups=[clients]), cloud.vm(network, 0)
    server = cloud.vm(network, 0 if here else 1, security_groups=[servers])
    groups.rule(
        servers, ethertype="IPv6" if six else "IPv4", protocol=protocol.lower(), port_range_min=8000,
        port_range_max=8001, remote_group_id=clients,
    )  # fmt: skip
    assert connects(client, server, 8001, six, protocol)
    assert not connects(client, server, 8002, six, protocol)
    assert not connects(stranger, server, 8001, six, protocol)
    cloud.api.patch(f"/v1/ports/{stranger.port['id']}", {"security_groups": [clients]})
    until("it is one of them", lambda: connects(stranger, server, 8001, six, protocol))
    cloud.api.patch(f"/v1/ports/{stranger.port['id']}", {"security_groups": None})
    until("it is none of them", lambda: not connects(stranger, server, 8001, six, protocol))


def test_a_routed_packet_keeps_its_identity(cloud: Cloud, groups: Groups) -> None:
    left, right = cloud.network("10.1.0.0/24", "fd00:1::/64"), cloud.network("10.2.0.0/24", "fd00:2::/64")
    cloud.router(left, right)
    servers, clients = groups.group(), groups.open("egress")
    for ethertype in ("IPv4", "IPv6"):
        groups.rule(servers, ethertype=ethertype, remote_group_id=clients)
    for where in (0, 1):
        client, stranger = cloud.vm(left, 0, security_groups=[clients]), cloud.vm(left, 0)
        server = cloud.vm(right, where, security_groups=[servers])
        for six in (False, True):
            assert reaches(client, server, six)
            assert not reaches(stranger, server, six)
            assert not reaches(server, client, six)


def test_a_router_answers_members(cloud: Cloud, groups: Groups) -> None:
    network = cloud.network("10.3.0.0/24", "fd00:3::/64")
    cloud.router(network)
    vm = cloud.vm(network, 0, security_groups=[groups.group()])
    for subnet in network["subnets"]:
        assert vm.ping(subnet["gateway_ip"], count=2).received == 2


@PLACES
@pytest.mark.parametrize("revoke", [True, False], ids=["revoked", "kept"])
def test_what_a_rule_allowed_ends_with_it(cloud: Cloud, network: Any, groups: Groups, here: bool, revoke: bool) -> None:
    group = groups.group()
    client, server = cloud.vm(network, 0), cloud.vm(network, 0 if here else 1, security_groups=[group])
    rule = groups.rule(group, protocol="tcp", port_range_min=9, port_range_max=10, revoke=revoke)
    program = (
        "import socket; s = socket.create_server(('', 9)); print('ready', flush=True); c, _ = s.accept()\n"
        "while data := c.recv(1): c.sendall(data); print('got', flush=True)"
    )
    listening = server.popen(["python3", "-c", program], stdout=subprocess.PIPE, text=True)
    talk = (
        f"import socket, sys; s = socket.create_connection(('{server.ip}', 9)); s.settimeout(3)\n"
        "for line in sys.stdin:\n"
        "    s.send(b'x')\n"
        "    try: s.recv(1); print('echo', flush=True)\n"
        "    except TimeoutError: print('silence', flush=True)"
    )
    try:
        assert listening.stdout is not None and listening.stdout.readline() == "ready\n"
        speaker = client.popen(["python3", "-c", talk], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        try:
            assert speaker.stdin is not None and speaker.stdout is not None

            def says() -> str:
                speaker.stdin.write("go\n")
                speaker.stdin.flush()
                return speaker.stdout.readline().strip()

            assert says() == "echo" and connects(client, server, 10)
            cloud.api.delete(f"/v1/security-group-rules/{rule['id']}")
            until("the switch knows", lambda: not connects(client, server, 10))
            assert says() == ("silence" if revoke else "echo")
        finally:
            speaker.kill()
            speaker.wait()
    finally:
        listening.kill()
        listening.wait()


def test_prefixes_and_address_groups(cloud: Cloud, network: Any, groups: Groups) -> None:
    group = groups.group()
    near, far = cloud.vm(network, 0, "10.0.0.200"), cloud.vm(network, 0, "10.0.0.100")
    vm = cloud.vm(network, 1, "10.0.0.50", security_groups=[group])
    groups.rule(group, protocol="icmp", remote_ip_prefix="10.0.0.192/26")
    assert reaches(near, vm, False) and not reaches(far, vm, False)
    addresses = cloud.api.post("/v1/address-groups", {"name": "some", "addresses": ["10.0.0.100/32"]})
    groups.rule(group, protocol="icmp", remote_address_group_id=addresses["id"])
    until("it is named", lambda: reaches(far, vm, False))
    cloud.api.patch(f"/v1/address-groups/{addresses['id']}", {"addresses": []})
    until("it is not", lambda: not reaches(far, vm, False))


def test_labels_select_members(cloud: Cloud, network: Any, groups: Groups) -> None:
    web = groups.group(selector=[{"key": "app", "operator": "In", "values": ["web"]}])
    groups.rule(web, protocol="icmp")
    vm, other = cloud.vm(network, 1, labels={"app": "db"}, security_groups=[]), cloud.vm(network, 0)
    assert not reaches(other, vm, False), "nothing selects it"
    cloud.api.patch(f"/v1/ports/{vm.port['id']}", {"labels": {"app": "web"}})
    until("it is selected", lambda: reaches(other, vm, False))
    assert not connects(other, vm, 80)
    cloud.api.patch(f"/v1/ports/{vm.port['id']}", {"labels": {"app": "db"}})
    until("it is not", lambda: not reaches(other, vm, False))


def test_an_administrators_denial_goes_first(cloud: Cloud, network: Any, groups: Groups) -> None:
    tenant = groups.open("ingress")
    admin = groups.group(tier="admin", priority=10, selector=[{"key": "zone", "operator": "Exists"}])
    vm, other = cloud.vm(network, 1, security_groups=[tenant], labels={"zone": "dmz"}), cloud.vm(network, 0)
    assert connects(other, vm, 22) and connects(other, vm, 80)
    groups.rule(admin, protocol="tcp", port_range_min=22, port_range_max=22, action="deny")
    until("it is denied", lambda: not connects(other, vm, 22))
    assert connects(other, vm, 80)


def test_nobody_says_another_identity(cloud: Cloud, groups: Groups) -> None:
    """Tunnel packets with the identity of a member, which a VM and a host on the underlay send to a hypervisor."""
    network = cloud.network("10.4.0.0/24")
    cloud.router(network)
    clients, servers = groups.open("egress"), groups.group()
    groups.rule(servers, remote_group_id=clients)
    client, forger = cloud.vm(network, 0, security_groups=[clients]), cloud.vm(network, 0)
    server = cloud.vm(network, 1, security_groups=[servers])
    assert reaches(client, server, False) and not reaches(forger, server, False)
    port, victim = (cloud.api.get(f"/v1/ports/{vm.port['id']}") for vm in (client, server))
    vni = cloud.api.get(f"/v1/networks/{network['id']}")["vni"]
    inner = udp(client.ip or "", server.ip or "", port["mac_address"], victim["mac_address"])
    packet = geneve(vni, port["identity"], victim["port_key"], inner)
    tunnel = cloud.lab.hypervisors[1].tunnel_ip
    stranger = cloud.lab.underlay.host("stranger", tunnel.rsplit(".", 1)[0] + ".99")
    with server.sniff() as sniffer:
        for namespace, to in ((forger.namespace, tunnel), (forger.namespace, server.ip), (stranger.namespace, tunnel)):
            with namespaces.inside(namespace, udp_socket) as sender:
                for _ in range(3):
                    sender.sendto(packet, (to, 6081))
        own = udp(forger.ip or "", server.ip or "", forger.port["mac_address"], victim["mac_address"])
        forger.send_frame(own)
        assert reaches(client, server, False)
    assert not [frame for frame in seen(sniffer) if frame.marked]
