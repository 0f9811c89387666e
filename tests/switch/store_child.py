"""Scenarios of the intent store, each run in a process of its own under eventlet as in the controller.

``python -m tests.switch.store_child SCENARIO DIRECTORY [ARGUMENT …]`` prints what it saw as one line of JSON.
"""

from __future__ import annotations

import eventlet

eventlet.monkey_patch()

import json  # noqa: E402
import os  # noqa: E402
import signal  # noqa: E402
import sys  # noqa: E402
from collections import Counter  # noqa: E402
from collections.abc import Callable, Iterable  # noqa: E402
from pathlib import Path  # noqa: E402
from random import Random  # noqa: E402
from typing import Any  # noqa: E402

from novanet_apps.intent import IntentStore, Refused, StoreSettings, Write  # noqa: E402
from topology.changes import Change, Edit  # noqa: E402
from topology.graph import Topology  # noqa: E402
from topology.model import KINDS, encode  # noqa: E402

DEADLINE = 30.0


class Core:
    """What the store needs of the controller's core."""

    def __init__(self) -> None:
        self.topology = Topology()

    def apply(self, edits: Iterable[Edit]) -> list[Change]:
        return self.topology.apply(edits)


class Controller:
    """A store with a graph of its own."""

    def __init__(self, directory: str, store: str = "embedded", seed: int | None = None, timeout: float = 15.0) -> None:
        self.core = Core()
        settings = StoreSettings(store, Path(directory), timeout=timeout)
        self.store = IntentStore(self.core, settings, None if seed is None else Random(seed))  # type: ignore[arg-type]
        self.store.start()
        if not self.store.wait_ready(DEADLINE):
            raise SystemExit(f"the store did not become ready: {self.store.state()}")

    @property
    def topology(self) -> Topology:
        return self.core.topology

    def one(self, op: Any, kind: str, id: str | None = None, **fields: Any) -> Any:
        return self.store.submit([Write(op, kind, id, fields)])[0]

    def create(self, kind: str, **fields: Any) -> Any:
        return self.one("create", kind, **fields)

    def content(self) -> dict[str, Any]:
        return {kind: {id: encode(obj) for id, obj in sorted(self.topology.all(kind).items())} for kind in KINDS}


def until(condition: Callable[[], Any]) -> Any:
    """Wait until it holds; its value. Gives up loudly."""
    with eventlet.Timeout(DEADLINE):
        while not (found := condition()):
            eventlet.sleep(0.01)
    return found


def attempt(call: Callable[[], Any]) -> Any:
    """The outcome of a write: an object, or (status, field, detail)."""
    try:
        return call()
    except Refused as refused:
        return (refused.status, refused.field, refused.detail)


def together(calls: Iterable[Callable[[], Any]]) -> list[Any]:
    """Outcomes of calls made at the same time."""
    return [thread.wait() for thread in [eventlet.spawn(attempt, call) for call in calls]]


def blue(controller: Controller, cidr: str = "10.0.0.0/16") -> tuple[Any, Any]:
    network = controller.create("network", name="blue")
    return network, controller.create("subnet", network_id=network.id, cidr=cidr)


# --- scenarios ---------------------------------------------------------------------------------------------------


def fill(directory: str) -> Any:
    """One of everything, changed and partly deleted."""
    controller = Controller(directory)
    network, subnet = blue(controller)
    six = controller.create("subnet", network_id=network.id, cidr="2001:db8::/64", description="zwei\nZeilen, größer")
    ports = [controller.create("port", network_id=network.id, name=f"web-{n}") for n in range(5)]
    controller.one("delete", "port", ports[0].id)
    controller.one("patch", "port", ports[1].id, name="db", fixed_ips=[{"subnet_id": six.id}, {"subnet_id": subnet.id}])
    pairs = [{"ip_address": "10.9.0.0/16"}, {"ip_address": "10.0.0.9", "mac_address": "02:00:00:00:00:01"}]
    controller.one("patch", "port", ports[2].id, allowed_address_pairs=pairs, admin_state_up=False)
    host = controller.create("hypervisor", name="h1", tunnel_ip="10.1.1.1", ovsdb="tcp:10.1.1.1:6640")
    controller.store.bind(ports[3].id, host.id)
    until(lambda: controller.topology.get("port", ports[3].id).host_id == host.id)
    mesh = controller.topology.mesh
    assert mesh is not None
    controller.one("patch", "tunnel-mesh", mesh.id, tunnel_type="vxlan", external_vteps=["10.8.8.8", "10.7.7.7"])
    content = controller.content()
    controller.store.stop()
    return content


