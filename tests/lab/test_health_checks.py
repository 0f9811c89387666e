"""Health checks of members by the hypervisors' agents: real VMs, real servers, real connections."""

from __future__ import annotations

import contextlib
import http.client
import json
import re
import socket
import threading
from collections.abc import Iterator
from typing import Any

import pytest

from tools.lab import VM, HostAgent
from tools.lab.openvswitch import INTEGRATION
from topology.health import AGENT_PORT, FIRST_PORT

from .cloud import Cloud, flows, until

SERVER = """
import http.server, socketserver, ssl, sys
class Answer(http.server.BaseHTTPRequestHandler):
    def do_GET(self):
        code = {"/good": 200, "/moved": 302}.get(self.path, 503)
        self.send_response(code)
        if code == 302: self.send_header("Location", "/good")
        self.end_headers()
        print(self.client_address[0], self.client_address[1], self.headers["Host"], flush=True)
    do_HEAD = do_GET
    def log_message(self, *args): pass
class Server(socketserver.ThreadingMixIn, http.server.HTTPServer):
    address_family = __import__("socket").AF_INET6
    allow_reuse_address = True
server = Server(("::", int(sys.argv[1])), Answer)
if len(sys.argv) > 2:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(sys.argv[2])
    server.socket = context.wrap_socket(server.socket, server_side=True)
print("listening", flush=True)
server.serve_forever()
"""


class Checked:
    """A cloud with an agent on each hypervisor, a network, and load balancers made by ``pool``."""

    def __init__(self, cloud: Cloud) -> None:
        self.cloud, self.api = cloud, cloud.api
        self.agents = [HostAgent(hypervisor, cloud.controller) for hypervisor in cloud.lab.hypervisors]
        for agent in self.agents:
            agent.start()
        self.network = cloud.network("10.0.0.0/24", "fd00:a::/64")
        self.vms: list[VM] = []
        self.processes: list[Any] = []
        self._balancers: dict[int, dict[str, Any]] = {}

    def vm(self, hypervisor: int, network: dict[str, Any] | None = None) -> VM:
        made = self.cloud.vm(network or self.network, hypervisor)
        self.vms.append(made)
        return made

    def serve(self, vm: VM, port: int, *more: str) -> Any:
        """A web server in a VM, once it listens."""
        process = vm.popen(["python3", "-c", SERVER, str(port), *more], stdout=-1, text=True)
        assert process.stdout.readline() == "listening\n"
        self.processes.append(process)
        return process

    def balancer(self, version: int = 4, network: dict[str, Any] | None = None) -> dict[str, Any]:
        network = network or self.network
        subnet = next(each for each in network["subnets"] if each["ip_version"] == version)
        return self.api.post("/v1/load-balancers", {"vip_subnet_id": subnet["id"]})

    def pool(self, of: dict[str, Any], protocol: str = "TCP", **monitor: Any) -> dict[str, Any]:
        pool = self.api.post("/v1/pools", {"loadbalancer_id": of["id"], "protocol": protocol})
        fields = {"delay": 1, "timeout": 1, "max_retries": 1, "max_retries_down": 2, **monitor}
        pool["monitor"] = self.api.post("/v1/health-monitors", {"pool_id": pool["id"], **fields})
        return pool

    def member(self, pool: dict[str, Any], address: str, port: int, **fields: Any) -> str:
        body = {"pool_id": pool["id"], "address": address, "protocol_port": port, **fields}
        return self.api.post("/v1/members", body)["id"]

    def health(self, member: str) -> str:
        return self.api.get(f"/v1/members/{member}")["health"]

    def detail(self, member: str) -> str:
        return self.api.get(f"/v1/members/{member}")["health_detail"]

    def wait(self, member: str, wanted: str, timeout: float = 20.0) -> None:
        until(f"member is {wanted}", lambda: self.health(member) == wanted, timeout)

    def clear(self) -> None:
        """Take all load balancers away, and what serves."""
        for process in self.processes:
            process.kill()
            process.wait()
        self.processes.clear()
        for collection in ("health-monitors", "members", "listeners", "pools", "load-balancers"):
            for each in self.api.get(f"/v1/{collection}", limit=1000)["items"]:
                self.api.delete(f"/v1/{collection}/{each['id']}")
        for vm in self.vms:
            self.cloud.lab.hypervisors[int(vm.hypervisor[2:]) - 1].unplug(vm.port["id"])
            self.api.delete(f"/v1/ports/{vm.port['id']}")
        self.vms.clear()


