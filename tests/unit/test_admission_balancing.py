"""Admission of load balancers, listeners, pools, members and health monitors."""

from __future__ import annotations

from typing import Any

import pytest
from msgspec.structs import replace

from topology.admission.allocation import BALANCER_KEY, MEMBER_KEY, POOL_KEY
from topology.admission.balancing import reach
from topology.changes import Edit
from topology.model import SessionPersistence

from .test_admission import refusal
from .test_admission_routers import NOBODY, Routed


class Balanced(Routed):
    """A load balancer in ``blue``, which the router joins with ``green`` and the outside; VMs ``near`` and ``far`` in the two."""

    def __init__(self) -> None:
        super().__init__()
        self.green, self.green4 = self.joined("10.0.1.0/24")
        self.leg, self.other_leg, self.gateway = (self.join(each) for each in (self.blue, self.green, self.outside))
        self.near = self.vm(self.blue, "10.0.0.11", "2001:db8:0:1::11")
        self.far = self.vm(self.green, "10.0.1.11")
        self.balancer = self.create("load-balancer", name="lb", vip_subnet_id=self.four.id)
        self.pool = self.part("pool")

    def vm(self, network: Any, *ips: str, **fields: Any) -> Any:
        return self.create("port", network_id=network.id, fixed_ips=[{"ip_address": ip} for ip in ips], **fields)

    def part(self, kind: str, project: str | None = None, **fields: Any) -> Any:
        return self.create(kind, project, **{"loadbalancer_id": self.balancer.id, "protocol": "TCP", **fields})

    def listener(self, port: int = 80, **fields: Any) -> Any:
        return self.part("listener", protocol_port=port, **fields)

    def member(self, address: str = "10.0.0.11", **fields: Any) -> Any:
        return self.create("member", **{"pool_id": self.pool.id, "address": address, "protocol_port": 80, **fields})

    def floating(self, **fields: Any) -> Any:
        return self.create("floating-ip", floating_network_id=self.outside.id, **fields)

    def monitor(self, type: str = "TCP", **fields: Any) -> Any:
        return self.create("health-monitor", **{"pool_id": self.pool.id, "type": type, **fields})


@pytest.fixture
def world() -> Balanced:
    return Balanced()


# --- load balancers ----------------------------------------------------------------------------------------------


def test_a_load_balancer_is_a_host_of_a_network(world: Balanced) -> None:
    made = world.balancer
    assert (made.vip_network_id, made.router_id) == (world.blue.id, None)
    assert made.vip_address == "10.0.0.2" and made.vip_mac_address.startswith("02:4e:56")
    assert BALANCER_KEY[0] <= made.balancer_key <= BALANCER_KEY[1]
    assert world.topology.addresses[world.four.id, "10.0.0.2"] == made.id
    assert world.topology.macs[world.blue.id, made.vip_mac_address] == made.id
    by_network = world.create("load-balancer", vip_network_id=world.blue.id)
    assert by_network.vip_subnet_id == world.four.id and by_network.vip_address == "10.0.0.3", "IPv4 where there is any"
    six = world.create("load-balancer", vip_network_id=world.blue.id, vip_address="2001:DB8:0:1::9")
    assert (six.vip_subnet_id, six.vip_address) == (world.six.id, "2001:db8:0:1::9")
    kept = world.replace("load-balancer", made.id, vip_subnet_id=world.four.id, description="new")
    assert (kept.vip_address, kept.vip_mac_address, kept.name) == (made.vip_address, made.vip_mac_address, "")


