"""What tests of load balancers speak: servers that say who they are and who asks, clients that ask often, and load balancers."""

from __future__ import annotations

import itertools
import json
import subprocess
import sys
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from tools.lab import VM

from .cloud import Cloud, until

SERVER = r"""
import socket, sys, threading
name, tcp_ports, udp_ports = sys.argv[1], eval(sys.argv[2]), eval(sys.argv[3])

def serve(connection, peer):
    with connection:
        host = peer[0].removeprefix("::ffff:")
        connection.sendall(f"{name} {host} {peer[1]}\n".encode())
        while data := connection.recv(65536):
            connection.sendall(data)

def tcp(port):
    listener = socket.create_server(("::", port), family=socket.AF_INET6, dualstack_ipv6=True, backlog=512)
    while True:
        threading.Thread(target=serve, args=listener.accept(), daemon=True).start()

def udp(port):
    server = socket.socket(socket.AF_INET6, socket.SOCK_DGRAM)
    server.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 0)
    server.bind(("::", port))
    while True:
        data, peer = server.recvfrom(65536)
        host = peer[0].removeprefix("::ffff:")
        server.sendto(f"{name} {host} {peer[1]} ".encode() + data, peer)

for port in tcp_ports:
    threading.Thread(target=tcp, args=(port,), daemon=True).start()
for port in udp_ports:
    threading.Thread(target=udp, args=(port,), daemon=True).start()
print("ready", flush=True)
sys.stdin.read()
"""

CLIENT = r"""
import json, socket, sys, threading
kind, host, port, count, size = sys.argv[1], sys.argv[2], int(sys.argv[3]), int(sys.argv[4]), int(sys.argv[5])
family = socket.AF_INET6 if ":" in host else socket.AF_INET
for _ in range(count):
    said = ""
    with socket.socket(family, socket.SOCK_STREAM if kind == "tcp" else socket.SOCK_DGRAM) as client:
        client.settimeout(2)
        try:
            client.connect((host, port))
            if kind == "tcp":
                said = client.makefile().readline().strip()
                threading.Thread(target=client.sendall, args=(b"x" * size,), daemon=True).start()
                got = 0
                while got < size:
                    data = client.recv(65536)
                    if not data:
                        break
                    got += len(data)
                said = said if got == size else f"{said} cut after {got}"
            else:
                client.send(b"x" * size)
                data = client.recv(65536).decode()
                said = data.rstrip("x").strip() if data.endswith("x" * size) else f"wrong: {data[:80]}"
            said += " " + str(client.getsockname()[1])
        except OSError as problem:
            said = type(problem).__name__
    print(json.dumps(said), flush=True)
"""

HOLDER = r"""
import json, socket, sys
kind, host, port, count = sys.argv[1], sys.argv[2], int(sys.argv[3]), int(sys.argv[4])
family = socket.AF_INET6 if ":" in host else socket.AF_INET
clients = []
for _ in range(count):
    client = socket.socket(family, socket.SOCK_STREAM if kind == "tcp" else socket.SOCK_DGRAM)
    client.settimeout(2)
    client.connect((host, port))
    clients.append(client)
first = [client.recv(100).decode().split()[0] for client in clients] if kind == "tcp" else []
print(json.dumps(first), flush=True)
for line in sys.stdin:
    said = []
    for number, client in enumerate(clients):
        try:
            client.send(b"x")
            data = client.recv(100).decode()
            said.append(first[number] if kind == "tcp" and data == "x" else data.split()[0] if data else "closed")
        except OSError as problem:
            said.append(type(problem).__name__)
    print(json.dumps(said), flush=True)
"""


