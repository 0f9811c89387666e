"""How a log line is written: one line a record, as key=value pairs or JSON, and never a secret."""

from __future__ import annotations

import json
import logging
import re
import time
from typing import Any

_STANDARD = set(vars(logging.makeLogRecord({}))) | {"message", "asctime", "taskName"}
_SECRET = re.compile(
    r"(?i)(\b(?:bearer|token|password|passwd|secret|authorization)\b[\"']?\s*[:= ]\s*[\"']?)(?!bearer\b)[^\s\"',;]{6,}"
    r"|-----BEGIN [A-Z ]*PRIVATE KEY-----.*?(?:-----END [A-Z ]*PRIVATE KEY-----|$)",
    re.DOTALL,
)
_PLAIN = re.compile(r"[A-Za-z0-9_.:/@+-]+")


def redact(text: str) -> str:
    """The text without what looks like a credential; a second line of defence, the first is not to log any."""
    return _SECRET.sub(lambda found: f"{found[1] or ''}***", text)


class Formatter(logging.Formatter):
    """Base: collects the fields of a record; what was given in ``extra`` becomes fields of its own."""

    def fields(self, record: logging.LogRecord) -> dict[str, Any]:
        """Time (UTC, milliseconds), level, logger, message, then the rest."""
        stamp = time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(record.created))
        found: dict[str, Any] = {
            "time": f"{stamp}.{int(record.msecs):03d}Z",
            "level": record.levelname.lower(),
            "logger": record.name,
            "message": redact(record.getMessage()),
        }
        for key, value in vars(record).items():
            if key not in _STANDARD:
                found[key] = value if isinstance(value, int | float | None) else redact(str(value))
        if record.exc_info:
            found["exception"] = redact(self.formatException(record.exc_info))
        return found


class JsonFormatter(Formatter):
    """One JSON object a line."""

    def format(self, record: logging.LogRecord) -> str:
        """The line."""
        return json.dumps(self.fields(record), ensure_ascii=False)


class KeyValueFormatter(Formatter):
    """``key=value`` pairs, quoted where needed; line ends inside a value are written as backslash n."""

    def format(self, record: logging.LogRecord) -> str:
        """The line."""
        return " ".join(f"{key}={_quoted(value)}" for key, value in self.fields(record).items())


def _quoted(value: Any) -> str:
    text = str(value)
    return text if _PLAIN.fullmatch(text) else json.dumps(text, ensure_ascii=False)


FORMATTERS = {"keyvalue": KeyValueFormatter, "json": JsonFormatter}


def use(style: str) -> None:
    """Give every handler of the root logger the formatter of that name."""
    formatter = FORMATTERS[style]()
    for handler in logging.getLogger().handlers:
        handler.setFormatter(formatter)


class Throttle:
    """Lets ``burst`` lines pass in each ``period`` seconds; the next line that passes says how many were held back."""

    def __init__(self, log: logging.Logger, burst: int = 20, period: float = 10.0) -> None:
        self._log, self._burst, self._period = log, burst, period
        self._until = 0.0
        self._passed = self._held = 0

    def warning(self, text: str, *args: object) -> None:
        """Log a warning, or count it."""
        now = time.monotonic()
        if now >= self._until:
            self._until, self._passed = now + self._period, 0
        if self._passed >= self._burst:
            self._held += 1
            return
        self._passed += 1
        if self._held:
            text, args = text + " (and %d more lines like it were held back)", (*args, self._held)
            self._held = 0
        self._log.warning(text, *args)
