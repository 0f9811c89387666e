"""The WSGI application: from a request to an answer, whatever it asks and however it fails."""

from __future__ import annotations

import logging
import re
import secrets
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, NamedTuple

from webob import Request, Response

from novanet_apps.tokens import Token, TokenFile
from topology.model import KINDS

from . import metrics, openapi, problems, queries
from .authentication import ANYBODY, Authentication
from .bodies import is_left
from .captures import CONTENT_TYPE as PCAPNG
from .captures import CaptureFiles
from .counters import Counters
from .dashboard import CONTENT_SECURITY_POLICY, PAGE
from .events import EventHub
from .load_balancers import LoadBalancers
from .problems import Problem
from .qos import Qos
from .resources import Resources, answer
from .security_groups import SecurityGroups
from .telemetry import TelemetryApi
from .traces import Traces
from .views import Views, scope

if TYPE_CHECKING:
    from novanet_apps.core import Core

    from .settings import Settings

LOG = logging.getLogger(__name__)
CLOSE = "novanet.close"
"""Key of the WSGI environment: a function that ends the connection after the answer; what is left of a body is not read."""
METHODS = frozenset(("GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS"))


@dataclass
class Call:
    """A request on its way: who makes it and what its path names."""

    request: Request
    id: str
    token: Token = ANYBODY
    path: dict[str, str] = field(default_factory=dict)


Handler = Callable[[Call], Response]


class Route(NamedTuple):
    """What a path answers to."""

    path: str
    handlers: dict[str, Handler]
    offers: str = "application/json"
    public: bool = False
    reads: bool = False
    """Whether nothing is changed, even by POST."""

    @property
    def allow(self) -> str:
        """Value of the header Allow."""
        head = ("HEAD",) if "GET" in self.handlers else ()
        return ", ".join((*self.handlers, *head, "OPTIONS"))


