"""The metrics of telemetry, as the recorder last told them."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from .app import Processes

Metric = tuple[str, str, Any]
LOST = {
    "sequence": "on the way (gaps in sequence numbers)",
    "kernel": "by the kernel",
    "queue": "in a collector's queue",
}


def collect(telemetry: Processes | None) -> dict[str, Metric]:
    """Every metric by name; without values where telemetry is off."""
    told: Mapping[str, Any] = telemetry.link.status if telemetry is not None else {}
    exporters: Mapping[str, Any] = told.get("exporters", {})
    lost = [
        ({"exporter": address, "where": where}, each["lost"].get(where, 0))
        for address, each in sorted(exporters.items())
        for where in LOST
    ]

    def of_exporters(name: str) -> list[Any]:
        return [({"exporter": address}, each[name]) for address, each in sorted(exporters.items())]

    def one(name: str) -> list[Any]:
        return [({}, told[name])] if name in told else []

    children = telemetry.children if telemetry is not None and telemetry.on else []
    fired = sorted(telemetry.fired.items()) if telemetry is not None else []
    return {
        "novanet_telemetry_up": (
            "gauge", "Whether a process of telemetry runs.", [({"process": c.name}, int(c.pid is not None)) for c in children],
        ),
        "novanet_telemetry_starts_total": (
            "counter", "Times that a process of telemetry was started.", [({"process": c.name}, c.starts) for c in children],
        ),
        "novanet_telemetry_samples_total": (
            "counter", "Samples and flow records that were counted, by exporter.", of_exporters("samples"),
        ),
        "novanet_telemetry_packets_total": (
            "counter", "Packets that flows told of, multiplied by their sampling rates, by exporter.", of_exporters("packets"),
        ),
        "novanet_telemetry_bytes_total": (
            "counter", "Bytes that flows told of, multiplied by their sampling rates, by exporter.", of_exporters("bytes"),
        ),
        "novanet_telemetry_last_seconds": (
            "gauge", "When an exporter's flows last came, in Unix seconds.", of_exporters("last"),
        ),
        "novanet_telemetry_lost_total": (
            "counter", f"Messages of exporters that were lost: {'; '.join(f'{name} {text}' for name, text in LOST.items())}.", lost,
        ),
        "novanet_telemetry_rows_stored_total": ("counter", "Rows that were stored.", one("stored")),
        "novanet_telemetry_rows_lost_total": (
            "counter", "Rows that were given up because they could not be stored.", one("lost"),
        ),
        "novanet_telemetry_rows_waiting": ("gauge", "Rows that are not stored yet.", one("waiting")),
        "novanet_telemetry_storage_failures_total": ("counter", "Times that rows could not be stored.", one("failures")),
        "novanet_telemetry_storage_alarm": (
            "gauge", "1 while flows cannot be stored, as when the disk is full; the log says why.",
            [({}, int(bool(told["alarm"])))] if "alarm" in told else [],
        ),
        "novanet_telemetry_storage_bytes": ("gauge", "Bytes on disk of the embedded tables.", one("size")),
        "novanet_telemetry_anomalies_total": (
            "counter", "Anomalies found, by kind.", [({"kind": kind}, count) for kind, count in fired],
        ),
    }  # fmt: skip
