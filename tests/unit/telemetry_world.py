"""A small platform as the recorder knows it, and rows of flows between its VMs: what tests of telemetry share."""

from __future__ import annotations

import time
from typing import Any

import numpy as np

from novanet_apps.telemetry.decode.records import AGGREGATE, NO_VNI
from novanet_apps.telemetry.recorder.endpoints import Directory, packed

HOSTS = [["h1", "hv1", ["10.9.0.1"]], ["h2", "hv2", ["10.9.0.2", "fd09::2"]]]
WEB, DB, TWIN, CLIENT = "192.168.0.1", "192.168.0.2", "192.168.0.2", "203.0.113.9"
EXPORTERS = ["10.9.0.1", "10.9.0.2", "198.51.100.1"]


def endpoint(port: str, address: str, **fields: Any) -> dict[str, Any]:
    """A VM's port in the network ``blue`` of ``acme`` on ``hv1``, if nothing else is said."""
    usual = {
        "port": port, "name": port, "vm": f"vm-{port}", "network": "blue", "network_name": "blue", "project": "acme",
        "hypervisor": "h1", "hypervisor_name": "hv1", "groups": ["g1"], "vni": 5, "realm": "blue", "addresses": [address],
    }  # fmt: skip
    return usual | fields


def topology() -> dict[str, Any]:
    """web (acme, hv1) and db (umbra, hv2) in one network, twin with db's address in another."""
    elsewhere = {"hypervisor": "h2", "hypervisor_name": "hv2"}
    return {
        "kind": "topology",
        "full": True,
        "hypervisors": HOSTS,
        "endpoints": [
            endpoint("web", WEB, mac=1),
            endpoint("db", DB, mac=2, project="umbra", groups=["g1", "g2"], **elsewhere),
            endpoint(
                "twin", TWIN, mac=3, project="umbra", network="red", network_name="red", vni=6, realm="red", ofport=7
            ),
        ],
    }


def directory() -> Directory:
    """The directory that knows it."""
    found = Directory()
    found.take(topology())
    return found


def rows(count: int = 1, **fields: Any) -> Any:
    """Rows from web to db that hv1 has seen; ``src`` and ``dst`` are texts, all else arrays or numbers."""
    found = np.zeros(count, AGGREGATE)
    now = int(time.time() * 1000)
    usual = {
        "src": WEB, "dst": DB, "sport": 40000, "dport": 443, "protocol": 6, "version": 4, "direction": 2, "vni": NO_VNI,
        "src_mac": 1, "dst_mac": 2, "bytes": 1000, "packets": 2, "samples": 2, "rate": 1, "tcp_flags": 0x1B,
        "first_ms": now - 800, "last_ms": now - 300,
    }  # fmt: skip
    for name, value in (usual | fields).items():
        found[name] = np.frombuffer(packed(value), "u1") if name in ("src", "dst") and isinstance(value, str) else value
    return found
