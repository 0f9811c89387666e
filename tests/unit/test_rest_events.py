"""/v1/events: what happens is told, to those whom it concerns, once, and nothing is missed unnoticed."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator
from typing import Any
from uuid import uuid4

import pytest
import requests

from .rest_server import RestServer, problem


@pytest.fixture(scope="module")
def rest(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RestServer]:
    server = RestServer(tmp_path_factory.mktemp("rest") / "state")
    server.evaluate("setattr(modules['novanet_apps.rest.events'], 'HEARTBEAT', 0.3)")
    server.evaluate("setattr(modules['novanet_apps.rest.status_feed'], 'PERIOD', 0.02)")
    yield server
    server.stop()


class Follower:
    """A client of /v1/events."""

    def __init__(self, rest: RestServer, query: str = "", who: str = "admin", last: str = "") -> None:
        self.answer = rest("GET", f"/v1/events{query}", who=who, headers={"Last-Event-ID": last}, stream=True)
        assert self.answer.status_code == 200, self.answer.text
        assert self.answer.headers["Content-Type"].startswith("text/event-stream")
        self._lines = self.answer.iter_lines(chunk_size=1, decode_unicode=True)
        self.comments = 0
        self.last = ""

    def __enter__(self) -> Follower:
        return self

    def __exit__(self, *_: object) -> None:
        self.answer.close()

    def next(self) -> tuple[str, dict[str, Any]]:
        """The next event: its name and data. Raises StopIteration when the stream ends."""
        fields: dict[str, str] = {}
        deadline = time.monotonic() + 30
        while True:
            assert time.monotonic() < deadline, "nothing came but heartbeats"
            line = next(self._lines)
            if line.startswith(":"):
                self.comments += 1
            elif line:
                name, _, value = line.partition(": ")
                fields[name] = value
            elif "event" in fields:
                self.last = fields["id"]
                return fields["event"], json.loads(fields["data"])

    def until(self, name: str, id: str) -> dict[str, Any]:
        """The data of the next such event about an object."""
        while True:
            found, data = self.next()
            if found == name and data.get("id") == id:
                return data


def test_the_life_of_an_object(rest: RestServer) -> None:
    with Follower(rest) as follower:
        assert follower.next() == ("sync", {}), "first: read everything, you will be told what changes"
        made = rest.make("/v1/networks", name=f"n{uuid4().hex[:6]}")
        name, data = follower.next()
        assert name == "created" and data == {"kind": "network", "id": made["id"], "object": made}
        rest("PATCH", f"/v1/networks/{made['id']}", {"description": "new"})
        data = follower.until("updated", made["id"])
        assert data["object"]["description"] == "new" and data["object"]["revision_number"] == 2
        rest("DELETE", f"/v1/networks/{made['id']}")
        data = follower.until("deleted", made["id"])
        assert data["object"]["name"] == made["name"]


def test_a_status_that_changes_by_itself(rest: RestServer) -> None:
    with Follower(rest) as follower:
        made = rest.make("/v1/networks", description="status=BUILD for 0.3")
        assert made["status"] == "BUILD"
        while (data := follower.until("status", made["id"]))["object"]["status"] == "BUILD":
            pass
        assert data["object"]["status"] == "ACTIVE"


def test_a_hypervisor_takes_along_what_is_on_it(rest: RestServer) -> None:
    hypervisor = rest.make("/v1/hypervisors", name=f"hv-{uuid4().hex[:6]}")
    network = rest.make("/v1/networks")
    port = rest.make("/v1/ports", network_id=network["id"])
    nobody_watches(rest)
    rest.evaluate(f"plug({port['id']!r}, {hypervisor['id']!r})")
    with Follower(rest) as follower:
        follower.next()
        rest("PATCH", f"/v1/hypervisors/{hypervisor['id']}", {"description": "status=DEGRADED"})
        about = {follower.until("status", hypervisor["id"])["kind"]}
        while about != {"hypervisor", "port", "network"}:
            name, data = follower.next()
            if name == "status" and data["id"] in (port["id"], network["id"]):
                about.add(data["kind"])


def test_a_vm_takes_along_the_ways_to_it_from_outside(rest: RestServer) -> None:
    inside = rest.make("/v1/networks")
    outside = rest.make("/v1/networks", external=True, physical_network=f"w{uuid4().hex[:6]}")
    for network, cidr in ((inside, "10.0.0.0/24"), (outside, "192.0.2.0/24")):
        rest.make("/v1/subnets", network_id=network["id"], cidr=cidr)
    router = rest.make("/v1/routers")
    legs = [rest.make("/v1/ports", network_id=each["id"], router_id=router["id"]) for each in (inside, outside)]
    vms = [rest.make("/v1/ports", network_id=inside["id"]) for _ in range(2)]
    floating = rest.make("/v1/floating-ips", floating_network_id=outside["id"], port_id=vms[0]["id"])
    shared = rest.make("/v1/floating-ips", floating_network_id=outside["id"])
    forwarding = rest.make(
        "/v1/port-forwardings", floating_ip_id=shared["id"], internal_port_id=vms[1]["id"], protocol="tcp",
        external_port=80, internal_port=80,
    )  # fmt: skip

    def told(expression: str, *objects: dict[str, Any]) -> None:
        """Who begins to follow is told of all the objects' status when that happens."""
        nobody_watches(rest)
        with Follower(rest) as follower:
            follower.next()
            rest.evaluate(expression)
            wanted = {obj["id"] for obj in objects}
            while wanted:
                name, data = follower.next()
                wanted -= {data["id"]} if name == "status" else set()

    def degrade(kind: str, obj: dict[str, Any]) -> str:
        edit = f"modules['topology.changes'].Edit({kind!r}, {obj['id']!r}, modules['msgspec.structs'].replace("
        return f"core.apply([{edit}core.topology.get({kind!r}, {obj['id']!r}), description='status=DEGRADED'))])"

    host = rest.make("/v1/hypervisors", name=f"hv-{uuid4().hex[:6]}")
    told(f"plug({vms[0]['id']!r}, {host['id']!r})", floating)
    told(f"plug({vms[1]['id']!r}, {host['id']!r})", forwarding)
    told(degrade("router", router), router, *legs, floating, shared, forwarding)
    told(degrade("hypervisor", host), host, *vms, router, *legs, floating, shared, forwarding)


