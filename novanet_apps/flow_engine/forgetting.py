"""Has a switch forget connections, and notices where it will not."""

from __future__ import annotations

import logging

from pipelines.wire import Error, Reply, Tracked, ct_flush, ct_flush_zone

from .counters import Counters
from .session import Session

LOG = logging.getLogger(__name__)


class Forgetting:
    """What one connection to a switch asks its conntrack to forget. Nothing answers that, or an error does."""

    def __init__(self, session: Session, counters: Counters, hypervisor_id: str) -> None:
        self._session, self._counters, self._hypervisor_id = session, counters, hypervisor_id
        self._able = True
        self._xid = session.expect(self._refused)

    def forget(self, zone: int | None, match: Tracked | None) -> bool:
        """Forget a zone, or what matches in it, or in all of them; False when the switch cannot tell connections apart.

        Raises ValueError for neither a zone nor a match.
        """
        if match is not None:
            if not self._able:
                return False
            request = ct_flush(self._session.version, self._xid, zone, match)
        elif zone is not None:
            request = ct_flush_zone(self._session.version, 0, zone)
        else:
            raise ValueError("what to forget: a zone, a match, or both")
        self._counters.connections_flushed += 1
        self._session.send(request)
        return True

    def _refused(self, reply: Reply) -> None:
        self._counters.flushes_refused += 1
        if self._able and isinstance(reply, Error):
            self._able = False
            LOG.warning(
                "hypervisor %s: Open vSwitch cannot forget single connections (%s), as from 3.1 on it can. UDP clients stay with a "
                "load balancer's member that is gone until they have been silent for a minute",
                self._hypervisor_id, reply,
            )  # fmt: skip
