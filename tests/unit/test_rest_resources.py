"""Objects over REST: what can be asked of them, through the real server."""

from __future__ import annotations

from collections.abc import Iterator
from uuid import uuid4

import pytest

from .rest_server import RestServer, problem


@pytest.fixture(scope="module")
def rest(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RestServer]:
    server = RestServer(tmp_path_factory.mktemp("rest") / "state")
    yield server
    server.stop()


def unique(prefix: str = "n") -> str:
    return f"{prefix}-{uuid4().hex[:8]}"


# --- creating and reading --------------------------------------------------------------------------------------------


def test_what_was_made_can_be_read(rest: RestServer) -> None:
    name = unique()
    answer = rest("POST", "/v1/networks", {"name": name})
    made = answer.json()
    assert answer.status_code == 201
    assert answer.headers["Location"] == f"/v1/networks/{made['id']}"
    assert answer.headers["ETag"] == f'"{made["revision_number"]}"'
    assert made["name"] == name and made["vni"] > 0
    assert rest("GET", answer.headers["Location"]).json() == made


def test_shown_objects_have_what_is_derived(rest: RestServer) -> None:
    network = rest.make("/v1/networks", description="status=DEGRADED")
    assert network["mtu"] == 1434, "the largest that Geneve over IPv4 carries in 1500 bytes"
    assert network["status"] == "DEGRADED" and network["status_reason"] == ["it is DEGRADED"]
    for cidr, version in (("10.0.0.0/24", 4), ("fd00::/64", 6)):
        assert rest.make("/v1/subnets", network_id=network["id"], cidr=cidr)["ip_version"] == version


def test_the_client_may_choose_the_id(rest: RestServer) -> None:
    id = str(uuid4())
    assert rest.make("/v1/networks", id=id)["id"] == id
    problem(rest("POST", "/v1/networks", {"id": id}), 409, "id")


def test_an_array_makes_all(rest: RestServer) -> None:
    names = [unique() for _ in range(3)]
    answer = rest("POST", "/v1/networks", [{"name": name} for name in names])
    assert answer.status_code == 201 and [made["name"] for made in answer.json()] == names


def test_an_array_makes_none_when_one_is_wrong(rest: RestServer) -> None:
    good = unique()
    answer = rest("POST", "/v1/networks", [{"name": good}, {"name": unique(), "mtu": 1}])
    problem(answer, 400, "[1].mtu")
    assert rest("GET", f"/v1/networks?name={good}").json()["items"] == []


def test_arrays_are_bounded(rest: RestServer) -> None:
    assert "1000" in problem(rest("POST", "/v1/networks", [{}] * 1001), 400)
    assert "1000" in problem(rest("POST", "/v1/networks", []), 400)
    problem(rest("POST", "/v1/networks", [{}, 7]), 400, "[1]")


def test_a_port_gets_its_addresses(rest: RestServer) -> None:
    network = rest.make("/v1/networks")
    subnet = rest.make("/v1/subnets", network_id=network["id"], cidr="10.7.0.0/24")
    port = rest.make("/v1/ports", network_id=network["id"])
    assert port["fixed_ips"] == [{"subnet_id": subnet["id"], "ip_address": "10.7.0.2"}]
    assert port["mac_address"] and port["port_key"]


def test_what_is_in_use_stays(rest: RestServer) -> None:
    network = rest.make("/v1/networks")
    subnet = rest.make("/v1/subnets", network_id=network["id"], cidr="10.7.0.0/24")
    assert subnet["id"] in problem(rest("DELETE", f"/v1/networks/{network['id']}"), 409)
    assert rest("DELETE", f"/v1/subnets/{subnet['id']}").status_code == 204
    gone = rest("DELETE", f"/v1/networks/{network['id']}")
    assert gone.status_code == 204 and gone.content == b""
    problem(rest("GET", f"/v1/networks/{network['id']}"), 404)
    problem(rest("DELETE", f"/v1/networks/{network['id']}"), 404)


