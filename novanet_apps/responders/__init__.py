"""What the controller answers to VMs and routers' neighbours: one small class for each, started by the app L2L3.

A responder takes packets from ``core.punts``, looks the answer up, and sends it; the bytes are made by ``pipelines.packets``.
"""

from __future__ import annotations

from novanet_apps.core import Core

from .addressing import Addressing
from .errors import IcmpErrors
from .gateways import Gateways
from .lost_members import LostMembers
from .membership import Membership
from .names import Names
from .neighbours import Neighbours

RESPONDERS = (Addressing, Names, IcmpErrors, Neighbours, Gateways, Membership, LostMembers)


def start(core: Core) -> None:
    """Start every responder; it lives as long as the core."""
    for responder in RESPONDERS:
        responder(core).start()
