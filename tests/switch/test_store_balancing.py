"""Load balancers on a real ovsdb-server: what survives, and who wins when several write."""

from __future__ import annotations

from pathlib import Path

from .test_store_groups import run

CHILD = "store_balancing_child"


def test_load_balancers_and_their_parts_survive_restarts(tmp_path: Path) -> None:
    saw = run("fill", tmp_path, CHILD)
    again = run("load", tmp_path, "store_child")
    assert again["content"] == saw["content"] and again["state"]["problems"] == []
    assert saw["refused"] == [409] * 6
    content, (balancer, pool, listener) = saw["content"], saw["ids"]
    sizes = {kind: len(content[kind]) for kind in ("load-balancer", "pool", "listener", "member", "health-monitor")}
    assert sizes == {"load-balancer": 2, "pool": 1, "listener": 2, "member": 3, "health-monitor": 1}
    assert content["pool"][pool]["session_persistence"] == {"type": "SOURCE_IP", "persistence_timeout": 9}
    assert content["listener"][listener]["default_pool_id"] == pool
    assert saw["leads"] == [balancer, None], "a floating IP loses the load balancer that is deleted"


def test_how_members_are_is_recorded_without_a_revision(tmp_path: Path) -> None:
    saw = run("fill", tmp_path, CHILD)
    assert saw["revisions"] == [1, 2, 1], "what was patched, and nothing else"
    assert saw["kept"] == ["down", "connection refused", 7]


def test_two_controllers_never_give_an_address_or_a_port_twice(tmp_path: Path) -> None:
    saw = run("race", tmp_path, CHILD)
    assert saw["retries"] > 0, "with the same guesses they must have met"
    assert len(set(saw["addresses"])) == len(set(saw["keys"])) == 20
    assert sorted(saw["listeners"], key=str) == [409] * 20 + ["made"] * 20