# --- changing --------------------------------------------------------------------------------------------------------


def test_put_is_idempotent(rest: RestServer) -> None:
    path, body = f"/v1/networks/{uuid4()}", {"name": unique()}
    first, second = rest("PUT", path, body), rest("PUT", path, body)
    assert (first.status_code, second.status_code) == (201, 200)
    assert first.json() == second.json(), "not even the revision has changed"


def test_put_replaces(rest: RestServer) -> None:
    made = rest.make("/v1/networks", name=unique(), description="old", mtu=1400)
    put = rest("PUT", f"/v1/networks/{made['id']}", {"name": made["name"]}).json()
    assert put["description"] == "" and put["mtu"] == 1434
    assert put["vni"] == made["vni"], "what was allocated stays"


def test_put_is_about_the_object_in_the_path(rest: RestServer) -> None:
    problem(rest("PUT", f"/v1/networks/{uuid4()}", {"id": str(uuid4())}), 400, "id")
    problem(rest("PUT", "/v1/networks/not-a-uuid", {}), 400, "id")


def test_patch_merges(rest: RestServer) -> None:
    made = rest.make("/v1/networks", name=unique(), description="old", mtu=1400)
    merge = {"Content-Type": "application/merge-patch+json"}
    patched = rest("PATCH", f"/v1/networks/{made['id']}", {"description": "new", "mtu": None}, headers=merge)
    assert patched.status_code == 200
    assert patched.json() == made | {"description": "new", "mtu": 1434, "revision_number": 2}
    assert patched.headers["ETag"] == '"2"'
    problem(rest("PATCH", f"/v1/networks/{made['id']}", ["description"]), 400)
    problem(rest("PATCH", f"/v1/networks/{uuid4()}", {}), 404)


def test_if_match_guards_against_lost_updates(rest: RestServer) -> None:
    made = rest("POST", "/v1/networks", {})
    path, old = made.headers["Location"], {"If-Match": made.headers["ETag"]}
    assert rest("PATCH", path, {"description": "mine"}, headers=old).status_code == 200
    for method, body in (("PATCH", {"description": "late"}), ("PUT", {}), ("DELETE", None)):
        assert '"2"' in problem(rest(method, path, body, headers=old), 412)
    assert rest("GET", path).json()["description"] == "mine"
    assert rest("PATCH", path, {"description": "x"}, headers={"If-Match": '"7", "2"'}).status_code == 200
    assert rest("DELETE", path, headers={"If-Match": "*"}).status_code == 204


def test_put_can_be_made_to_create_or_to_replace_only(rest: RestServer) -> None:
    path = f"/v1/networks/{uuid4()}"
    problem(rest("PUT", path, {}, headers={"If-Match": "*"}), 412)
    assert rest("PUT", path, {}, headers={"If-None-Match": "*"}).status_code == 201
    problem(rest("PUT", path, {"description": "x"}, headers={"If-None-Match": "*"}), 412)


def test_wait_until_it_is_realised(rest: RestServer) -> None:
    slow = {"description": "status=BUILD for 0.3"}
    assert rest("POST", "/v1/networks", slow).json()["status"] == "BUILD"
    assert rest("POST", "/v1/networks?wait=20", slow).json()["status"] == "ACTIVE"
    assert rest("POST", "/v1/networks?wait=20", [slow]).json()[0]["status"] == "ACTIVE"
    assert rest("PUT", f"/v1/networks/{uuid4()}?wait=20", slow).json()["status"] == "ACTIVE"
    made = rest.make("/v1/networks")
    assert rest("PATCH", f"/v1/networks/{made['id']}?wait=20", slow).json()["status"] == "ACTIVE"
    never = {"description": "status=BUILD"}
    assert rest("POST", "/v1/networks?wait=0.1", never).json()["status"] == "BUILD"


@pytest.mark.parametrize("wait", ["301", "-1", "nan", "inf", "soon", ""])
def test_wait_is_bounded(rest: RestServer, wait: str) -> None:
    problem(rest("POST", f"/v1/networks?wait={wait}", {}), 400, "wait")


