"""How a log line is written (``novanet_apps.logs``), for those who look for it beside Ryu's command."""

from novanet_apps.logs import FORMATTERS, Formatter, JsonFormatter, KeyValueFormatter, Throttle, redact, use

__all__ = ["FORMATTERS", "Formatter", "JsonFormatter", "KeyValueFormatter", "Throttle", "redact", "use"]