def test_the_outside_is_told_to_everyone(rest: RestServer) -> None:
    with Follower(rest, who="acme") as follower:
        assert follower.next()[0] == "sync"
        rest.make("/v1/networks", physical_network=f"w{uuid4().hex[:6]}")
        outside = rest.make("/v1/networks", external=True, physical_network=f"w{uuid4().hex[:6]}")
        assert follower.next()[1]["id"] == outside["id"]
        subnet = rest.make("/v1/subnets", network_id=outside["id"], cidr="192.0.2.0/24")
        follower.until("created", subnet["id"])


def test_a_deleted_vm_leaves_its_floating_ip(rest: RestServer) -> None:
    inside = rest.make("/v1/networks")
    outside = rest.make("/v1/networks", external=True, physical_network=f"w{uuid4().hex[:6]}")
    for network, cidr in ((inside, "10.0.0.0/24"), (outside, "192.0.2.0/24")):
        rest.make("/v1/subnets", network_id=network["id"], cidr=cidr)
    router = rest.make("/v1/routers")
    for network in (inside, outside):
        rest.make("/v1/ports", network_id=network["id"], router_id=router["id"])
    vm = rest.make("/v1/ports", network_id=inside["id"])
    floating = rest.make("/v1/floating-ips", floating_network_id=outside["id"], port_id=vm["id"])
    with Follower(rest) as follower:
        follower.next()
        assert rest("DELETE", f"/v1/ports/{vm['id']}").status_code == 204
        shown = follower.until("updated", floating["id"])["object"]
    assert (shown["port_id"], shown["fixed_ip_address"], shown["router_id"]) == (None, None, None)


def test_projects_are_kept_apart(rest: RestServer) -> None:
    with Follower(rest, who="acme") as follower:
        assert follower.next()[0] == "sync"
        rest.make("/v1/networks", who="umbra")
        rest.make("/v1/hypervisors", name=f"hv-{uuid4().hex[:6]}")
        mine = rest.make("/v1/networks", who="acme")
        assert follower.next()[1]["id"] == mine["id"]


def test_kinds_can_be_chosen(rest: RestServer) -> None:
    with Follower(rest, "?kind=port&kind=subnet") as follower:
        assert follower.next()[0] == "sync"
        network = rest.make("/v1/networks")
        port = rest.make("/v1/ports", network_id=network["id"])
        assert follower.next()[1]["id"] == port["id"]
    problem(rest("GET", "/v1/events?kind=planet"), 400, "kind")


