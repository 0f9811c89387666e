"""GET /: the dashboard, one page without anything from elsewhere, and the policy that holds browsers to that."""

from __future__ import annotations

import base64
import hashlib
import re
from pathlib import Path

PAGE = Path(__file__).with_name("dashboard.html").read_bytes()


def _hash_of(tag: bytes) -> str:
    """CSP source expression for the page's only inline element of that name."""
    (content,) = re.findall(b"<%s>(.*?)</%s>" % (tag, tag), PAGE, re.DOTALL)
    return f"'sha256-{base64.b64encode(hashlib.sha256(content).digest()).decode()}'"


CONTENT_SECURITY_POLICY = "; ".join(
    (
        "default-src 'none'",
        f"script-src {_hash_of(b'script')}",
        f"style-src {_hash_of(b'style')}",
        "connect-src 'self'",
        "base-uri 'none'",
        "form-action 'none'",
        "frame-ancestors 'none'",
    )
)