def test_its_address_is_its_own(world: Balanced) -> None:
    with refusal(409, "fixed_ips[0].ip_address", "10.0.0.2", "load-balancer", "lb"):
        world.vm(world.blue, "10.0.0.2")
    with refusal(409, "mac_address", "load-balancer"):
        world.create("port", network_id=world.blue.id, mac_address=world.balancer.vip_mac_address)
    with refusal(409, "vip_address", "10.0.0.11", "port"):
        world.create("load-balancer", vip_subnet_id=world.four.id, vip_address="10.0.0.11")
    with refusal(409, "vip_address", "gateway"):
        world.create("load-balancer", vip_subnet_id=world.four.id, vip_address="10.0.0.1")
    with refusal(400, "vip_address", "no host address"):
        world.create("load-balancer", vip_subnet_id=world.four.id, vip_address="10.0.0.255")
    with refusal(400, "vip_address", "10.0.0.0/24"):
        world.create("load-balancer", vip_subnet_id=world.four.id, vip_address="10.0.7.9")
    world.delete(world.pool)
    world.delete(world.balancer)
    assert addresses_of(world.vm(world.blue, "10.0.0.2")) == ["10.0.0.2"]


def addresses_of(port: Any) -> list[str]:
    return [fixed.ip_address for fixed in port.fixed_ips]


def test_where_a_load_balancer_may_be(world: Balanced) -> None:
    with refusal(400, "vip_network_id", "vip_subnet_id", "router_id"):
        world.create("load-balancer")
    with refusal(400, "vip_network_id", "external", "floating IP"):
        world.create("load-balancer", vip_network_id=world.outside.id)
    with refusal(400, "vip_subnet_id", world.green.id):
        world.create("load-balancer", vip_network_id=world.green.id, vip_subnet_id=world.four.id)
    with refusal(404, "vip_network_id", NOBODY):
        world.create("load-balancer", vip_network_id=NOBODY)
    with refusal(409, "vip_network_id", "no subnet"):
        world.create("load-balancer", vip_network_id=world.create("network").id)
    with refusal(400, "router_id", "vip_network_id"):
        world.create("load-balancer", router_id=world.router.id, vip_network_id=world.blue.id, vip_address="10.96.0.1")
    for field, value in (("vip_address", "10.0.0.77"), ("vip_subnet_id", world.six.id), ("router_id", world.router.id)):
        with refusal(400, field, "cannot be changed"):
            world.patch(world.balancer, **{field: value})


def test_an_address_of_a_router_is_in_none_of_its_subnets(world: Balanced) -> None:
    made = world.create("load-balancer", router_id=world.router.id, vip_address="10.96.0.1")
    assert (made.vip_network_id, made.vip_subnet_id, made.vip_address) == (None, None, "10.96.0.1")
    with refusal(409, "vip_address", "10.96.0.1", "load-balancer"):
        world.create("load-balancer", router_id=world.router.id, vip_address="10.96.0.1")
    other = world.create("router")
    world.create("load-balancer", router_id=other.id, vip_address="10.96.0.1")
    with refusal(400, "vip_address", "must be given"):
        world.create("load-balancer", router_id=world.router.id)
    with refusal(409, "vip_address", "10.0.1.0/24"):
        world.create("load-balancer", router_id=world.router.id, vip_address="10.0.1.77")
    with refusal(400, "vip_address", "127.0.0.0/8"):
        world.create("load-balancer", router_id=world.router.id, vip_address="127.0.0.1")
    network, _ = world.joined("10.96.0.0/24")
    with refusal(409, "fixed_ips", "10.96.0.1", made.id):
        world.join(network)
    for port in (world.gateway, world.leg, world.other_leg):
        world.delete(port)
    with refusal(409, "", "in use by load-balancer", made.id):
        world.delete(world.router)
    world.delete(made)
    world.delete(world.router)


def test_what_a_load_balancer_is_in_stays(world: Balanced) -> None:
    with refusal(409, "", "load-balancer", "lb"):
        world.delete(world.four)
    assert ("load-balancer", world.balancer.id) in world.topology.referrers("network", world.blue.id)
    with refusal(409, "", "in use by pool"):
        world.delete(world.balancer)
    listener = world.listener(default_pool_id=world.pool.id)
    with refusal(409, "", "in use by listener", listener.id):
        world.delete(world.pool)
    world.delete(listener)
    member, monitor = world.member(), world.monitor()
    world.delete(world.pool)
    assert world.now(member) is world.now(monitor) is None, "they are its own"


