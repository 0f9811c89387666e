"""Allocation of numbers, MAC addresses and IP addresses.

Numbers are drawn at random: two controllers that allocate at once seldom meet, and a number just freed does not come
back while packets with it may be under way. IP addresses go up from where the last one was found: an allocation looks
at one address in the usual case, and at no more than there are in use in the worst; one just freed comes back last.

Nothing here decides who wins: the store's unique indexes do. A controller that lost asks again after ``scatter()``.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Container, Mapping
from functools import lru_cache
from ipaddress import IPv4Address, IPv6Address
from itertools import accumulate, chain
from random import Random

from ..model import AllocationPool, Subnet
from .addresses import reserved_in, stored_prefix
from .draft import View
from .write import Refused

VNI = (1, 2**24 - 1)
PORT_KEY = (1, 2**32 - 1)
HYPERVISOR_KEY = (1, 2**16 - 1)
ROUTER_KEY = (1, 2**14 - 1)
"""Below 2**14, since it is the router's conntrack zone as well; the others are for security groups."""
IDENTITY = (1, 2**32 - 1)
RULE_KEY = (1, 2**31 - 1)
BALANCER_KEY = MEMBER_KEY = (1, 2**32 - 1)
POOL_KEY = (1, 2**24 - 1)
MAC_PREFIX = "02:4e:56"
"""Of every MAC address that NovaNet makes: unicast, locally administered (IEEE 802, section 8.4), then "NV"."""

SERVICE_MAC = "02:4e:56:ff:ff:fe"
"""Under which NovaNet itself answers in every network."""

_GUESSES = 32


class Ranges:
    """Disjoint ranges of numbers, read as one sequence."""

    def __init__(self, pieces: list[tuple[int, int]]) -> None:
        self._starts = [start for start, _ in pieces]
        ends = list(accumulate(end - start + 1 for start, end in pieces))
        self._offsets = [0, *ends[:-1]]
        self.size = ends[-1] if ends else 0
        self._last = [end for _, end in pieces]

    def __contains__(self, number: int) -> bool:
        piece = bisect_right(self._starts, number) - 1
        return piece >= 0 and number <= self._last[piece]

    def __getitem__(self, offset: int) -> int:
        piece = bisect_right(self._offsets, offset) - 1
        return self._starts[piece] + offset - self._offsets[piece]


@lru_cache(maxsize=65536)
def ranges(cidr: str, pools: tuple[AllocationPool, ...], gateway: str | None) -> Ranges:
    """The addresses of a subnet that may be allocated, as numbers."""
    prefix = stored_prefix(cidr)
    parse = IPv4Address if prefix.version == 4 else IPv6Address
    pieces = [(int(parse(p.start)), int(parse(p.end))) for p in pools]
    pieces = sorted(pieces) or [(int(prefix.network_address), int(prefix.broadcast_address))]
    excluded = set(reserved_in(prefix))
    if gateway is not None and (":" in gateway) == (prefix.version == 6):
        excluded.add(int(parse(gateway)))
    for number in excluded:
        pieces = [part for piece in pieces for part in _without(piece, number)]
    return Ranges(pieces)


def _without(piece: tuple[int, int], number: int) -> list[tuple[int, int]]:
    start, end = piece
    if not start <= number <= end:
        return [piece]
    return [part for part in ((start, number - 1), (number + 1, end)) if part[0] <= part[1]]


class Allocator:
    """Finds what is free. It remembers only where to look next; what is taken stands in the view it is given."""

    def __init__(self, random: Random) -> None:
        self._random = random
        self._scattered = False
        self._next: dict[str, int] = {}

    def scatter(self) -> None:
        """Somebody else allocates in the same place: go on elsewhere, each subnet from a random address."""
        self._scattered = True
        self._next.clear()

    def number(self, taken: Mapping[int, str], bounds: tuple[int, int], field: str) -> int:
        """A number within ``bounds`` (both included) that is not taken. Raises Refused(409) when there is none."""
        low, high = bounds
        for _ in range(_GUESSES):
            guess = self._random.randint(low, high)
            if guess not in taken:
                return guess
        start = self._random.randint(low, high)
        for number in chain(range(start, high + 1), range(low, start)):
            if number not in taken:
                return number
        raise Refused(409, field, f"all numbers from {low} to {high} are taken")

    def mac(self, view: View, network_id: str, avoid: Container[int] = ()) -> str:
        """A MAC address that is free in the network, whose lower 24 bits are not in ``avoid``."""
        for _ in range(1 << 20):
            low = self._random.randrange(1 << 24)
            mac = f"{MAC_PREFIX}:{low >> 16:02x}:{low >> 8 & 255:02x}:{low & 255:02x}"
            if (network_id, mac) not in view.macs and mac != SERVICE_MAC and low not in avoid:
                return mac
        raise Refused(409, "mac_address", f"network {network_id} has no free address of the form {MAC_PREFIX}:*")

    def address(self, view: View, subnet: Subnet, avoid: Container[tuple[str, str]] = ()) -> str | None:
        """An address of the subnet's pools that is neither taken nor in ``avoid``; None when there is none."""
        found = ranges(subnet.cidr, subnet.allocation_pools, subnet.gateway_ip)
        if not found.size:
            return None
        text = IPv6Address if ":" in subnet.cidr else IPv4Address
        start = self._next.get(subnet.id, self._random.randrange(found.size) if self._scattered else 0) % found.size
        for step in range(found.size):
            offset = (start + step) % found.size
            address = str(text(found[offset]))
            if (subnet.id, address) not in view.addresses and (subnet.id, address) not in avoid:
                self._next[subnet.id] = offset + 1
                return address
        return None
