"""Many ports in fifty networks over three hypervisors: all are realised, and one more costs what one port costs.

NOVANET_SCALE_PORTS says how many; `make test-scale` runs this with 10,000.
"""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Iterator

import pytest

from tools.bench import workload
from tools.bench.groups import OPEN
from tools.bench.novanet import NovaNet
from tools.bench.workload import HYPERVISORS, NETWORKS
from tools.lab.lab import Lab

PORTS = int(os.environ.get("NOVANET_SCALE_PORTS", "1000"))
TIMEOUT = 600.0
SENT = ("flows_sent", "flows_deleted", "groups_sent", "bundle_errors", "resyncs", "drift_repaired", "full_recomputes")


@pytest.fixture(scope="module")
def novanet() -> Iterator[NovaNet]:
    """All ports asked for and plugged."""
    ports = [workload.port(number) for number in range(PORTS)]
    with Lab(HYPERVISORS) as lab, NovaNet(lab, {"audit_interval": 0}) as novanet:
        workload.plug_dummies(lab, ports)
        novanet.add_networks()
        novanet.add_group(OPEN)
        novanet.add_ports(ports, OPEN)
        novanet.wait_realised(PORTS, TIMEOUT)
        yield novanet


def work(novanet: NovaNet) -> Counter[str]:
    """What the controller has done until now: owners compiled by kind, and messages sent."""
    compiled = {
        f"compiled {owner}": count for owner, count in novanet.counts("novanet_owners_compiled_total", "owner").items()
    }
    return Counter(compiled | {name: novanet.counter(f"novanet_{name}_total") for name in SENT})


def test_every_port_is_realised_everywhere(novanet: NovaNet) -> None:
    census = novanet.census()
    assert census["port"] == {"ACTIVE": PORTS}
    assert census["hypervisor"] == {"ACTIVE": HYPERVISORS}
    # every network is on every hypervisor: each port has its forwarding flow on each
    for hypervisor in novanet.lab.hypervisors:
        destinations = [flow for flow in hypervisor.dump_flows() if "dl_dst=02:00:00:" in flow]
        assert len(destinations) >= PORTS


def test_nothing_was_compiled_as_a_whole_after_the_hypervisors_came(novanet: NovaNet) -> None:
    done = work(novanet)
    assert done["full_recomputes"] == HYPERVISORS
    assert done["bundle_errors"] == 0
    assert novanet.counter("novanet_flows") == done["flows_sent"] - done["flows_deleted"]


def test_one_more_port_compiles_only_what_depends_on_it(novanet: NovaNet) -> None:
    port = workload.extra(1, 1, network=7)
    workload.plug_dummies(novanet.lab, [port])
    before, flows = work(novanet), workload.flows_per_hypervisor(novanet.lab)

    novanet.realise_port(port, OPEN)
    done = work(novanet) - before
    # the port on each hypervisor of its network, and the network's broadcast where the port is
    assert done == {
        "compiled port": HYPERVISORS,
        "compiled network": 1,
        "compiled qos": 1,
        "flows_sent": done["flows_sent"],
        "groups_sent": 1,
    }
    grown = [now - then for now, then in zip(workload.flows_per_hypervisor(novanet.lab), flows, strict=True)]
    assert sum(grown) == done["flows_sent"]
    assert grown[0] == grown[2] < grown[1], "the others only have to find it"

    novanet.delete_port(port)
    novanet.wait_settled()
    taken = work(novanet) - before - done
    assert taken["compiled port"] == HYPERVISORS
    assert taken["compiled network"] == 1
    assert taken["flows_deleted"] == done["flows_sent"]
    assert taken["flows_sent"] == taken["full_recomputes"] == taken["resyncs"] == 0
    assert workload.flows_per_hypervisor(novanet.lab) == flows


def test_a_port_that_is_not_plugged_costs_the_switches_nothing(novanet: NovaNet) -> None:
    port = workload.extra(2, 0, network=NETWORKS - 1)
    before = work(novanet)
    novanet.add_port(port, OPEN)
    novanet.wait_settled()
    assert work(novanet) == before
    novanet.delete_port(port)
    novanet.wait_settled()
    done = work(novanet) - before
    assert {name for name, count in done.items() if count} <= {"compiled port"}, (
        "its flows are looked for, and there are none"
    )