def test_projects_see_their_own(world: Balanced) -> None:
    mine, _ = world.joined("10.9.0.0/24", project="us")
    made = world.create("load-balancer", "us", vip_network_id=mine.id)
    assert made.project_id == "us"
    assert world.create("load-balancer", vip_network_id=mine.id).project_id == "us"
    with refusal(404, "vip_network_id"):
        world.create("load-balancer", "us", vip_network_id=world.blue.id)
    with refusal(404, "loadbalancer_id"):
        world.part("pool", "us")
    pool = world.part("pool", loadbalancer_id=made.id)
    assert pool.project_id == "us", "a part is its load balancer's"
    with refusal(400, "project_id", "us"):
        world.part("pool", loadbalancer_id=made.id, project_id="them")
    with refusal(404, "pool_id"):
        world.create("member", "them", pool_id=pool.id, address="10.9.0.7")


# --- listeners and pools -----------------------------------------------------------------------------------------


def test_listeners_of_a_load_balancer_have_ports_of_their_own(world: Balanced) -> None:
    one, many = world.listener(80, protocol_port_max=80), world.listener(8000, protocol_port_max=8100)
    assert (one.protocol_port_max, many.protocol_port_max) == (None, 8100)
    world.listener(80, protocol="UDP")
    for port, last, held in (
        (80, None, one),
        (79, 81, one),
        (8100, None, many),
        (8050, 9000, many),
        (7999, 8101, many),
    ):
        with refusal(409, "protocol_port", held.id):
            world.listener(port, protocol_port_max=last)
    world.listener(8101, protocol_port_max=9000)
    with refusal(400, "protocol_port_max", "before"):
        world.listener(443, protocol_port_max=442)
    with refusal(400, "protocol_port", "cannot be changed"):
        world.patch(one, protocol_port=81)
    other = world.create("load-balancer", vip_network_id=world.blue.id)
    world.listener(80, loadbalancer_id=other.id)


def test_a_listener_names_a_pool_of_its_load_balancer_and_protocol(world: Balanced) -> None:
    made = world.listener(default_pool_id=world.pool.id)
    assert world.patch(made, default_pool_id=None).default_pool_id is None
    with refusal(404, "default_pool_id", NOBODY):
        world.patch(made, default_pool_id=NOBODY)
    with refusal(409, "default_pool_id", "UDP", "TCP"):
        world.patch(made, default_pool_id=world.part("pool", protocol="UDP").id)
    other = world.create("load-balancer", vip_network_id=world.blue.id)
    with refusal(409, "default_pool_id", other.id):
        world.patch(made, default_pool_id=world.part("pool", loadbalancer_id=other.id).id)


def test_pools(world: Balanced) -> None:
    made = world.pool
    assert (made.lb_algorithm, made.table_size, made.on_member_down) == ("maglev", 1021, "reset")
    assert POOL_KEY[0] <= made.pool_key <= POOL_KEY[1]
    for bad in (1000, 65520):
        with refusal(400, "table_size", "prime"):
            world.patch(made, table_size=bad)
    with refusal(400, "table_size", "997 and 1009"):
        world.part("pool", table_size=1000)
    with refusal(400, "table_size", "251 and 257"):
        world.part("pool", table_size=252)
    with refusal(400, "table_size", "65519 and 65521"):
        world.part("pool", table_size=65520)
    for bad in (250, 65522):
        with refusal(400, "table_size"):
            world.part("pool", table_size=bad)
    assert world.patch(made, table_size=65521).table_size == 65521
    sticky = world.patch(made, session_persistence={"type": "SOURCE_IP", "persistence_timeout": 60})
    assert sticky.session_persistence == SessionPersistence(type="SOURCE_IP", persistence_timeout=60)
    assert world.patch(made, session_persistence=None).session_persistence is None
    with refusal(400, "session_persistence.type"):
        world.patch(made, session_persistence={"type": "HTTP_COOKIE"})
    with refusal(400, "protocol", "cannot be changed"):
        world.patch(made, protocol="UDP")


