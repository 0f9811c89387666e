"""Other DNS servers, asked for names that are no VM's; those that ``dns_forwarders`` names, which is nobody by default."""

from __future__ import annotations

import logging
import random
import re
from collections import Counter
from collections.abc import Callable, Iterable
from ipaddress import ip_address
from typing import NamedTuple

import eventlet
from eventlet.green import socket
from eventlet.timeout import Timeout

from novanet_apps.compat.errors import ConfigurationError
from pipelines.packets import dns

LOG = logging.getLogger(__name__)

PATIENCE = 2.0
"""Seconds that each server has for its answer."""
AT_ONCE, AT_ONCE_FOR_ONE = 1024, 32
"""Questions that may be with servers at a time: in all, and of one asker, so that none keeps the others from asking."""
LONGEST = 4096
"""Bytes of an answer that are read; none should be longer than ``dns.LARGEST``."""

_SERVER = re.compile(r"(?:\[(?P<bracketed>[^\]]*)\]|(?P<v4>[^:]*))(?::(?P<port>\d{1,5}))?|(?P<v6>[^\[\]]*)")
_RANDOM = random.SystemRandom()


class Server(NamedTuple):
    """Where a DNS server is."""

    address: str
    port: int = 53


def parse_server(text: str) -> Server:
    """``IP``, ``IP:PORT`` or ``[IPv6]:PORT``. Raises ConfigurationError."""
    found = _SERVER.fullmatch(text)
    try:
        if found is None:
            raise ValueError
        address = ip_address(next(filter(None, found.group("bracketed", "v4", "v6")), ""))
        port = int(found["port"] or 53)
        if not 0 < port < 65536 or address.is_unspecified or address.is_multicast:
            raise ValueError
        if (address.version == 6) == (found["v4"] is not None):
            raise ValueError
    except ValueError:
        raise ConfigurationError(
            f"dns_forwarders: {text!r} is no DNS server; write IP, IP:PORT or [IPv6]:PORT (192.0.2.53, [2001:db8::53]:5353)"
        ) from None
    return Server(str(address), port)


class Forwarders:
    """Asks the servers in turn, for as many askers at a time as the limits allow."""

    def __init__(self, servers: Iterable[str]) -> None:
        """Raises ConfigurationError."""
        self.servers = [parse_server(text) for text in servers]
        self._pending: Counter[int] = Counter()
        self._pool = eventlet.GreenPool(AT_ONCE)

    def ask(self, asker: int, query: dns.Query, tell: Callable[[bytes | None], None]) -> bool:
        """Have ``tell`` called with the answer, under the query's id, or None when no server gave one.

        False when too much is being asked already; then nothing happens.
        """
        if self._pending[asker] >= AT_ONCE_FOR_ONE or self._pool.free() <= 0:
            return False
        self._pending[asker] += 1
        self._pool.spawn_n(self._ask, asker, query, tell)
        return True

    def _ask(self, asker: int, query: dns.Query, tell: Callable[[bytes | None], None]) -> None:
        try:
            found = next(filter(None, (self._answer_of(server, query) for server in self.servers)), None)
        finally:
            self._pending[asker] -= 1
            if not self._pending[asker]:
                del self._pending[asker]
        tell(None if found is None else dns.with_id(found, query.id))

    def _answer_of(self, server: Server, query: dns.Query) -> bytes | None:
        """A server's answer, asked for from a port and with an id that nobody can guess (RFC 5452)."""
        family = socket.AF_INET6 if ":" in server.address else socket.AF_INET
        id_ = _RANDOM.randrange(1 << 16)
        try:
            with socket.socket(family, socket.SOCK_DGRAM) as asking, Timeout(PATIENCE, False):
                asking.connect(server)
                asking.send(dns.pass_on(query, id_))
                while True:
                    answer: bytes = asking.recv(LONGEST)
                    if dns.responds(answer, query, id_):
                        return answer
        except OSError as problem:
            LOG.warning("DNS server %s, port %d: %s", *server, problem)
        return None