def fill_outside(directory: str) -> Any:
    """One of everything that has to do with the outside, changed and partly deleted."""
    controller = Controller(directory)
    inside, _ = blue(controller)
    host = controller.create("hypervisor", name="h1", bridge_mappings=[{"physical_network": "wire", "bridge": "br-ex"}])
    outside = controller.create("network", external=True, physical_network="wire", segmentation_id=7, name="outside")
    controller.create("subnet", network_id=outside.id, cidr="192.0.2.0/24", dns_nameservers=["192.0.2.53", "192.0.2.5"])
    named = [{"hypervisor_id": host.id, "priority": 5}]
    router = controller.create("router", name="edge", gateway_hypervisors=named)
    interface = controller.create("port", network_id=inside.id, router_id=router.id)
    controller.create("port", network_id=outside.id, router_id=router.id)
    routes = [{"destination": "10.8.0.0/16", "nexthop": "10.0.0.9"}]
    policies = [{"priority": 3, "action": "drop", "protocol": "udp", "destination_port": 53}]
    controller.one("patch", "router", router.id, routes=routes, policy_routes=policies)
    vms = [controller.create("port", network_id=inside.id, dns_name=f"vm{n}") for n in range(3)]
    floating = [controller.create("floating-ip", floating_network_id=outside.id, port_id=vm.id) for vm in vms[:2]]
    shared = controller.create("floating-ip", floating_network_id=outside.id)
    controller.create(
        "port-forwarding", floating_ip_id=shared.id, internal_port_id=vms[2].id, protocol="tcp", external_port=80,
        internal_port=8080,
    )  # fmt: skip
    controller.create("neighbour", network_id=outside.id, ip_address="192.0.2.1", mac_address="02:00:00:00:00:01")
    controller.one("delete", "port", vms[0].id)
    detached = controller.topology.get("floating-ip", floating[0].id)
    refused = [
        attempt(lambda kind=kind, id=id: controller.one("delete", kind, id))  # type: ignore[misc]
        for kind, id in (("port", vms[2].id), ("port", interface.id), ("network", outside.id), ("router", router.id))
    ]
    content = controller.content()
    controller.store.stop()
    return {"content": content, "detached": encode(detached), "refused": [outcome[0] for outcome in refused]}