# --- members -----------------------------------------------------------------------------------------------------


def test_a_member_is_in_a_subnet_that_the_load_balancer_reaches(world: Balanced) -> None:
    near, far = world.member(), world.member("10.0.1.11")
    assert (near.subnet_id, far.subnet_id) == (world.four.id, world.green4.id), "found"
    assert MEMBER_KEY[0] <= near.member_key <= MEMBER_KEY[1] and near.member_key != far.member_key
    assert (near.health, near.weight, near.backup) == ("unknown", 1, False)
    assert world.topology.members_at((world.four.id, "10.0.0.11")) == {near.id}
    assert world.member("10.0.1.99").subnet_id == world.green4.id, "a VM may come later"
    lonely, subnet = world.joined("10.5.0.0/24")
    with refusal(409, "address", "no subnet", "join"):
        world.member("10.5.0.7")
    with refusal(409, "subnet_id", lonely.id, "no router"):
        world.member("10.5.0.7", subnet_id=subnet.id)
    with refusal(400, "address", "10.0.1.0/24"):
        world.member("10.0.0.12", subnet_id=world.green4.id)
    with refusal(400, "address", "IP version"):
        world.member("2001:db8:0:1::11")
    world.join(lonely)
    assert world.member("10.5.0.7").subnet_id == subnet.id
    for field, value in (("address", "10.0.0.12"), ("protocol_port", 81), ("subnet_id", world.green4.id)):
        with refusal(400, field, "cannot be changed"):
            world.patch(near, **{field: value})


def test_the_outside_joins_nothing(world: Balanced) -> None:
    assert reach(world.topology, world.balancer) == {world.blue.id, world.green.id}
    on_router = world.create("load-balancer", router_id=world.router.id, vip_address="10.96.0.1")
    assert reach(world.topology, on_router) == {world.blue.id, world.green.id}
    with refusal(409, "address", "no subnet"):
        world.member("192.0.2.77")


def test_an_address_in_two_networks_needs_its_subnet(world: Balanced) -> None:
    second = world.create("router")
    for cidr in ("10.7.0.0/24", "10.7.0.0/25"):
        network, _ = world.joined(cidr)
        world.join(network, second if cidr.endswith("24") else None)
    world.create("port", network_id=world.blue.id, router_id=second.id, fixed_ips=[{"ip_address": "10.0.0.254"}])
    with refusal(409, "subnet_id", "10.7.0.0/24", "10.7.0.0/25"):
        world.member("10.7.0.9")


def test_members_are_vms(world: Balanced) -> None:
    with refusal(409, "address", "router"):
        world.member("10.0.0.1")
    with refusal(409, "address", "load-balancer"):
        world.member("10.0.0.2")
    with refusal(400, "address", "no host address"):
        world.member("10.0.0.255")


def test_a_member_is_in_a_pool_once(world: Balanced) -> None:
    made = world.member()
    with refusal(409, "address", "10.0.0.11 port 80", made.id):
        world.member()
    world.member(protocol_port=81)
    world.member(protocol_port=None)
    with refusal(409, "address", "10.0.0.11 in pool"):
        world.member(protocol_port=None)
    world.create("member", pool_id=world.part("pool").id, address="10.0.0.11", protocol_port=80)


def test_a_slot_for_each_member(world: Balanced) -> None:
    small = world.patch(world.pool, table_size=251)
    for number in range(251):
        made = world.member(f"10.0.1.{11 + number % 200}", protocol_port=1 + number)
    with refusal(409, "pool_id", "251"):
        world.member()
    assert world.patch(small, table_size=257).table_size == 257
    world.member(), world.delete(made)
    world.member("10.0.1.77", protocol_port=9999)
    with refusal(409, "table_size", "252"):
        world.patch(small, table_size=251)


