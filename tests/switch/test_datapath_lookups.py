"""What the flow caches of a datapath had, as vswitchd counts it."""

from __future__ import annotations

import os
import subprocess
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import pytest

from novanet_apps.host_agent.conntrack import Userspace
from novanet_apps.host_agent.datapath import lookups, of_datapaths, of_threads

from .conftest import program
from .daemons import Ovs, wait_for

PACKET = "in_port(1),eth(src=02:00:00:00:00:01,dst=02:00:00:00:00:02),eth_type(0x0800),ipv4(src=10.0.0.1,dst=10.0.0.2,proto=17,tos=0,ttl=64,frag=no),udp(src=1,dst=2)"


@pytest.fixture
def ovs(tmp_path: Path) -> Iterator[Ovs]:
    found = Ovs(tmp_path / "ovs", "hv1")
    yield found
    found.stop()


def test_hits_and_misses_are_counted(ovs: Ovs) -> None:
    """A hundred packets of one flow: the first misses every cache."""
    ovs.vsctl("add-br", "br0", "--", "set", "bridge", "br0", "datapath_type=dummy", "fail-mode=standalone")
    for name in ("p1", "p2"):
        ovs.vsctl("add-port", "br0", name, "--", "set", "interface", name, "type=dummy", f"ofport_request={name[1]}")
    control = ovs.directory / "vswitchd.ctl"
    before = lookups(Userspace(lambda: str(control)), "netdev")
    for _ in range(100):
        done = subprocess.run(
            [program("ovs-appctl"), "-t", str(control), "netdev-dummy/receive", "p1", PACKET], capture_output=True, text=True,
            env={**os.environ, "OVS_RUNDIR": str(ovs.directory)},
        )  # fmt: skip
        assert done.returncode == 0, done.stderr
    found: Counter[str] = Counter()

    def counted() -> bool:
        found.clear()
        found.update(lookups(Userspace(lambda: str(control)), "netdev"))
        return sum(found.values()) - sum(before.values()) >= 100

    wait_for(counted, "the packets are counted")
    hits = sum(found[name] - before[name] for name in ("exact_match", "megaflow", "simple_match", "signature_match"))
    assert hits >= 95 and 1 <= found["upcall"] - before["upcall"] <= 5


def test_what_a_vswitchd_that_does_not_answer_has_counted_is_nothing(tmp_path: Path) -> None:
    assert lookups(Userspace(lambda: str(tmp_path / "none.ctl")), "netdev") == Counter()


def test_all_threads_count_together() -> None:
    thread = """pmd thread numa_id 0 core_id {n}:
  packets received: 10
  phwol hits: 1
  simple match hits: 2
  emc hits: 3
  smc hits: 4
  megaflow hits: 5
  avg. subtable lookups per megaflow hit: 1.00
  miss with success upcall: 6
  miss with failed upcall: 7
  avg. packets per output batch: 1.00
"""
    assert of_threads(thread.format(n=1) + thread.format(n=2)) == {
        "hardware": 2, "simple_match": 4, "exact_match": 6, "signature_match": 8, "megaflow": 10, "upcall": 12, "lost": 14,
    }  # fmt: skip


def test_the_kernel_has_one_cache() -> None:
    text = "system@ovs-system:\n  lookups: hit:90 missed:9 lost:1\n  flows: 5\n  masks: hit:120 total:3 hit/pkt:1.20\n"
    assert of_datapaths(text) == {"megaflow": 90, "upcall": 9, "lost": 1}
