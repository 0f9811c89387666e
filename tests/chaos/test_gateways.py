"""Gateways die under traffic, and come back."""

from __future__ import annotations

import subprocess
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import pytest

from tests.lab.cloud import Cloud, until
from tests.lab.outside import PHYSICAL, WORLD, WORLD6, World, address, announces, built, reaches
from tools.lab import VM, Hypervisor

SECOND = 100
"""Pings in a second."""


@pytest.fixture(scope="module", params=["geneve", "vxlan"])
def world(request: pytest.FixtureRequest) -> Iterator[World]:
    with Cloud(3, mesh={"tunnel_type": request.param}, provider=PHYSICAL) as cloud:
        yield built(cloud)


@pytest.fixture
def order(world: World) -> list[int]:
    """Numbers of the hypervisors, from the gateway to the one that is the last resort; all of them are well."""
    until("BFD is up", lambda: world.shown["gateway_watched"])
    order = world.order()
    until("the best one is active", lambda: world.active() == order[0])
    return order


def ready(world: World, vm: VM) -> VM:
    for target in (WORLD, WORLD6):
        assert until(f"{vm} reaches {target}", lambda target=target: reaches(vm, target))
    return vm


class Conversation:
    """A TCP connection on which lines come back."""

    def __init__(self, server: Any, client: Any, address: str, port: int) -> None:
        listen = f"TCP4-LISTEN:{port},reuseaddr"
        self._server = server.popen(["socat", listen, "EXEC:/bin/cat"])
        until("listening", lambda: f":{port} " in server.exec("ss -tln").stdout)
        pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE}
        self._client = client.popen(["socat", "-", f"TCP4:{address}:{port}"], **pipes)

    def say(self, words: str) -> str:
        """What comes back; TCP sends it again and again while nobody answers."""
        self._client.stdin.write(f"{words}\n".encode())
        self._client.stdin.flush()
        return str(self._client.stdout.readline().decode().strip())

    def close(self) -> None:
        for process in (self._client, self._server):
            process.kill()
            process.wait()
            for pipe in (process.stdin, process.stdout):
                if pipe is not None:
                    pipe.close()


@contextmanager
def conversation(server: Any, client: Any, address: str, port: int) -> Iterator[Conversation]:
    talk = Conversation(server, client, address, port)
    try:
        yield talk
    finally:
        talk.close()


WAYS: dict[str, tuple[Callable[[Hypervisor], None], Callable[[Hypervisor], None]]] = {
    "host": (Hypervisor.kill, Hypervisor.start),
    "NIC": (Hypervisor.link_down, Hypervisor.link_up),
    "vswitchd": (Hypervisor.kill_vswitchd, Hypervisor.start_vswitchd),
}
"""How a gateway dies, and how it comes back."""


@pytest.mark.parametrize("way", WAYS)
def test_gateway_dies_under_traffic(world: World, order: list[int], way: str) -> None:
    """SNAT resumes within a second; a floating IP elsewhere does not lose a packet, nor do connections break."""
    dies, comes_back = WAYS[way]
    first, second, last = order
    gateway = world.cloud.lab.hypervisors[first]
    vm = ready(world, world.cloud.vm(world.network, last))
    floating = world.floating_ip(owner := world.cloud.vm(world.network, last))["floating_ip_address"]
    assert until("floating IP", lambda: reaches(world.outside, floating))
    own = [address(world.gateway, six) for six in (False, True)]
    with (
        conversation(owner, world.outside, floating, 2201) as inward,
        conversation(world.outside, vm, WORLD, 2202) as outward,
    ):
        assert (inward.say("before"), outward.say("before")) == ("before", "before")
        sniffer = world.outside.sniff()
        snat, snat6 = vm.background_ping(WORLD), vm.background_ping(WORLD6)
        kept = world.outside.background_ping(floating)
        time.sleep(1)
        dies(gateway)
        for text in own:
            sniffer.wait(lambda frame, text=text: announces(frame, text))
        until("seen by the controller", lambda: world.active() == second)
        assert (inward.say("meanwhile"), outward.say("meanwhile")) == ("meanwhile", "meanwhile")
        time.sleep(1)
        sniffer.stop()
        assert kept.stop().lost == 0
        for lost in (snat.stop(), snat6.stop()):
            assert 0 < lost.lost <= SECOND, lost
            assert lost.sent - max(lost.lost_sequences) > SECOND / 2, "it goes on to the end"

        snat, kept = vm.background_ping(WORLD), world.outside.background_ping(floating)
        time.sleep(0.5)
        comes_back(gateway)
        until("seen by the controller", lambda: world.active() == first)
        until("by everybody", lambda: world.shown["gateway_watched"])
        assert (inward.say("after"), outward.say("after")) == ("after", "after")
        time.sleep(1)
        assert kept.stop().lost == 0
        lost = snat.stop()
        assert lost.lost <= SECOND, lost
        assert lost.sent - max(lost.lost_sequences, default=0) > SECOND / 2


