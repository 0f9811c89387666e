"""Limits and DSCP with real packets: rates as they arrive, in both directions, on one hypervisor and between two."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import count
from typing import Any

import pytest

from tools.lab import VM, frames
from tools.lab.rates import Stream, rates

from .cloud import Cloud, until

NAMES = count(1)
CASES = [(protocol, size) for protocol in ("udp", "tcp") for size in (64, 512, 1400)]
SECONDS = 4.0
OFF = 0.05
"""How far a rate may be from its limit."""
TRIES = 3
"""All together, then those that are off once more by themselves. A machine that is busy with something else may keep traffic from its rate; no machine lets through what a meter ends."""


@pytest.fixture(scope="module")
def cloud() -> Iterator[Cloud]:
    with Cloud(2) as cloud:
        yield cloud


@pytest.fixture(scope="module")
def network(cloud: Cloud) -> dict[str, Any]:
    return cloud.network("10.0.0.0/24", "fd00::/64")


def policy(cloud: Cloud, *rules: dict[str, Any]) -> str:
    """Id of a policy with these rules."""
    made = cloud.api.post("/v1/qos-policies", {"name": f"q{next(NAMES)}"})["id"]
    for rule in rules:
        cloud.api.post("/v1/qos-rules", {"qos_policy_id": made, **rule})
    return made


def limit(kbps: int, direction: str = "egress", **fields: Any) -> dict[str, Any]:
    return {"type": "bandwidth_limit", "direction": direction, "max_kbps": kbps, **fields}


def pair(cloud: Cloud, network: dict[str, Any], there: int, sender: str | None, receiver: str | None) -> tuple[VM, VM]:
    """A VM on the first hypervisor, and one on another, with these policies; nothing keeps packets from each other."""
    groups = [cloud.open_group()]
    return (
        cloud.vm(network, 0, security_groups=groups, qos_policy_id=sender),
        cloud.vm(network, there, security_groups=groups, qos_policy_id=receiver),
    )


def hold(streams: list[Stream], kbps: int, least: float = 1 - OFF) -> None:
    """Every stream, all at once, gets the rate, or ``least`` of it, and no more."""
    seen: dict[Any, int] = {}

    def off(some: list[Stream]) -> list[Stream]:
        found = dict(zip(some, rates(some, SECONDS), strict=True))
        seen.update({stream[2:4]: round(rate) for stream, rate in found.items()})
        return [stream for stream, rate in found.items() if not least * kbps <= rate <= (1 + OFF) * kbps]

    waiting = off(streams)
    for _ in range(TRIES - 1):
        waiting = [stream for stream in waiting if off([stream])]
    assert not waiting, f"{kbps} kbit/s wanted: {seen}"


@pytest.mark.parametrize("direction", ["egress", "ingress"])
@pytest.mark.parametrize(("kbps", "there"), [(1000, 1), (10_000, 0)], ids=["other-hypervisor", "same-hypervisor"])
def test_rates_of_tcp_and_udp_in_packets_of_all_sizes(
    cloud: Cloud, network: dict[str, Any], kbps: int, direction: str, there: int
) -> None:
    """Six pairs of VMs at once, each with a limit of its own: one meter for each, not one for the policy."""
    limited = policy(cloud, limit(kbps, direction))
    sides = (limited, None) if direction == "egress" else (None, limited)
    streams = [Stream(*pair(cloud, network, there, *sides), *case, offered=kbps * 3 // 2) for case in CASES]
    hold(streams, kbps)
    for stream in streams:
        for vm in (stream.sender, stream.receiver):
            next(each for each in cloud.lab.hypervisors if vm.port["id"] in each.vms).unplug(vm.port["id"])
            cloud.api.delete(f"/v1/ports/{vm.port['id']}")


@pytest.mark.parametrize("direction", ["egress", "ingress"])
@pytest.mark.parametrize("protocol", ["udp", "tcp"])
def test_a_hundred_megabits(cloud: Cloud, network: dict[str, Any], protocol: str, direction: str) -> None:
    """No more than that; that it is reached, `make bench NAME=qos_accuracy` shows on a machine that does nothing else."""
    limited = policy(cloud, limit(100_000, direction))
    sides = (limited, None) if direction == "egress" else (None, limited)
    hold([Stream(*pair(cloud, network, 0, *sides), protocol, 1400, offered=150_000)], 100_000, least=0.3)


def test_what_is_said_later_holds_and_a_limit_that_goes_is_gone(cloud: Cloud, network: dict[str, Any]) -> None:
    """The network's policy holds for ports without one; a port's own comes first."""
    slow, fast = policy(cloud, limit(2000)), policy(cloud, limit(6000))
    cloud.api.patch(f"/v1/networks/{network['id']}", {"qos_policy_id": slow})
    sender, receiver = pair(cloud, network, 0, None, None)
    stream = Stream(sender, receiver, "udp", 1000, offered=20_000)
    hold([stream], 2000)
    cloud.api.patch(f"/v1/ports/{sender.port['id']}", {"qos_policy_id": fast})
    cloud.wait_active("ports", sender.port["id"])
    hold([stream], 6000)
    [rule] = [each for each in cloud.api.get("/v1/qos-rules")["items"] if each["qos_policy_id"] == fast]
    cloud.api.patch(f"/v1/qos-rules/{rule['id']}", {"max_kbps": 4000})
    cloud.wait_active("ports", sender.port["id"])
    hold([stream], 4000)
    cloud.api.patch(f"/v1/ports/{sender.port['id']}", {"qos_policy_id": None})
    cloud.api.patch(f"/v1/networks/{network['id']}", {"qos_policy_id": None})
    cloud.wait_active("ports", sender.port["id"])
    assert rates([stream], 2)[0] > 15_000


def test_packets_are_limited_beside_bits(cloud: Cloud, network: dict[str, Any]) -> None:
    limited = policy(cloud, limit(8000), {"type": "packet_rate_limit", "max_pps": 500})
    sender, receiver = pair(cloud, network, 0, limited, None)
    hold([Stream(sender, receiver, "udp", 500, offered=6000)], 500 * 500 * 8 // 1000)
    hold([Stream(sender, receiver, "udp", 1400, offered=16_000)], 500 * 1400 * 8 // 1000)
    sender, receiver = pair(cloud, network, 0, policy(cloud, limit(2000, "ingress")), limited)
    hold([Stream(receiver, sender, "udp", 1400, offered=16_000)], 2000)


def test_a_broadcast_gets_to_those_who_are_not_limited(cloud: Cloud, network: dict[str, Any]) -> None:
    """A meter ends one receiver's copy, not those of others."""
    choked = policy(cloud, {"type": "packet_rate_limit", "direction": "ingress", "max_pps": 1, "max_burst_packets": 1})
    sender, first = pair(cloud, network, 0, None, choked)
    _, second = pair(cloud, network, 0, choked, None)
    _, third = pair(cloud, network, 1, None, None)
    with first.sniff(_ours) as few, second.sniff(_ours) as all_here, third.sniff(_ours) as all_there:
        sender.exec(["ping", "-b", "-c", "40", "-i", "0.02", "-W", "1", "10.0.0.255"], check=False)
        until("all copies", lambda: len(all_here.frames) == 40 and len(all_there.frames) == 40)
        assert 1 <= len(few.frames) <= 10