class Events:
    """Objects of a kind as /v1/events tells of them."""

    def __init__(self, api: Any, kind: str) -> None:
        self.seen: list[dict[str, Any]] = []
        self._connection = http.client.HTTPConnection("127.0.0.1", api.port, timeout=60)
        self._connection.request("GET", f"/v1/events?kind={kind}", headers={"Authorization": f"Bearer {api.token}"})
        self._answer = self._connection.getresponse()
        self._thread = threading.Thread(target=self._read, daemon=True)

    def __enter__(self) -> Events:
        self._thread.start()
        return self

    def __exit__(self, *exc: object) -> None:
        self._connection.sock.shutdown(socket.SHUT_RDWR)
        self._thread.join(5)

    def _read(self) -> None:
        with contextlib.suppress(OSError, ValueError, http.client.HTTPException):
            name = b""
            for line in self._answer:
                if line.startswith(b"event: "):
                    name = line[7:].strip()
                elif line.startswith(b"data: ") and name == b"updated":
                    self.seen.append(json.loads(line[6:])["object"])


@pytest.fixture(scope="module")
def checked() -> Iterator[Checked]:
    with Cloud(2, options={"audit_interval": 0}) as cloud:
        made = Checked(cloud)
        try:
            yield made
        finally:
            for agent in made.agents:
                agent.terminate()


@pytest.fixture(autouse=True)
def cleared(checked: Checked) -> Iterator[None]:
    yield
    for agent in checked.agents:
        print(f"--- {agent.log}\n{agent.tail()}")
    checked.clear()


def test_tcp(checked: Checked) -> None:
    vm = checked.vm(0)
    member = checked.member(pool := checked.pool(checked.balancer(), type="TCP"), vm.ip, 80)
    other = checked.member(pool, vm.ip, 81)
    checked.wait(member, "down")
    assert checked.detail(member) == "TCP port 80: connection refused"
    server = checked.serve(vm, 80)
    checked.wait(member, "up")
    assert checked.detail(member) == ""
    server.kill()
    checked.wait(member, "down")
    assert checked.health(other) == "down"
    assert pool


@pytest.mark.parametrize("version", [4, 6])
def test_http(checked: Checked, version: int) -> None:
    vm, balancer = checked.vm(0), checked.balancer(version)
    address = vm.ip if version == 4 else vm.ip6
    server = checked.serve(vm, 8080)
    monitors = [
        {"url_path": "/good"},
        {"url_path": "/moved"},
        {"url_path": "/moved", "expected_codes": "300-399", "http_method": "HEAD"},
    ]
    members = [checked.member(checked.pool(balancer, type="HTTP", **each), address, 8080) for each in monitors]
    for member, wanted in zip(members, ("up", "down", "up"), strict=True):
        checked.wait(member, wanted)
    assert checked.detail(members[1]) == "HTTP status 302 instead of 200"
    seen = server.stdout.readline().split()
    ports = [str(FIRST_PORT + n) for n in range(3)]
    host = f"[{address}]:8080" if version == 6 else f"{address}:8080"
    assert seen[0].removeprefix("::ffff:") == balancer["vip_address"] and seen[1] in ports and seen[2] == host


def test_https(checked: Checked, tmp_path: Any) -> None:
    vm = checked.vm(1)
    file = tmp_path / "server.pem"
    vm.exec(["openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes", "-days", "1",
             "-subj", "/CN=nobody", "-keyout", str(file), "-out", str(tmp_path / "cert.pem")])  # fmt: skip
    file.write_text(file.read_text() + (tmp_path / "cert.pem").read_text())
    checked.serve(vm, 8443, str(file))
    checked.serve(vm, 8444)
    pool = checked.pool(checked.balancer(), type="HTTPS", url_path="/good", domain_name="www.example.com")
    secure, plain = (checked.member(pool, vm.ip, port) for port in (8443, 8444))
    checked.wait(secure, "up")
    checked.wait(plain, "down")
    assert checked.detail(plain).startswith("TLS: ")


@pytest.mark.parametrize("version", [4, 6])
def test_udp(checked: Checked, version: int) -> None:
    vm = checked.vm(0)
    address = vm.ip if version == 4 else vm.ip6
    silent = vm.popen(
        [
            "python3",
            "-c",
            "import socket, time; s = socket.socket(socket.AF_INET6, socket.SOCK_DGRAM); s.bind(('::', 53)); time.sleep(999)",
        ]
    )
    checked.processes.append(silent)
    pool = checked.pool(checked.balancer(version), "UDP", type="UDP-CONNECT")
    there, nobody = (checked.member(pool, address, port) for port in (53, 54))
    checked.wait(nobody, "down")
    assert checked.detail(nobody) == "UDP port 54: nobody listens there"
    checked.wait(there, "up")
    silent.kill()
    checked.wait(there, "down")


@pytest.mark.parametrize("version", [4, 6])
def test_ping(checked: Checked, version: int) -> None:
    vm = checked.vm(0)
    member = checked.member(checked.pool(checked.balancer(version), type="PING"), vm.ip if version == 4 else vm.ip6, 80)
    checked.wait(member, "up")
    vm.exec(["ip", "link", "set", "eth0", "down"])
    checked.wait(member, "down")
    assert checked.detail(member) == "no answer within 1 s"


