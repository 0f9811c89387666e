"""Health checks kept up: 10,000 members, each checked every 5 s by TCP, on three hypervisors.

On each hypervisor one VM answers for its third of the members: it has 64 addresses, and listens on as many ports as that takes. Measured is
what the agents have done in ``SECONDS``: checks a second against those that are due (the floor), none of them bad; and the processor time of each agent.
NOVANET_BENCH_MEMBERS and NOVANET_BENCH_SECONDS set how many, and for how long.
"""

from __future__ import annotations

import os
import sys
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from tools.bench.report import line
from tools.lab import VM, Controller, HostAgent, Lab, processes

HYPERVISORS = 3
MEMBERS = int(os.environ.get("NOVANET_BENCH_MEMBERS", "10000"))
SECONDS = float(os.environ.get("NOVANET_BENCH_SECONDS", "60"))
DELAY, TIMEOUT = 5, 3
ADDRESSES = 64
"""Of one port, the most that it may have."""
FIRST_PORT = 8000
POOL = 1000
"""Members of a pool."""
BULK = 500
CREATED = 300.0
"""Seconds that it may take until all are up."""
SERVER = """
import selectors, socket, sys
first, count = int(sys.argv[1]), int(sys.argv[2])
found = selectors.DefaultSelector()
for port in range(first, first + count):
    listener = socket.create_server(("", port), backlog=1024)
    listener.setblocking(False)
    found.register(listener, selectors.EVENT_READ)
print("listening", flush=True)
while True:
    for key, _ in found.select():
        try:
            while True:
                key.fileobj.accept()[0].close()
        except OSError:
            pass
"""