def _ours(frame: bytes) -> bool:
    return frame[:6] == b"\xff" * 6 and frame[12:14] == b"\x08\0" and frame[23] == 1


# --- DSCP --------------------------------------------------------------------------------------------------------

EXPEDITED = 46


def marks(sender: VM, receiver: VM, dscp: int, six: bool) -> set[int]:
    """The DSCPs with which a VM's pings of this DSCP arrive."""

    def ours(frame: bytes) -> bool:
        return frame[12:14] == (b"\x86\xdd" if six else b"\x08\0") and frame[20 if six else 23] in (1, 58) and (
            frame[54] == 128 if six else frame[34] == 8
        )  # fmt: skip

    with receiver.sniff(ours) as seen:
        to = receiver.ip6 if six else receiver.ip
        sender.exec(["ping", "-c", "3", "-i", "0.05", "-Q", str(dscp << 2), to])
        until("pings", lambda: len(seen.frames) >= 3)
        return {(int.from_bytes(frame[14:16], "big") >> 6 & 63) if six else frame[15] >> 2 for frame in seen.frames}


@pytest.mark.parametrize("six", [False, True], ids=["IPv4", "IPv6"])
@pytest.mark.parametrize("there", [0, 1], ids=["same-hypervisor", "other-hypervisor"])
def test_marks_are_cleared_kept_and_set(cloud: Cloud, network: dict[str, Any], there: int, six: bool) -> None:
    sender, receiver = pair(cloud, network, there, None, None)
    assert marks(sender, receiver, EXPEDITED, six) == {0}, "nobody trusts it"
    cloud.api.patch(f"/v1/ports/{sender.port['id']}", {"trust_dscp": True})
    cloud.wait_active("ports", sender.port["id"])
    assert marks(sender, receiver, EXPEDITED, six) == {EXPEDITED}
    marking = policy(cloud, {"type": "dscp_marking", "dscp_mark": 26})
    cloud.api.patch(f"/v1/ports/{sender.port['id']}", {"qos_policy_id": marking})
    cloud.wait_active("ports", sender.port["id"])
    assert marks(sender, receiver, EXPEDITED, six) == {26}
    assert marks(sender, receiver, 0, six) == {26}


