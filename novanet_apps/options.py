"""Every option of NovaNet: ``ryu-manager --help`` shows them, ``--config-file`` and the command line set them.

One list for each part; importing this module registers all of them. In the code, an option is ``CONF.its_name``.
"""

from __future__ import annotations

from typing import Any

from oslo_config import cfg

from novanet_apps.compat import CONF

LOGGING = [
    cfg.StrOpt(
        "log_format",
        default="keyvalue",
        choices=["keyvalue", "json"],
        help="how a log line is written: key=value pairs or one JSON object",
    ),
]

TLS = [
    cfg.StrOpt("tls_certificate", help="PEM file with NovaNet's certificate for OpenFlow and OVSDB connections"),
    cfg.StrOpt("tls_private_key", help="PEM file with the private key of tls_certificate"),
    cfg.StrOpt("tls_ca", help="PEM file with the CA certificates that switches' certificates are checked against"),
]

OPENFLOW = [
    cfg.ListOpt(
        "openflow_listen",
        default=["ptcp:6653:127.0.0.1"],
        help="where switches connect, as OVS writes it: ptcp:PORT[:IP] (loopback only), pssl:PORT[:IP] (TLS 1.3 with client"
        " certificates), punix:PATH; IP is 127.0.0.1 when left out",
    ),
    cfg.IntOpt(
        "openflow_backlog",
        default=4096,
        min=1,
        help="connections that the kernel may hold until they are accepted (it caps this at net.core.somaxconn)",
    ),
    cfg.IntOpt(
        "openflow_half_open",
        default=1024,
        min=1,
        help="connections that may be within their handshake at a time; the oldest is closed for one more",
    ),
    cfg.FloatOpt(
        "openflow_handshake_timeout",
        default=10.0,
        min=0.1,
        help="seconds from accepting a connection until its TLS and OpenFlow handshakes must be done",
    ),
    cfg.FloatOpt(
        "openflow_probe_interval",
        default=5.0,
        min=0.1,
        help="seconds of silence after which a switch is sent an echo request",
    ),
    cfg.FloatOpt(
        "openflow_probe_timeout",
        default=30.0,
        min=0.2,
        help="seconds of silence after which a switch counts as dead; a busy one may be silent for long",
    ),
]

ENGINE = [
    cfg.FloatOpt(
        "audit_interval", default=60.0, min=0,
        help="seconds between two comparisons of what a bridge has with what it should have; 0: never",
    ),
    cfg.IntOpt("bundle_size", default=5000, min=1, max=100000, help="changes that one OpenFlow bundle holds at most"),
    cfg.IntOpt("bundles_in_flight", default=4, min=1, max=64, help="bundles that a switch may have without having answered"),
]  # fmt: skip

STORE = [
    cfg.StrOpt(
        "store", default="embedded",
        help="where the intent is kept: embedded (an ovsdb-server of its own in state_dir), or the addresses of OVSDB servers"
        " that have the NovaNet database: tcp:IP:PORT, ssl:IP:PORT or unix:PATH, separated by commas",
    ),
    cfg.StrOpt(
        "state_dir", default="",
        help="directory of the embedded store; /var/lib/novanet for root, otherwise $XDG_STATE_HOME/novanet or ~/.local/state/novanet,"
        " when empty",
    ),
    cfg.StrOpt(
        "ovs_bindir", default="",
        help="directory of ovsdb-server and ovsdb-tool; the environment's NOVANET_OVS_BINDIR, then PATH and /usr/sbin, when empty",
    ),
    cfg.FloatOpt(
        "store_timeout", default=15.0, min=0.5,
        help="seconds that a write waits for the store's server, which may be restarting, before it fails",
    ),
]  # fmt: skip

REST = [
    cfg.StrOpt(
        "rest_listen", default="127.0.0.1:8080",
        help="address and port of the REST interface and the dashboard, IP:PORT or [IPv6]:PORT; loopback only, unless"
        " rest_certificate and rest_private_key are given",
    ),
    cfg.StrOpt("rest_certificate", help="PEM file with the certificate (and its chain) of the REST interface: HTTPS"),
    cfg.StrOpt("rest_private_key", help="PEM file with the private key of rest_certificate"),
    cfg.StrOpt(
        "rest_auth", default="bearer", choices=["bearer", "none"],
        help="who may use the REST interface: bearer (whoever has a token) or none (whoever can reach it; loopback only)",
    ),
    cfg.IntOpt("rest_max_body", default=4 << 20, min=1024, help="bytes that the body of a request has at most"),
    cfg.IntOpt(
        "rest_max_connections", default=16384, min=1,
        help="connections served at a time, three quarters of the limit of open files at most; more wait, and idle ones are closed for them",
    ),
]  # fmt: skip

