"""An OpenFlow switch in plain Python: does this packet come out of that port, and why?

It runs flows and groups as they are encoded, so what it says holds for what a switch was sent; tests hold it against
Open vSwitch's own ``ofproto/trace``. No timeouts, and no rates: meters let everything through.
"""

from .connections import Connections
from .machine import Interpreter, Outcome, Sent, Stop, Visit
from .packets import HEADERS, QUEUE, SIZE, NotInterpreted, Packet
from .tables import Ambiguous, Hit, Tables

__all__ = [
    "HEADERS",
    "QUEUE",
    "SIZE",
    "Ambiguous",
    "Connections",
    "Hit",
    "Interpreter",
    "NotInterpreted",
    "Outcome",
    "Packet",
    "Sent",
    "Stop",
    "Tables",
    "Visit",
]