def test_gateway_and_controller_die_together(world: World, order: list[int]) -> None:
    """The switches turn to the next gateway by themselves, and nobody announces it."""
    first, second, last = order
    vm = ready(world, world.cloud.vm(world.network, last))
    floating = world.floating_ip(world.cloud.vm(world.network, second))["floating_ip_address"]
    assert until("floating IP", lambda: reaches(world.outside, floating))
    own = address(world.gateway)
    snat, kept = vm.background_ping(WORLD), world.outside.background_ping(floating)
    time.sleep(1)
    world.cloud.controller.kill()
    world.cloud.lab.hypervisors[first].kill()
    try:
        time.sleep(3)
        assert kept.stop().lost == 0
        lost = snat.stop()
        assert 0 < lost.lost <= SECOND, lost
        assert lost.sent - max(lost.lost_sequences) > SECOND
        world.outside.exec(["ip", "neigh", "flush", "all"])
        assert reaches(world.outside, own)
    finally:
        world.cloud.controller.start()
        world.cloud.controller.wait_ready()
        world.cloud.lab.hypervisors[first].start()
    until("all is well", lambda: world.active() == first and world.shown["gateway_watched"])


def test_only_one_gateway_speaks_on_the_wire(world: World, order: list[int]) -> None:
    """Neither those that are ready to take over, nor one that has lost the underlay."""
    first, second, last = order
    own, mac = address(world.gateway), bytes.fromhex(world.gateway["mac_address"].replace(":", ""))
    ready(world, world.cloud.vm(world.network, last))
    with_first = world.cloud.vm(world.network, first)

    def speakers() -> set[int]:
        sniffers = {
            number: world.cloud.lab.provider.sniff(hypervisor.name, lambda frame: frame[6:12] == mac)
            for number, hypervisor in enumerate(world.cloud.lab.hypervisors)
        }
        with_first.ping(WORLD, count=2)
        world.outside.exec(["ip", "neigh", "flush", "all"])
        assert reaches(world.outside, own)
        return {number for number, sniffer in sniffers.items() if sniffer.stop()}

    time.sleep(2)  # earlier announcements
    assert speakers() == {first}
    world.cloud.lab.hypervisors[first].link_down()
    try:
        until("the next one", lambda: world.active() == second)
        assert until("it answers", lambda: reaches(world.outside, own))
        assert speakers() == {second}
    finally:
        world.cloud.lab.hypervisors[first].link_up()
    until("all is well", lambda: world.active() == first and world.shown["gateway_watched"])


def test_priorities_decide_who_is_the_gateway(world: World, order: list[int]) -> None:
    """Another order moves the traffic without losing much of it."""
    vm = ready(world, world.cloud.vm(world.network, order[1]))
    ids = world.hypervisor_ids()
    ping = vm.background_ping(WORLD)
    for best in (order[2], order[0], order[1]):
        wanted = [{"hypervisor_id": ids[number], "priority": 5 if number == best else 1} for number in order]
        world.cloud.api.patch(f"/v1/routers/{world.router['id']}", {"gateway_hypervisors": wanted})
        until("it is the gateway", lambda best=best: world.active() == best)
        time.sleep(0.5)
    world.cloud.api.patch(f"/v1/routers/{world.router['id']}", {"gateway_hypervisors": []})
    until("as before", lambda: world.order() == order)
    result = ping.stop()
    assert result.sent > SECOND and result.lost <= SECOND / 2, result