def learn(directory: str) -> Any:
    """Hosts outside: coalesced, never over what an administrator has set, and gone with their network."""
    controller = Controller(directory)
    outside = controller.create("network", external=True, physical_network="wire")
    known = controller.topology.neighbours
    static = controller.create(
        "neighbour", network_id=outside.id, ip_address="192.0.2.9", mac_address="02:00:00:00:00:09"
    )
    before = dict(controller.store.counters)
    for number in range(200):
        controller.store.learn(outside.id, f"192.0.2.{1 + number % 4}", f"02:00:00:00:01:{number:02x}")
    controller.store.learn(outside.id, "192.0.2.9", "02:00:00:00:00:aa")
    controller.store.learn("aaaaaaaa-0000-4000-8000-000000000001", "192.0.2.1", "02:00:00:00:00:aa")
    until(lambda: len(known) == 5)
    controller.store.learn(outside.id, "192.0.2.1", "02:00:00:00:01:c4")  # as it is known
    controller.store.learn(outside.id, "192.0.2.2", "02:00:00:00:02:00")
    controller.store.forget(outside.id, "192.0.2.3")
    controller.store.forget(outside.id, "192.0.2.9")
    controller.store.forget(outside.id, "192.0.2.200")
    until(lambda: (outside.id, "192.0.2.3") not in known)
    until(lambda: controller.store.counters["writes"] - before["writes"] >= 6)
    found = {obj.ip_address: [obj.mac_address, obj.learned, obj.revision_number]
             for obj in controller.topology.all("neighbour").values()}  # fmt: skip
    writes = controller.store.counters["writes"] - before["writes"]
    in_use = attempt(lambda: controller.one("delete", "network", outside.id))
    controller.one("delete", "neighbour", static.id)
    taken = controller.one("patch", "neighbour", known[outside.id, "192.0.2.1"], mac_address="02:00:00:00:00:bb")
    controller.store.learn(outside.id, "192.0.2.1", "02:00:00:00:00:cc")
    controller.store.learn(outside.id, "192.0.2.5", "02:00:00:00:00:05")
    until(lambda: (outside.id, "192.0.2.5") in known)
    kept = controller.topology.get("neighbour", taken.id)
    controller.one("delete", "neighbour", taken.id)
    controller.one("delete", "network", outside.id)
    left = len(controller.topology.all("neighbour"))
    controller.store.stop()
    return {
        "found": found, "writes": writes, "in_use": in_use, "left": left,
        "taken": [taken.learned, kept.mac_address],
    }  # fmt: skip


def race_outside(directory: str) -> Any:
    """Two controllers want the same at the same time: addresses outside, wires, host names, gateways, overlapping subnets."""
    first = Controller(directory, seed=5)
    second = Controller(directory, f"unix:{directory}/run/intent.sock", seed=5)
    pair = (first, second)
    inside, _ = blue(first)
    twin = first.create("network")
    first.create("subnet", network_id=twin.id, cidr="10.0.0.0/24")
    outside = first.create("network", external=True, physical_network="wire")
    first.create("subnet", network_id=outside.id, cidr="192.0.2.0/24")
    router = first.create("router")
    until(lambda: second.topology.get("router", router.id))

    def both(kind: str, *fields: dict[str, Any]) -> list[Any]:
        """The outcomes when each controller creates one of two."""
        made = together(
            lambda c=c, f=f: c.create(kind, **f)  # type: ignore[misc]
            for c, f in zip(pair, (fields * 2)[:2], strict=True)
        )
        until(lambda: first.content() == second.content())
        return [obj if isinstance(obj, tuple) else "made" for obj in made]

    address = {"network_id": outside.id, "fixed_ips": [{"ip_address": "192.0.2.77"}]}
    found = {
        "address": both("port", address) and both("floating-ip", {"floating_network_id": outside.id}),
        "wires": both("network", {"physical_network": "wire", "segmentation_id": 9}),
        "names": both("port", {"network_id": inside.id, "dns_name": "web"}),
        "gateways": both("port", {"network_id": outside.id, "router_id": router.id}),
        "overlaps": both(*("port", *({"network_id": id, "router_id": router.id} for id in (inside.id, twin.id)))),
    }
    mixed = []
    for number in range(10):
        text = f"192.0.2.{100 + number}"
        mixed.append(
            [
                obj[:2] if isinstance(obj, tuple) else "made"
                for obj in together(
                    [
                        lambda t=text: first.create("port", network_id=outside.id, fixed_ips=[{"ip_address": t}]),
                        lambda t=text: second.create(
                            "floating-ip", floating_network_id=outside.id, floating_ip_address=t
                        ),
                    ]
                )
            ]
        )
    for controller in pair:
        controller.store.stop()
    return {**found, "mixed": mixed}


