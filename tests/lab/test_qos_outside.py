"""Limits and marks of floating IPs and of routers' gateways, with real packets on a provider network."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.lab.cloud import Cloud, until
from tests.lab.outside import PHYSICAL, WORLD, World, built, reaches
from tests.lab.test_qos import hold, limit, policy
from tools.lab import VM
from tools.lab.rates import Stream, rates

PORT = 5201
OFFERED = 12_000
FREE = 10_000
"""kbit/s of 12,000 that arrive where nothing limits them."""


@pytest.fixture(scope="module", params=["wired", "one-gateway"])
def world(request: pytest.FixtureRequest) -> Iterator[World]:
    """Hypervisors that are all wired, so that floating IPs are with their VMs; or only the first one is."""
    with Cloud(2, provider=PHYSICAL, wired=None if request.param == "wired" else {0}) as cloud:
        yield built(cloud)


def out(vm: VM, world: World) -> Stream:
    return Stream(vm, world.outside, "udp", 1000, OFFERED, to=WORLD)


def into(vm: VM, world: World, floating: str) -> Stream:
    return Stream(world.outside, vm, "udp", 1000, OFFERED, to=floating)


def test_a_floating_ip_and_the_gateway(world: World) -> None:
    """Both directions of each; a floating IP's own policy comes before the gateway's, which holds for what has none."""
    cloud = world.cloud
    with_floating, plain = cloud.vm(world.network, 1), cloud.vm(world.network, 0)
    floating = world.floating_ip(with_floating)
    cloud.wait_active("floating-ips", floating["id"])
    address = floating["floating_ip_address"]
    for vm in (with_floating, plain):
        assert until(f"{vm} gets outside", lambda vm=vm: reaches(vm, WORLD))
    for stream in (out(with_floating, world), out(plain, world), into(with_floating, world, address)):
        assert rates([stream], 2)[0] > FREE
    own = policy(cloud, limit(2000), limit(3000, "ingress"))
    cloud.api.patch(f"/v1/floating-ips/{floating['id']}", {"qos_policy_id": own})
    cloud.wait_active("floating-ips", floating["id"])
    hold([out(with_floating, world)], 2000)
    hold([into(with_floating, world, address)], 3000)
    assert rates([out(plain, world)], 2)[0] > FREE
    gateways = policy(cloud, limit(5000), limit(4000, "ingress"))
    cloud.api.patch(f"/v1/ports/{world.gateway['id']}", {"qos_policy_id": gateways})
    cloud.wait_active("routers", world.router["id"])
    hold([out(plain, world)], 5000)
    hold([out(with_floating, world)], 2000)
    forwarded = world.floating_ip()
    for protocol in ("tcp", "udp"):
        forwarding = {"protocol": protocol, "external_port": PORT, "internal_port": PORT}
        forwarding |= {"floating_ip_id": forwarded["id"], "internal_port_id": plain.port["id"]}
        cloud.api.post("/v1/port-forwardings", forwarding)
    cloud.wait_active("floating-ips", forwarded["id"])
    hold([into(plain, world, forwarded["floating_ip_address"])], 4000)
    cloud.api.patch(f"/v1/floating-ips/{floating['id']}", {"qos_policy_id": None})
    cloud.wait_active("floating-ips", floating["id"])
    hold([out(with_floating, world)], 5000)
    hold([into(with_floating, world, address)], 4000)
    cloud.api.patch(f"/v1/ports/{world.gateway['id']}", {"qos_policy_id": None})
    cloud.wait_active("routers", world.router["id"])
    assert rates([out(with_floating, world)], 2)[0] > FREE
