"""Errors as ``application/problem+json`` (RFC 9457): what is wrong, where, and what to do."""

from __future__ import annotations

from collections.abc import Mapping
from http import HTTPStatus
from types import MappingProxyType

import msgspec
from webob import Response

CONTENT_TYPE = "application/problem+json"
_NO_HEADERS: Mapping[str, str] = MappingProxyType({})


class Problem(Exception):
    """A request that is answered by an error. ``field`` is a path such as ``fixed_ips[0].subnet_id``, or empty."""

    def __init__(
        self,
        status: int,
        detail: str,
        *,
        field: str = "",
        headers: Mapping[str, str] = _NO_HEADERS,
        close: bool = False,
    ) -> None:
        super().__init__(status, detail)
        self.status, self.detail, self.field, self.headers = status, detail, field, headers


def document(problem: Problem, instance: str) -> dict[str, object]:
    """The members of RFC 9457, and ``field`` where one is to blame."""
    members: dict[str, object] = {
        "type": "about:blank",
        "title": title(problem.status),
        "status": problem.status,
        "detail": problem.detail,
        "instance": instance,
    }
    if problem.field:
        members["field"] = problem.field
    return members


def title(status: int) -> str:
    """The reason phrase of a status."""
    return HTTPStatus(status).phrase


def respond(problem: Problem, instance: str) -> Response:
    """The answer to a request that failed."""
    body = msgspec.json.encode(document(problem, instance))
    response = Response(body=body, status=problem.status, content_type=CONTENT_TYPE, charset=None)
    response.headers.update(problem.headers)
    return response