def upgraded(directory: str) -> Any:
    """A database of an older version: as it is found, and that everything in it can be changed."""
    controller = Controller(directory)
    content = controller.content()
    problems = controller.store.problems
    for kind in ("network", "subnet", "port", "hypervisor", "tunnel-mesh"):
        for id in content[kind]:
            controller.one("patch", kind, id, description="changed")
    controller.store.stop()
    return {"content": content, "problems": problems}


def load(directory: str) -> Any:
    """What there is."""
    controller = Controller(directory)
    content = controller.content()
    state = controller.store.state()
    controller.store.stop()
    return {"content": content, "state": state}


def serve(directory: str) -> Any:
    """Stay until killed; says when ready and which process the server is."""
    controller = Controller(directory)
    blue(controller)
    print(json.dumps({"server": controller.store.server.pid, "content": controller.content()}), flush=True)
    eventlet.sleep(10 * DEADLINE)


def crash(directory: str, writes: str, kills: str) -> Any:
    """Many writes while the server is killed again and again: what was acknowledged, and what there is afterwards."""
    from novanet_apps.intent import writer

    writer.BATCH = 7  # so that there are always transactions under way
    controller = Controller(directory)
    network, _ = blue(controller)
    server = controller.store.server
    assert server is not None
    outcomes: dict[int, Any] = {}

    def write(number: int) -> None:
        outcomes[number] = attempt(lambda: controller.create("port", network_id=network.id, device_id=str(number)))

    threads = [eventlet.spawn(write, number) for number in range(int(writes))]
    for kill in range(int(kills)):
        target = kill * int(writes) // int(kills) + 1
        until(lambda n=target: len(outcomes) >= n)  # type: ignore[misc]
        os.kill(until(lambda: server.pid), signal.SIGKILL)
    for thread in threads:
        thread.wait()
    return {"starts": server.starts} | afterwards(controller, outcomes, directory)


def afterwards(controller: Controller, outcomes: dict[int, Any], directory: str) -> dict[str, Any]:
    """What was said of ports, what the controller saw, and what another one finds in the store."""
    seen = {id: port.device_id for id, port in controller.topology.all("port").items()}
    retries = controller.store.counters["retries"]
    controller.store.stop()
    again = Controller(directory)
    stored = {id: port.device_id for id, port in again.topology.all("port").items()}
    addresses = Counter(fixed.ip_address for port in again.topology.all("port").values() for fixed in port.fixed_ips)
    again.store.stop()
    return {
        "acknowledged": {number: obj.id for number, obj in outcomes.items() if not isinstance(obj, tuple)},
        "refused": [outcome for outcome in outcomes.values() if isinstance(outcome, tuple)],
        "seen": seen,
        "stored": stored,
        "most_of_one_address": max(addresses.values()),
        "retries": retries,
    }


def lose_answers(remote: str, listen: str, lose: list[bytes]) -> None:
    """Pass a connection on; cut it as soon as the answer to a request that holds one of ``lose`` comes."""
    from eventlet.green import socket

    def connection(client: Any) -> None:
        server = socket.socket(socket.AF_UNIX)
        server.connect(remote)
        cut = []

        def up() -> None:
            while data := client.recv(1 << 16):
                for mark in [mark for mark in lose if mark in data]:
                    lose.remove(mark)
                    cut.append(mark)
                server.sendall(data)

        forward = eventlet.spawn(up)
        while (data := server.recv(1 << 16)) and not cut:
            client.sendall(data)
        forward.kill()
        client.close()
        server.close()

    listener = socket.socket(socket.AF_UNIX)
    listener.bind(listen)
    listener.listen()

    def accept() -> None:
        while True:
            eventlet.spawn(connection, listener.accept()[0])

    eventlet.spawn(accept)