def test_a_deletion_does_not_wait(rest: RestServer) -> None:
    made = rest.make("/v1/networks")
    assert "no such parameter" in problem(rest("DELETE", f"/v1/networks/{made['id']}?wait=5"), 400, "wait")
    assert rest("GET", f"/v1/networks/{made['id']}").status_code == 200


# --- lists -----------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def listed(rest: RestServer) -> str:
    """Id of a network."""
    return str(rest.make("/v1/networks", name="listed")["id"])


@pytest.fixture(scope="module")
def many(rest: RestServer, listed: str) -> list[str]:
    """Ids of 25 ports of that network, in order of creation."""
    bodies = [
        {"network_id": listed, "name": f"p{n % 5}", "project_id": f"q{n}", "admin_state_up": n % 2 == 0}
        for n in range(25)
    ]
    return [made["id"] for made in rest("POST", "/v1/ports", bodies).json()]


def pages(rest: RestServer, path: str) -> list[list[str]]:
    found = []
    while path:
        answer = rest("GET", path).json()
        found.append([item["id"] for item in answer["items"]])
        path = answer["next"]
    return found


def test_lists_come_in_pages(rest: RestServer, listed: str, many: list[str]) -> None:
    found = pages(rest, f"/v1/ports?network_id={listed}&limit=10")
    assert [len(page) for page in found] == [10, 10, 5]
    assert [id for page in found for id in page] == sorted(many)
    assert pages(rest, f"/v1/ports?network_id={listed}&limit=25") == [sorted(many)], "no empty page follows a full one"


def test_pages_by_name_neither_repeat_nor_miss(rest: RestServer, listed: str, many: list[str]) -> None:
    found = [id for page in pages(rest, f"/v1/ports?network_id={listed}&limit=4&sort=name") for id in page]
    assert sorted(found) == sorted(many)
    names = [rest("GET", f"/v1/ports/{id}").json()["name"] for id in found]
    assert names == sorted(names)


def test_pages_go_on_after_an_object_that_was_deleted(rest: RestServer) -> None:
    ids = sorted(rest.make("/v1/networks", project_id="gone")["id"] for _ in range(4))
    for sort in ("id", "name"):
        first = rest("GET", f"/v1/networks?project_id=gone&limit=2&sort={sort}").json()
        last = first["items"][-1]["id"]
        assert rest("DELETE", f"/v1/networks/{last}").status_code == 204
        following = rest("GET", first["next"]).json()["items"]
        assert [item["id"] for item in following] == [id for id in ids if id > last][:2]
        ids.remove(last)


def test_lists_are_filtered(rest: RestServer, listed: str, many: list[str]) -> None:
    def count(query: str) -> int:
        return len(rest("GET", f"/v1/ports?{query}").json()["items"])

    assert count("name=p1") == 5
    assert count("name=p1&name=p2") == 10
    assert count("name=p1&admin_state_up=true") == 2
    assert count(f"network_id={listed}&name=p0") == 5
    assert count(f"network_id={uuid4()}") == 0
    assert count(f"id={many[3]}&id={many[4]}&id={uuid4()}") == 2
    key = rest("GET", f"/v1/ports/{many[0]}").json()["port_key"]
    assert count(f"port_key={key}") == 1
    assert count("status=ACTIVE&name=p3") == 5 and count("status=ERROR") == 0
    following = rest("GET", "/v1/ports?name=p1&limit=2").json()["next"]
    assert "name=p1" in following and "limit=2" in following


def test_filters_see_what_is_derived(rest: RestServer) -> None:
    network = rest.make("/v1/networks", project_id="derived")
    rest.make("/v1/networks", project_id="derived", mtu=1400)
    shown = rest("GET", "/v1/networks?project_id=derived&mtu=1434").json()["items"]
    assert [item["id"] for item in shown] == [network["id"]]