class Held:
    """Connections of a VM that stay open: ``names`` are the members that have them (TCP), ``ask`` uses each once more."""

    def __init__(self, vm: VM, host: str, port: int, count: int, kind: str = "tcp") -> None:
        argv = [sys.executable, "-c", HOLDER, kind, host, str(port), str(count)]
        self._process = vm.popen(argv, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        self.names: list[str] = json.loads(self._process.stdout.readline())
        if kind == "udp":
            self.names = self.ask()

    def __enter__(self) -> Held:
        return self

    def __exit__(self, *exc: object) -> None:
        self._process.kill()
        self._process.communicate()

    def ask(self) -> list[str]:
        """Of each connection who answered, or the name of the error."""
        self._process.stdin.write("ask\n")
        self._process.stdin.flush()
        return list(json.loads(self._process.stdout.readline()))


@contextmanager
def server(vm: VM, name: str, tcp: list[int] | None = None, udp: list[int] | None = None) -> Iterator[None]:
    """A server in a VM that answers with its name, and with the address and port of who asks; then it echoes."""
    process = vm.popen(
        [sys.executable, "-c", SERVER, name, repr(tcp or []), repr(udp or [])],
        stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True,
    )  # fmt: skip
    try:
        assert process.stdout is not None and process.stdout.readline() == "ready\n"
        yield
    finally:
        process.kill()
        process.communicate()


def ask(vm: VM, host: str, port: int, count: int = 1, kind: str = "tcp", size: int = 100) -> list[str]:
    """Ask a server so many times, each by a connection of its own: what it said, or the name of the error."""
    argv = [sys.executable, "-c", CLIENT, kind, host, str(port), str(count), str(size)]
    process = vm.popen(argv, stdout=subprocess.PIPE, text=True)
    out, _ = process.communicate(timeout=60 + 3 * count)
    return [json.loads(line) for line in out.splitlines()]


def names(answers: list[str], client: str) -> Counter[str]:
    """How often who answered; each has to have seen the client's own address."""
    found: Counter[str] = Counter()
    for answer in answers:
        parts = answer.split()
        assert len(parts) == 4 and parts[1] == client, answer
        found[parts[0]] += 1
    return found


class Balancer:
    """A load balancer with pools and listeners, over REST."""

    _names = itertools.count(1)

    def __init__(self, cloud: Cloud, **where: Any) -> None:
        self.cloud, self.api = cloud, cloud.api
        self.object = self.api.post("/v1/load-balancers", {"name": f"lb{next(self._names)}", **where})
        self.id, self.vip = self.object["id"], self.object["vip_address"]

    def pool(self, protocol: str = "TCP", **fields: Any) -> dict[str, Any]:
        return self.api.post("/v1/pools", {"loadbalancer_id": self.id, "protocol": protocol, **fields})

    def listener(self, port: int, pool: dict[str, Any] | None, **fields: Any) -> dict[str, Any]:
        protocol = fields.pop("protocol", "TCP" if pool is None else pool["protocol"])
        fields = {"default_pool_id": pool["id"] if pool else None, **fields}
        return self.api.post(
            "/v1/listeners", {"loadbalancer_id": self.id, "protocol": protocol, "protocol_port": port, **fields}
        )

    def member(self, pool: dict[str, Any], address: str, port: int | None = 8080, **fields: Any) -> dict[str, Any]:
        return self.api.post(
            "/v1/members", {"pool_id": pool["id"], "address": address, "protocol_port": port, **fields}
        )

    def change(self, member: dict[str, Any], **fields: Any) -> None:
        self.api.patch(f"/v1/members/{member['id']}", fields)
        self.wait(members=[member])

    def wait(self, **parts: list[dict[str, Any]]) -> None:
        """Until the switches have it, with its parts: ``pools``, ``listeners``, ``members``."""
        self.cloud.wait_active("load-balancers", self.id)
        for collection, objects in parts.items():
            for each in objects:
                self.cloud.wait_active(collection, each["id"])

    def serve(
        self, port: int, *members: VM, protocol: str = "TCP", to: int | None = 8080, six: bool = False, **pool: Any
    ) -> dict[str, Any]:
        """A listener for a pool of these VMs, in the switches; returns the pool, its members under ``members``."""
        made = self.pool(protocol, **pool)
        made["members"] = [self.member(made, vm.ip6 if six else vm.ip, to) for vm in members]
        listener = self.listener(port, made)
        self.wait(pools=[made], listeners=[listener], members=made["members"])
        return made


__all__ = ["Balancer", "Held", "ask", "names", "server", "until"]
