"""How the command fails: a message that says what, where and what to do, and an exit code that scripts can use."""

from __future__ import annotations

OK = 0
FAILED = 1
USAGE = 2
NOT_FOUND = 3
CONFLICT = 4
UNAUTHORIZED = 5
UNREACHABLE = 6
NOT_REALISED = 7
DROPPED = 8

EXIT_CODES = {
    OK: "done; for `novanet status`: all is well",
    FAILED: "failed, for a reason that the message tells; for `novanet status`: something is degraded, or there are warnings",
    USAGE: "the command line, or a value in it, cannot be",
    NOT_FOUND: "there is no such object",
    CONFLICT: "it contradicts another object: a name or address that is taken, an object in use, a name that several have",
    UNAUTHORIZED: "there is no valid token, or its role does not allow it",
    UNREACHABLE: "the controller does not answer",
    NOT_REALISED: "done, but with --wait: the switches did not have it in time, or not all of them; for `novanet qos verify`: not all that"
    " the policy says is so",
    DROPPED: "`novanet trace`: the packet, or its answer, reaches nobody, or cannot before something else happens",
}


class CliError(Exception):
    """Ends the command."""

    def __init__(self, code: int, message: str, status: int | None = None) -> None:
        super().__init__(message)
        self.code = code
        self.status = status
        """The HTTP status, when it was the controller that refused."""


def code_for(status: int) -> int:
    """The exit code for an HTTP status."""
    return {400: USAGE, 401: UNAUTHORIZED, 403: UNAUTHORIZED, 404: NOT_FOUND, 409: CONFLICT, 412: CONFLICT}.get(
        status, FAILED
    )
