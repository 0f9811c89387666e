"""Hypervisors watch their gateways by BFD, beside the tunnels' traffic and without disturbing it."""

from __future__ import annotations

import time
from collections.abc import Iterator
from typing import Any

import pytest

from .cloud import Cloud, until

MESHES = {
    "geneve": {},
    "geneve over IPv6": {"ipv6_underlay": True},
    "vxlan": {"mesh": {"tunnel_type": "vxlan"}},
    "vxlan over IPv6": {"mesh": {"tunnel_type": "vxlan"}, "ipv6_underlay": True},
}


@pytest.fixture(scope="module", params=MESHES, ids=[name.replace(" ", "-") for name in MESHES])
def cloud(request: pytest.FixtureRequest) -> Iterator[Cloud]:
    """hv1 and hv2 are gateways, hv3 is not."""
    with Cloud(3, provider=True, wired=(0, 1), **MESHES[request.param]) as running:
        yield running


def links(cloud: Cloud, name: str) -> tuple[int, int]:
    """How many probes of a hypervisor are up, and how many are not."""
    shown: list[dict[str, Any]] = cloud.api.get("/v1/status")["hypervisors"]
    state = next(each["ovsdb"] for each in shown if each["name"] == name)
    return state["links_up"], len(state["links_down"])


def test_gateways_are_watched_and_traffic_does_not_notice(cloud: Cloud) -> None:
    inside = cloud.network("10.1.0.0/24", "fd00:1::/64")
    outside = cloud.network("203.0.113.0/24", external=True, physical_network="physnet1")
    vms = [cloud.vm(inside, 0), cloud.vm(inside, 2)]
    assert vms[0].ping(vms[1].ip, count=1).received == 1
    assert links(cloud, "hv3") == (0, 0), "nobody needs a gateway"
    before = pieces(cloud)
    ping, ping6 = (vms[0].background_ping(address) for address in (vms[1].ip, vms[1].ip6))
    router = cloud.router(inside, outside)
    for name in ("hv1", "hv2", "hv3"):
        until(f"{name} watches", lambda name=name: links(cloud, name) == (2, 0))
    lost, lost6 = ping.stop(), ping6.stop()
    assert lost.sent > 50 and lost.lost_sequences == lost6.lost_sequences == ()
    assert lost.duplicates == lost6.duplicates == 0

    cloud.lab.hypervisors[1].link_down()
    cut = time.monotonic()
    until("seen by hv1 and hv3", lambda: links(cloud, "hv1") == links(cloud, "hv3") == (1, 1), interval=0.005)
    print(f"down seen {1000 * (time.monotonic() - cut):.0f} ms after the cable was pulled")
    until("seen by hv2", lambda: links(cloud, "hv2") == (0, 2))
    cloud.lab.hypervisors[1].link_up()
    for name in ("hv1", "hv2", "hv3"):
        until(f"{name} sees them again", lambda name=name: links(cloud, name) == (2, 0))

    for port in router["interfaces"]:
        cloud.api.delete(f"/v1/ports/{port['id']}")
    cloud.api.delete(f"/v1/routers/{router['id']}")
    until("nobody is watched", lambda: all(links(cloud, name) == (0, 0) for name in ("hv1", "hv2", "hv3")))
    until("the ports are gone", lambda: pieces(cloud) == before)


def pieces(cloud: Cloud) -> list[str]:
    """The ports of every br-int."""
    return [hypervisor.vsctl("list-ports", "br-int") for hypervisor in cloud.lab.hypervisors]
