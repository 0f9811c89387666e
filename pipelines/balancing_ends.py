"""What happens to connections of members that are gone: in ``lb_forward`` no flow leads to such a member.

The switch asks the controller, which has it forget the connection, and resets it or lets it begin anew with another member. So it
does not matter when the member went, what else was going on then, and whether anybody still knows it: a connection is ended by
the next packet of its client.
"""

from __future__ import annotations

from collections.abc import Iterator

from topology.balancing import BackendPool, Balancer

from . import fields as f
from . import tables as t
from .flow import Flow, match
from .minimise.ranges import cover
from .punting import Reason, punt
from .routers import FAMILIES

BEGINS, DROPPED, GONE = 30, 20, 10
"""Priorities in table ``lb_forward``, below those of members."""
_SYN, _ACK = 0x02, 0x10
_KNOWN = f.CT_STATE(f.CT_TRACKED | f.CT_DNAT, f.CT_TRACKED | f.CT_DNAT | f.CT_INVALID)


def base() -> Iterator[Flow]:
    """Whatever tells its ports: of fragments the first."""
    begins = f.TCP_FLAGS(_SYN, _SYN | _ACK)
    for family in FAMILIES:
        for protocol, more, priority, why in (
            (f.TCP, (begins,), BEGINS, Reason.ANOTHER_MEMBER),
            (f.TCP, (), GONE, Reason.MEMBER_GONE),
            (f.UDP, (), GONE, Reason.ANOTHER_MEMBER),
        ):
            its = match(f.ETH_TYPE(family.ethertype), f.IP_PROTO(protocol), f.IP_FRAG(0, 2), _KNOWN, *more)
            yield Flow(t.LB_FORWARD.number, priority, its, punt(why), goto=t.PUNT.number)


def dropped(of: BackendPool, balancer: Balancer) -> Iterator[Flow]:
    """A pool whose members leave TCP connections behind that are to time out at their clients."""
    if of.resets or of.protocol != f.TCP:
        return
    for service in balancer.services:
        for value, mask in cover(*service.ports) if service.pool_id == of.id else ():
            its = f.BALANCER(balancer.key), _KNOWN, f.CT_NW_PROTO(of.protocol), f.CT_TP_DST(value, mask)
            for family in FAMILIES:
                reason = "connection's member is gone"
                yield Flow(t.LB_FORWARD.number, DROPPED, match(*its, f.ETH_TYPE(family.ethertype)), reason=reason)