def test_tenants_with_the_same_addresses(checked: Checked) -> None:
    """Each member is checked in its own network, and a second pool of the same member by itself."""
    other = checked.cloud.network("10.0.0.0/24")
    mine, theirs = checked.vm(0), checked.cloud.vm(other, 0, checked.vms[-1].ip)
    checked.vms.append(theirs)
    checked.serve(mine, 80)
    balancers = [checked.balancer(), checked.balancer(network=other)]
    up = checked.member(checked.pool(balancers[0], type="TCP"), mine.ip, 80)
    again = checked.member(checked.pool(balancers[0], type="HTTP", url_path="/bad"), mine.ip, 80)
    down = checked.member(checked.pool(balancers[1], type="TCP"), theirs.ip, 80)
    for member, wanted in ((up, "up"), (again, "down"), (down, "down")):
        checked.wait(member, wanted)
    assert (mine.ip, checked.detail(down)) == (theirs.ip, "TCP port 80: connection refused")


def test_a_closed_vm_is_checked_all_the_same(checked: Checked) -> None:
    """No policy is asked for what NovaNet itself sends; everybody else's is."""
    vm = checked.cloud.vm(checked.network, 0, security_groups=[])
    checked.vms.append(vm)
    client = checked.vm(1)
    checked.serve(vm, 80)
    checked.wait(checked.member(checked.pool(checked.balancer(), type="TCP"), vm.ip, 80), "up")
    assert client.ping(vm.ip).received == 0


def test_every_change_is_an_event(checked: Checked) -> None:
    """And no revision: it is not the platform's doing."""
    vm = checked.vm(0)
    member = checked.member(checked.pool(checked.balancer(), type="TCP"), vm.ip, 80)
    checked.wait(member, "down")
    before = checked.api.get(f"/v1/members/{member}")["revision_number"]
    with Events(checked.api, "member") as events:
        server = checked.serve(vm, 80)
        checked.wait(member, "up")
        server.kill()
        checked.wait(member, "down")
        until(
            "both were told", lambda: [each["health"] for each in events.seen if each["id"] == member] == ["up", "down"]
        )
    assert checked.api.get(f"/v1/members/{member}")["revision_number"] == before


# --- what may happen ---------------------------------------------------------------------------------------------


def test_agent_restarts(checked: Checked) -> None:
    """What it knew is in the store; a member that changes while it is away is noticed afterwards."""
    vm, agent = checked.vm(0), checked.agents[0]
    pool = checked.pool(checked.balancer(), type="TCP")
    member = checked.member(pool, vm.ip, 80)
    server = checked.serve(vm, 80)
    checked.wait(member, "up")
    agent.kill()
    server.kill()
    server.wait()

    def died() -> bool:
        shown = checked.api.get("/v1/status")["hypervisors"]
        (entry,) = [each for each in shown if each["name"] == agent.hypervisor.name]
        return "novanet-host-agent has died" in str(entry["ovsdb"]["problems"])

    until("the status says so", died)
    assert checked.health(member) == "up"
    agent.start()
    checked.wait(member, "down")
    until("the status is good again", lambda: not died())
    agent.terminate()
    assert AGENT_PORT not in agent.hypervisor.vsctl("list-ports", INTEGRATION)
    agent.start()
    checked.serve(vm, 80)
    checked.wait(member, "up")


def test_controller_restarts(checked: Checked) -> None:
    """While it is away nothing is recorded; what changed is, once the store is back."""
    vm = checked.vm(0)
    member = checked.member(checked.pool(checked.balancer(), type="TCP"), vm.ip, 80)
    server = checked.serve(vm, 80)
    checked.wait(member, "up")
    checked.cloud.controller.kill()
    server.kill()
    server.wait()
    until("the agent has noticed", lambda: checked.agents[0].metric("novanet_agent_members", health="down") == 1)
    checked.cloud.controller.start()
    checked.cloud.controller.wait_ready()
    checked.wait(member, "down")


def test_switch_restarts(checked: Checked) -> None:
    """A check that gets no further than a switch without flows says nothing of the member."""
    vm, hypervisor = checked.vm(0), checked.cloud.lab.hypervisors[0]
    member = checked.member(checked.pool(checked.balancer(), type="TCP"), vm.ip, 80)
    checked.serve(vm, 80)
    checked.wait(member, "up")
    since = checked.api.get(f"/v1/members/{member}")
    checked.cloud.controller.kill()
    hypervisor.kill_vswitchd()
    hypervisor.start_vswitchd()
    before = checked.agents[0].metric("novanet_agent_checks_total", result="inconclusive")
    until(
        "checks were in vain",
        lambda: checked.agents[0].metric("novanet_agent_checks_total", result="inconclusive") > before + 4,
    )
    assert checked.agents[0].metric("novanet_agent_path_up") == 0
    checked.cloud.controller.start()
    checked.cloud.controller.wait_ready()
    good = checked.agents[0].metric("novanet_agent_checks_total", result="good")
    until(
        "checks are good again",
        lambda: checked.agents[0].metric("novanet_agent_checks_total", result="good") > good + 3,
        30,
    )
    assert checked.api.get(f"/v1/members/{member}") == since, "it was up all the time"