def test_a_slot_for_each_weight(world: Balanced) -> None:
    """A member has one slot at least, so one that is lighter than that would get more than its weight says."""
    small = world.patch(world.pool, table_size=251)
    light = world.member(name="light")
    world.member("10.0.0.12", weight=250)
    with refusal(409, "weight", "light of weight 1, of 252", "251 slots", "257"):
        world.member("10.0.0.13")
    with refusal(409, "weight", "light"):
        world.member("10.0.0.13", weight=256)
    spare = world.member("10.0.0.13", weight=256, backup=True)  # which serves when the others do not
    with refusal(409, "weight", "of 507"):
        world.patch(spare, backup=False)
    assert world.patch(light, weight=0).weight == 0, "draining"
    assert not world.patch(spare, backup=False).backup
    with refusal(409, "weight", "light"):
        world.patch(light, weight=1)
    assert world.patch(light, name="by another name").weight == 0
    small = world.patch(small, lb_algorithm="round_robin")
    assert world.patch(light, weight=1).weight == 1, "weights do not count"
    with refusal(409, "lb_algorithm", "507"):
        world.patch(small, lb_algorithm="maglev")
    assert world.patch(small, lb_algorithm="maglev", table_size=509).table_size == 509
    with refusal(409, "table_size", "251 slots", "509"):
        world.patch(small, table_size=251, lb_algorithm="maglev")


def test_weights_that_no_table_can_have(world: Balanced) -> None:
    world.patch(world.pool, table_size=65521)
    world.member(weight=1)
    for number in range(255):
        world.member("10.0.0.12", protocol_port=1 + number, weight=256)
    with refusal(409, "weight", "differ less"):
        world.member("10.0.0.13", weight=256)


def test_how_members_are_is_not_for_users_to_say(world: Balanced) -> None:
    made = world.member()
    for field, value in (("health", "up"), ("drain_until", 5), ("slot_weight", 7), ("member_key", 1)):
        with refusal(400, field, "set by NovaNet"):
            world.patch(made, **{field: value})


def test_a_weight_ends_draining(world: Balanced) -> None:
    made = world.patch(world.member(), weight=0)
    world.topology.apply([Edit("member", made.id, replace(made, drain_until=1234, slot_weight=9))])
    assert world.patch(made, description="x").drain_until == 1234
    back = world.patch(made, weight=5)
    assert (back.drain_until, back.slot_weight) == (None, None)


def test_ports_of_members_may_go(world: Balanced) -> None:
    made = world.member()
    world.delete(world.near)
    assert world.now(made) is not None
    with refusal(409, "", f"member {made.id}"):
        world.delete(world.four)


# --- floating IPs ------------------------------------------------------------------------------------------------


def test_a_floating_ip_leads_to_a_load_balancer(world: Balanced) -> None:
    made = world.floating(loadbalancer_id=world.balancer.id)
    assert made.loadbalancer_id == world.balancer.id and made.port_id is None
    assert world.topology.floating_to(world.balancer.id) == {made.id}
    assert world.topology.router_of_floating(made.id) == world.router.id
    assert world.patch(made, loadbalancer_id=None).loadbalancer_id is None
    assert not world.topology.floating_to(world.balancer.id)
    world.patch(made, loadbalancer_id=world.balancer.id)
    world.delete(world.pool)
    before = world.now(made).revision_number
    world.delete(world.balancer)
    assert (world.now(made).loadbalancer_id, world.now(made).revision_number) == (None, before + 1), (
        "it waits for another"
    )


def test_a_floating_ip_leads_to_one_thing(world: Balanced) -> None:
    made = world.floating(loadbalancer_id=world.balancer.id)
    with refusal(409, "port_id", "or to a load balancer"):
        world.patch(made, port_id=world.far.id)
    with refusal(409, "floating_ip_id", world.balancer.id):
        world.create(
            "port-forwarding", floating_ip_id=made.id, protocol="tcp", external_port=80, internal_port_id=world.far.id,
            internal_port=80,
        )  # fmt: skip
    forwarded = world.floating()
    world.create(
        "port-forwarding", floating_ip_id=forwarded.id, protocol="tcp", external_port=80, internal_port_id=world.far.id,
        internal_port=80,
    )  # fmt: skip
    with refusal(409, "loadbalancer_id", "port forwardings"):
        world.patch(forwarded, loadbalancer_id=world.balancer.id)
    attached = world.floating(port_id=world.near.id)
    with refusal(409, "loadbalancer_id", "or to a load balancer"):
        world.patch(attached, loadbalancer_id=world.balancer.id)


