"""Clients that stay with their member: the switch remembers, by itself, whom it has sent a client to.

The first connection of a client is hashed by its address alone, so hypervisors agree without telling each other; then a flow is
learned that pins the client while the pool's slots change. It goes when no connection has begun for the pool's timeout, and with
the flow by which its member gets new connections: a member that is down, drains or is gone lets its clients go.
"""

from __future__ import annotations

from topology.balancing import Backend

from . import fields as f
from . import tables as t
from .cookies import learned_cookie
from .flow import Action, Learned, learn, resubmit
from .routers import Family

PINNED = 100
"""Priority in table ``lb_affinity``."""
MOST = 1 << 12
"""Clients of a member that one switch remembers; those beyond are hashed each time. Senders of forged addresses find an end.

Not more, since Open vSwitch goes through all that have the cookie whenever it learns (docs/decisions/0017-load-balancing.md).
"""

ASK: Action = resubmit(t.LB_AFFINITY.number)
"""Whether a new connection's client is known: then MEMBER is set, and PINNED."""


def remember(backend: Backend, family: Family, seconds: int) -> Action:
    """Have the client of a new connection of a member pinned to it until ``seconds`` have gone by without another one."""
    source = f.IPV6_SRC if family.version == 6 else f.IPV4_SRC
    parts = (
        Learned(f.ETH_TYPE, family.ethertype),
        Learned(f.POOL, f.POOL),
        Learned(source, source),
        Learned(f.MEMBER, backend.key, loads=True),
        Learned(f.PINNED, 1, loads=True),
    )
    return learn(
        t.LB_AFFINITY.number, parts, priority=PINNED, cookie=learned_cookie(backend.key), idle_timeout=seconds, limit=MOST,
        ends_with_flow=True,
    )  # fmt: skip