def test_who_comes_back_gets_what_it_missed(rest: RestServer) -> None:
    with Follower(rest) as follower:
        first = rest.make("/v1/networks")
        follower.until("created", first["id"])
        last = follower.last
    missed = [rest.make("/v1/networks")["id"] for _ in range(3)]
    with Follower(rest, last=last) as follower:
        found = [follower.until("created", id)["id"] for id in missed]
    assert found == missed
    with Follower(rest, last=last) as follower:
        assert follower.next()[0] != "sync", "nothing was lost"


@pytest.mark.parametrize("last", ["00000000-1", "nonsense", "-", "99999999999999999999"])
def test_who_was_away_too_long_reads_everything_again(rest: RestServer, last: str) -> None:
    with Follower(rest, last=last) as follower:
        assert follower.next()[0] == "sync"
    with Follower(rest) as follower:
        follower.next()
        rest.make("/v1/networks")
        follower.next()
        boot = follower.last.partition("-")[0]
    with Follower(rest, last=f"{boot}-999999999") as follower:
        assert follower.next()[0] == "sync", "an event of the future"


def test_silence_is_broken_by_heartbeats(rest: RestServer) -> None:
    with Follower(rest) as follower:
        follower.next()
        lines = (line for line in follower._lines if line.startswith(":"))
        assert [next(lines), next(lines)] == [": heartbeat"] * 2


def test_a_token_that_is_deleted_ends_the_stream(rest: RestServer) -> None:
    from novanet_apps.tokens import TokenFile

    book = TokenFile(rest.state_dir)
    rest.tokens["short"] = book.create("short", "reader")
    with Follower(rest, who="short") as follower:
        follower.next()
        book.delete("short")
        with pytest.raises((StopIteration, requests.RequestException)):
            follower.next()


def test_who_reads_too_slowly_is_told_so(rest: RestServer) -> None:
    rest.evaluate("setattr(modules['novanet_apps.rest.events'], 'QUEUE', 5)")
    try:
        with Follower(rest) as follower:
            assert follower.next()[0] == "sync"
            made = rest("POST", "/v1/networks", [{} for _ in range(50)]).json()
            names = [follower.next()[0]]
            while names[-1] != "sync":
                names.append(follower.next()[0])
            assert len(names) < len(made)
            assert rest.evaluate("api.counters.events_lost") > 0
            later = rest.make("/v1/networks")
            follower.until("created", later["id"])
    finally:
        rest.evaluate("setattr(modules['novanet_apps.rest.events'], 'QUEUE', 4096)")


def test_clients_are_bounded_and_forgotten(rest: RestServer) -> None:
    rest.evaluate("setattr(modules['novanet_apps.rest.events'], 'MAX_CLIENTS', 2)")
    try:
        wait_for(rest, "api.counters.event_clients", 0)
        with Follower(rest), Follower(rest):
            refused = rest("GET", "/v1/events")
            problem(refused, 503)
            assert refused.headers["Retry-After"]
        wait_for(rest, "api.counters.event_clients", 0)
        assert rest("HEAD", "/v1/events").status_code == 200
        assert rest.evaluate("api.counters.event_clients") == 0
    finally:
        rest.evaluate("setattr(modules['novanet_apps.rest.events'], 'MAX_CLIENTS', 256)")


def test_statuses_are_looked_at_only_while_somebody_watches(rest: RestServer) -> None:
    rest.make("/v1/hypervisors", name=f"hv-{uuid4().hex[:6]}")

    def looks() -> int:
        before = rest.evaluate("core.reconciler.asked")
        rest.evaluate("sleep(0.3)")
        return int(rest.evaluate("core.reconciler.asked") - before)

    with Follower(rest) as follower:
        follower.next()
        assert looks() > 0
    nobody_watches(rest)
    assert looks() == 0


def nobody_watches(rest: RestServer) -> None:
    """Until those who followed are found to be gone, and what was known of statuses is forgotten."""
    wait_for(rest, "api.counters.event_clients", 0)
    wait_for(rest, "api.events._feed._running", False)


def wait_for(rest: RestServer, expression: str, value: object) -> None:
    """Until an expression has a value; heartbeats find out who has gone."""
    for _ in range(1000):
        if rest.evaluate(expression) == value:
            return
        rest.evaluate("sleep(0.02)")
    raise AssertionError(f"{expression} is {rest.evaluate(expression)}")
