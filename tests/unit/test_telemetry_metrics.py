"""Metrics of telemetry, and the Grafana dashboard, which asks for metrics and labels that there are."""

from __future__ import annotations

import json
import re
from collections import Counter
from pathlib import Path
from types import SimpleNamespace
from typing import Any

from novanet_apps.core import Core
from novanet_apps.host_agent.metrics import METRICS
from novanet_apps.rest.counters import Counters
from novanet_apps.rest.metrics import collect as every
from novanet_apps.rest.metrics import exposition
from novanet_apps.telemetry.metrics import collect

DASHBOARD = Path(__file__).resolve().parents[2] / "docs" / "grafana" / "novanet.json"
NAME = re.compile(r"novanet_\w+")


def expressions() -> list[str]:
    return [target["expr"] for panel in json.loads(DASHBOARD.read_text())["panels"] for target in panel["targets"]]


def test_the_dashboard_asks_for_metrics_that_there_are() -> None:
    known = {**every(Core().counters(), Counters(), {}), **METRICS}
    asked = {name for expression in expressions() for name in NAME.findall(expression)}
    assert asked and asked <= known.keys()
    for expression in expressions():
        for name in NAME.findall(expression):
            if name.endswith("_total"):
                assert known[name][0] == "counter" and re.search(r"(rate|increase)\(" + name, expression), expression
            else:
                assert known[name][0] == "gauge" and "rate(" not in expression, expression


def test_every_metric_of_telemetry_but_starts_and_failures_is_on_the_dashboard() -> None:
    asked = {name for expression in expressions() for name in NAME.findall(expression)}
    left = collect(None).keys() - asked
    assert left == {
        "novanet_telemetry_starts_total", "novanet_telemetry_samples_total", "novanet_telemetry_last_seconds",
        "novanet_telemetry_storage_failures_total",
    }  # fmt: skip


def test_panels_do_not_overlap_and_name_their_source() -> None:
    dashboard = json.loads(DASHBOARD.read_text())
    taken: Counter[tuple[int, int]] = Counter()
    for panel in dashboard["panels"]:
        place = panel["gridPos"]
        assert place["x"] + place["w"] <= 24 and panel["datasource"]["uid"] == "${source}"
        for x in range(place["x"], place["x"] + place["w"]):
            taken.update((x, y) for y in range(place["y"], place["y"] + place["h"]))
    assert set(taken.values()) == {1}
    assert [each["name"] for each in dashboard["templating"]["list"]] == ["source"]
    assert len({panel["id"] for panel in dashboard["panels"]}) == len(dashboard["panels"])


def test_what_the_recorder_told_is_exposed() -> None:
    exporter = {
        "samples": 7,
        "packets": 700,
        "bytes": 70000,
        "last": 5.0,
        "lost": {"sequence": 1, "kernel": 2, "queue": 3},
    }
    told = {
        "exporters": {"10.9.0.1": exporter},
        "stored": 9,
        "lost": 1,
        "waiting": 2,
        "failures": 3,
        "alarm": "full",
        "size": 4,
    }
    child = SimpleNamespace(name="recorder", pid=4, starts=2)
    telemetry: Any = SimpleNamespace(
        link=SimpleNamespace(status=told), children=[child], on=True, fired=Counter(flood=2)
    )
    text = exposition(collect(telemetry)).decode()
    for line in (
        'novanet_telemetry_up{process="recorder"} 1', 'novanet_telemetry_bytes_total{exporter="10.9.0.1"} 70000',
        'novanet_telemetry_lost_total{exporter="10.9.0.1",where="kernel"} 2', "novanet_telemetry_storage_alarm 1",
        'novanet_telemetry_anomalies_total{kind="flood"} 2', "novanet_telemetry_rows_stored_total 9",
    ):  # fmt: skip
        assert line in text.splitlines(), text
    assert "novanet_telemetry_storage_alarm" not in re.sub(r"# .*", "", exposition(collect(None)).decode())