def lost_answers(directory: str) -> Any:
    """The connection is lost after the server committed and before it was heard to say so."""
    first = Controller(directory)
    network, _ = blue(first)
    victim = first.create("port", network_id=network.id, device_id="victim")
    lose = [b"lost-1", b"lost-2", b"lost-patch", victim.id.encode()]
    lose_answers(f"{directory}/run/intent.sock", f"{directory}/relay", lose)
    second = Controller(directory, f"unix:{directory}/relay")
    id = "aaaaaaaa-0000-4000-8000-000000000001"
    made = [
        second.create("port", network_id=network.id, device_id="lost-1"),
        second.create("port", id=id, network_id=network.id, device_id="lost-2"),
    ]
    patched = second.one("patch", "port", made[0].id, description="lost-patch")
    deleted = second.one("delete", "port", victim.id)
    second.store.stop()
    outcomes = dict(enumerate(made))
    return {
        "left_to_lose": len(lose),
        "patched": patched.revision_number,
        "deleted": deleted,
        "lost": second.store.counters["retries"],
    } | afterwards(first, outcomes, directory)


def race(directory: str) -> Any:
    """Two controllers that make the same guesses allocate at the same time, on one server."""
    first = Controller(directory, seed=5)
    second = Controller(directory, f"unix:{directory}/run/intent.sock", seed=5)
    pair = (first, second)
    network, _ = blue(first)
    tight = first.create("network")
    first.create("subnet", network_id=tight.id, cidr="10.0.0.0/28")
    until(lambda: second.topology.subnets_of(tight.id))
    ports = together(
        lambda c=c: c.create("port", network_id=network.id)  # type: ignore[misc]
        for _ in range(150)
        for c in pair
    )
    networks = together(lambda c=c: c.create("network") for _ in range(50) for c in pair)  # type: ignore[misc]
    last = together(lambda c=c: c.create("port", network_id=tight.id) for _ in range(10) for c in pair)  # type: ignore[misc]
    overlaps = []
    for number in range(10):
        there = first.create("network", name=f"overlap-{number}")
        until(lambda id=there.id: second.topology.get("network", id))  # type: ignore[misc]
        overlaps.append(
            together(
                lambda c=c, cidr=cidr, id=there.id: c.create("subnet", network_id=id, cidr=cidr)  # type: ignore[misc]
                for c, cidr in zip(pair, ("10.0.0.0/24", "10.0.0.0/16"), strict=True)
            )
        )
    hosts = together(
        lambda c=c, n=n: c.create("hypervisor", name=n, tunnel_ip="10.3.3.3") for c, n in zip(pair, "ab", strict=True)
    )  # type: ignore[misc]
    names = together(lambda c=c: c.create("network", name="one") for c in pair)  # type: ignore[misc]
    patched = together(
        lambda c=c, n=n: c.one("patch", "network", network.id, description=n)  # type: ignore[misc]
        for c, n in zip(pair, ("first", "second"), strict=True)
    )
    until(lambda: first.content() == second.content())
    content = first.content()
    retries = [c.store.counters["retries"] for c in pair]
    for controller in pair:
        controller.store.stop()
    plain = [
        [obj if isinstance(obj, tuple) else obj.id for obj in outcomes]
        for outcomes in (ports, networks, last, hosts, names)
    ]
    return {
        "outcomes": plain,
        "overlaps": [[isinstance(obj, tuple) and obj[:2] for obj in outcomes] for outcomes in overlaps],
        "patched": [obj.revision_number for obj in patched],
        "content": content,
        "retries": retries,
    }