@pytest.mark.parametrize("six", [False, True], ids=["IPv4", "IPv6"])
def test_the_tunnel_has_the_mark_too(cloud: Cloud, network: dict[str, Any], six: bool) -> None:
    sender, receiver = pair(cloud, network, 1, policy(cloud, {"type": "dscp_marking", "dscp_mark": 34}), None)

    def outer(frame: bytes) -> bool:
        return frame[12:14] == b"\x08\0" and frame[23] == 17 and frame[36:38] == (6081).to_bytes(2, "big")

    with frames.Sniffer(cloud.lab.hypervisors[1].namespace, "eth0", outer) as seen:
        marks(sender, receiver, 0, six)
        until("tunnelled", lambda: [frame for frame in seen.frames if frame[15] >> 2 == 34])


# --- what may happen to meters -----------------------------------------------------------------------------------


def meters(cloud: Cloud, hypervisor: int = 0) -> dict[str, str]:
    """The meters of limits that a switch has, by number: those from 2^24 on."""
    lines = cloud.lab.hypervisors[hypervisor].ofctl("dump-meters", "br-int").splitlines()
    found: dict[str, str] = {}
    number = ""
    for line in lines:
        if "meter=" in line:
            number = line.split("meter=")[1].split()[0]
        elif "rate=" in line and number.isdigit() and int(number) >= 1 << 24:
            found[number] = line.strip()
    return found


def test_numbers_are_used_again_and_everything_is_restored(cloud: Cloud, network: dict[str, Any]) -> None:
    before = meters(cloud)
    one, two = policy(cloud, limit(1111)), policy(cloud, limit(2222))
    sender, receiver = pair(cloud, network, 0, one, None)
    hypervisor = cloud.lab.hypervisors[0]
    [mine] = set(meters(cloud)) - set(before)
    assert "rate=1111" in meters(cloud)[mine]
    hypervisor.unplug(sender.port["id"])
    until("the meter goes with its port", lambda: mine not in meters(cloud))
    again = cloud.vm(network, 0, security_groups=[cloud.open_group()], qos_policy_id=two)
    assert [line for line in meters(cloud).values() if "rate=2222" in line]
    wanted = meters(cloud)
    hypervisor.stop_vswitchd()
    hypervisor.start_vswitchd()
    until("restored", lambda: meters(cloud) == wanted)
    cloud.wait_active("ports", again.port["id"])
    hold([Stream(again, receiver, "udp", 1000, offered=9000)], 2222)
