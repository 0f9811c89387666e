"""Minimised rules on IP packets as OpenFlow flows."""

from __future__ import annotations

from collections.abc import Callable, Hashable, Iterator
from itertools import count

from pipelines import fields as f
from pipelines.flow import Action, Flow, conjunction, match

from .conjunctions import Factored
from .cubes import Pattern
from .packets import ICMP, SCTP, TCP, UDP
from .program import Minimised

Decide = Callable[[int, bytes, Hashable], Flow]
"""Makes the flow of this priority and match that gives its packets a verdict."""
_FAMILIES = {4: (f.IPV4, f.IPV4_SRC, f.IPV4_DST), 6: (f.IPV6, f.IPV6_SRC, f.IPV6_DST)}
_PORTS = {TCP: (f.TCP_SRC, f.TCP_DST), UDP: (f.UDP_SRC, f.UDP_DST), SCTP: (f.SCTP_SRC, f.SCTP_DST)}


def flows(
    family: int, minimised: Minimised, decide: Decide, *, table: int, priority: int, first_id: int = 1
) -> Iterator[Flow]:
    """The flows of rules on packets of a family (4 or 6) in a table.

    The layer that decides first has ``priority``, the others those below it; conjunctive matches are numbered from ``first_id``
    on, and ``priority`` and numbers are used by nothing else in the table. Raises ValueError where there are too many layers.
    """
    if priority >= 1 << 16 or len(minimised.layers) > priority:
        raise ValueError(f"{len(minimised.layers)} layers of rules do not fit below priority {priority}")
    ids = count(first_id)
    for below, layer in enumerate(minimised.layers):
        yield from _layer(family, layer, decide, table, priority - below, ids)


def _layer(
    family: int, layer: Factored, decide: Decide, table: int, priority: int, ids: Iterator[int]
) -> Iterator[Flow]:
    for pattern, verdict in layer.patterns.items():
        yield decide(priority, matched(family, pattern), verdict)
    clauses: dict[Pattern, list[Action]] = {}
    for each in layer.conjunctions:
        id = next(ids)
        yield decide(priority, match(f.ETH_TYPE(_FAMILIES[family][0]), f.CONJ_ID(id)), each.verdict)
        for number, clause in enumerate(each.clauses, 1):
            for pattern in clause:
                clauses.setdefault(pattern, []).append(conjunction(id, number, len(each.clauses)))
    for pattern, actions in clauses.items():
        # a flow of this very match, if there is one, gives all of its packets the same verdict
        if pattern not in layer.patterns:
            yield Flow(table, priority, matched(family, pattern), tuple(actions))


def matched(family: int, pattern: Pattern) -> bytes:
    """The match on a pattern of ``packets.SPACES``."""
    ethertype, *addresses = _FAMILIES[family]
    source, destination, (protocol, known), *ports, flags, kind, code = pattern
    tlvs = [
        f.ETH_TYPE(ethertype),
        *(field(*pair) for field, pair in zip(addresses, (source, destination), strict=True)),
    ]
    if known:
        tlvs.append(f.IP_PROTO(protocol))
        tlvs += [field(*pair) for field, pair in zip(_PORTS.get(protocol, ()), ports, strict=False)]
        if flags[1]:
            tlvs.append(f.TCP_FLAGS(*flags))
        types = (f.ICMPV4_TYPE, f.ICMPV4_CODE) if protocol == ICMP else (f.ICMPV6_TYPE, f.ICMPV6_CODE)
        tlvs += [field(*pair) for field, pair in zip(types, (kind, code), strict=True) if pair[1]]
    return match(*tlvs)