class Api:
    """Everything below ``/``."""

    def __init__(self, core: Core, settings: Settings, tokens: TokenFile) -> None:
        self.core = core
        self.counters = Counters()
        self.views = Views(core)
        self.authentication = Authentication(tokens, settings.auth, self.counters)
        self.events = EventHub(core, self.views, self.counters, self.authentication.still_valid)
        objects = Resources(core, self.views, settings.max_body)
        groups = SecurityGroups(core, self.views)
        balancers = LoadBalancers(core, self.views)
        qos = Qos(core, self.views)
        telemetry = TelemetryApi(core, self.views, self.authentication.still_valid)
        self.routes = (
            Route("/", {"GET": self._dashboard}, "text/html", public=True),
            Route("/healthz", {"GET": self._health}, public=True),
            Route("/metrics", {"GET": self._metrics}, "text/plain"),
            Route("/v1/openapi.json", {"GET": self._openapi}),
            Route("/v1/status", {"GET": self._status}),
            Route("/v1/topology", {"GET": self._topology}),
            Route("/v1/events", {"GET": self._events}, "text/event-stream"),
            Route("/v1/traces", {"POST": Traces(core, self.views, settings.max_body).make}, reads=True),
            Route("/v1/security-group-logs", {"GET": groups.log}),
            Route("/v1/security-groups/{id}/statistics", {"GET": groups.group_statistics}),
            Route("/v1/security-group-rules/{id}/statistics", {"GET": groups.rule_statistics}),
            Route("/v1/load-balancers/{id}/status", {"GET": balancers.status}),
            Route("/v1/load-balancers/{id}/statistics", {"GET": balancers.statistics}),
            Route("/v1/pools/{id}/statistics", {"GET": balancers.pool_statistics}),
            Route("/v1/hypervisors/{id}/bandwidth", {"GET": qos.bandwidth}),
            Route("/v1/ports/{id}/qos", {"GET": qos.of_port}),
            Route("/v1/ports/{id}/qos/verification", {"GET": qos.verify}),
            Route("/v1/floating-ips/{id}/qos", {"GET": qos.of_floating_ip}),
            Route("/v1/captures/{id}/file", {"GET": CaptureFiles(core, self.views).download}, PCAPNG),
            *(
                Route(f"/v1/telemetry/{name}", {"GET": getattr(telemetry, name)})
                for name in (
                    "top",
                    "conversations",
                    "series",
                    "matrix",
                    "flows",
                    "anomalies",
                    "caches",
                    "rules",
                    "status",
                )
            ),
            Route("/v1/telemetry/stream", {"GET": telemetry.stream}, "text/event-stream"),
            Route("/v1/{collection}", {"GET": objects.page, "POST": objects.create}),
            Route(
                "/v1/{collection}/{id}",
                {"GET": objects.show, "PUT": objects.replace, "PATCH": objects.patch, "DELETE": objects.delete},
            ),
        )
        self._patterns = [(_pattern(route.path), route) for route in self.routes]

    def __call__(self, environ: dict[str, Any], start_response: Callable[..., Any]) -> Iterable[bytes]:
        started = time.monotonic()
        call = Call(Request(environ), secrets.token_hex(6))
        path = environ.get("PATH_INFO", "")
        detail = ""
        try:
            response = self._answer(call)
        except Problem as problem:
            response, detail = self._failed(call, path, problem), str(problem.detail)
        except Exception:
            LOG.exception("incident %s: the request could not be answered", call.id)
            text = f"NovaNet failed to answer; its log tells why under incident {call.id}"
            response = self._failed(call, path, Problem(500, text))
        if is_left(call.request) and CLOSE in environ:
            environ[CLOSE]()
        response.headers["X-Request-Id"] = call.id
        response.headers["X-Content-Type-Options"] = "nosniff"
        response.headers.setdefault("Cache-Control", "no-store")
        self._account(call, path, response.status_int, detail, time.monotonic() - started)
        start_response(response.status, response.headerlist)  # not response(…), which makes Location absolute
        body: Iterable[bytes] = response.app_iter
        return () if call.request.method == "HEAD" else body

    def _answer(self, call: Call) -> Response:
        request = call.request
        if request.method not in METHODS:
            raise Problem(501, f"the method {request.method!r} is not known")
        try:
            path = request.path_info
        except UnicodeDecodeError:
            raise Problem(400, "the path is not UTF-8") from None
        route, call.path = self._match(path)
        if route is None or not route.public:
            call.token = self.authentication.check(request, route is not None and route.reads)
        if route is None:
            raise Problem(404, f"there is nothing at {path}; /v1/openapi.json lists what there is")
        if request.method == "OPTIONS":
            response = Response(status=204, headerlist=[("Allow", route.allow)])
            return response
        handler = route.handlers.get("GET" if request.method == "HEAD" else request.method)
        if handler is None:
            raise Problem(405, f"{path} does not answer to {request.method}", headers={"Allow": route.allow})
        if not request.accept.acceptable_offers([route.offers, problems.CONTENT_TYPE]):
            raise Problem(406, f"this answers with {route.offers}, which the header Accept does not name")
        return handler(call)

    def _match(self, path: str) -> tuple[Route | None, dict[str, str]]:
        for pattern, route in self._patterns:
            if found := pattern.match(path):
                return route, found.groupdict()
        return None, {}

    def _failed(self, call: Call, path: str, problem: Problem) -> Response:
        return problems.respond(problem, path.encode("latin-1", "replace").decode("utf-8", "replace"))

    def _account(self, call: Call, path: str, status: int, detail: str, seconds: float) -> None:
        method = call.request.method if call.request.method in METHODS else "other"
        self.counters.requests[method, status] += 1
        extra = {
            "method": call.request.method[:20],
            "path": path[:200],
            "status": status,
            "client": call.request.remote_addr,
            "caller": call.token.name if call.token is not ANYBODY else "",
            "request": call.id,
            "seconds": round(seconds, 4),
        }
        if detail:
            extra["detail"] = detail[:300]
        LOG.info("request answered" if status < 400 else "request refused", extra=extra)

    # --- what is not an object -----------------------------------------------------------------------------------

    def _dashboard(self, call: Call) -> Response:
        response = Response(body=PAGE, content_type="text/html", charset="utf-8")
        response.headers["Content-Security-Policy"] = CONTENT_SECURITY_POLICY
        response.headers["Referrer-Policy"] = "no-referrer"
        return response

    def _health(self, call: Call) -> Response:
        """Whether requests can be served: 200 or 503; for load balancers and supervisors."""
        ready = bool(self.core.store.ready)
        return answer({"ready": ready}, 200 if ready else 503)

    def _openapi(self, call: Call) -> Response:
        queries.parameters(call.request, ())
        return answer(openapi.document())

    def _status(self, call: Call) -> Response:
        queries.parameters(call.request, ())
        return answer(self.views.status(scope(call.token)))

    def _topology(self, call: Call) -> Response:
        kinds = _kinds(queries.parameters(call.request, ("kind",)).get("kind", []))
        return answer(self.views.graph(scope(call.token), kinds))

    def _metrics(self, call: Call) -> Response:
        if scope(call.token) is not None:
            raise Problem(403, "metrics tell about every project; this token is confined to one")
        body = metrics.respond(self.core, self.views, self.counters)
        response = Response(body=body)
        response.headers["Content-Type"] = metrics.CONTENT_TYPE
        return response

    def _events(self, call: Call) -> Response:
        kinds = frozenset(_kinds(queries.parameters(call.request, ("kind",)).get("kind", [])))
        last_id = call.request.headers.get("Last-Event-ID", "")
        response = Response(content_type="text/event-stream", charset="utf-8")
        if call.request.method != "HEAD":
            response.app_iter = self.events.join(call.token, kinds, last_id)
            call.request.environ["eventlet.minimum_write_chunk_size"] = 1
        return response


def _pattern(path: str) -> re.Pattern[str]:
    """A path with {names} as an expression that matches it."""
    return re.compile(re.sub(r"{(\w+)}", r"(?P<\1>[^/]+)", path.replace(".", "\\.")) + r"\Z")


def _kinds(asked: list[str]) -> list[str]:
    if unknown := set(asked) - set(KINDS):
        raise Problem(400, f"there is no kind {min(unknown)!r}; there are {', '.join(KINDS)}", field="kind")
    return [kind for kind in KINDS if not asked or kind in asked]
