"""Who calls: bearer tokens (RFC 6750), and what a token's role lets it do."""

from __future__ import annotations

import logging
from typing import Literal

from webob import Request

from novanet_apps.compat.logs import Throttle
from novanet_apps.tokens import Token, TokenError, TokenFile

from .counters import Counters
from .problems import Problem

LOG = logging.getLogger(__name__)
READING = ("GET", "HEAD", "OPTIONS")
ANYBODY = Token(name="anybody", role="admin")
"""Who calls when authentication is off."""
_LOCAL_NAMES = ("localhost", "127.0.0.1", "[::1]")


class Authentication:
    """Finds the token of a request and checks what it may."""

    def __init__(self, tokens: TokenFile, mode: Literal["bearer", "none"], counters: Counters) -> None:
        self._tokens = tokens
        self._mode = mode
        self._counters = counters
        self._failures = Throttle(LOG)
        self._unreadable = Throttle(LOG, burst=1)

    def refresh(self) -> None:
        """Read the tokens again if they changed; what cannot be read leaves those that were there."""
        try:
            if self._tokens.refresh():
                LOG.info("tokens were read from %s", self._tokens.path)
        except TokenError as problem:
            self._unreadable.warning("tokens stay as they were: %s", problem)

    def still_valid(self, token: Token) -> bool:
        """Whether a long call may go on."""
        self.refresh()
        return token is ANYBODY or self._tokens.holds(token)

    def check(self, request: Request, reads: bool = False) -> Token:
        """Who makes the request, which ``reads``, whatever its method. Raises Problem: 401 without a valid token, 403 when
        its role does not allow it."""
        token = self._caller(request)
        if token.role == "reader" and not reads and request.method not in READING:
            raise Problem(403, f"the role reader does not allow {request.method}; use a token that may write")
        return token

    def _caller(self, request: Request) -> Token:
        if self._mode == "none":
            _check_host(request)
            return ANYBODY
        scheme, _, secret = request.headers.get("Authorization", "").partition(" ")
        if not scheme:
            raise self._failed(request, "a token is needed: Authorization: Bearer TOKEN", 'Bearer realm="novanet"')
        if scheme.lower() != "bearer":
            raise self._failed(request, "only the scheme Bearer is known", 'Bearer realm="novanet"')
        self.refresh()
        token = self._tokens.find(secret.strip())
        if token is None:
            challenge = 'Bearer realm="novanet", error="invalid_token"'
            raise self._failed(request, "this token is not known; it may have been deleted", challenge)
        return token

    def _failed(self, request: Request, detail: str, challenge: str) -> Problem:
        self._counters.authentication_failures += 1
        self._failures.warning("authentication of a request from %s failed: %s", request.remote_addr, detail)
        return Problem(401, detail, headers={"WWW-Authenticate": challenge})


def _check_host(request: Request) -> None:
    """Without authentication, a web page must not reach us by a name that it made resolve to loopback."""
    host = request.headers.get("Host", "localhost")
    name = host if host.endswith("]") else host.rpartition(":")[0] or host
    if name.lower() not in _LOCAL_NAMES:
        raise Problem(403, f"without authentication this is {', '.join(_LOCAL_NAMES)} only, not {host!r}")


__all__ = ["ANYBODY", "Authentication"]
