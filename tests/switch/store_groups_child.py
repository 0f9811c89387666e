"""Scenarios of security groups in the intent store, each run in a process of its own as in the controller.

``python -m tests.switch.store_groups_child SCENARIO DIRECTORY`` prints what it saw as one line of JSON.
"""

from __future__ import annotations

from tests.switch.store_child import Controller, attempt, blue, together, until  # isort: skip  (patches the world first)

import json
import sys
from collections.abc import Callable, Iterable
from types import SimpleNamespace
from typing import Any

import eventlet

from novanet_apps.intent import Refused, Write
from novanet_apps.intent.identities import IdentityCollector
from topology.changes import Change, Edit

WEB = [{"key": "tier", "operator": "In", "values": ["web", "app"]}]


def fill_groups(directory: str) -> Any:
    """One of everything that has to do with security groups, changed and partly deleted."""
    controller = Controller(directory)
    network, _ = blue(controller)
    named = controller.create("security-group", name="named", stateful=False)
    selecting = controller.create("security-group", selector=WEB, stateful=False)
    guard = controller.create("security-group", tier="admin", priority=5, selector=WEB)
    addresses = controller.create("address-group", addresses=["192.0.2.0/24", "2001:db8::/32"])
    rules = [
        controller.create("security-group-rule", security_group_id=group.id, direction="ingress", **fields)
        for group, fields in (
            (named, {"protocol": "tcp", "port_range_min": 80, "port_range_max": 81, "remote_group_id": selecting.id}),
            (named, {"remote_address_group_id": addresses.id, "revoke": False}),
            (guard, {"action": "deny", "remote_ip_prefix": "198.51.100.0/24", "log": True}),
        )
    ]
    ports = [
        controller.create("port", network_id=network.id, security_groups=[named.id], labels={"tier": "web"})
        for _ in range(3)
    ]
    controller.one("patch", "port", ports[0].id, labels={"tier": None, "zone": "a"})
    controller.one("patch", "port", ports[1].id, security_groups=[], labels={"tier": None})
    controller.one("patch", "security-group", selecting.id, selector=None, description="selects no more")
    twin = {"remote_address_group_id": addresses.id, "direction": "ingress", "security_group_id": named.id}
    refused = [
        attempt(lambda: controller.one("delete", "security-group", named.id)),
        attempt(lambda: controller.one("delete", "security-group", selecting.id)),
        attempt(lambda: controller.one("delete", "address-group", addresses.id)),
        attempt(lambda: controller.create("security-group-rule", **twin)),
    ]
    controller.one("delete", "security-group", guard.id)
    content = controller.content()
    controller.store.stop()
    return {"content": content, "refused": [refusal[0] for refusal in refused], "gone": rules[2].id}


def join(directory: str) -> Any:
    """The one port of a database becomes a member of a new group."""
    controller = Controller(directory)
    group = controller.create("security-group", name="web")
    (port,) = controller.topology.all("port")
    controller.one("patch", "port", port, security_groups=[group.id], labels={"tier": "web"})
    content = controller.content()
    controller.store.stop()
    return content


def race_groups(directory: str) -> Any:
    """Two controllers that make the same guesses give ports identities at the same time, on one server."""
    pair = (Controller(directory, seed=5), Controller(directory, f"unix:{directory}/run/intent.sock", seed=5))
    first, second = pair
    network, _ = blue(first)
    group = first.create("security-group", name="web")
    until(lambda: second.topology.get("security-group", group.id))
    same = together(
        lambda c=c: c.create("port", network_id=network.id, security_groups=[group.id])  # type: ignore[misc]
        for _ in range(30)
        for c in pair
    )
    different = together(
        lambda c=c, n=n: c.create("port", network_id=network.id, labels={"n": str(n)})  # type: ignore[misc]
        for n in range(30)
        for c in pair
    )
    twins = together(
        lambda c=c: c.create("security-group-rule", security_group_id=group.id, direction="egress")  # type: ignore[misc]
        for c in pair
    )
    until(lambda: first.content() == second.content())
    content = first.content()
    for controller in pair:
        controller.store.stop()
    return {
        "same": [port.identity for port in same],
        "different": [port.identity for port in different],
        "twins": [obj[0] if isinstance(obj, tuple) else "made" for obj in twins],
        "content": content,
        "retries": sum(controller.store.counters["retries"] for controller in pair),
    }