@pytest.mark.parametrize(
    ("query", "field"),
    [
        ("limit=0", "limit"), ("limit=1001", "limit"), ("limit=x", "limit"), ("limit=9" + "9" * 5000, "limit"),
        ("colour=blue", "colour"), ("admin_state_up=maybe", "admin_state_up"), ("port_key=1.5", "port_key"),
        ("sort=size", "sort"), ("sort=name&marker=x", "marker"), ("status=FINE", "status"),
    ],
)  # fmt: skip
def test_wrong_queries_are_named(rest: RestServer, query: str, field: str) -> None:
    problem(rest("GET", f"/v1/ports?{query}"), 400, field)


# --- what HTTP asks for ----------------------------------------------------------------------------------------------


def test_methods(rest: RestServer) -> None:
    made = rest.make("/v1/networks")
    for path, allowed in (
        ("/v1/networks", {"GET", "HEAD", "POST", "OPTIONS"}),
        (f"/v1/networks/{made['id']}", {"GET", "HEAD", "PUT", "PATCH", "DELETE", "OPTIONS"}),
        ("/v1/status", {"GET", "HEAD", "OPTIONS"}),
    ):
        options = rest("OPTIONS", path)
        assert options.status_code == 204 and set(options.headers["Allow"].split(", ")) == allowed
        for method in {"GET", "POST", "PUT", "PATCH", "DELETE"} - allowed:
            refused = rest(method, path, {})
            problem(refused, 405)
            assert set(refused.headers["Allow"].split(", ")) == allowed
        head = rest("HEAD", path)
        assert head.status_code == 200 and head.content == b"" and int(head.headers["Content-Length"]) > 0
    problem(rest("BREW", "/v1/networks"), 501)


def test_content_types(rest: RestServer) -> None:
    for kind in ("text/plain", "application/x-www-form-urlencoded", "application/merge-patch+json"):
        assert "application/json" in problem(rest("POST", "/v1/networks", {}, headers={"Content-Type": kind}), 415)
    problem(rest("POST", "/v1/networks", {}, headers={"Content-Type": "application/json; charset=utf-16"}), 415)
    good = rest("POST", "/v1/networks", {}, headers={"Content-Type": "Application/JSON; charset=UTF-8"})
    assert good.status_code == 201
    problem(rest("GET", "/v1/networks", headers={"Accept": "image/png"}), 406)
    browser = {"Accept": "text/html,application/xhtml+xml,*/*;q=0.8"}
    assert rest("GET", "/v1/networks", headers=browser).status_code == 200


def test_answers_are_not_kept_by_anybody(rest: RestServer) -> None:
    answer = rest("GET", "/v1/networks")
    assert answer.headers["Cache-Control"] == "no-store"
    assert answer.headers["X-Content-Type-Options"] == "nosniff"
    assert answer.headers["X-Request-Id"] in rest.logged()


def test_a_store_that_is_not_there(rest: RestServer) -> None:
    rest.evaluate("setattr(core.store, 'ready', False)")
    try:
        answer = rest("POST", "/v1/networks", {})
        problem(answer, 503)
        assert answer.headers["Retry-After"] == "1"
        assert rest("GET", "/healthz", who="none").status_code == 503
        assert rest("GET", "/v1/networks").status_code == 200, "what is known is still told"
        assert rest("GET", "/v1/status").json()["healthy"] is False
    finally:
        rest.evaluate("setattr(core.store, 'ready', True)")
    assert rest("GET", "/healthz", who="none").json() == {"ready": True}


def test_a_defect_tells_nothing_but_where_to_look(rest: RestServer) -> None:
    rest.evaluate("setattr(core.store, 'fail', 'broken innards')")
    try:
        detail = problem(rest("POST", "/v1/networks", {}), 500)
    finally:
        rest.evaluate("setattr(core.store, 'fail', '')")
    incident = detail.rpartition(" ")[2]
    assert "innards" not in detail and "Traceback" not in detail
    log = rest.logged()
    assert f"incident {incident}" in log and "broken innards" in log
