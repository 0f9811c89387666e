"""The agent's options. They may stand in the same file as the controller's."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from oslo_config import cfg

from novanet_apps.host_agent.upload import SOCKET
from novanet_apps.intent.settings import EMBEDDED, default_state_dir

OPTIONS: list[Any] = [
    cfg.StrOpt(
        "store",
        default="embedded",
        help="the intent store's OVSDB servers: tcp:IP:PORT, ssl:IP:PORT or unix:PATH, separated by commas; embedded: that of a"
        " controller on the same host",
    ),
    cfg.StrOpt(
        "state_dir", default="", help="the state_dir of that controller; as there when empty"
    ),
    cfg.StrOpt(
        "agent_ovsdb", default="unix:/var/run/openvswitch/db.sock", help="the OVSDB of the hypervisor that the agent runs on",
    ),
    cfg.StrOpt(
        "agent_vswitchd", default="",
        help="ovs-vswitchd's control socket, from which connections are counted on the userspace datapath; found by its pid file beside"
        " agent_ovsdb's socket when empty",
    ),
    cfg.StrOpt(
        "agent_hypervisor", default="",
        help="name of this hypervisor in the intent store; external_ids:system-id of its OVSDB when empty",
    ),
    cfg.StrOpt(
        "agent_metrics_listen", default="127.0.0.1:9478",
        help="address and port of /metrics and /healthz (HTTP, without authentication), IP:PORT or [IPv6]:PORT; none when empty",
    ),
    cfg.IntOpt(
        "agent_checks_at_once", default=8192, min=1,
        help="health checks under way at a time, half the limit of open files at most; more wait for their turn",
    ),
    cfg.StrOpt(
        "agent_capture_dir", default="/var/tmp",
        help="directory on whose disk captures are kept until they have ended and the controller has them",
    ),
    cfg.StrOpt(
        "agent_captures", default="",
        help="where the controller takes captures (its capture_listen): ssl:IP:PORT, tcp:IP:PORT or unix:PATH; that of a controller on the"
        " same host when empty",
    ),
    cfg.StrOpt("tls_certificate", help="PEM file with the agent's certificate for OVSDB connections, and to hand over captures"),
    cfg.StrOpt("tls_private_key", help="PEM file with the private key of tls_certificate"),
    cfg.StrOpt("tls_ca", help="PEM file with the CA certificates that OVSDB servers' certificates are checked against"),
    cfg.StrOpt(
        "log_format", default="keyvalue", choices=["keyvalue", "json"],
        help="how a log line is written: key=value pairs or one JSON object",
    ),
]  # fmt: skip


def store(conf: Any) -> str:
    """Where the intent store is, as python-ovs takes it."""
    if conf.store != EMBEDDED:
        return str(conf.store)
    return f"unix:{_state_dir(conf) / 'run' / 'intent.sock'}"


def receiver(conf: Any) -> str:
    """Where captures are handed over, as ``upload`` takes it."""
    return str(conf.agent_captures) or f"unix:{_state_dir(conf) / SOCKET}"


def _state_dir(conf: Any) -> Path:
    return Path(conf.state_dir) if conf.state_dir else default_state_dir()


def read(args: list[str] | None = None) -> Any:
    """The options as the command line and the files that it names say. Raises oslo_config.cfg.Error."""
    conf = cfg.ConfigOpts()
    for option in OPTIONS:
        option.name = option.name.replace("_", "-")
    conf.register_cli_opts(OPTIONS)
    conf(args=args, project="novanet", prog="novanet-host-agent", default_config_files=[], default_config_dirs=[])
    return conf
