"""What tunnels leave for VMs, and that disagreement is noticed, named and forgotten when it is mended."""

from __future__ import annotations

import pytest

from novanet_apps.mtu_watch import MtuWatch
from topology.changes import Edit
from topology.model import Bridge, Network, TunnelMesh, Vif
from topology.mtu import max_mtu, overhead, underlay_version

from .world import World


@pytest.mark.parametrize(
    ("tunnel", "version", "bytes"), [("geneve", 4, 66), ("geneve", 6, 86), ("vxlan", 4, 50), ("vxlan", 6, 70)]
)
def test_overhead(tunnel: str, version: int, bytes: int) -> None:
    assert overhead(tunnel, version) == bytes
    for underlay in (1500, 9000):
        mesh = TunnelMesh(id="m", tunnel_type=tunnel, underlay_mtu=underlay)
        assert max_mtu(mesh, version) == underlay - bytes


def test_one_ipv6_endpoint_makes_all_tunnels_count_as_ipv6() -> None:
    assert underlay_version(["192.0.2.1", None]) == 4
    assert underlay_version(["192.0.2.1", "fd50::1"]) == 6


def watched() -> tuple[World, MtuWatch]:
    world = World()
    world.network("a", 1)
    world.port("p", "a", on="h1")
    watch = MtuWatch(world.topology)
    assert watch.warnings() == []
    return world, watch


def test_an_interface_that_is_too_large_is_named_until_it_is_mended() -> None:
    world, watch = watched()
    vif = Vif(port_id="p", hypervisor_id="h1", interface="tap0", ofport=1, mtu=1500)
    watch.changed(world.apply(Edit("vif", "p", vif)))
    [warning] = watch.warnings()
    assert "tap0" in warning and "1500" in warning and "1434" in warning
    assert list(watch.about("port", "p")) == [warning]
    watch.changed(
        world.apply(Edit("vif", "p", Vif(port_id="p", hypervisor_id="h1", interface="tap0", ofport=1, mtu=1434)))
    )
    assert watch.warnings() == []


def test_another_mesh_changes_what_fits() -> None:
    world, watch = watched()
    assert watch.of(world.topology.get("network", "a")) == 1434
    watch.changed(world.apply(Edit("tunnel-mesh", "mesh", TunnelMesh(id="mesh", underlay_mtu=1300))))
    assert watch.of(world.topology.get("network", "a")) == 1234
    [warning] = watch.warnings()
    assert "1400" in warning and "1234" in warning


def test_a_network_that_does_not_fit_the_tunnels_is_named() -> None:
    world, watch = watched()
    watch.changed(world.apply(Edit("network", "a", Network(id="a", name="blue", vni=1, mtu=1500))))
    assert any("network blue" in warning and "1434" in warning for warning in watch.warnings())


def test_an_underlay_smaller_than_the_mesh_expects_is_named() -> None:
    world, watch = watched()
    watch.changed(world.apply(Edit("bridge", "h2", Bridge(hypervisor_id="h2", tunnel_ofport=1000, underlay_mtu=1400))))
    [warning] = watch.warnings()
    assert "h2" in warning and "1400" in warning and "1500" in warning