def test_a_router_leads_from_outside_to_a_load_balancer(world: Balanced) -> None:
    made = world.floating(loadbalancer_id=world.balancer.id)
    for port in (world.gateway, world.leg):
        with refusal(409, "", made.id, world.router.id):
            world.delete(port)
    world.patch(made, loadbalancer_id=None)
    world.delete(world.gateway)
    with refusal(409, "loadbalancer_id", "no router of subnet", world.outside.id):
        world.patch(made, loadbalancer_id=world.balancer.id)
    on_router = world.create("load-balancer", router_id=world.router.id, vip_address="10.96.0.1")
    with refusal(409, "loadbalancer_id", world.router.id, "no gateway"):
        world.patch(made, loadbalancer_id=on_router.id)
    gateway = world.join(world.outside)
    world.patch(made, loadbalancer_id=on_router.id)
    world.delete(world.leg)
    with refusal(409, "", made.id):
        world.delete(gateway)
    six = world.create("load-balancer", vip_network_id=world.blue.id, vip_address="2001:db8:0:1::9")
    with refusal(409, "loadbalancer_id", "IP version"):
        world.patch(made, loadbalancer_id=six.id)


def test_answers_leave_one_way(world: Balanced) -> None:
    way_in, own = world.floating(loadbalancer_id=world.balancer.id), world.floating()
    world.member()
    with refusal(409, "port_id", "10.0.0.11", way_in.id):
        world.patch(own, port_id=world.near.id)
    world.patch(own, port_id=world.far.id)
    with refusal(409, "address", "10.0.1.11", own.id):
        world.member("10.0.1.11")
    world.patch(way_in, loadbalancer_id=None)
    world.member("10.0.1.11")
    with refusal(409, "loadbalancer_id", "10.0.1.11", own.id):
        world.patch(way_in, loadbalancer_id=world.balancer.id)


# --- health monitors ---------------------------------------------------------------------------------------------


def test_a_pool_has_one_health_monitor(world: Balanced) -> None:
    made = world.monitor()
    assert (made.delay, made.timeout, made.max_retries, made.max_retries_down) == (5, 3, 2, 3)
    with refusal(409, "pool_id", made.id):
        world.monitor("PING")
    world.delete(made)
    world.monitor("PING")


def test_what_is_asked_by_http_goes_with_http(world: Balanced) -> None:
    made = world.monitor("HTTP")
    assert (made.http_method, made.url_path, made.expected_codes, made.domain_name) == ("GET", "/", "200", None)
    made = world.patch(made, url_path="/up?deep=1", expected_codes="200-204", domain_name="x.example")
    assert made.http_method == "GET"
    for field, bad in (
        ("expected_codes", "20x"),
        ("expected_codes", "300-200"),
        ("url_path", "up"),
        ("url_path", "/a b"),
    ):
        with refusal(400, field):
            world.patch(made, **{field: bad})
    assert world.patch(made, expected_codes="200,202,204").expected_codes == "200,202,204"
    with refusal(400, "type", "cannot be changed"):
        world.patch(made, type="TCP")
    world.delete(made)
    for field, value in (("http_method", "GET"), ("url_path", "/"), ("expected_codes", "200"), ("domain_name", "x")):
        with refusal(400, field, "HTTP"):
            world.monitor("TCP", **{field: value})


def test_a_check_ends_before_the_next(world: Balanced) -> None:
    with refusal(400, "timeout", "delay"):
        world.monitor(delay=2, timeout=3)
    assert world.monitor(delay=3, timeout=3).timeout == 3
