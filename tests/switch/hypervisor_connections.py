"""Scenarios of the hypervisors part that are about connections: passive ones, TLS, and what is no hypervisor."""

from __future__ import annotations

from tests.switch.hypervisor_world import CONTROLLER, World, ident  # first: it makes threads green

import eventlet  # isort: skip

import socket
from collections.abc import Callable
from pathlib import Path
from typing import Any

from tests.switch.daemons import Ovs, wait_for
from tests.switch.pki import Authority, Identity

Options = Callable[[Path], dict[str, Any]]
ANY_PORT = ("ptcp:0:127.0.0.1",)


def with_options(options: Options) -> Callable[[Any], Any]:
    """What a scenario's World is made with."""

    def mark(scenario: Any) -> Any:
        scenario.options = options
        return scenario

    return mark


def tls_files(directory: Path) -> dict[str, Any]:
    """NovaNet's certificate, by a CA whose files lie in the directory."""
    own = Authority(directory).issue("novanet")
    return {
        "tls_private_key": own.key,
        "tls_certificate": own.certificate,
        "tls_ca": str(directory / "ca.pem"),
        "listen": ("pssl:0:127.0.0.1",),
    }


def tls_arguments(identity: Identity, ca: str) -> list[str]:
    """For ovsdb-server."""
    return [f"--private-key={identity.key}", f"--certificate={identity.certificate}", f"--ca-cert={ca}"]


def connect_to(world: World, switch: Ovs, method: str = "tcp") -> None:
    """Have the hypervisor's server connect to NovaNet."""
    host, port = world.listener()
    switch.add_remote(f"{method}:{host}:{port}")


@with_options(lambda _: {"listen": ANY_PORT})
def three_hypervisors_connect(world: World) -> None:
    switches = [world.ovs(f"h{n}") for n in (1, 2, 3)]
    ids = [world.add(n) for n in (1, 2, 3)]
    for switch in switches:
        connect_to(world, switch)
    world.ready(*ids)
    for number, switch in enumerate(switches, 1):
        assert switch.get("bridge", "br-int", "other_config:datapath-id") == f"4e4e00000000000{number}"
        switch.plug("tap", ident(100 + number))
    wait_for(lambda: all(world.vif(ident(100 + n)) for n in (1, 2, 3)))
    assert [world.vif(ident(100 + n)).hypervisor_id for n in (1, 2, 3)] == ids
    world.settle(lambda: len(world.core.edits))
    with world.edits() as seen:
        switches[1].kill_server()
        wait_for(lambda: not world.state(ids[1])["connected"])
        assert world.vif(ident(102)), "observations stay"
        switches[1].start_server()
        connect_to(world, switches[1])
        wait_for(lambda: world.state(ids[1])["connected"])
        world.settle(lambda: len(world.core.edits))
    assert [edit for edit in seen if edit.kind == "vif"] == [], "nothing differs"
    assert world.state(ids[0])["connected"] and world.state(ids[2])["connected"]


@with_options(lambda _: {"listen": ANY_PORT})
def unknown_hypervisors_wait(world: World) -> None:
    switch = world.ovs("h1")
    connect_to(world, switch)
    wait_for(lambda: world.hypervisors.unknown.get("h1", {}).get("tries", 0) >= 2)
    assert world.hypervisors.unknown["h1"]["reason"] == "no hypervisor is named h1"
    assert len(world.log.having("system-id h1")) == 1, "one line however often it tries"
    assert switch.vsctl("list-br") == ""
    h1 = world.add(1)
    world.ready(h1)
    assert world.hypervisors.unknown == {}


@with_options(
    lambda directory: {
        "listen": (f"punix:{directory}/novanet.sock",),
        "controller_targets": ("unix:{rundir}/{bridge}.controller",),
    }
)
def unix_sockets_both_ways(world: World) -> None:
    passive, active = world.ovs("h1"), world.ovs("h2")
    h1, h2 = world.add(1), world.add(2, active)
    passive.add_remote(f"unix:{world.directory}/novanet.sock")
    wait_for(lambda: world.state(h1)["connected"])
    world.ready(h2)
    assert active.vsctl("get-controller", "br-int") == f"unix:{active.directory}/br-int.controller"
    assert any("{rundir}" in text for text in world.state(h1)["problems"]), "no such directory is known"
    assert passive.vsctl("get-controller", "br-int") == ""


