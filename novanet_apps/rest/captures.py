"""Downloads of what was captured."""

from __future__ import annotations

from typing import TYPE_CHECKING

from webob import Response

from topology.model import Capture

from . import queries
from .problems import Problem
from .views import Views, scope

if TYPE_CHECKING:
    from novanet_apps.core import Core

    from .api import Call

CONTENT_TYPE = "application/x-pcapng"


class CaptureFiles:
    """Gives the files of captures to those whose captures they are."""

    def __init__(self, core: Core, views: Views) -> None:
        self.core = core
        self.views = views

    def download(self, call: Call) -> Response:
        """GET /v1/captures/{id}/file."""
        queries.parameters(call.request, ())
        id = call.path["id"]
        capture: Capture | None = self.core.topology.get("capture", id)
        if capture is None or not self.views.visible(scope(call.token), "capture", capture):
            raise Problem(404, f"there is no capture with id {id!r}")
        if call.token.role == "reader":
            raise Problem(403, "a capture holds what VMs have said; the role reader does not allow to read that")
        if capture.state != "DONE":
            why = f": {capture.state_detail}" if capture.state_detail else ""
            raise Problem(409, f"the capture is {capture.state}{why}; it has a file when it is DONE")
        found = self.core.captures.read(id)
        if found is None:
            raise Problem(404, f"the file of capture {id} is not with this controller")
        size, pieces = found
        response = Response(content_type=CONTENT_TYPE, charset=None)
        response.headers["Content-Disposition"] = f'attachment; filename="{id}.pcapng"'
        response.app_iter = pieces
        response.content_length = size
        return response
