"""The recorder as it runs: what is sent to it is stored, answered, told live, and survives what may happen to it."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from novanet_apps.telemetry.recorder import questions as q

from .telemetry_recorder import ROOT, Peer, RecorderProcess, stored, until
from .telemetry_world import CLIENT, DB, WEB, rows, topology


def lately(**fields: Any) -> q.Filter:
    """The last minutes."""
    now = int(time.time())
    return q.Filter(start=now - 300, end=now + 60, **fields)


@pytest.fixture
def recorder(tmp_path: Path) -> Iterator[RecorderProcess]:
    process = RecorderProcess(tmp_path)
    yield process
    if process.process is not None and process.process.poll() is None:
        process.end(signal.SIGKILL)


def told(peer: Peer) -> Peer:
    """A peer that has told the topology."""
    peer.send(topology())
    time.sleep(0.6)
    peer.rows(rows(0))
    return peer


def test_who_sent_most_is_answered_within_two_seconds(recorder: RecorderProcess) -> None:
    peer = told(recorder.start())
    peer.rows(rows(3, bytes=[100, 200, 300]))
    sent = time.monotonic()
    row = stored(peer, q.Top(filter=lately()), key="db", bytes_in=600)
    assert time.monotonic() - sent < 5 and row["name"] == "db" and row["packets_in"] == 6 and row["flows"] == 3
    assert stored(peer, q.Top(filter=lately(), order="packets"), key="db")


def test_every_question_is_answered(recorder: RecorderProcess) -> None:
    peer = told(recorder.start())
    there = rows(2, exporter=[0, 1])  # both hypervisors saw it
    back = rows(src=DB, dst=WEB, sport=443, dport=40000, src_mac=2, dst_mac=1, bytes=50000, exporter=1)
    peer.rows(there)
    peer.rows(back)
    peer.rows(rows(src=CLIENT, src_mac=99, exporter=1, sport=41000, bytes=7))
    stored(peer, q.Top(filter=lately()), key="db", bytes=51007)
    expected = {
        "vm": ("vm-db", 51007), "network": ("blue", 102007), "project": ("umbra", 51007), "hypervisor": ("h2", 51007),
        "group": ("g1", 102007), "address": (DB, 51007), "service": ("6/443", 51007), "protocol": ("6", 51007),
    }  # fmt: skip
    for by, (key, amount) in expected.items():
        first = peer.ask(q.Top(filter=lately(), by=by))[0]  # type: ignore[arg-type]
        assert (first["key"], first["bytes"]) == (key, amount), by
    assert {row["key"]: row["bytes"] for row in peer.ask(q.Top(filter=lately(), by="exporter"))} == {
        "10.9.0.1": 1000, "10.9.0.2": 50007,
    }  # fmt: skip
    (pair, outside) = peer.ask(q.Conversations(filter=lately()))
    assert (pair["src_name"], pair["dst_name"], pair["bytes_there"], pair["bytes_back"]) == ("web", "db", 1000, 50000)
    assert outside["dst"] == CLIENT or outside["src"] == CLIENT
    cells = {
        (row["src_hypervisor"], row["dst_hypervisor"]): row["bytes"] for row in peer.ask(q.Matrix(filter=lately()))
    }
    assert cells == {("hv1", "hv2"): 1000, ("hv2", "hv1"): 50000, ("", "hv2"): 7}
    points = peer.ask(q.Series(filter=lately(port="web")))
    assert sum(point["bytes_out"] for point in points) == 1000 and sum(point["bytes_in"] for point in points) == 50000
    minutes = peer.ask(q.Series(filter=lately(port="web"), step=60))
    assert sum(point["bytes"] for point in minutes) == 51000 and all(point["at"] % 60 == 0 for point in minutes)
    chosen = [
        (lately(port="web", peer_port="db"), 51000), (lately(port="web", peer_port="twin"), 0), (lately(address=CLIENT), 7),
        (lately(service=443, protocol=17), 0), (lately(network="blue", group="g2"), 51007), (lately(hypervisor="h1"), 51000),
    ]  # fmt: skip
    for wanted, amount in chosen:
        found = peer.ask(q.Top(filter=wanted, by="protocol"))
        assert sum(row["bytes"] for row in found) == amount, wanted
    newest = peer.ask(q.Records(filter=lately(), limit=2))
    assert len(newest) == 2 and {"src", "sport", "exporter", "tcp_flags"} <= newest[0].keys()


@pytest.mark.parametrize("hours", [2, 24, 24 * 30])
def test_coarser_sums_say_the_same(recorder: RecorderProcess, hours: int) -> None:
    peer = told(recorder.start())
    peer.rows(rows(5))
    stored(peer, q.Top(filter=lately()), key="db", bytes=5000)
    longer = q.Filter(start=int(time.time()) - 3600 * hours, end=int(time.time()) + 60)
    assert stored(peer, q.Top(filter=longer), key="db", bytes=5000, packets=10, flows=5)


def test_a_project_sees_its_own_and_no_names_of_others(recorder: RecorderProcess) -> None:
    peer = told(recorder.start())
    peer.rows(rows())
    peer.rows(rows(src=CLIENT, src_mac=99, exporter=1, bytes=9))  # to db, which is not acme's
    stored(peer, q.Top(filter=lately()), key="db", bytes=1009)
    mine = lately(scope="acme")
    assert [row["key"] for row in peer.ask(q.Top(filter=mine))] == ["web"]
    assert [row["key"] for row in peer.ask(q.Top(filter=mine, by="project"))] == ["acme"]
    (pair,) = peer.ask(q.Conversations(filter=mine))
    assert pair["src_name"] == "web" and pair["dst"] == DB and pair["dst_name"] == pair["dst_port_id"] == ""
    (record,) = peer.ask(q.Records(filter=mine))
    assert record["bytes"] == 1000 and record["exporter"] == record["dst_project_id"] == ""
    assert peer.ask(q.Top(filter=lately(scope="nobody"))) == []


def test_flows_are_told_live_to_those_whom_they_concern(recorder: RecorderProcess) -> None:
    peer = told(recorder.start())
    for number, scope in enumerate((None, "acme", "nobody"), start=1):
        peer.send({"kind": "follow", "id": number, "filter": {"start": 0, "end": 1, "scope": scope}})
    peer.rows(rows(600, bytes=range(600)))
    seen = {news["id"]: news for news in (peer.next("live"), peer.next("live"))}
    assert seen.keys() == {1, 2} and len(seen[1]["records"]) == 500 and seen[1]["skipped"] == 100
    assert seen[1]["records"][0]["bytes"] == 599 and seen[1]["records"][0]["dst_name"] == "db"
    assert seen[2]["records"][0]["dst_name"] == "" and seen[2]["records"][0]["src_name"] == "web"
    peer.send({"kind": "unfollow", "id": 1})
    peer.rows(rows())
    assert peer.next("live")["id"] == 2


def test_losses_are_told_by_exporter(recorder: RecorderProcess) -> None:
    peer = told(recorder.start())
    peer.rows(rows(), lost={0: {"sequence": 4, "kernel": 5, "queue": 6}})
    peer.rows(rows(), lost={0: {"sequence": 1, "kernel": 0, "queue": 0}}, worker=1)
    news = peer.next("status", lambda each: each["exporters"].get("10.9.0.1", {}).get("lost", {}).get("sequence") == 5)
    assert news["exporters"]["10.9.0.1"]["lost"] == {"sequence": 5, "kernel": 5, "queue": 6}
    assert news["exporters"]["10.9.0.1"]["hypervisor_id"] == "h1" and news["exporters"]["10.9.0.1"]["bytes"] == 2000


def test_a_flood_becomes_an_event_that_is_kept(recorder: RecorderProcess) -> None:
    peer = told(recorder.start())
    peer.rows(rows(5000, src=CLIENT, src_mac=99, exporter=1, protocol=6, tcp_flags=2, packets=1, samples=1))
    event = peer.next("event")["event"]
    assert (event["kind"], event["subject"], event["project"]) == ("flood", "db", "umbra")
    assert event["text"].startswith("SYN flood towards port db: 5,000 packets a second that it does not answer")
    (kept,) = until(lambda: peer.ask(q.Anomalies(filter=lately())), "the event is stored")
    assert kept["id"] == event["id"] and kept["text"] == event["text"]
    assert peer.ask(q.Anomalies(filter=lately(scope="acme"))) == []
    assert len(peer.ask(q.Anomalies(filter=lately(scope="umbra")))) == 1


def test_a_crash_loses_at_most_one_batch(recorder: RecorderProcess) -> None:
    peer = told(recorder.start())
    batches = 30
    for _ in range(batches):
        peer.rows(rows(10))
        time.sleep(0.1)
    done = peer.next("status", lambda each: each["rows"] == 10 * batches)
    recorder.end(signal.SIGKILL)
    peer.close()
    peer = told(recorder.start())
    found = peer.ask(q.Top(filter=lately(), by="protocol"))
    kept = sum(row["flows"] for row in found)
    assert kept >= done["stored"] - done["endpoints"] and kept >= 10 * batches - 2 * 10 * 10
    peer.rows(rows(10))
    stored(peer, q.Top(filter=lately(), by="protocol"), flows=kept + 10)


def test_what_waits_is_stored_before_it_ends(recorder: RecorderProcess) -> None:
    peer = told(recorder.start())
    peer.rows(rows(50))
    peer.next("status")
    peer.rows(rows(50))
    peer.ask(q.Top(filter=lately()))  # it has come
    assert recorder.end() == 0
    assert stored(told(recorder.start()), q.Top(filter=lately(), by="protocol"), flows=100)


def test_a_full_disk_is_an_alarm_and_ends_with_room(tmp_path: Path) -> None:
    """On a file system of 32 MiB, of which a file takes all."""
    disk = tmp_path / "disk"
    disk.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=32m", "none", str(disk)], check=True)
    recorder = RecorderProcess(disk, ["--spare", "4", "--held", "5000"])
    try:
        peer = told(recorder.start())
        peer.rows(rows(10))
        stored(peer, q.Top(filter=lately()), key="db", flows=10)
        ballast = disk / "ballast"
        left = os.statvfs(disk)
        ballast.write_bytes(bytes(left.f_bavail * left.f_frsize - (2 << 20)))
        peer.rows(rows(10))
        alarm = peer.next("status", lambda each: each["alarm"])
        assert "is full" in alarm["alarm"] and alarm["waiting"] >= 10
        for _ in range(3):  # more than is held
            peer.rows(rows(3000))
        assert peer.next("status", lambda each: each["lost"])["waiting"] <= 6000
        assert peer.ask(q.Top(filter=lately()))[0]["flows"] == 10  # it still answers
        ballast.unlink()
        calm = peer.next("status", lambda each: not each["alarm"])
        assert calm["failures"] >= 1
        assert stored(peer, q.Top(filter=lately()), key="db", flows=10 + 9010 - calm["lost"])
        assert recorder.end() == 0
    finally:
        if recorder.process is not None and recorder.process.poll() is None:
            recorder.end(signal.SIGKILL)
        subprocess.run(["umount", str(disk)], check=True)


def test_two_recorders_do_not_share_tables(recorder: RecorderProcess) -> None:
    recorder.start()
    command = [sys.executable, "-m", "novanet_apps.telemetry.recorder", "--socket", str(recorder.directory / "s2")]
    second = subprocess.run(
        [*command, "--database", str(recorder.directory / "db")], capture_output=True, text=True, cwd=ROOT
    )
    assert second.returncode == 1 and "is in use by another recorder" in second.stderr


def test_what_is_no_frame_ends_the_connection_only(recorder: RecorderProcess) -> None:
    peer = told(recorder.start())
    for junk in (b"\xff" * 64, b"\0\0\0\2\0\0\0\0\xc1\xc1", b"\0\0\0\1\0\0\0\3\x80abc"):
        bad = Peer(recorder.socket)
        bad._socket.sendall(junk)
        bad.close()
    short = Peer(recorder.socket)
    short.send({"kind": "aggregates", "worker": 0, "rows": 1, "exporters": {}, "lost": {}}, b"x" * 7)
    assert short.stream.read() == b""
    peer.rows(rows())
    assert stored(peer, q.Top(filter=lately()), key="db")


def test_it_ends_with_its_parent(tmp_path: Path) -> None:
    code = (
        "import os, subprocess, sys, time\n"
        f"p = subprocess.Popen([sys.executable, '-m', 'novanet_apps.telemetry.recorder', '--socket', '{tmp_path}/s',"
        f" '--database', '{tmp_path}/db', '--parent', str(os.getpid())])\n"
        f"while not os.path.exists('{tmp_path}/s'): time.sleep(0.05)\n"
        "print(p.pid, flush=True)\n"
        "time.sleep(60)\n"
    )
    with subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True, cwd=ROOT) as parent:
        assert parent.stdout is not None
        child = int(parent.stdout.readline())
        parent.kill()
    until(lambda: not _alive(child), "the recorder has ended")


def _alive(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except FileNotFoundError:
        return False