def test_a_vm_that_moves_is_checked_where_it_is(checked: Checked) -> None:
    vm = checked.vm(0)
    member = checked.member(checked.pool(checked.balancer(), type="PING"), vm.ip, 80)
    checked.wait(member, "up")
    checked.cloud.lab.hypervisors[0].unplug(vm.port["id"])
    until("nobody here is checked", lambda: checked.agents[0].metric("novanet_agent_members") == 0)
    assert checked.health(member) == "up", "nothing new is known of it"
    checked.vms.remove(vm)
    checked.vms.append(checked.cloud.plug(checked.network, vm.port, 1))
    until(
        "checked there", lambda: checked.agents[1].metric("novanet_agent_checks_total", type="PING", result="good") > 2
    )
    assert checked.health(member) == "up"


def test_nothing_is_left_behind(checked: Checked) -> None:
    """Without anybody to check, flows, port and device are as before, and of members nothing is known."""
    vm = checked.vm(0)
    hypervisor = checked.cloud.lab.hypervisors[0]
    balancer = checked.balancer()
    before = flows(hypervisor)
    pool = checked.pool(balancer, type="TCP")
    member = checked.member(pool, vm.ip, 80)
    checked.wait(member, "down")
    assert AGENT_PORT in hypervisor.vsctl("list-ports", INTEGRATION)
    assert any(re.search(f"tp_dst={FIRST_PORT}", flow) for flow in flows(hypervisor))
    checked.api.delete(f"/v1/health-monitors/{pool['monitor']['id']}")
    checked.wait(member, "unknown")
    until("no port", lambda: AGENT_PORT not in hypervisor.vsctl("list-ports", INTEGRATION))
    checked.api.delete(f"/v1/members/{member}")
    checked.api.delete(f"/v1/pools/{pool['id']}")
    until("flows are as before", lambda: flows(hypervisor) == before)
    interfaces = hypervisor.vsctl("--columns=name", "list", "interface")
    assert AGENT_PORT not in interfaces


def test_what_comes_from_the_agents_port_reaches_members_only(checked: Checked) -> None:
    """Packets to any other address are dropped, and counted as such."""
    vm, hypervisor = checked.vm(0), checked.cloud.lab.hypervisors[0]
    member = checked.member(checked.pool(checked.balancer(), type="PING"), vm.ip, 80)
    checked.wait(member, "up")
    port = int(hypervisor.vsctl("get", "interface", AGENT_PORT, "ofport"))
    for destination in (vm.ip, "10.0.0.1", "10.255.255.255", "224.0.0.1", "169.254.169.253"):
        packet = f"in_port={port},icmp,nw_src=100.64.0.0,nw_dst={destination},dl_dst={vm.mac},icmp_type=8"
        assert "Datapath actions: drop" in hypervisor.appctl("ofproto/trace", INTEGRATION, packet), destination
    for frame in ("arp,arp_op=1,arp_tpa=10.0.0.11", "icmp6,ipv6_dst=ff02::1,icmpv6_type=135"):
        packet = f"in_port={port},dl_dst=ff:ff:ff:ff:ff:ff,{frame}"
        assert "Datapath actions: drop" in hypervisor.appctl("ofproto/trace", INTEGRATION, packet), frame


def test_a_member_that_answers_without_end_or_never_is_down(checked: Checked) -> None:
    """It is cut off in time, and costs no more than a line."""
    vm = checked.vm(0)
    endless = "import socket\ns=socket.create_server(('',80))\nprint('listening',flush=True)\nwhile 1:\n c=s.accept()[0]\n try:\n  while 1: c.sendall(b'x'*65536)\n except OSError: pass\n"
    mute = "import socket\ns=socket.create_server(('',81))\nprint('listening',flush=True)\nk=[]\nwhile 1: k.append(s.accept()[0])\n"
    for program in (endless, mute):
        process = vm.popen(["python3", "-c", program], stdout=-1, text=True)
        assert process.stdout.readline() == "listening\n"
        checked.processes.append(process)
    pool = checked.pool(checked.balancer(), type="HTTP")
    members = [checked.member(pool, vm.ip, port) for port in (80, 81)]
    for member in members:
        checked.wait(member, "down")
    assert [checked.detail(member) for member in members] == ["the answer is not HTTP/1.1", "no answer within 1 s"]