def group(directory: str) -> Any:
    """Many submissions at once, some of them bad, and submissions of several writes."""
    controller = Controller(directory)
    network, subnet = blue(controller)
    before = dict(controller.store.counters)
    bodies = [{"network_id": network.id if n % 10 else subnet.id, "name": f"p{n}"} for n in range(200)]
    outcomes = together(lambda body=body: controller.create("port", **body) for body in bodies)  # type: ignore[misc]
    counters = {name: value - before[name] for name, value in controller.store.counters.items()}
    visible = all(isinstance(o, tuple) or controller.topology.get("port", o.id) == o for o in outcomes)
    several = [
        Write("create", "network", "aaaaaaaa-0000-4000-8000-000000000001", {"name": "whole"}),
        Write("create", "subnet", fields={"network_id": "aaaaaaaa-0000-4000-8000-000000000001", "cidr": "10.4.0.0/24"}),
        Write("create", "port", fields={"network_id": "aaaaaaaa-0000-4000-8000-000000000001"}),
    ]
    try:
        refused = controller.store.submit([*several, Write("delete", "network", network.id)])
    except Refused as problem:
        refused = [problem.status, problem.index]
    nothing = controller.topology.get("network", several[0].id or "")
    made = controller.store.submit(several)
    unmade = controller.store.submit([Write("delete", obj.KIND, obj.id) for obj in reversed(made)])
    controller.store.stop()
    return {
        "outcomes": [o if isinstance(o, tuple) else "made" for o in outcomes],
        "counters": counters,
        "visible": visible,
        "refused": refused,
        "nothing": nothing,
        "address": made[2].fixed_ips[0].ip_address,
        "unmade": unmade,
    }


def bind(directory: str) -> Any:
    """Locations: coalesced, without a revision, and gone with the hypervisor."""
    controller = Controller(directory)
    network, _ = blue(controller)
    hosts = [controller.create("hypervisor", name=name) for name in ("h1", "h2")]
    ports = [controller.create("port", network_id=network.id) for _ in range(20)]
    before = controller.store.counters["records"]
    for port in ports:
        for host in (hosts[0].id, None, hosts[1].id):
            controller.store.bind(port.id, host)
    controller.store.bind("aaaaaaaa-0000-4000-8000-000000000001", hosts[0].id)
    until(lambda: all(controller.topology.get("port", port.id).host_id == hosts[1].id for port in ports))
    bound = [controller.topology.get("port", port.id) for port in ports]
    patched = controller.one("patch", "port", ports[0].id, name="still there")
    controller.one("delete", "hypervisor", hosts[1].id)
    until(lambda: all(controller.topology.get("port", port.id).host_id is None for port in ports))
    written = controller.store.counters["records"] - before
    controller.store.stop()
    return {
        "written": written,
        "revisions": [p.revision_number for p in bound],
        "patched": [patched.host_id == hosts[1].id, patched.revision_number],
    }


def tampered(directory: str) -> Any:
    """Somebody edits the database with ovsdb-client."""
    from eventlet.green import subprocess

    controller = Controller(directory)
    network, _ = blue(controller)
    port = controller.create("port", network_id=network.id)

    def edit(table: str, id: str, row: dict[str, Any]) -> Any:
        operation = {"op": "update", "table": table, "where": [["_uuid", "==", ["uuid", id]]], "row": row}
        client = controller.store.settings.program("ovsdb-client")
        remote = f"unix:{directory}/run/intent.sock"
        done = subprocess.run(
            [client, "transact", remote, json.dumps(["NovaNet", operation])], capture_output=True, text=True
        )
        return done.stdout

    edit("Port", port.id, {"allowed_address_pairs": "{not json"})
    problems = until(lambda: controller.store.problems)
    kept = controller.topology.get("port", port.id) == port
    other = controller.create("port", network_id=network.id)
    edit("Port", port.id, {"allowed_address_pairs": "", "name": "by hand"})
    until(lambda: not controller.store.problems)
    fixed = controller.topology.get("port", port.id).name
    kept_cidr = edit("Subnet", next(iter(controller.topology.all("subnet"))), {"cidr": "10.9.0.0/24"})
    loose = edit("Port", port.id, {"network_id": ["uuid", other.id]})
    controller.store.stop()
    return {"problems": problems, "kept": kept, "fixed": fixed, "answers": [kept_cidr, loose]}


