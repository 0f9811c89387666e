"""/v1/telemetry and the commands that ask it, with a real recorder: what flows say of objects of the intent store."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import pytest

from tools.cli.main import main

from .rest_server import RestServer, problem
from .telemetry_recorder import Peer, until
from .telemetry_world import CLIENT, rows


class World(NamedTuple):
    """web of acme and db of umbra in a shared network, on two hypervisors, and a recorder."""

    rest: RestServer
    recorder: Peer
    web: dict[str, Any]
    db: dict[str, Any]
    hosts: list[dict[str, Any]]


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Iterator[World]:
    rest = RestServer(tmp_path_factory.mktemp("rest") / "state")
    rest.evaluate("setattr(modules['novanet_apps.rest.telemetry'], 'HEARTBEAT', 0.3)")
    hosts = [rest.make("/v1/hypervisors", name=f"hv{n}", tunnel_ip=f"10.9.0.{n}") for n in (1, 2)]
    network = rest.make("/v1/networks", name="blue")
    rest.make("/v1/subnets", network_id=network["id"], cidr="192.168.0.0/24")
    web, db = (
        rest.make(
            "/v1/ports", name=name, network_id=network["id"], project_id=project, mac_address=f"02:00:00:00:00:0{n}",
            fixed_ips=[{"ip_address": f"192.168.0.1{n}"}], security_groups=[],
        )
        for n, (name, project) in enumerate((("web", "acme"), ("db", "umbra")), start=1)
    )  # fmt: skip
    for port, host in zip((web, db), hosts, strict=True):
        rest.evaluate(f"plug('{port['id']}', '{host['id']}')")
    recorder = Peer(Path(rest.evaluate("telemetry()")))
    recorder.send({"kind": "hello"})
    until(lambda: recorder.next("status")["endpoints"] == 2, "the recorder knows the ports")
    time.sleep(1)
    recorder.rows(rows(0))
    there = {"src": "192.168.0.11", "dst": "192.168.0.12", "src_mac": 0x020000000001, "dst_mac": 0x020000000002}
    recorder.rows(rows(2, exporter=[0, 1], bytes=1000, **there))
    recorder.rows(
        rows(
            src=CLIENT, dst="192.168.0.12", src_mac=9, dst_mac=there["dst_mac"], exporter=1, bytes=70, samples=1, rate=2
        )
    )
    until(lambda: len(items(rest, "top")) == 2, "the flows are stored")
    yield World(rest, recorder, web, db, hosts)
    recorder.close()
    rest.stop()


def items(rest: RestServer, what: str, who: str = "admin") -> list[dict[str, Any]]:
    answer = rest("GET", f"/v1/telemetry/{what}", who=who)
    assert answer.status_code == 200, answer.text
    found: list[dict[str, Any]] = answer.json()["items"]
    return found


def test_flows_are_of_the_ports_of_the_store(world: World) -> None:
    first, second = items(world.rest, "top")
    assert (first["key"], first["name"], first["bytes_in"]) == (world.db["id"], "db", 1070)
    assert (second["key"], second["name"], second["bytes_out"]) == (world.web["id"], "web", 1000)
    assert second["error_percent"] == 0 and first["error_percent"] == 100.0  # 3 of 4 packets were sampled


def test_by_everything(world: World) -> None:
    found = {
        by: items(world.rest, f"top?by={by}")[0]["key"]
        for by in ("network", "project", "hypervisor", "service", "protocol")
    }
    assert found == {
        "network": world.web["network_id"], "project": "umbra", "hypervisor": world.hosts[1]["id"], "service": "tcp/443",
        "protocol": "tcp",
    }  # fmt: skip


def test_every_answer_can_be_narrowed(world: World) -> None:
    web, db = world.web["id"], world.db["id"]
    for query, amount in {
        f"port_id={web}": 1000, f"port_id={web}&peer_port_id={db}": 1000, f"address={CLIENT}": 70, "protocol=udp": 0,
        "service=443": 1070, f"hypervisor_id={world.hosts[0]['id']}": 1000, "project_id=umbra": 1070, "seconds=1&end=1000": 0,
    }.items():  # fmt: skip
        for what in ("top?by=protocol", "conversations?limit=9", "series?step=60", "matrix?limit=9"):
            assert sum(row["bytes"] for row in items(world.rest, f"{what}&{query}")) == amount, (what, query)
    assert len(items(world.rest, "flows?limit=2")) == 2


def test_the_matrix_is_between_hypervisors(world: World) -> None:
    cells = {(row["src_hypervisor"], row["dst_hypervisor"]): row["bytes"] for row in items(world.rest, "matrix")}
    assert cells == {("hv1", "hv2"): 1000, ("", "hv2"): 70}


def test_a_tenant_sees_only_flows_of_its_own_ports(world: World) -> None:
    rest = world.rest
    assert [row["name"] for row in items(rest, "top", "acme")] == ["web"]
    (pair,) = items(rest, "conversations", "acme")
    assert (pair["src_name"], pair["dst_name"], pair["dst"]) == ("web", "", "192.168.0.12")
    assert sum(row["bytes"] for row in items(rest, "series?step=60", "acme-reader")) == 1000
    assert items(rest, "flows", "acme")[0]["exporter"] == ""
    for refused in ("matrix", "top?by=hypervisor", "top?by=exporter", "status", "top?project_id=umbra"):
        problem(rest("GET", f"/v1/telemetry/{refused}", who="acme"), 403)
    problem(rest("GET", f"/v1/telemetry/top?port_id={world.db['id']}", who="acme"), 404, "port_id")
    problem(rest("GET", "/v1/telemetry/top", who="none"), 401)


@pytest.mark.parametrize(
    ("query", "field"),
    [
        ("by=colour", "by"), ("limit=0", "limit"), ("limit=1001", "limit"), ("order=size", "order"), ("address=web", "address"),
        ("protocol=nothing", "protocol"), ("service=65536", "service"), ("start=yesterday", "start"), ("seconds=0", "seconds"),
        ("start=5&end=4", "start"), ("start=1&seconds=5", "seconds"), ("peer_port_id=x", "peer_port_id"), ("colour=red", "colour"),
        ("start=99999999999999", "start"), ("service=１", "service"),
    ],
)  # fmt: skip
def test_what_makes_no_sense_is_refused(world: World, query: str, field: str) -> None:
    problem(world.rest("GET", f"/v1/telemetry/top?{query}"), 400, field)


def test_hostile_values_are_only_values(world: World) -> None:
    for text in ("' OR 1=1 --", "\\", "{scope:String}", "\0", "a\tb\nc", "ü" * 500):
        assert world.rest("GET", "/v1/telemetry/top", params={"project_id": text}).json() == {"items": []}
        assert world.rest("GET", "/v1/telemetry/top", params={"port_id": text}).json() == {"items": []}


def test_times_are_written_in_either_way(world: World) -> None:
    now = int(time.time())
    written = time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(now - 600))
    for start in (written, str(now - 600)):
        assert len(items(world.rest, f"top?start={start}")) == 2


def test_caches_are_told_by_hypervisor(world: World) -> None:
    def report(exporter: str, **values: int) -> None:
        names = ("hits", "misses", "lost", "mask_hits", "flows", "masks")
        item = {"exporter": exporter, **dict.fromkeys(names, 0), **values}
        world.recorder.send({"kind": "caches", "worker": 0, "items": [item]})

    report("10.9.0.1", hits=2**32 - 100, misses=7)
    report("10.9.0.2", hits=5)
    time.sleep(0.1)
    report("10.9.0.1", hits=899, misses=8, lost=2, flows=30, masks=4)
    until(lambda: items(world.rest, "caches"), "caches are told")
    (told,) = items(world.rest, "caches")  # one has reported once
    assert (told["hypervisor"], told["exporter"], told["hits"], told["misses"], told["packets"]) == (
        "hv1", "10.9.0.1", 999, 1, 1000,
    )  # fmt: skip
    assert (told["hit_percent"], told["lost"], told["flows"], told["masks"]) == (99.9, 2, 30, 4)
    report("10.9.0.1", hits=999, misses=9, masks=2**32 - 1)
    until(lambda: [each["masks"] for each in items(world.rest, "caches")] == [None], "unknown masks are told as such")
    assert world.rest("GET", "/v1/telemetry/caches", who="acme").status_code == 403


def test_the_stream_tells_what_comes(world: World) -> None:
    answer = world.rest("GET", "/v1/telemetry/stream?protocol=udp", who="acme", stream=True)
    lines = answer.iter_lines(decode_unicode=True)
    assert next(lines).startswith("retry:")
    flow = {"src": "192.168.0.11", "dst": "192.168.0.12", "src_mac": 0x020000000001, "dst_mac": 0x020000000002}
    world.recorder.rows(rows(**flow, bytes=5, sport=1))
    world.recorder.rows(rows(**flow, protocol=17, bytes=5, sport=7))
    data = next(line for line in lines if line.startswith("data: "))
    (told,) = json.loads(data.removeprefix("data: "))["items"]
    assert (told["src_name"], told["dst_name"], told["protocol"], told["sport"]) == ("web", "", "udp", 7)
    answer.close()
    until(lambda: world.rest.evaluate("len(core.telemetry.link._following)") == 0, "the recorder is told")


def test_an_anomaly_is_told_to_the_controller_and_to_whom_it_concerns(world: World) -> None:
    flood = rows(
        3000,
        src=CLIENT,
        dst="192.168.0.12",
        src_mac=9,
        dst_mac=0x020000000002,
        exporter=1,
        tcp_flags=2,
        packets=1,
        samples=1,
    )
    world.recorder.rows(flood)
    (event,) = until(lambda: world.rest.evaluate("core.anomalies"), "the controller is told")
    assert (event["kind"], event["subject"], event["project"]) == ("flood", world.db["id"], "umbra")
    (kept,) = until(lambda: items(world.rest, "anomalies", "umbra"), "it is kept")
    assert kept["text"] == event["text"] and kept["detail"]["sources"] >= 1 and kept["time"].endswith("Z")
    assert items(world.rest, "anomalies", "acme") == []
    assert world.rest.evaluate("dict(core.telemetry.fired)") == {"flood": 1}


def test_the_state_is_told(world: World) -> None:
    found = world.rest("GET", "/v1/telemetry/status").json()
    assert found["healthy"] and found["problems"] == []
    assert [each["name"] for each in found["processes"]] == ["recorder"]
    seen = {each["address"]: each["hypervisor_id"] for each in found["exporters"]}
    assert seen["10.9.0.1"] == world.hosts[0]["id"]


# --- the commands ----------------------------------------------------------------------------------------------------


@pytest.fixture
def cli(world: World, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> Any:
    monkeypatch.setenv("NOVANET_ENDPOINT", world.rest.url)
    monkeypatch.setenv("NOVANET_TOKEN_FILE", str(world.rest.state_dir / "admin.token"))

    def run(*arguments: str) -> str:
        capsys.readouterr()
        code = main(list(arguments))
        out, err = capsys.readouterr()
        assert code == 0, err
        return out

    return run


def test_the_commands_show_it(cli: Any) -> None:
    lines = cli("flows", "top", "--port", "web").splitlines()
    assert lines[0].split()[:3] == ["PORT", "SENT", "RECEIVED"] and any(line.startswith("web") for line in lines[1:])
    assert "hv1" in cli("flows", "matrix") and "web" in cli("flows", "conversations", "--port", "web", "--peer", "db")
    assert "203.0.113.9:40000" in cli("flows", "list", "--address", CLIENT)
    assert (
        "BIT/S" in cli("flows", "series", "--step", "60")
        and cli("flows", "anomalies")
        and cli("flows", "rules")
        and "HIT RATE" in cli("flows", "caches")
    )
    assert json.loads(cli("flows", "top", "--by", "service", "-o", "json"))["items"][0]["key"] == "tcp/443"
    assert "10.9.0.1" in cli("flows", "status")


def test_top_shows_rates_again_and_again(cli: Any) -> None:
    text = cli("top", "--seconds", "300", "--delay", "0.1", "--iterations", "3")
    assert text.count("rates of the last 300 s") == 3 and "bit/s" in text and "\x1b" not in text


# --- last, since it forgets the exporters --------------------------------------------------------------------------------


def test_the_recorder_is_started_again_and_knows_the_ports(world: World) -> None:
    pid = world.rest.evaluate("core.telemetry.recorder.pid")
    world.rest.evaluate(f"modules['os'].kill({pid}, 9)")
    until(lambda: world.rest("GET", "/v1/status").json()["warnings"], "an operator is told")
    until(lambda: world.rest.evaluate("core.telemetry.recorder.starts") == 2, "it is started")

    def answered() -> bool:
        answer = world.rest("GET", "/v1/telemetry/top")
        return answer.status_code == 200 or (bool(problem(answer, 503)) and False)

    until(answered, "it answers")
    peer = Peer(Path(world.rest.state_dir / "telemetry" / "recorder.sock"))
    peer.send({"kind": "hello"})
    until(lambda: peer.next("status")["endpoints"] == 2, "it knows the ports again")
    assert items(world.rest, "top")
    peer.close()