class Farm:
    """A lab, a controller, agents, a VM a hypervisor, and ``members`` in pools that are checked."""

    def __init__(self, members: int, delay: int = DELAY, timeout: int = TIMEOUT) -> None:
        self.members, self.delay, self.timeout = members, delay, timeout
        self.lab = Lab(HYPERVISORS)
        self.agents: list[HostAgent] = []
        self._servers: list[Any] = []

    def __enter__(self) -> Farm:
        self.lab.up()
        try:
            self._build()
        except BaseException:
            self.__exit__()
            raise
        return self

    def __exit__(self, *exc: object) -> None:
        for agent in self.agents:
            agent.terminate()
        processes.end_all(self._servers)
        self.lab.close()

    @property
    def due(self) -> float:
        """Checks a second."""
        return self.members / self.delay

    def _build(self) -> None:
        self.controller = Controller(self.lab, options={"audit_interval": 0})
        self.controller.start()
        self.controller.wait_ready()
        self.lab.deploy(self.controller)
        self.agents = [HostAgent(hypervisor, self.controller) for hypervisor in self.lab.hypervisors]
        for agent in self.agents:
            agent.start()
        api = self.controller.api
        network = api.post("/v1/networks", {"name": "farm"})
        subnet = api.post("/v1/subnets", {"network_id": network["id"], "cidr": "10.0.0.0/16", "gateway_ip": None})
        addresses = [self._serve(number, network, subnet) for number in range(HYPERVISORS)]
        balancer = api.post("/v1/load-balancers", {"vip_subnet_id": subnet["id"]})
        pools = []
        for _ in range(-(-self.members // POOL)):
            pool = api.post("/v1/pools", {"loadbalancer_id": balancer["id"], "protocol": "TCP"})
            fields = {"type": "TCP", "delay": self.delay, "timeout": self.timeout, "max_retries": 1}
            api.post("/v1/health-monitors", {"pool_id": pool["id"], **fields})
            pools.append(pool["id"])
        wanted = [
            {"pool_id": pools[number // POOL], "address": address, "protocol_port": port, "subnet_id": subnet["id"]}
            for number, (address, port) in zip(range(self.members), self._endpoints(addresses), strict=False)
        ]
        for start in range(0, len(wanted), BULK):
            api.post("/v1/members", wanted[start : start + BULK])

    @property
    def _ports(self) -> int:
        """How many ports each VM listens on."""
        return -(-self.members // (HYPERVISORS * ADDRESSES))

    def _serve(self, number: int, network: dict[str, Any], subnet: dict[str, Any]) -> list[str]:
        """The VM of a hypervisor, and its addresses."""
        addresses = [f"10.0.{number + 1}.{host}" for host in range(1, ADDRESSES + 1)]
        fixed = [{"subnet_id": subnet["id"], "ip_address": address} for address in addresses]
        port = self.controller.api.post("/v1/ports", {"network_id": network["id"], "fixed_ips": fixed})
        vm: VM = self.lab.boot(self.controller, self.lab.hypervisors[number], port["id"])
        server = vm.popen(["python3", "-c", SERVER, str(FIRST_PORT), str(self._ports)], stdout=-1, text=True)
        self._servers.append(server)
        if server.stdout is None or server.stdout.readline() != "listening\n":
            raise RuntimeError("the VM's server did not start")
        self.controller.wait_status(f"/v1/ports/{port['id']}")
        return addresses

    def _endpoints(self, addresses: list[list[str]]) -> Iterator[tuple[str, int]]:
        """Address and port of each member, hypervisor by hypervisor in turn."""
        for port in range(FIRST_PORT, FIRST_PORT + self._ports):
            for host in range(ADDRESSES):
                yield from ((each[host], port) for each in addresses)

    def wait_up(self, timeout: float = CREATED) -> None:
        """Wait until agents have found every member up. Raises LabError."""
        processes.until(lambda: self.healths()["up"] == self.members, "all members are up", timeout, 0.5)

    def healths(self) -> Counter[str]:
        """Members by health, as the agents have it."""
        return Counter({
            health: int(sum(agent.metric("novanet_agent_members", health=health) for agent in self.agents))
            for health in ("unknown", "up", "down")
        })  # fmt: skip

    def checks(self) -> Counter[str]:
        """Checks that were made until now, by result."""
        return Counter({
            result: int(sum(agent.metric("novanet_agent_checks_total", result=result) for agent in self.agents))
            for result in ("good", "bad", "inconclusive")
        })  # fmt: skip

    def processor_time(self) -> list[float]:
        """Seconds that each agent has used."""
        return [_processor_time(agent.pid) for agent in self.agents]


def _processor_time(pid: int) -> float:
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def memory(pid: int) -> float:
    """Resident memory of a process in MB."""
    return int(Path(f"/proc/{pid}/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE") / 1e6


def main() -> int:
    """Exit status: 0, or 1 when a check was bad or checks fell behind."""
    with Farm(MEMBERS) as farm:
        began = time.monotonic()
        farm.wait_up()
        case = f"{MEMBERS:,} members every {DELAY} s, {HYPERVISORS} hypervisors"
        line("health_checks", f"{case}: all up", time.monotonic() - began, None, None, "s", higher_is_better=False)
        before, used, began = farm.checks(), farm.processor_time(), time.monotonic()
        time.sleep(SECONDS)
        after, spent, took = farm.checks(), farm.processor_time(), time.monotonic() - began
        done = after - before
        line("health_checks", case, done["good"] / took, "floor", farm.due, "checks/s", higher_is_better=True)
        worst = max(now - then for now, then in zip(spent, used, strict=True)) / took
        line(
            "health_checks", f"{case}: an agent's processor time", 100 * worst, None, None, "%", higher_is_better=False
        )
        largest = max(memory(agent.pid) for agent in farm.agents)
        line("health_checks", f"{case}: an agent's memory", largest, None, None, "MB", higher_is_better=False)
        failed = done["bad"] or done["inconclusive"] or done["good"] < 0.97 * farm.due * took
        if failed:
            print(f"checks were bad or late: {dict(done)}, {farm.due * took:.0f} were due", file=sys.stderr)
        return int(bool(failed))


if __name__ == "__main__":
    sys.exit(main())