HYPERVISORS = [
    cfg.ListOpt(
        "ovsdb_listen", default=["ptcp:6640:127.0.0.1"],
        help="where the OVSDB servers of `passive` hypervisors connect: ptcp:PORT[:IP] (loopback only), pssl:PORT[:IP] (TLS 1.3 with"
        " client certificates), punix:PATH; IP is 127.0.0.1 when left out",
    ),
    cfg.ListOpt(
        "controller_target", default=[],
        help="the controllers that hypervisors' bridges are given, as OVS writes them: tcp:IP:PORT, ssl:IP:PORT or"
        " unix:PATH; {rundir} stands for the directory of the hypervisor's OVSDB socket, {bridge} for its bridge; follows from"
        " openflow_listen when empty",
    ),
    cfg.FloatOpt("ovsdb_probe_interval", default=5.0, min=1.0, help="seconds of silence after which an OVSDB server is probed"),
]  # fmt: skip

SERVICES = [
    cfg.ListOpt(
        "dns_forwarders", default=[],
        help="DNS servers that are asked for names which are no VM's, as IP, IP:PORT or [IPv6]:PORT, in this order; nobody is"
        " asked when empty",
    ),
]  # fmt: skip

TELEMETRY = [
    cfg.ListOpt(
        "telemetry_listen",
        default=["127.0.0.1:6343", "127.0.0.1:2055", "127.0.0.1:4739", "[::1]:6343", "[::1]:2055", "[::1]:4739"],
        help="where sFlow, NetFlow and IPFIX come in (UDP), IP:PORT or [IPv6]:PORT, each of them at each; telemetry is off when empty",
    ),
    cfg.StrOpt(
        "telemetry_namespace", default="",
        help="network namespace (`ip netns`) in which the addresses of telemetry_listen are, for a network of exports that nothing else"
        " of this machine reaches; the controller's own when empty; entering it needs root",
    ),
    cfg.ListOpt(
        "telemetry_exporters", default=[],
        help="addresses and prefixes that may export flows, beside this machine's loopback and the hypervisors' addresses (tunnel_ip,"
        " ovsdb); exports carry no proof of where they come from",
    ),
    cfg.IntOpt("telemetry_workers", default=0, min=0, max=64, help="collector processes; half of the processors, at most 4, when 0"),
    cfg.StrOpt(
        "telemetry_clickhouse", default="",
        help="http://HOST:8123 or https://HOST:8443 of the ClickHouse server that flows are stored in, user and password in the environment"
        " (NOVANET_CLICKHOUSE_USER, NOVANET_CLICKHOUSE_PASSWORD); chDB in state_dir when empty",
    ),
    cfg.StrOpt("telemetry_clickhouse_ca", help="PEM file with the CA certificate of that server; the system's when left out"),
    cfg.IntOpt("telemetry_keep_raw", default=3, min=1, help="days for which flows are kept as they came"),
    cfg.IntOpt("telemetry_keep_1m", default=14, min=1, help="days for which sums by minute are kept"),
    cfg.IntOpt("telemetry_keep_5m", default=90, min=1, help="days for which sums by five minutes are kept"),
    cfg.IntOpt("telemetry_keep_1h", default=400, min=1, help="days for which sums by hour are kept, and anomalies"),
    cfg.IntOpt(
        "telemetry_spare_disk", default=512, min=0,
        help="MiB of the disk that telemetry leaves free: with less, flows are not stored until there is room, and an alarm says so",
    ),
    cfg.BoolOpt(
        "telemetry_forest", default=False,
        help="whether outliers are looked for with an isolation forest, too (needs scikit-learn, the extra `anomalies`)",
    ),
]  # fmt: skip

CAPTURES = [
    cfg.ListOpt(
        "capture_listen", default=[],
        help="where hypervisors' agents hand captures over: ptcp:PORT[:IP] (loopback only), pssl:PORT[:IP] (TLS 1.3 with client"
        " certificates), punix:PATH; a socket in state_dir when empty",
    ),
    cfg.IntOpt("capture_disk", default=4096, min=1, help="MiB that the files of captures have on the controller's disk at most"),
    cfg.FloatOpt("capture_keep", default=24.0, min=0.01, help="hours after which a capture that has ended is deleted, with its file"),
]  # fmt: skip

PARTS: dict[str, list[Any]] = {
    "OpenFlow": OPENFLOW,
    "Flow engine": ENGINE,
    "Hypervisors (OVSDB)": HYPERVISORS,
    "Intent store": STORE,
    "Services for VMs": SERVICES,
    "REST": REST,
    "Telemetry": TELEMETRY,
    "Captures": CAPTURES,
    "TLS of OpenFlow and OVSDB": TLS,
    "Logs": LOGGING,
}
ALL = [option for part in PARTS.values() for option in part]
for option in ALL:
    option.name = option.name.replace("_", "-")  # --audit-interval on the command line, audit_interval in a file
CONF.register_cli_opts(ALL)