@with_options(tls_files)
def tls_both_ways(world: World) -> None:
    ca = str(world.directory / "ca.pem")
    authority = Authority(world.directory, "other")
    ours = Identity(str(world.directory / "novanet.key"), str(world.directory / "novanet.pem"))
    passive = world.ovs("h1", *tls_arguments(ours, ca))
    active = world.ovs("h2", *tls_arguments(ours, ca))
    stranger = world.ovs("h3", *tls_arguments(authority.issue("stranger"), ca))
    port = free_port()
    active.add_remote(f"pssl:{port}:127.0.0.1")
    h1, h2, h3 = world.add(1), world.add(2, ovsdb=f"ssl:127.0.0.1:{port}"), world.add(3)
    connect_to(world, passive, "ssl")
    connect_to(world, stranger, "ssl")
    world.ready(h1, h2)
    wait_for(lambda: world.log.having("closed: "), "the stranger's certificate is refused")
    assert not world.state(h3)["connected"]

    other = free_port()
    stranger.add_remote(f"pssl:{other}:127.0.0.1")
    world.change("hypervisor", h3, ovsdb=f"ssl:127.0.0.1:{other}")
    wait_for(lambda: "TLS: " in world.state(h3)["error"], "a server with another CA's certificate is not trusted")
    assert not world.state(h3)["connected"]
    assert CONTROLLER not in stranger.vsctl("show")


def free_port() -> int:
    """A TCP port that nobody uses now."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


@with_options(lambda _: {"listen": ANY_PORT})
def garbage_is_harmless(world: World) -> None:
    where = world.listener()
    half_open = [socket.create_connection(where) for _ in range(20)]
    garbage = (
        b"GET / HTTP/1.1\r\n\r\n",
        b"\x00\xff" * 5000,
        b'{"method": "update", "params": []}' * 100,
        b'{"id": null}',
        b"[[[[[[[[" * 10000,
        b'{"a": "' + b"x" * (2 << 20),
        b'{"a":' * 100000,
        b'{"id":0,"error":null,"result":[{"rows":[{"external_ids":["map",[["system-id",5]]]}]}]}',
        b'{"id":0,"error":null,"result":{}}',
        b'\xc3\x28{"id":"\xc3\x28"}',
    )
    for text in garbage:
        with socket.create_connection(where) as connection:
            connection.settimeout(10)
            try:
                connection.sendall(text)
                connection.shutdown(socket.SHUT_WR)
                while connection.recv(4096):
                    pass
            except OSError:
                continue  # it was closed while we wrote
    assert len(world.log.having("closed: ")) >= 3
    switch = world.ovs("h1")
    h1 = world.add(1)
    connect_to(world, switch)
    world.ready(h1)
    eventlet.sleep(0)
    for connection in half_open:
        connection.close()


def garbage_from_a_server_is_harmless(world: World) -> None:
    listening = eventlet.listen(("127.0.0.1", 0))
    served = []

    def serve() -> None:
        while True:
            connection, _ = listening.accept()
            served.append(connection)
            connection.sendall(
                (b"garbage", b'{"id":0,"result":7,"error":null}', b'{"method":"update2","id":null,"params":[1]}')[
                    len(served) % 3
                ]
            )

    server = eventlet.spawn(serve)
    h2 = world.add(2, ovsdb=f"tcp:127.0.0.1:{listening.getsockname()[1]}")
    wait_for(lambda: len(served) >= 4, "it is tried again and again")
    assert not world.state(h2)["connected"] and world.state(h2)["error"]
    switch = world.ovs("h1")
    h1 = world.add(1, switch)
    world.ready(h1)
    server.kill()


SCENARIOS = (
    three_hypervisors_connect, unknown_hypervisors_wait, unix_sockets_both_ways, tls_both_ways, garbage_is_harmless,
    garbage_from_a_server_is_harmless,
)  # fmt: skip