def race_default(directory: str) -> Any:
    """Two controllers each make the first port of a project at the same time, project after project."""
    pair = (Controller(directory, seed=5), Controller(directory, f"unix:{directory}/run/intent.sock", seed=5))
    first, second = pair
    network, _ = blue(first)
    until(lambda: second.topology.get("network", network.id))
    ports = [
        together(
            lambda c=c, n=n: c.create("port", network_id=network.id, project_id=f"p{n}")  # type: ignore[misc]
            for c in (*pair, *pair)
        )
        for n in range(15)
    ]
    until(lambda: first.content() == second.content())
    content = first.content()
    for controller in pair:
        controller.store.stop()
    return {
        "ports": [[port if isinstance(port, tuple) else list(port.security_groups) for port in four] for four in ports],
        "content": content,
        "retries": sum(controller.store.counters["retries"] for controller in pair),
    }


def race_collecting(directory: str) -> Any:
    """One controller collects an identity while another one makes a port that wants it."""
    pair = (Controller(directory, seed=5), Controller(directory, f"unix:{directory}/run/intent.sock", seed=6))
    first, second = pair
    network, _ = blue(first)
    until(lambda: second.topology.subnets_of(network.id))
    saw = []
    for number in range(20):
        fields = {"network_id": network.id, "labels": {"n": str(number)}}
        port = first.create("port", **fields)
        id = first.topology.identities[port.identity]
        first.one("delete", "port", port.id)
        until(lambda id=id: second.topology.get("identity", id) and not _used(second, id))  # type: ignore[misc]

        def collect(id: str = id) -> Any:
            first.store.submit([Write("patch", "identity", id, {"retired": True}, system=True)])
            return first.store.submit([Write("delete", "identity", id, system=True)])[0]

        collected, made = together((collect, lambda fields=fields: second.create("port", **fields)))  # type: ignore[misc]
        until(lambda: first.content() == second.content())
        identity = first.topology.identity(made.identity)
        saw.append({
            "collected": not isinstance(collected, tuple), "same": made.identity == port.identity,
            "sound": identity is not None and not identity.retired and identity.labels == made.labels,
        })  # fmt: skip
    for controller in pair:
        controller.store.stop()
    return saw


def _used(controller: Controller, id: str) -> bool:
    return bool(set(controller.topology.ports_with(controller.topology.get("identity", id).number)))


def collect(directory: str) -> Any:
    """The collector on a real store: what it does while a hypervisor is away, and when it is back."""
    controller = Controller(directory)
    subscribers: list[Callable[[list[Change]], None]] = []
    unconfirmed: dict[str, Any] = {}
    core: Any = SimpleNamespace(
        topology=controller.topology,
        store=controller.store,
        subscribe=subscribers.append,
        reconciler=SimpleNamespace(unconfirmed=unconfirmed.get),
    )
    apply = controller.core.apply

    def tell(edits: Iterable[Edit]) -> list[Change]:
        changes = apply(edits)
        for each in subscribers:
            each(changes)
        return changes

    controller.store._feed._apply = tell
    host = controller.create("hypervisor", name="h1")
    unconfirmed[host.id] = None
    network, _ = blue(controller)
    group = controller.create("security-group", name="web")
    collector = IdentityCollector(core, linger=0.0, period=0.01)
    collector.start()
    ports = [
        controller.create("port", network_id=network.id, security_groups=[group.id], labels={"n": str(n)})
        for n in range(3)
    ]
    for port in ports[:2]:
        controller.one("delete", "port", port.id)
    until(lambda: collector.counters["retired"] >= 1)
    eventlet.sleep(0.2)
    away = len(controller.topology.all("identity"))
    try:
        controller.one("delete", "security-group", group.id)
        deleted = "made"
    except Refused as refused:
        deleted = refused.detail
    unconfirmed[host.id] = set()
    until(lambda: collector.counters["deleted"] == 2)
    content = controller.content()
    controller.store.stop()
    return {
        "away": away,
        "refused": deleted,
        "left": content["identity"],
        "kept": ports[2].identity,
        **collector.counters,
    }


if __name__ == "__main__":
    _, scenario, *arguments = sys.argv
    print(json.dumps(globals()[scenario](*arguments)), flush=True)