def outage(directory: str) -> Any:
    """The server is gone for longer than a write waits, then comes back."""
    controller = Controller(directory, timeout=1.0)
    network, _ = blue(controller)
    server = controller.store.server
    assert server is not None and server.pid is not None
    os.kill(server.pid, signal.SIGSTOP)
    stopped = server.pid
    late = attempt(lambda: controller.create("port", network_id=network.id))
    os.kill(stopped, signal.SIGKILL)
    until(lambda: server.pid not in (None, stopped) and controller.store.state()["connected"])
    after = controller.create("port", network_id=network.id)
    ports = len(controller.topology.all("port"))
    state = controller.store.state()
    controller.store.stop()
    stopped_outcome = attempt(lambda: controller.create("port", network_id=network.id))
    return {"late": late, "after": after.id, "ports": ports, "state": state, "stopped": stopped_outcome}


def take_over(directory: str) -> Any:
    """A second controller with the same state_dir uses the first one's server, and its file when that is gone."""
    first = Controller(directory)
    blue(first)
    second = Controller(directory)
    shared = second.content() == first.content()
    server = second.store.server
    assert server is not None
    error = until(lambda: server.error)
    first.store.stop()
    with eventlet.Timeout(DEADLINE):
        network = second.create("network", name="after")
    made = {"shared": shared, "error": error, "starts": server.starts, "network": network.name}
    second.store.stop()
    return made


def rotate(directory: str) -> Any:
    """The server's log is cut when it is large."""
    from novanet_apps.intent import server as module

    module.LOG_CHECK = 0.05
    controller = Controller(directory)
    server = controller.store.server
    assert server is not None
    with server.log.open("a") as log:
        log.truncate(module.LOG_LIMIT + 1)
    until(lambda: (server.directory / "ovsdb-server.log.1").exists() and server.log.exists())
    controller.create("network")
    found = [server.log.stat().st_size, (server.directory / "ovsdb-server.log.1").stat().st_size]
    controller.store.stop()
    return found


def restore(directory: str) -> Any:
    """Backup and restore as docs/intent-store.md says."""
    from eventlet.green import subprocess

    controller = Controller(directory)
    network, _ = blue(controller)
    ports = [controller.create("port", network_id=network.id) for _ in range(5)]
    before = controller.content()
    client = controller.store.settings.program("ovsdb-client")
    where = (f"unix:{directory}/run/intent.sock", "NovaNet")
    backup = Path(directory) / "novanet.backup"
    with backup.open("wb") as file:
        subprocess.run([client, "backup", *where], stdout=file, check=True)
    controller.one("delete", "port", ports[0].id)
    controller.one("patch", "port", ports[1].id, name="changed")
    later = controller.create("port", network_id=network.id)
    controller.store.stop()
    backup.rename(Path(directory) / "intent.db")
    again = Controller(directory)
    same = again.content() == before
    port = again.create("port", network_id=network.id, fixed_ips=[{"ip_address": later.fixed_ips[0].ip_address}])
    again.store.stop()
    return [same, port.fixed_ips == later.fixed_ips]


def remote(directory: str, store: str) -> Any:
    """Two controllers on a server that is not theirs."""
    first, second = Controller(directory, store), Controller(directory, store)
    network, _ = blue(first)
    until(lambda: second.topology.subnets_of(network.id))
    outcomes = together(lambda c=c: c.create("port", network_id=network.id) for _ in range(20) for c in (first, second))  # type: ignore[misc]
    until(lambda: first.content() == second.content())
    state = first.store.state()
    for controller in (first, second):
        controller.store.stop()
    return {"addresses": sorted(port.fixed_ips[0].ip_address for port in outcomes), "state": state}


def unusable(directory: str, *words: str) -> Any:
    """The store of a database that cannot be used: what the state says, as soon as it holds the words."""
    store = IntentStore(Core(), StoreSettings("embedded", Path(directory)))  # type: ignore[arg-type]
    store.start()
    error = until(lambda: store.error if " ".join(words) in store.error else "")
    store.stop()
    return [store.ready, error]


if __name__ == "__main__":
    _, scenario, *arguments = sys.argv
    print(json.dumps(globals()[scenario](*arguments)), flush=True)
